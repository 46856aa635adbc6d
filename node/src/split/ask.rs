//! The operator's commands on a split, as the control socket brings them.

use super::talk::{ANSWER_LIMIT, DISCARD_LIMIT, MAX_ROWS, Talk, side};
use crate::event::{NodeEvent, SplitAsk};
use crate::volume_node::VolumeNode;
use admin_api::control::{ControlError, ErrorKind};
use admin_api::status::{SplitReport, mark_both};
use pair::Operator;
use runtime::Instant;
use runtime::channel::bounded;

const NO_ANSWER: &str = "the partner does not answer; is it linked, and does it run the same program?";

impl VolumeNode {
    /// What each side changed since the common point.
    pub fn split_show(&self, rows: u32) -> Result<SplitReport, ControlError> {
        let shared = self.shared();
        let split = shared.pair.lock().as_ref().and_then(|pair| pair.split.clone());
        let Some(split) = split else {
            let text = "the volume is not split, as far as this node knows; ask the other one too";
            return Err(ControlError::new(ErrorKind::Refused, text));
        };
        let since = split.common_end;
        let (answer, answered) = bounded(1);
        // As many rows as there may be: what both sides changed is looked for among them.
        let talk = SplitAsk::Show { since, rows: MAX_ROWS as u32 };
        let until = Instant::now() + ANSWER_LIMIT;
        shared.tell(NodeEvent::SplitTalk { talk, answer, until });
        let mut here = side(shared, since, MAX_ROWS)
            .map_err(|error| ControlError::new(ErrorKind::Failed, error.to_string()))?;
        let there = match answered.recv_timeout(ANSWER_LIMIT) {
            Ok(Talk::Shown { result, .. }) => result,
            Ok(_) | Err(_) => Err(NO_ANSWER.to_owned()),
        };
        let (mut there, there_error) = match there {
            Ok(side) => (Some(side), None),
            Err(why) => (None, Some(why)),
        };
        if let Some(there) = &mut there {
            mark_both(&mut here, there);
        }
        for side in std::iter::once(&mut here).chain(&mut there) {
            side.shorten(rows as usize);
        }
        Ok(SplitReport { volume: self.name().to_owned(), common_end: since, here, there, there_error })
    }

    /// Gives up one side.
    pub fn split_discard(&self, here: bool) -> Result<(), ControlError> {
        if here {
            return self.wish(Operator::DiscardLocal);
        }
        let (answer, answered) = bounded(1);
        let until = Instant::now() + DISCARD_LIMIT;
        self.shared().tell(NodeEvent::SplitTalk { talk: SplitAsk::Discard, answer, until });
        match answered.recv_timeout(DISCARD_LIMIT) {
            Ok(Talk::Discarded { result, .. }) => {
                result.map_err(|why| ControlError::new(ErrorKind::Refused, why))
            }
            Ok(_) | Err(_) => {
                self.shared().split.forget();
                Err(ControlError::new(ErrorKind::Refused, format!("{NO_ANSWER} Or run the command there")))
            }
        }
    }
}
