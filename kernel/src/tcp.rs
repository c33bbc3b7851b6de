//! TCP connections, taken apart and put together again (`TCP_REPAIR`; needs CAP_NET_ADMIN).
//!
//! A socket in repair mode sends nothing when it is written to or closed, and lets its queues and numbers be
//! read and set. The kernel keeps the mode when whoever set it ends: so it is set for as long as it takes
//! to read, and whoever sets it for longer writes that down.

mod info;
mod rebuild;
mod segment;
mod waiting;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{SOL_SOCKET, SOL_TCP};

use self::info::Info;
pub use self::waiting::{Filler, LACKS, Waiting};
use crate::queues::peek;
use crate::sockets::{option, option_bytes, set_option};

/// Connected.
pub const ESTABLISHED: u8 = 1;
/// Its first segment has had no answer yet.
pub const SYN_SENT: u8 = 2;
/// It has been told that the peer wants a connection, and has answered.
pub const SYN_RECEIVED: u8 = 3;
/// It has closed its side.
pub const FIN_WAIT1: u8 = 4;
/// It has closed its side, and the peer knows.
pub const FIN_WAIT2: u8 = 5;
/// Not connected, or no longer.
pub const CLOSE: u8 = 7;
/// The peer has closed its side.
pub const CLOSE_WAIT: u8 = 8;
/// Both sides are closed, the peer's first; the peer does not know yet.
pub const LAST_ACK: u8 = 9;
/// Waits for connections.
pub const LISTEN: u8 = 10;
/// Both sides are closed, at the same time.
pub const CLOSING: u8 = 11;

/// Marks what is sent in a peer's name; CRIU's lock of the network lets it pass.
pub const MARK: u32 = 0xc114;

const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;

const ON: u32 = 1;
const OFF: u32 = 0;
/// Out of repair without a word to the peer.
const OFF_QUIETLY: u32 = u32::MAX;

/// The queue of what was received.
const RECEIVED: u32 = 1;
/// The queue of what was sent.
const SENT: u32 = 2;

const OPTION_TIMESTAMPS: u8 = 1;
const OPTION_SACK: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 4;

/// Why something could not be done to a connection.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct Error {
    /// What was done.
    pub step: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Error {
    move |source| Error { step, source: source.into() }
}

/// What `TCP_REPAIR_WINDOW` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Number of the segment that last changed the peer's window.
    pub sent_update: u32,
    /// How much the peer takes.
    pub sent: u32,
    /// The most that it ever took.
    pub largest: u32,
    /// How much the peer was told that it may send.
    pub received: u32,
    /// The number from which that counts.
    pub received_update: u32,
}

/// What a connection is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Its state.
    pub state: u8,
    /// `TCPI_OPT_*`.
    pub options: u8,
    /// Scale of the peer's window.
    pub sent_scale: u8,
    /// Scale of its own window.
    pub received_scale: u8,
    /// Largest segment.
    pub segment: u32,
    /// The clock of its timestamps, if it has them.
    pub timestamp: Option<u32>,
    /// The number after all that was received.
    pub received_seq: u32,
    /// What was received and not read.
    pub received: Vec<u8>,
    /// The number after all that was written.
    pub sent_seq: u32,
    /// What was written, and has not reached the peer for all that is known.
    pub sent: Vec<u8>,
    /// How much of `sent`, at its end, has not been sent yet.
    pub unsent: u32,
    /// Its windows.
    pub window: Option<Window>,
    /// How it has ended, if a call has yet to be told of that.
    pub failure: Option<Failure>,
}

/// The end of a connection by a reset of its peer, that nobody has been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `ECONNRESET`, or `EPIPE` where the peer had closed its side and ours was open.
    pub error: i32,
    /// The peer had closed its side before.
    pub ended: bool,
}

impl Stream {
    /// The number of the first byte that the peer has not confirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> u32 {
        let fin = is_closed_here(self.state) && !is_confirmed(self.state);
        self.sent_seq.wrapping_sub(self.sent.len() as u32).wrapping_sub(fin.into())
    }
}

