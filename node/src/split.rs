//! A split volume: what each side changed alone, shown to the operator, and the choice that he makes.
//!
//! The two nodes of a split tell each other lists ([`talk`]) over the control channel of their link; nothing of them is
//! believed, they are only shown. What a side holds alone is found by its labels and its log ([`changes`]) and, before
//! that side is given up, copied aside ([`salvage`]).
//!
//! What can go wrong: the partner is away or of another version (its side is then missing from the list, with the
//! reason); a tree that changes while it is walked (an object that went away meanwhile is left out).

mod ask;
pub(super) mod changes;
pub(super) mod salvage;
pub(super) mod talk;
