//! Coverage marks: what a simulation has really been through, counted where it happens.
//!
//! Only a build with the feature `simulation` counts; elsewhere `mark!` is nothing. Counted per thread, as a
//! simulation lives on one.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// How often each thing happened.
pub type Marks = BTreeMap<&'static str, u64>;

thread_local! {
    static MARKS: RefCell<Marks> = const { RefCell::new(BTreeMap::new()) };
}

/// It happened.
pub fn note(what: &'static str) {
    MARKS.with_borrow_mut(|marks| *marks.entry(what).or_default() += 1);
}

/// What happened on this thread since the last call.
pub fn take() -> Marks {
    MARKS.take()
}