/// Whether a connection in this state has closed its side.
const fn is_closed_here(state: u8) -> bool {
    matches!(state, FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK | CLOSE)
}

/// Whether the peer is known to have heard of that.
const fn is_confirmed(state: u8) -> bool {
    matches!(state, FIN_WAIT2 | CLOSE)
}

/// Whether the peer has closed its side.
const fn is_closed_there(state: u8) -> bool {
    matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING | CLOSE)
}

/// Whether `one` comes before `other`, as numbers of TCP do.
#[must_use]
pub const fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

/// The state of a socket, and of a listener how many connections wait and how many may.
///
/// # Errors
/// When it is no TCP socket.
pub fn state(socket: impl AsFd) -> io::Result<(u8, u32, u32)> {
    let mut info = [0; 32];
    option_bytes(socket, SOL_TCP, libc::TCP_INFO, &mut info)?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok((info[0], word(24), word(28)))
}

/// Whether a socket is in repair mode.
///
/// # Errors
/// When it is no TCP socket.
pub fn is_repaired(socket: impl AsFd) -> io::Result<bool> {
    Ok(option(socket, SOL_TCP, TCP_REPAIR)? != 0)
}

/// Puts a socket into repair mode: from now on it is silent, and ends without a word to its peer.
///
/// # Errors
/// Without the right to, or for one that listens.
pub fn repair(socket: impl AsFd) -> io::Result<()> {
    set_option(socket, SOL_TCP, TCP_REPAIR, ON)
}

/// Takes a socket out of repair mode, and asks the peer how far it is. `reuse` is its `SO_REUSEADDR`, which is
/// lost in that mode.
///
/// # Errors
/// As setsockopt(2).
pub fn end_repair(socket: impl AsFd, reuse: bool) -> io::Result<()> {
    set_option(&socket, SOL_TCP, TCP_REPAIR, OFF)?;
    set_option(socket, SOL_SOCKET, libc::SO_REUSEADDR, reuse.into())
}

/// A socket in repair mode, which it leaves when this is dropped.
struct Repaired<'a> {
    socket: BorrowedFd<'a>,
    reuse: bool,
}

impl<'a> Repaired<'a> {
    fn begin(socket: BorrowedFd<'a>, reuse: bool) -> io::Result<Self> {
        repair(socket)?;
        Ok(Self { socket, reuse })
    }
}

impl Drop for Repaired<'_> {
    fn drop(&mut self) {
        // Kernels before 4.18 know no quiet way.
        let left = set_option(self.socket, SOL_TCP, TCP_REPAIR, OFF_QUIETLY)
            .or_else(|_| set_option(self.socket, SOL_TCP, TCP_REPAIR, OFF));
        if left.is_ok() && self.reuse {
            // It could be set before.
            set_option(self.socket, SOL_SOCKET, libc::SO_REUSEADDR, 1).unwrap_or_default();
        }
    }
}

fn ioctl(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    let mut count = 0_i32;
    // SAFETY: these requests write an `int`, which `count` is.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut count) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(count.cast_unsigned()) }
}

/// How much of what was written has not been confirmed. A connection that has been reset sends no more, whatever it
/// still has; what closes a side counts as one byte, which is none.
fn unconfirmed(socket: BorrowedFd<'_>, info: &Info) -> io::Result<u32> {
    match info.state == CLOSE || info.has_sent_all() {
        true => Ok(0),
        false => {
            Ok(ioctl(socket, libc::TIOCOUTQ)?.saturating_sub(is_closed_here(info.state).into()))
        }
    }
}

