//! The parts of the current link, and who has them at the moment.
//!
//! The sender is lent to the commit path while this node mirrors, the receiver to its thread while it
//! receives; both come back, because roles can change over one link. Invariant: when [`Peer::revoke`] or
//! [`Peer::close`] returns, nothing of the partner lands in the log any more, and what had landed is part of
//! it.

use super::NodeError;
use super::receiver::Receiving;
use super::shared::Shared;
use ids::LogPoint;
use pair::Message;
use rdma_transport::{Closer, Control, Fence, Link, MirrorReceiver, MirrorSender};
use std::sync::Arc;

/// See the module.
pub(super) struct Peer {
    id: u64,
    control: Box<dyn Control>,
    fence: Arc<dyn Fence>,
    closer: Closer,
    sender: Option<Box<dyn MirrorSender>>,
    receiver: Option<Box<dyn MirrorReceiver>>,
    receiving: Option<Receiving>,
}

impl Peer {
    pub fn new(id: u64, link: Link) -> Peer {
        Peer {
            id,
            control: link.control,
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

    /// A link that does not take it ends, and its reader tells.
    pub fn send(&self, message: &Message) {
        if let Err(error) = self.control.send(&message.encode()) {
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
    pub fn receive(&mut self, shared: Arc<Shared>, at: LogPoint) -> Result<(), NodeError> {
        self.stop_receiving();
        if let Some(receiver) = self.receiver.take() {
            self.receiving =
                Some(Receiving::start(shared, self.id, receiver, at).map_err(NodeError::Thread)?);
        }
        Ok(())
    }

    /// Takes the partner's right to write away, and takes in what had landed.
    pub fn revoke(&mut self) -> Result<(), NodeError> {
        self.fence.revoke()?;
        self.stop_receiving();
        Ok(())
    }

    fn stop_receiving(&mut self) {
        if let Some(receiving) = self.receiving.take() {
            self.receiver = receiving.stop();
        }
    }

    pub fn drop_link(&self) {
        self.closer.close();
    }

    /// Ends the link and everything that runs over it.
    pub fn close(mut self, shared: &Shared) {
        if let Err(error) = self.revoke() {
            shared.report(
                &format!("the partner's right to write could not be taken away: {error}"),
                "end its process",
            );
        }
        self.closer.close();
        self.stop_receiving();
        drop(shared.path.stop_mirror_of(self.id));
    }
}
