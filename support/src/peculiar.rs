//! What open files have that they do not tell themselves: only the kernel's own structures show it.

use crate::unsupported::Refusal;
use crate::{files, sockets};

/// A bit of [`ebpf_common::peculiar`], what to do about it, and what to call it.
pub(crate) type Peculiarity = (u32, Refusal, &'static str);

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
