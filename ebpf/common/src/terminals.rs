//! What the kernel keeps of open terminals: their modes, and what waits in them.

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::Header;

/// An open terminal. It is written in pieces, as the program's stack has no room for the whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TerminalRecord {
    /// Which it is, and how it is.
    pub state: TerminalState,
    /// Its modes.
    pub modes: TerminalModes,
}

/// Which terminal it is, and how it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TerminalState {
    /// The header of the whole record.
    pub header: Header,
    /// Descriptor number.
    pub fd: i32,
    /// Line discipline (`N_*`).
    pub discipline: i32,
    /// Major number of its device, whatever it was opened by.
    pub major: u32,
    /// Minor number of its device.
    pub minor: u32,
    /// Of a pseudo-terminal the file system that its slave is on, in the kernel's encoding; 0 when that is
    /// gone.
    pub instance: u32,
    /// Of a pseudo-terminal 1 for the master, 2 for the slave.
    pub side: u32,
    /// 1 if the open file has hung up.
    pub hung_up: u32,
    /// Not used.
    pub unused: u32,
    /// How many open files of it there are; of a slave one more.
    pub opens: i32,
    /// The same of the other side.
    pub other_opens: i32,
    /// `TTY_*` bits.
    pub flags: u64,
    /// Those of the other side.
    pub other_flags: u64,
    /// Its output is stopped.
    pub stopped: u8,
    /// That was done by a call (`TCOOFF`).
    pub stopped_by_call: u8,
    /// Of a master: it is in packet mode.
    pub packets: u8,
    /// Of a master: what a read in packet mode says next (`TIOCPKT_*`).
    pub packet_status: u8,
    /// Not used.
    pub padding: u32,
}

/// Modes and size of a terminal; those of a master are its slave's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TerminalModes {
    /// The kernel's `struct ktermios`.
    pub modes: [u32; 11],
    /// Which of them are locked.
    pub locked: [u32; 11],
    /// Rows, columns and their sizes in pixels.
    pub window: [u16; 4],
}

/// How far the input of a terminal is written and read. It is written out before the [`QueueRecord`]s and
/// again behind them: if both are the same, and nothing is moving, they are what waited at one moment. Of a
/// master whose slave nobody has open, the slave's follows in the same way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct InputState {
    /// The header.
    pub header: Header,
    /// End of what the line discipline has taken.
    pub head: u64,
    /// End of the last whole line.
    pub canonical: u64,
    /// What has been read.
    pub tail: u64,
    /// How many echoes have not been made yet.
    pub echoes: u64,
    /// The first buffer of what the line discipline has not taken.
    pub buffer: u64,
    /// What it has taken of that one.
    pub taken: u32,
    /// The column that the output is at.
    pub column: u32,
    /// 1 if the next character is taken as it is.
    pub literal_next: u32,
    /// 1 if something is being given to the line discipline, or will be at once.
    pub is_moving: u32,
}

/// Which queue a [`QueueRecord`] is of.
pub mod queue {
    /// What the line discipline has taken: a ring of [`RING_BYTES`].
    pub const INPUT: u32 = 1;
    /// Which bytes of the ring end a line: a bit for each.
    pub const LINE_ENDS: u32 = 2;
    /// What the line discipline has not taken, as there was no room.
    pub const WAITING: u32 = 3;
    /// More waits than is written out: too much, or with errors marked in it.
    pub const MORE: u32 = 4;
    /// Bytes of the ring (`N_TTY_BUF_SIZE`).
    pub const RING_BYTES: usize = 4096;
    /// Most bytes that a record carries: what waits in one buffer of a pseudo-terminal.
    pub const MOST: usize = 8192;
}

/// What waits in a terminal, or a piece of it; its bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct QueueRecord {
    /// The header.
    pub header: Header,
    /// Which queue it is of.
    pub queue: u32,
    /// Not used.
    pub padding: u32,
}
