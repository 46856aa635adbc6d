//! What the two sides of a split say to each other, and who carries it out.
//!
//! One request at a time; its answer is one message. A request that comes while another one is worked on is refused.
//! A side is given up in two steps, for the partner may read the first one long after the operator was told that it
//! does not answer: it says whether that is possible, and does it only when whoever asked still waits.
//! Everything is bounded: a list is cut where it would not fit into a message ([`MAX_LIST_BYTES`]).
//!
//! What can go wrong: bytes that are no message, or are of another version: not answered, and whoever asked says so
//! after [`ANSWER_LIMIT`].

use super::changes::{Changes, ChangesError, Removed, shown};
use crate::shared::Shared;
use admin_api::status::{ChangedObject, DIRECTORY, SplitSide};
use apply_engine::ObjectKind;
use ids::Lsn;
use runtime::Mutex;
use runtime::channel::Sender;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How each of these messages begins; none of the pair's or of a resync's does.
const MAGIC: &[u8; 4] = b"TwSp";
/// Version of these messages.
const VERSION: u8 = 3;
/// Longest list in one message, by the length of its names.
const MAX_LIST_BYTES: usize = 512 << 10;
/// Most rows that are told.
pub(crate) const MAX_ROWS: usize = 10_000;
/// Longest wait for the partner's answer: it walks its tree.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(100);
/// Likewise where it only says what is possible: sooner than a command gives its daemon up.
pub(crate) const DISCARD_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Talk {
    /// What did you change since this point?
    Show { id: u64, since: Option<Lsn>, rows: u32 },
    /// This.
    Shown { id: u64, result: Result<SplitSide, String> },
    /// The operator wants your side given up.
    Discard { id: u64 },
    /// Whether it can be; nothing has been done yet.
    MayDiscard { id: u64, result: Result<(), String> },
    /// The operator still waits: do it.
    DiscardNow { id: u64 },
    /// Whether it was done.
    Discarded { id: u64, result: Result<(), String> },
}

impl Talk {
    /// Whether a control message is one of these.
    pub fn is_about(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        postcard::to_extend(self, bytes).expect("plain data always encodes")
    }

    /// `None`: not a message of this version.
    pub fn decode(bytes: &[u8]) -> Option<Talk> {
        let body = bytes.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?;
        postcard::from_bytes(body).ok()
    }
}

/// What a volume's threads share of it.
#[derive(Debug, Default)]
pub(crate) struct SplitState {
    /// Who waits for which answer.
    waiting: Mutex<Option<(u64, Sender<Talk>)>>,
    asked: Mutex<u64>,
    /// A list is being made for the partner.
    busy: AtomicBool,
}

impl SplitState {
    /// The number of the next request, whose answer goes to `answer`. An older one is not waited for any more.
    pub fn expect(&self, answer: Sender<Talk>) -> u64 {
        let mut asked = self.asked.lock();
        *asked += 1;
        *self.waiting.lock() = Some((*asked, answer));
        *asked
    }

    /// Does somebody still wait for the answer to this request?
    pub fn is_waited_for(&self, id: u64) -> bool {
        self.waiting.lock().as_ref().is_some_and(|(expected, _)| *expected == id)
    }

    /// No answer comes any more: the link has ended, or whoever waited has given up.
    pub fn forget(&self) {
        *self.waiting.lock() = None;
    }

    /// An answer came.
    pub fn heard(&self, talk: Talk) {
        let (Talk::Shown { id, .. } | Talk::Discarded { id, .. }) = &talk else { return };
        let mut waiting = self.waiting.lock();
        if let Some((_, answer)) = waiting.take_if(|(expected, _)| expected == id) {
            let _nobody_waits_any_more = answer.send(talk);
        }
    }

    /// Makes the list that the partner asked for, in a thread of its own, and hands it to `send`.
    pub fn show(
        shared: &Arc<Shared>,
        since: Option<Lsn>,
        rows: u32,
        send: impl FnOnce(Result<SplitSide, String>) + Send + 'static,
    ) {
        if shared.split.busy.swap(true, Ordering::AcqRel) {
            return send(Err("another list is being made; try again".to_owned()));
        }
        let making = shared.clone();
        let spawned = runtime::spawn("split", move || {
            runtime::be_bulk();
            let side = side(&making, since, rows as usize).map_err(|error| error.to_string());
            making.split.busy.store(false, Ordering::Release);
            send(side);
        });
        if let Err(error) = spawned {
            shared.split.busy.store(false, Ordering::Release);
            tracing::error!(%error, "no thread for the list of a split");
        }
    }
}

/// What this node changed since a point of its log.
pub(crate) fn side(shared: &Shared, since: Option<Lsn>, rows: usize) -> Result<SplitSide, ChangesError> {
    let serves = shared.volume.lock().is_some();
    // A node that waits has not absorbed what its log holds beyond what was committed.
    let alone = if serves { None } else { Some(Arc::new(shared.whole_log_layers()?)) };
    let layers = || match &alone {
        Some(layers) => layers.clone(),
        None => shared.stack.snapshot(),
    };
    let go_on = || !shared.is_stopping();
    let removed = Removed::read(&shared.log, since.unwrap_or(Lsn::ZERO));
    let changes = Changes::find(&shared.base, layers, since, &go_on)?;
    let mut told = SplitSide {
        node: shared.me.clone(),
        serves,
        changed_objects: 0,
        changed_bytes: 0,
        changed: Vec::new(),
        removed: Vec::new(),
        removed_names: 0,
        removed_is_all: since.is_some_and(|since| shared.log.tail().lsn <= since),
    };
    let (mut paths, mut listed_bytes) = (HashMap::new(), 0);
    changes.walk::<ChangesError>(&go_on, &removed.parents(), &mut paths, |layers, entry| {
        let size_bytes = match entry.kind {
            ObjectKind::File => layers.size(entry.oid).unwrap_or(0),
            _ => 0,
        };
        told.changed_objects += 1;
        told.changed_bytes += size_bytes;
        let fits = |path: &String| listed_bytes + path.len() < MAX_LIST_BYTES;
        if told.changed.len() < rows.min(MAX_ROWS)
            && let Some(path) = Some(shown(&entry.path)).filter(fits)
        {
            listed_bytes += path.len() + 32;
            // What went away meanwhile has no generation any more, and is like nothing of the other side.
            let generation = layers.attributes(entry.oid).map_or(0, |attributes| attributes.generation);
            told.changed.push(ChangedObject {
                path,
                kind: kind_name(entry.kind).to_owned(),
                size_bytes,
                object: (entry.oid.0, generation),
                on_both_sides: false,
            });
        }
        Ok(())
    })?;
    let (names, beyond) = removed.paths(&changes.layers(), &paths);
    told.removed_names = names.len() as u64 + beyond;
    for name in names.iter().take(rows.min(MAX_ROWS)).map(|name| shown(name)) {
        listed_bytes += name.len() + 8;
        if listed_bytes > MAX_LIST_BYTES + (128 << 10) {
            break;
        }
        told.removed.push(name);
    }
    Ok(told)
}

/// In a word.
pub(crate) fn kind_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::File => "file",
        ObjectKind::Directory => DIRECTORY,
        ObjectKind::Symlink => "symlink",
        ObjectKind::Fifo => "fifo",
        ObjectKind::Socket => "socket",
        ObjectKind::CharDevice => "character device",
        ObjectKind::BlockDevice => "block device",
    }
}
