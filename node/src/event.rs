//! What the threads of a volume tell its executor.

use super::inbox::Place;
use super::split::talk::Talk;
use admin_api::control::ControlError;
use ids::{LogPoint, Lsn};
use pair::witness::Request;
use pair::{LocalFault, Operator, RequestId, WitnessOutcome};
use rdma_transport::Link;
use runtime::Instant;
use runtime::channel::Sender;

/// See the module.
pub(super) enum NodeEvent {
    /// A link to the partner is up.
    LinkUp { id: u64, link: Box<Link> },
    /// It is gone.
    LinkDown { id: u64 },
    /// The partner does not want it, or is not who it should be; or nobody is there any more who could say so.
    LinkRefused { reason: Option<String> },
    /// A control message came, and takes room in the inbox until it is carried out.
    Message { id: u64, bytes: Vec<u8>, place: Place },
    /// Mirroring to the partner, or receiving from it, failed.
    MirrorLost { id: u64, reason: String },
    /// The primary's bytes are not what they should be, and it may have acknowledged them.
    ReceivedWrong { id: u64, reason: String },
    /// The witness answered, or did not.
    Witness { request: RequestId, outcome: WitnessOutcome },
    /// An operator's wish; whether it can be met is answered at once. Nothing is done once nobody waits for that.
    Operator { wish: Operator, answer: Sender<Result<(), ControlError>> },
    /// The command with this wish has ended.
    Withdrawn(Operator),
    /// Applying fails.
    Fault(LocalFault),
    /// Applying works again.
    Healed,
    /// The log's memory failed.
    LogFailed(String),
    /// The resync of this node came to its end: its log begins at this point now, or why not.
    ResyncEnded { link: u64, result: Result<LogPoint, String> },
    /// What only this node held is kept aside, as its log stood at `end`: may the tree change?
    Salvaged { link: u64, session: u32, end: LogPoint },
    /// The operator asks what each side of a split changed, or gives the partner's up; for nobody after `until`.
    SplitTalk { talk: SplitAsk, answer: Sender<Talk>, until: Instant },
    /// An answer for the partner is ready.
    SplitAnswer { link: u64, talk: Talk },
    /// The thread that answers the partner's resync has ended.
    ResyncSourceEnded { link: u64 },
    /// The tree is known to differ from the partner's, or to be the same again.
    TreesDiffer(bool),
    /// Stop cleanly.
    Shutdown,
}

/// What is to be asked of the other side of a split.
pub(super) enum SplitAsk {
    Show { since: Option<Lsn>, rows: u32 },
    Discard,
}

/// A question for the witness's thread.
pub(super) struct WitnessQuestion {
    pub request: RequestId,
    pub ask: Request,
}
