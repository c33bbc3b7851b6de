//! POSIX message queues.

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::Header;

/// Bytes of a page, by which the kernel divides long messages.
pub const PAGE_BYTES: u32 = 4096;

/// How far a thread has read a queue: the value of the map `QUEUES`, by the number of the thread. The reader says which descriptor
/// of its own it means; the rest is the program's, and 0 in the beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueCursor {
    /// The descriptor.
    pub fd: u64,
    /// One of [`cursor`].
    pub state: u64,
    /// The node of the tree of priorities that comes next.
    pub node: u64,
    /// The node from which the way leads there.
    pub from: u64,
    /// The list of messages that is being read, of one priority.
    pub list: u64,
    /// Its next message; the list itself at its end.
    pub entry: u64,
    /// The next piece of a message; 0 between two.
    pub piece: u64,
    /// The segment behind that piece.
    pub next: u64,
    /// Bytes of the message from that piece on.
    pub left: u64,
    /// Most bytes of that piece.
    pub room: u64,
    /// Bytes written out in this turn.
    pub written: u64,
}

/// The words of a [`QueueCursor`].
pub const CURSOR_WORDS: usize = size_of::<QueueCursor>() / 8;

/// Where a reading is.
pub mod cursor {
    /// Nothing has been read.
    pub const NEW: u64 = 0;
    /// There is more to be read.
    pub const UNDER_WAY: u64 = 1;
    /// All has been read.
    pub const DONE: u64 = 2;
}

/// What the kernel says of a queue: before all that is read of it in one turn, and behind that.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct MessageQueueRecord {
    /// The header.
    pub header: Header,
    /// Messages in it.
    pub messages: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// 1 if somebody is to be told of the next message.
    pub notifies: u32,
    /// 1 if there is more to be read.
    pub more: u32,
}

/// A message. Its pieces follow, perhaps in the next turn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct MessageRecord {
    /// The header.
    pub header: Header,
    /// Its priority.
    pub priority: u64,
    /// Its bytes.
    pub bytes: u64,
}
