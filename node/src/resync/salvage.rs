//! The receiver keeps aside what only it holds, with the source to tell what that is.
//!
//! What the source has just so, by attributes, xattrs and content, is not kept: after a lost log everything would be.
//! What can go wrong: as anywhere in a session; the source may change what it has meanwhile, and then a little more, or
//! what the source had a moment ago, is kept or not.

use super::error::ReceiveError;
use super::progress::Doing;
use super::receive::Receive;
use super::wire::{Answer, MAX_CONTENT_BYTES, Piece, PieceAnswer, Question};
use crate::split::changes::{Changes, ChangesError, Entry, Removed};
use crate::split::salvage::{Kept, Primary, Salvage, SalvageError};
use apply_engine::resync::{self, Capture, MAX_PIECE_BYTES, Surveyed};
use apply_engine::{Layers, Name, ObjectKind, ViewError};
use ids::{Lsn, Oid};
use std::sync::Arc;

impl Receive {
    /// Keeps aside what was changed here at or after `trusted_below`, or everything that the source has not.
    pub(super) fn keep_aside(&self, trusted_below: Lsn) -> Result<(), ReceiveError> {
        let shared = &self.shared;
        shared.resync.note(|progress| progress.doing(Doing::KeepingAside));
        let since = (trusted_below > Lsn::ZERO).then_some(trusted_below);
        let layers = Arc::new(shared.whole_log_layers().map_err(SalvageError::from)?);
        let go_on = || self.check_alive().is_ok();
        let changes =
            Changes::find(&shared.base, || layers.clone(), since, &go_on).map_err(SalvageError::from)?;
        let removed = Removed::read(&shared.log, trusted_below);
        let at = shared.salvage_path();
        let salvage =
            Salvage { volume: shared.config.id, node: &shared.me, at: &at, since, log_end: shared.log.end() };
        let mut asking = Asking { receive: self, since };
        let progress = |bytes| shared.resync.done(0, bytes);
        match salvage.keep(&changes, removed, &mut asking, &go_on, &progress)? {
            None => tracing::info!(volume = shared.name(), "the primary has all that this node holds"),
            Some(Kept { at, objects, bytes, removed, elsewhere }) => {
                let at = at.display().to_string();
                tracing::warn!(
                    volume = shared.name(),
                    at,
                    objects,
                    bytes,
                    removed,
                    elsewhere,
                    "what only this node held was kept aside"
                );
                *shared.resync.salvaged.lock() = Some(at);
            }
        }
        Ok(())
    }
}

/// Parts are counted anew by the next attempt.
const GREW: &str = "a large directory of the primary has grown meanwhile";

struct Asking<'a> {
    receive: &'a Receive,
    since: Option<Lsn>,
}

impl Asking<'_> {
    fn describe(&self, oids: &[Oid]) -> Result<Vec<Surveyed>, SalvageError> {
        self.receive.describe(oids).map_err(primary)
    }

    /// Has the source the same bytes? Holes are zeros.
    fn same_content(&self, layers: &Layers, oid: Oid, size: u64) -> Result<bool, SalvageError> {
        let (mut at, mut pieces, mut asked) = (0, Vec::new(), 0);
        while at < size {
            let len_bytes = MAX_PIECE_BYTES.min(size - at);
            let mut bytes = vec![0; len_bytes as usize];
            let got = layers.read(oid, at, &mut bytes)?;
            pieces.push(Piece { oid, offset: at, len_bytes, digest: Some(resync::digest(&bytes[..got])) });
            asked += len_bytes;
            at += len_bytes;
            if asked + MAX_PIECE_BYTES > MAX_CONTENT_BYTES || at >= size {
                asked = 0;
                let question = Question::Pieces { pieces: std::mem::take(&mut pieces), pack: false };
                let answers = self.receive.ask_one(&question, |answer| match answer {
                    Answer::Pieces { pieces, .. } => Some(pieces),
                    _ => None,
                });
                if answers.map_err(primary)?.iter().any(|answer| *answer != PieceAnswer::Same) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn is_same(&self, layers: &Layers, oid: Oid, theirs: &Capture) -> Result<bool, SalvageError> {
        let ours = layers.attributes(oid)?;
        let mut same = ours.kind == theirs.kind
            && (ours.mode, ours.uid, ours.gid) == (theirs.mode, theirs.uid, theirs.gid)
            && ours.rdev == theirs.rdev
            // A directory's times say only that something was made or removed in it.
            && (ours.kind == ObjectKind::Directory || ours.mtime == theirs.mtime)
            && (ours.kind != ObjectKind::File || ours.size == theirs.size);
        if same && ours.kind == ObjectKind::Symlink {
            same = layers.readlink(oid)? == theirs.target;
        }
        if same {
            let mut xattrs = Vec::new();
            for name in layers.xattr_names(oid)? {
                let value = layers.xattr(oid, &name)?.unwrap_or_default();
                xattrs.push((name, value));
            }
            let mut others = theirs.xattrs.clone();
            xattrs.sort_unstable();
            others.sort_unstable();
            same = xattrs == others;
        }
        match same && ours.kind == ObjectKind::File {
            true => self.same_content(layers, oid, ours.size),
            false => Ok(same),
        }
    }
}

fn primary(error: ReceiveError) -> SalvageError {
    match error {
        ReceiveError::Ended => SalvageError::Changes(ChangesError::Ended),
        other => SalvageError::Primary(other.to_string()),
    }
}

impl Primary for Asking<'_> {
    fn same(&mut self, layers: &Layers, entries: &[Entry]) -> Result<Vec<bool>, SalvageError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let oids: Vec<Oid> = entries.iter().map(|entry| entry.oid).collect();
        let same = |surveyed: Surveyed| match surveyed {
            Surveyed::Gone(_) => Ok(false),
            Surveyed::Here(theirs) => self.is_same(layers, theirs.oid, &theirs),
        };
        self.describe(&oids)?.into_iter().map(same).collect()
    }

    fn names(&mut self, layers: &Layers, directories: &[Oid]) -> Result<Vec<(Oid, Vec<u8>)>, SalvageError> {
        let mut missing: Vec<(Oid, Vec<u8>, Oid)> = Vec::new();
        for surveyed in self.describe(directories)? {
            let Surveyed::Here(theirs) = surveyed else { continue };
            let Capture { oid: directory, parts, entries: told, .. } = *theirs;
            let mut look = |entries: Vec<resync::Entry>| -> Result<(), SalvageError> {
                for entry in entries {
                    let Ok(name) = Name::new(&entry.name) else { continue };
                    match layers.lookup(directory, name.as_ref()) {
                        Ok(None) => missing.push((directory, entry.name, entry.oid)),
                        Ok(Some(_)) | Err(ViewError::NoObject(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            };
            look(told)?;
            for part in self.receive.parts_of(parts) {
                let entries = self.receive.entries(directory, part).map_err(primary)?;
                look(entries.ok_or_else(|| SalvageError::Primary(GREW.to_owned()))?)?;
            }
        }
        let oids: Vec<Oid> = missing.iter().map(|(_, _, oid)| *oid).collect();
        let described = self.describe(&oids)?;
        let old = |surveyed: &Surveyed| match (surveyed, self.since) {
            (Surveyed::Here(theirs), Some(since)) => theirs.last_lsn < since,
            (Surveyed::Here(_), None) => true,
            (Surveyed::Gone(_), _) => false,
        };
        let told = missing.into_iter().zip(&described).filter(|(_, surveyed)| old(surveyed));
        Ok(told.map(|((directory, name, _), _)| (directory, name)).collect())
    }
}
