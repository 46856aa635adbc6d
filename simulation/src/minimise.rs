//! Shortens a list that makes something fail: delta debugging (Zeller and Hildebrandt, 2002, ddmin with complements
//! only).
//!
//! Invariant: what is returned still fails. With enough tries it fails no more when any single element is left out.
//! Bounded by a number of tries, because each is a whole run.

/// The shortest part of `list` that still fails, found within `tries` calls of `fails`.
pub fn minimise<T: Clone>(list: &[T], tries: usize, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut list = list.to_vec();
    let mut chunk = list.len().div_ceil(2).max(1);
    let mut left = tries;
    loop {
        let (mut at, mut shortened) = (0, false);
        while at < list.len() {
            if left == 0 {
                return list;
            }
            left -= 1;
            let mut without = list.clone();
            without.drain(at..(at + chunk).min(list.len()));
            if fails(&without) {
                list = without;
                shortened = true;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 && !shortened {
            return list;
        }
        chunk = if chunk > 1 { chunk.div_ceil(2) } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::minimise;

    #[test]
    fn what_matters_stays() {
        let list: Vec<u32> = (0..50).collect();
        let fails = |list: &[u32]| [3, 17, 18, 44].iter().all(|wanted| list.contains(wanted));
        assert_eq!(minimise(&list, 1000, fails), [3, 17, 18, 44]);
        assert_eq!(minimise(&list, 1000, |_| true), [0_u32; 0]);
        assert!(fails(&minimise(&list, 3, fails)), "cut short, it still fails");
    }
}
