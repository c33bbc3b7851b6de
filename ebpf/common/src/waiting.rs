//! TCP connections that wait to be accepted.

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::Header;

/// How far a thread has read the queue of a listening socket, or has found out where the kernel has its pages: the value of the map
/// `QUEUES`, as a [`QueueCursor`](crate::QueueCursor) of the same size is. The reader sets the descriptor, the state and `pages`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitingCursor {
    /// The descriptor.
    pub fd: u64,
    /// One of [`cursor`](crate::cursor), or [`PAGES`].
    pub state: u64,
    /// The request that comes next.
    pub request: u64,
    /// The list of packets that is being read.
    pub list: u64,
    /// Its next packet; the list itself at its end.
    pub packet: u64,
    /// The packet whose parts are being read.
    pub inner: u64,
    /// Its next part; [`NESTED`] is set for one that hangs at another.
    pub part: u64,
    /// The next piece of a part; 0 between two.
    pub piece: u64,
    /// Bytes of the part from that piece on.
    pub left: u64,
    /// Bytes written out in this turn.
    pub written: u64,
    /// What is added to the address of what describes a page, times [`PAGE_FACTOR`], for the page's own address; 0 if that is not known.
    pub pages: u64,
}

const _: () = assert!(size_of::<WaitingCursor>() == size_of::<crate::QueueCursor>());

/// A bit of [`WaitingCursor::part`].
pub const NESTED: u64 = 1 << 16;

/// Bytes of what describes a page.
pub const PAGE_STRUCTURE: u32 = 64;
/// A page is so many times as large as what describes it.
pub const PAGE_FACTOR: u64 = crate::PAGE_BYTES as u64 / PAGE_STRUCTURE as u64;

/// A state: the descriptor is a pipe with a page in it that has the number `request` and begins with the words `packet` and `inner`.
/// The address of that page is looked for below that of the open file, in steps of [`PAGES_STEP`], of which `part` counts those that were
/// made. Found, `pages` is set.
pub const PAGES: u64 = 3;
/// The kernel's mapping of all memory begins at a multiple of this.
pub const PAGES_STEP: u64 = 1 << 30;

/// What the kernel says of a listening socket: before all that is read of it in one turn, and behind that.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct ListenerRecord {
    /// The header.
    pub header: Header,
    /// Connections in its queue.
    pub waiting: u32,
    /// 1 if there is more to be read.
    pub more: u32,
}

/// A connection. Its packets follow, perhaps in the next turn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct WaitingRecord {
    /// The header.
    pub header: Header,
    /// `AF_*`.
    pub family: u32,
    /// `TCP_*`.
    pub state: u32,
    /// The error that it has ended with.
    pub error: u32,
    /// Bits of [`unaccepted`].
    pub has: u32,
    /// Its own address; of IPv4 the first word.
    pub local: [u32; 4],
    /// Its peer's.
    pub peer: [u32; 4],
    /// Its port, as it is in packets.
    pub local_port: u16,
    /// Its peer's.
    pub peer_port: u16,
    /// The number after all that was received.
    pub received: u32,
    /// The number of what nobody has read yet.
    pub unread: u32,
    /// The number after all that was sent.
    pub sent: u32,
    /// The number after all that the peer has confirmed.
    pub confirmed: u32,
    /// The number after all that was written.
    pub written: u32,
    /// How much the peer takes.
    pub window: u32,
    /// The largest segment.
    pub segment: u32,
    /// The scales of the peer's window (bits 0 to 3) and its own (4 to 7).
    pub scales: u32,
    /// The newest timestamp of its peer.
    pub peer_clock: u32,
    /// What its timestamps are ahead of the clock.
    pub clock_offset: u32,
    /// Nothing.
    pub pad: u32,
    /// The clock, in nanoseconds.
    pub now: u64,
}

/// What a [`WaitingRecord`] tells.
pub mod unaccepted {
    /// It has timestamps.
    pub const TIMESTAMPS: u32 = 1 << 0;
    /// What has arrived out of order is confirmed.
    pub const SACK: u32 = 1 << 1;
    /// Windows have scales.
    pub const SCALES: u32 = 1 << 2;
    /// Congestion is marked.
    pub const ECN: u32 = 1 << 3;
    /// Its timestamps count microseconds.
    pub const MICROSECONDS: u32 = 1 << 4;
    /// It is of MPTCP, or its first data came with the request and that is not over.
    pub const OTHER_PROTOCOL: u32 = 1 << 5;
    /// The first packet of its peer has been kept (`TCP_SAVE_SYN`).
    pub const SAVED: u32 = 1 << 6;
    /// An urgent byte is in it.
    pub const URGENT: u32 = 1 << 7;
    /// It is signed.
    pub const SIGNED: u32 = 1 << 8;
}

/// A packet that waits in a connection. Its pieces follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct PacketRecord {
    /// The header.
    pub header: Header,
    /// The number of its first byte.
    pub number: u32,
    /// Its bytes.
    pub bytes: u32,
}
