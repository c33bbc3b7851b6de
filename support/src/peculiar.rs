//! What open files have that they do not tell themselves: only the kernel's own structures show it.

use crate::unsupported::{Peculiarity, Refusal};
use crate::{files, sockets};

fn all() -> impl Iterator<Item = &'static Peculiarity> {
    sockets::PECULIARITIES.iter().chain(&files::PECULIARITIES)
}

/// What a file or socket has of it, by its bits.
pub fn of_bits(bits: u32) -> impl Iterator<Item = Refusal> {
    let found = all().filter(move |(bit, ..)| bits & bit != 0);
    found.map(|(_, refusal, _)| refusal.clone())
}

/// What to call these, to say that they cannot be seen.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(.., name)| *name)
}
