//! The parts of the current link, and who has them at the moment.
//!
//! The sender is lent to the commit path while this node mirrors, the receiver to its thread while it
//! receives; both come back, because roles can change over one link. Invariant: when [`Peer::revoke`] or
//! [`Peer::close`] returns well, nothing of the partner lands in the log any more, and what had landed is part
//! of it, announced or not. What can go wrong: the right to write cannot be taken away; then both say so, and
//! whoever asked must not go on.

use super::NodeError;
use super::receiver::{Landing, Receiving};
use commit::CommitPath;
use ids::LogPoint;
use pair::Message;
use rdma_transport::{Closer, Control, Fence, Link, MirrorReceiver, MirrorSender};
use runtime::planted;
use std::sync::Arc;

/// See the module.
pub(super) struct Peer {
    id: u64,
    control: Arc<dyn Control>,
    fence: Arc<dyn Fence>,
    closer: Closer,
    sender: Option<Box<dyn MirrorSender>>,
    receiver: Option<Box<dyn MirrorReceiver>>,
    receiving: Option<Receiving>,
    landing: Landing,
}

impl Peer {
    pub fn new(id: u64, link: Link, landing: Landing) -> Peer {
        Peer {
            id,
            landing,
            control: Arc::from(link.control),
            fence: link.fence,
            closer: link.closer,
            sender: Some(link.sender),
            receiver: Some(link.receiver),
            receiving: None,
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where messages that are not the pair's go out too.
    pub fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }

    /// A link that does not take it ends, and its reader tells.
    pub fn send(&self, message: &Message) {
        self.send_bytes(&message.encode());
    }

    /// Likewise, a message that is not the pair's.
    pub fn send_bytes(&self, bytes: &[u8]) {
        if let Err(error) = self.control.send(bytes) {
            tracing::debug!(link = self.id, %error, "a message was not sent");
        }
    }

    pub fn lend_sender(&mut self) -> Option<Box<dyn MirrorSender>> {
        self.sender.take()
    }

    pub fn take_back_sender(&mut self, sender: Box<dyn MirrorSender>) {
        self.sender = Some(sender);
    }

    pub fn grant(&self) {
        self.fence.grant();
    }

    /// Begins to receive at `at`; what was being received before is over.
    pub fn receive(&mut self, at: LogPoint) -> Result<(), NodeError> {
        self.stop_receiving();
        if let Some(receiver) = self.receiver.take() {
            let landing = self.landing.clone();
            self.receiving =
                Some(Receiving::start(landing, self.id, receiver, at).map_err(NodeError::Thread)?);
        }
        Ok(())
    }

    /// Takes the partner's right to write away, then takes in what had landed.
    pub fn revoke(&mut self) -> Result<(), NodeError> {
        if !planted!(TakeoverWithoutRevoke) {
            self.fence.revoke()?;
        }
        if self.stop_receiving() { self.landing.take_in_the_rest() } else { Ok(()) }
    }

    /// Whether something was being received.
    fn stop_receiving(&mut self) -> bool {
        let Some(receiving) = self.receiving.take() else { return false };
        self.receiver = receiving.stop();
        true
    }

    pub fn drop_link(&self) {
        self.closer.close();
    }

    /// Ends the link and everything that runs over it.
    pub fn close(mut self, path: &CommitPath) -> Result<(), NodeError> {
        let revoked = self.revoke();
        self.closer.close();
        self.stop_receiving();
        drop(path.stop_mirror_of(self.id));
        revoked
    }
}
