//! One walk over everything, or over what was repaired: it is weighed before, so that it can be told how long it takes.
//!
//! What can go wrong: what there is cannot be weighed. Then everything is compared all the same, and no estimate is made.

use super::super::progress::content_bytes;
use super::progress::{Doing, Progress};
use super::session::Session;
use super::wire::MAX_OBJECTS;
use apply_engine::BaseReader;
use apply_engine::resync::labels;
use apply_engine::verify::Key;
use ids::Oid;
use std::collections::BTreeSet;

impl Session<'_> {
    /// Compares everything, or only these, and tells how far it is.
    pub(super) fn round(&mut self, only: Option<&BTreeSet<Oid>>) -> Result<(), String> {
        self.weigh(only)?;
        self.tell(if only.is_some() { Doing::ComparingAgain } else { Doing::Comparing });
        self.walk(only)?;
        self.shared.verify.note(Progress::end_round);
        Ok(())
    }

    /// How much a round is about. An object that cannot be weighed is met again where it is compared.
    fn weigh(&self, only: Option<&BTreeSet<Oid>>) -> Result<(), String> {
        let (base, verify) = (&self.shared.base, &self.shared.verify);
        let weight = |oid| base.attributes(oid).map_or(0, |object| content_bytes(base, &object));
        if let Some(only) = only {
            verify.note(|progress| progress.begin_round(only.len() as u64));
            let bytes = only.iter().map(|oid| weight(*oid)).fold(0, u64::saturating_add);
            verify.note(|progress| progress.weighed(bytes));
            return Ok(());
        }
        verify.note(|progress| progress.begin_round(base.object_count().unwrap_or(0)));
        let (mut from, mut bytes) = (Some(Key::FIRST.oid), 0);
        while let Some(first) = from {
            self.check()?;
            // One label that cannot be read, and nobody knows how much there is.
            let Ok((labels, next)) = labels(base, first, MAX_OBJECTS) else { return Ok(()) };
            bytes = labels.iter().map(|label| weight(label.oid)).fold(bytes, u64::saturating_add);
            from = next.filter(|next| *next > first);
        }
        verify.note(|progress| progress.weighed(bytes));
        Ok(())
    }
}
