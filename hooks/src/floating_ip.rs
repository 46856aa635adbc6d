//! An address that follows the primary.
//!
//! Taking it adds it to the interface and tells the neighbours, for two minutes at growing intervals: nobody answers an
//! announcement, a switch may learn for half a minute before it forwards anything, and the node that had the address may
//! answer for it a while longer. Both directions are idempotent. The address is changed through `ip` (iproute2): it is on every server, and
//! an operator can repeat by hand what the log shows; speaking netlink ourselves would add a protocol
//! for two calls in a node's life.

use super::command::{self, CommandError};
use super::neighbours;
use config::{AddressPrefix, CommandLine, FloatingIpConfig};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Time for one `ip` command.
const IP_LIMIT: Duration = Duration::from_secs(2);
/// Pause after the first announcement to the neighbours; each later one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long they are told.
const ANNOUNCED_FOR: Duration = Duration::from_secs(120);
const IP_PLACES: [&str; 4] = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];

/// Why the address could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FloatingIpError {
    /// iproute2 is not installed.
    #[error("`ip` is not installed; install iproute2")]
    NoIpCommand,
    /// The interface does not exist.
    #[error("there is no interface {0}; correct `floating_ip.interface`")]
    NoInterface(String),
    /// `ip` failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The address is held, but neighbours may still send to the other node.
    #[error("the neighbours could not be told: {0}")]
    Announcement(std::io::Error),
}

/// What a look at the interface shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Held,
    NotHeld,
    NoInterface,
}

/// A floating address on this node.
#[derive(Debug)]
pub struct FloatingIp {
    config: FloatingIpConfig,
    /// Held while the address is: the thread that announces it ends when this is dropped.
    announcing: Mutex<Option<Sender<()>>>,
    /// It was said that nobody is told.
    silent: AtomicBool,
}

impl FloatingIp {
    /// The address of `config`. Does nothing yet.
    pub fn new(config: FloatingIpConfig) -> FloatingIp {
        FloatingIp { config, announcing: Mutex::new(None), silent: AtomicBool::new(false) }
    }

    /// Address and interface.
    pub fn config(&self) -> &FloatingIpConfig {
        &self.config
    }

