//! Where the floating address of a volume should be, and where it is.
//!
//! Somebody else may change it: an operator, a network manager that sets the interface up anew, the kernel, which takes the
//! secondary addresses of a network with the primary one. Invariant: what status tells is what was seen last. What can go
//! wrong: the interface is gone, `ip` fails; it is told, and tried again at the next look.

use super::floating_ip::{FloatingIp, Seen};
use admin_api::status::FloatingIpStatus;
use config::FloatingIpConfig;
use parking_lot::Mutex;

/// The floating address of one volume.
pub(super) struct WatchedAddress {
    volume: String,
    floating: FloatingIp,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: bool,
    held: bool,
    trouble: Option<Trouble>,
}

#[derive(Clone)]
enum Trouble {
    /// It could not be changed; tried again at each look.
    Failed(String),
    /// Somebody had changed it, and it was changed back; over when it is found so.
    Undone(String),
}

impl WatchedAddress {
    pub fn new(volume: String, config: FloatingIpConfig) -> WatchedAddress {
        WatchedAddress { volume, floating: FloatingIp::new(config), state: Mutex::default() }
    }

    pub fn status(&self) -> FloatingIpStatus {
        let state = self.state.lock();
        let config = self.floating.config();
        FloatingIpStatus {
            address: config.address.to_string(),
            interface: config.interface.clone(),
            held: state.held,
            error: state.trouble.as_ref().map(|trouble| match trouble {
                Trouble::Failed(what) | Trouble::Undone(what) => what.clone(),
            }),
        }
    }

    /// It should be here from now on, or should not.
    pub fn change(&self, take: bool) {
        self.state.lock().wanted = take;
        if self.attempt(take) {
            self.state.lock().trouble = None;
        }
    }

    /// Does again what failed, and takes back what somebody else has changed. Where nobody is served at the moment
    /// (`serves` is false) it is only seen: the other node may serve.
    pub fn look(&self, serves: bool) {
        let Some(seen) = self.floating.seen() else { return };
        {
            let mut state = self.state.lock();
            if state.wanted && !serves {
                state.held = seen == Seen::Held;
                return;
            }
        }
        let (wanted, trouble) = {
            let state = self.state.lock();
            (state.wanted, state.trouble.clone())
        };
        match (seen, trouble) {
            (_, Some(Trouble::Failed(_))) | (Seen::NoInterface, _) => self.change(wanted),
            (Seen::Held, None) if wanted => {}
            (Seen::NotHeld, None) if !wanted => {}
            (Seen::Held, Some(_)) if wanted => self.mended(),
            (Seen::NotHeld, Some(_)) if !wanted => self.mended(),
            (Seen::Held | Seen::NotHeld, trouble) => self.undo(wanted, trouble.is_none()),
        }
    }

    fn mended(&self) {
        tracing::info!(volume = self.volume, "the floating address is as it should be");
        self.state.lock().trouble = None;
    }

    /// Somebody else has changed it.
    fn undo(&self, wanted: bool, news: bool) {
        // A list that is made while addresses change may lack one.
        if self.floating.is_held().is_ok_and(|held| held == wanted) {
            return;
        }
        let FloatingIpConfig { address, interface } = self.floating.config();
        let what = if wanted {
            format!("it went away from {interface} without the daemon, and is added again")
        } else {
            format!("somebody added it to {interface}, and this node does not serve: it is taken away again")
        };
        if news {
            tracing::warn!(volume = self.volume, %address, what, "floating address");
        }
        {
            let mut state = self.state.lock();
            state.held = !wanted;
            state.trouble = Some(Trouble::Undone(what));
        }
        self.attempt(wanted);
    }

    /// Succeeded. What failed is remembered.
    fn attempt(&self, take: bool) -> bool {
        let (volume, shown) = (&self.volume, self.floating.config().address);
        let result = if take { self.floating.take() } else { self.floating.release() };
        let seen = self.floating.seen();
        let mut state = self.state.lock();
        match result {
            Ok(()) => {
                tracing::info!(volume, address = %shown, taken = take, "floating address");
                state.held = take;
                true
            }
            Err(error) => {
                let error = error.to_string();
                // Tried again and again, and told once.
                if !matches!(&state.trouble, Some(Trouble::Failed(known)) if *known == error) {
                    tracing::error!(volume, address = %shown, taken = take, error, "floating address failed");
                }
                // It may be there all the same, and only the neighbours were not told.
                state.held = seen.map_or(state.held, |seen| seen == Seen::Held);
                state.trouble = Some(Trouble::Failed(error));
                false
            }
        }
    }
}
