//! Taking turns: ours and its peers run one after the other for short times, again and again, so that noise meets
//! all alike. The order changes from turn to turn; the first turn only warms up.

use anyhow::Result;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// What takes longer is counted as this long.
const LONGEST_NS: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// How many turns, and how long each is: whichever of count and time ends first.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// Turns that count.
    pub turns: usize,
    /// Most operations of one turn.
    pub count: usize,
    /// Longest time of one turn.
    pub time: Duration,
}

/// Something that is measured.
pub struct Side<'a> {
    /// One operation; it is timed.
    pub step: Box<dyn FnMut() -> Result<()> + 'a>,
    /// After each turn; it is not timed.
    pub rest: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl<'a> Side<'a> {
    /// An operation that needs nothing between turns.
    pub fn new(step: impl FnMut() -> Result<()> + 'a) -> Side<'a> {
        Side { step: Box::new(step), rest: Box::new(|| Ok(())) }
    }

    /// Does this after each turn.
    pub fn with_rest(mut self, rest: impl FnMut() -> Result<()> + 'a) -> Side<'a> {
        self.rest = Box::new(rest);
        self
    }
}

/// Nanoseconds of every operation of every side.
///
/// # Errors
/// The first that a side has.
pub fn take(turns: Turns, sides: &mut [Side<'_>]) -> Result<Vec<Histogram<u64>>> {
    let fresh = || Histogram::new_with_max(LONGEST_NS, SIGNIFICANT_DIGITS);
    let mut histograms = sides.iter().map(|_| fresh()).collect::<Result<Vec<Histogram<u64>>, _>>()?;
    for turn in 0..=turns.turns {
        for place in 0..sides.len() {
            let index = (place + turn) % sides.len();
            let begun = Instant::now();
            for _ in 0..turns.count {
                let begin = Instant::now();
                (sides[index].step)()?;
                if turn > 0 {
                    histograms[index].saturating_record(begin.elapsed().as_nanos() as u64);
                }
                if begun.elapsed() > turns.time {
                    break;
                }
            }
            (sides[index].rest)()?;
        }
    }
    Ok(histograms)
}

/// A quantile in nanoseconds.
pub fn quantile_ns(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_has_as_many_turns_and_the_first_does_not_count() {
        let (mut steps, mut rests) = (0, 0);
        let turns = Turns { turns: 3, count: 5, time: Duration::from_secs(60) };
        let mut sides = [
            Side::new(|| {
                steps += 1;
                Ok(())
            })
            .with_rest(|| {
                rests += 1;
                Ok(())
            }),
            Side::new(|| Ok(())),
        ];
        let histograms = take(turns, &mut sides).unwrap();
        drop(sides);
        assert_eq!(histograms.iter().map(Histogram::len).collect::<Vec<_>>(), [15, 15]);
        assert_eq!((steps, rests), (20, 4));
    }

    #[test]
    fn time_ends_a_turn() {
        let turns = Turns { turns: 1, count: usize::MAX, time: Duration::from_millis(5) };
        let pause = || {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        };
        let histograms = take(turns, &mut [Side::new(pause)]).unwrap();
        assert!((1..=6).contains(&histograms[0].len()));
        assert!(quantile_ns(&histograms[0], 0.5) >= 0.99e6, "it is counted in nanoseconds");
    }
}
