//! At no moment do both nodes acknowledge without the other.

/// Which hosts acknowledge alone.
pub fn check(alone: &[bool; 2]) {
    assert!(*alone != [true, true], "both nodes acknowledge alone");
}
