//! How much of a list is told.

/// What of each is told at most.
const MOST_TOLD: usize = 1000;

/// Keeps as many of a list as are told, and counts the others.
pub(super) fn keep<T>(list: &mut Vec<T>, left_out: &mut u64) {
    *left_out += list.len().saturating_sub(MOST_TOLD) as u64;
    list.truncate(MOST_TOLD);
}