    /// Adds the address and tells the neighbours, if the interface has any (tunnels have none). The first announcement is made before this returns, the
    /// others follow.
    ///
    /// # Errors
    /// See [`FloatingIpError`].
    pub fn take(&self) -> Result<(), FloatingIpError> {
        let FloatingIpConfig { address, interface } = &self.config;
        let address_text = address.to_string();
        let mut arguments = vec!["address", "replace", address_text.as_str(), "dev", interface];
        if address.address.is_ipv6() {
            // The other node may have died with the address: nobody is there to detect a duplicate.
            arguments.push("nodad");
        }
        self.ip(&arguments)?;
        *self.announcing.lock() = None;
        if !self.has_neighbours()? {
            if !self.silent.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    interface,
                    "no Ethernet: nobody there needs to be told of the floating address"
                );
            }
            return Ok(());
        }
        let announcer =
            neighbours::Announcer::new(interface, address.address).map_err(FloatingIpError::Announcement)?;
        announcer.announce().map_err(FloatingIpError::Announcement)?;
        let (announcing, ended) = channel();
        let repeated = std::thread::Builder::new().name("announce".into()).spawn(move || {
            for pause in pauses() {
                if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                if let Err(error) = announcer.announce() {
                    tracing::warn!(%error, "a repeated announcement of the floating address failed");
                }
            }
        });
        *self.announcing.lock() = Some(announcing);
        repeated.map(drop).map_err(FloatingIpError::Announcement)
    }

    /// Removes the address; nothing happens when it is not there.
    ///
    /// # Errors
    /// See [`FloatingIpError`].
    pub fn release(&self) -> Result<(), FloatingIpError> {
        *self.announcing.lock() = None;
        if !self.is_held()? {
            return Ok(());
        }
        let FloatingIpConfig { address, interface } = &self.config;
        self.ip(&["address", "del", &address.to_string(), "dev", interface]).map(drop)
    }

    /// The interface has the address now.
    ///
    /// # Errors
    /// See [`FloatingIpError`].
    pub fn is_held(&self) -> Result<bool, FloatingIpError> {
        let shown = self.ip(&["-oneline", "address", "show", "dev", &self.config.interface])?;
        // What `ip` said may have come too late, and nothing said must not mean that nothing is there.
        Ok(lists(&shown, &self.config.address) || self.seen() == Some(Seen::Held))
    }

    /// Likewise, without a process for it: cheap enough to look every few seconds. `None` if nothing can be seen now.
    pub(super) fn seen(&self) -> Option<Seen> {
        let FloatingIpConfig { address, interface } = &self.config;
        let all = pnet_datalink::interfaces();
        if all.is_empty() {
            return None;
        }
        // An address with a label of its own ("eth0:1") is listed under that.
        let named = |name: &str| name.split(':').next() == Some(interface.as_str());
        let mut ours = all.iter().filter(|found| named(&found.name)).peekable();
        if ours.peek().is_none() {
            return Some(Seen::NoInterface);
        }
        let held = ours
            .flat_map(|found| &found.ips)
            .any(|found| (found.ip(), found.prefix()) == (address.address, address.prefix_bits));
        Some(if held { Seen::Held } else { Seen::NotHeld })
    }

    /// The interface is an Ethernet, where neighbours keep whom to send an address's packets to.
    fn has_neighbours(&self) -> Result<bool, FloatingIpError> {
        let shown = self.ip(&["-oneline", "link", "show", "dev", &self.config.interface])?;
        // When nothing was said, it is tried.
        Ok(shown.contains("link/ether") || !shown.contains("link/"))
    }

    fn ip(&self, arguments: &[&str]) -> Result<String, FloatingIpError> {
        let place = IP_PLACES.iter().find(|place| Path::new(place).exists());
        let line = CommandLine {
            program: PathBuf::from(place.ok_or(FloatingIpError::NoIpCommand)?),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        };
        command::run(&line, &[], IP_LIMIT).map_err(|error| match error {
            CommandError::Failed { output, .. }
                if output.contains("Cannot find device") || output.contains("does not exist") =>
            {
                FloatingIpError::NoInterface(self.config.interface.clone())
            }
            error => FloatingIpError::Command(error),
        })
    }
}

/// The times between two announcements.
fn pauses() -> impl Iterator<Item = Duration> {
    let mut told_for = Duration::ZERO;
    std::iter::successors(Some(FIRST_PAUSE), |pause| Some((*pause * 2).min(LONGEST_PAUSE))).take_while(
        move |pause| {
            told_for += *pause;
            told_for <= ANNOUNCED_FOR
        },
    )
}

/// `ip -oneline address show` lists exactly this address with this prefix.
fn lists(shown: &str, address: &AddressPrefix) -> bool {
    let mut words = shown.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if matches!(word, "inet" | "inet6")
            && words
                .peek()
                .is_some_and(|found| found.parse::<AddressPrefix>().is_ok_and(|found| found == *address))
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbours_are_told_for_two_minutes_ever_less_often() {
        let pauses: Vec<Duration> = pauses().collect();
        assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{pauses:?}");
        assert!(pauses[0] < Duration::from_millis(200) && pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        let all: Duration = pauses.iter().sum();
        assert!(all > ANNOUNCED_FOR - LONGEST_PAUSE && all <= ANNOUNCED_FOR, "{all:?}");
    }

    #[test]
    fn the_listing_is_compared_by_value() {
        let shown = "2: eth0    inet 10.0.0.9/24 scope global eth0 | 2: eth0    inet6 2001:db8:0:0::9/64 scope global";
        for (address, held) in [
            ("10.0.0.9/24", true),
            ("10.0.0.9/16", false),
            ("10.0.0.90/24", false),
            ("2001:db8::9/64", true),
            ("2001:db8::8/64", false),
        ] {
            assert_eq!(lists(shown, &address.parse().unwrap()), held, "{address}");
        }
    }
}
