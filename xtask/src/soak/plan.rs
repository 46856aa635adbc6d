//! What a soak does, decided beforehand by the seed alone: which processes are killed, when, and how long they
//! stay dead. Replaying a seed repeats the plan and every writer's operations; how threads and processes
//! interleave is the machine's.

use crate::random::Random;
use std::time::Duration;

/// Which processes a round kills.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Victim {
    /// The node that serves; the other one takes over.
    Primary,
    /// The node that mirrors; clients must notice nothing but a pause.
    Partner,
    /// Both nodes at the same moment.
    Both,
    /// The witness; clients must notice nothing.
    Witness,
    /// Witness and partner: the primary must freeze until the witness is back, and then go on.
    WitnessAndPartner,
    /// The partner, and the primary while the partner is coming back.
    PrimaryDuringRejoin,
}

impl Victim {
    /// All of them with their weights.
    const WEIGHTS: [(Victim, u64); 6] = [
        (Victim::Primary, 40),
        (Victim::Partner, 20),
        (Victim::Both, 15),
        (Victim::Witness, 7),
        (Victim::WitnessAndPartner, 6),
        (Victim::PrimaryDuringRejoin, 12),
    ];

    /// How many processes are killed.
    pub fn kills(self) -> u64 {
        match self {
            Victim::Primary | Victim::Partner | Victim::Witness => 1,
            Victim::Both | Victim::WitnessAndPartner | Victim::PrimaryDuringRejoin => 2,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Victim::Primary => "primary",
            Victim::Partner => "partner",
            Victim::Both => "both",
            Victim::Witness => "witness",
            Victim::WitnessAndPartner => "witness+partner",
            Victim::PrimaryDuringRejoin => "primary-during-rejoin",
        }
    }

    fn choose(random: &mut Random) -> Victim {
        let total = Self::WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut left = random.below(total);
        for (victim, weight) in Self::WEIGHTS {
            if left < weight {
                return victim;
            }
            left -= weight;
        }
        Victim::Primary
    }
}

/// One round: work, kill, come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// Who is killed.
    pub victim: Victim,
    /// Work before the kill.
    pub work: Duration,
    /// How long the victim stays dead.
    pub dead: Duration,
    /// Between two kills or two starts of one round.
    pub gap: Duration,
    /// Where two nodes are started: the former partner first?
    pub partner_first: bool,
}

impl Round {
    /// One of all.
    pub fn choose(random: &mut Random) -> Round {
        let mut millis = |below| Duration::from_millis(random.below(below));
        let (work, dead, gap) = (millis(1200) + Duration::from_millis(50), millis(1200), millis(500));
        Round { victim: Victim::choose(random), work, dead, gap, partner_first: random.chance(50) }
    }
}

/// The rounds that together kill `kills` processes, or one more.
pub fn rounds(random: &mut Random, kills: u64) -> Vec<Round> {
    let (mut rounds, mut killed) = (Vec::new(), 0);
    while killed < kills {
        let round = Round::choose(random);
        killed += round.victim.kills();
        rounds.push(round);
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_plan_and_enough_kills() {
        let plan = |seed| rounds(&mut Random::new(seed), 200);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let kills: u64 = plan(7).iter().map(|round| round.victim.kills()).sum();
        assert!((200..=201).contains(&kills), "{kills}");
        for (victim, _) in Victim::WEIGHTS {
            assert!(plan(7).iter().any(|round| round.victim == victim), "{victim:?} is never chosen");
        }
    }
}
