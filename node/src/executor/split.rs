//! A split, as far as the two nodes talk about it over their link.

use super::Executor;
use crate::event::{NodeEvent, SplitAsk};
use crate::split::talk::{SplitState, Talk};
use ids::Lsn;
use pair::{Event, LinkId, Operator};
use runtime::channel::Sender;

impl Executor {
    /// Asks the partner; without a link the answer's channel is simply dropped.
    pub(super) fn ask_split(&mut self, ask: SplitAsk, answer: Sender<Talk>) {
        let Some(peer) = &self.peer else { return };
        let id = self.shared.split.expect(answer);
        let talk = match ask {
            SplitAsk::Show { since, rows } => Talk::Show { id, since, rows },
            SplitAsk::Discard => Talk::Discard { id },
        };
        peer.send_bytes(&talk.encode());
    }

    pub(super) fn heard_split(&mut self, link: u64, bytes: &[u8]) {
        let Some(talk) = Talk::decode(bytes) else { return };
        match talk {
            Talk::Show { id, since, rows } => self.show_split(link, id, since, rows),
            Talk::Discard { id } => {
                let result = self.pair.can(Operator::DiscardLocal);
                self.answer_split(link, &Talk::MayDiscard { id, result });
            }
            Talk::MayDiscard { id, result: Ok(()) } => {
                if self.shared.split.is_waited_for(id) {
                    self.answer_split(link, &Talk::DiscardNow { id });
                }
            }
            Talk::MayDiscard { id, result } => self.shared.split.heard(Talk::Discarded { id, result }),
            Talk::DiscardNow { id } => {
                let result = self.pair.can(Operator::DiscardLocal);
                let go = result.is_ok();
                self.answer_split(link, &Talk::Discarded { id, result });
                if go {
                    self.apply(Event::Operator(Operator::DiscardLocal));
                }
            }
            Talk::Shown { .. } | Talk::Discarded { .. } => self.shared.split.heard(talk),
        }
    }

    fn show_split(&mut self, link: u64, id: u64, since: Option<Lsn>, rows: u32) {
        let shared = self.shared.clone();
        let told = shared.clone();
        SplitState::show(&shared, since, rows, move |result| {
            told.tell(NodeEvent::SplitAnswer { link, talk: Talk::Shown { id, result } });
        });
    }

    pub(super) fn answer_split(&mut self, link: u64, talk: &Talk) {
        if let Some(peer) = self.peer_of(LinkId(link)) {
            peer.send_bytes(&talk.encode());
        }
    }
}
