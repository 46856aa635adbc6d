//! Shortens a list that makes something fail: delta debugging (Zeller and Hildebrandt, 2002, ddmin with
//! complements only).
//!
//! Invariant: what is returned still fails, and fails no more when any single element is left out. Bounded by
//! the square of the list's length in runs.

pub fn minimise<T: Clone>(list: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut list = list.to_vec();
    let mut chunk = list.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shortened = false;
        while at < list.len() {
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

#[test]
fn what_matters_stays() {
    let list: Vec<u32> = (0..50).collect();
    let fails = |list: &[u32]| [3, 17, 18, 44].iter().all(|wanted| list.contains(wanted));
    assert_eq!(minimise(&list, fails), [3, 17, 18, 44]);
    assert_eq!(minimise(&list, |_| true), []);
}
