//! What the end of threads undoes in System V semaphores (`SEM_UNDO`).

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::Header;

/// Semaphores of a set that an [`UndoRecord`] has room for.
pub const UNDO_SEMAPHORES: usize = 128;

/// What the end of a thread will undo in a set of System V semaphores (`SEM_UNDO`). It is written in two pieces: the
/// adjustments follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct UndoRecord {
    /// Whose, and of which set.
    pub head: UndoHead,
    /// What is added to each semaphore. Behind the last one of the set stands anything.
    pub adjustments: [i16; UNDO_SEMAPHORES],
}

/// The beginning of an [`UndoRecord`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct UndoHead {
    /// The header of the whole record.
    pub header: Header,
    /// Which list it is in, to be compared with others: threads share lists (`CLONE_SYSVSEM`).
    pub list: u64,
    /// How many tasks have that list.
    pub users: u32,
    /// The thread.
    pub tid: i32,
    /// The set; -1 for one that has been removed.
    pub set: i32,
    /// 1 if there are more sets than are told.
    pub more: u32,
}