/// Selects a queue; returns the number after it and what is in it, of which `bytes` are expected. `None`
/// if there are not so many.
fn queue(socket: BorrowedFd<'_>, queue: u32, bytes: u32) -> io::Result<Option<(u32, Vec<u8>)>> {
    set_option(socket, SOL_TCP, TCP_REPAIR_QUEUE, queue)?;
    let number = option(socket, SOL_TCP, TCP_QUEUE_SEQ)?;
    if bytes == 0 {
        return Ok(Some((number, Vec::new())));
    }
    // One more, so as to see whether there are more.
    let mut data = vec![0; bytes as usize + 1];
    // With an offset a look would begin there, and move it. Kernels before 6.9 have none for TCP.
    let offset = option(socket, SOL_SOCKET, libc::SO_PEEK_OFF).unwrap_or(u32::MAX);
    let set_offset = |offset| set_option(socket, SOL_SOCKET, libc::SO_PEEK_OFF, offset);
    if offset != u32::MAX {
        set_offset(u32::MAX)?;
    }
    let peeked = peek(socket, &mut data)?.map_or(0, |peeked| peeked.bytes);
    if offset != u32::MAX {
        set_offset(offset)?;
    }
    data.truncate(peeked);
    Ok((peeked == bytes as usize).then_some((number, data)))
}

fn timestamp(socket: BorrowedFd<'_>, options: u8) -> io::Result<Option<u32>> {
    (options & OPTION_TIMESTAMPS != 0).then(|| option(socket, SOL_TCP, TCP_TIMESTAMP)).transpose()
}

fn window(socket: BorrowedFd<'_>) -> io::Result<Window> {
    let mut bytes = [0; 20];
    option_bytes(socket, SOL_TCP, TCP_REPAIR_WINDOW, &mut bytes)?;
    let mut words = bytes.chunks_exact(4).map(|word| word.first_chunk().copied().unwrap_or([0; 4]));
    let mut next = || words.next().map_or(0, u32::from_ne_bytes);
    Ok(Window {
        sent_update: next(),
        sent: next(),
        largest: next(),
        received: next(),
        received_update: next(),
    })
}

/// How often a connection that moves while it is read is read.
const TRIES: u32 = 64;

/// Reads a connection of which nobody but the kernel moves anything, and leaves it as it was: all that it
/// tells is of one moment. `None` if it did not stand still for that long, or has more in it than data.
/// `reuse` is its `SO_REUSEADDR`, which would be lost.
///
/// # Errors
/// Without the right to, or when the kernel does not tell.
pub fn read(socket: BorrowedFd<'_>, reuse: bool) -> Result<Option<Stream>, Error> {
    let _repaired = Repaired::begin(socket, reuse).map_err(failed("begin to repair"))?;
    let get = failed::<io::Error>("read the state");
    let mut before = Info::read(socket).map_err(&get)?;
    for _ in 0..TRIES {
        let Info { state, options, sent_scale, received_scale, .. } = before;
        let of_queue = |number, bytes| queue(socket, number, bytes).map_err(failed("read a queue"));
        let received = ioctl(socket, libc::FIONREAD).map_err(&get)?;
        let sent = unconfirmed(socket, &before).map_err(&get)?;
        let window = window(socket).map_err(failed("read the windows"))?;
        let (received, sent) = (of_queue(RECEIVED, received)?, of_queue(SENT, sent)?);
        let segment = option(socket, SOL_TCP, libc::TCP_MAXSEG).map_err(&get)?;
        let timestamp = timestamp(socket, options).map_err(&get)?;
        let after = Info::read(socket).map_err(&get)?;
        if after == before
            && let (Some((received_seq, received)), Some((sent_seq, sent))) = (received, sent)
        {
            let unsent = before.unsent.saturating_sub(is_closed_here(state).into());
            return Ok(Some(Stream {
                state,
                options,
                sent_scale,
                received_scale,
                segment,
                timestamp,
                received_seq,
                received,
                sent_seq,
                unsent: unsent.min(sent.len() as u32),
                sent,
                window: Some(window),
                failure: None,
            }));
        }
        before = after;
    }
    Ok(None)
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
