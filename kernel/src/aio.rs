//! Asynchronous I/O contexts (io_setup(2)), and what the machine has room for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Where the kernel keeps how many requests all contexts were made for, and how many it may be.
const TAKEN: &str = "/proc/sys/fs/aio-nr";
const MOST: &str = "/proc/sys/fs/aio-max-nr";

/// What a ring begins with, in bytes: eight numbers of 32 bits.
pub const HEADER: usize = 32;
/// `struct io_event`, in bytes.
const EVENT: u32 = 32;

/// The beginning of a ring (`struct aio_ring`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// How many events it has room for.
    pub events: u32,
    /// The first event that nobody has taken, if it is not the tail.
    pub head: u32,
    /// Where the next event goes.
    pub tail: u32,
    /// It has the mark of a ring.
    pub is_one: bool,
}

impl Ring {
    /// Reads it.
    #[must_use]
    pub fn of(header: &[u8; HEADER]) -> Self {
        const MAGIC: u32 = 0xa10a_10a1;
        let word = |index: usize| {
            let at = 4 * index;
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        // The first word is the kernel's own number of the context.
        Self { events: word(1), head: word(2), tail: word(3), is_one: word(4) == MAGIC }
    }
}

/// How many events a ring of so many bytes has room for; `None` if there is none of that size.
#[must_use]
pub const fn events(bytes: u32) -> Option<u32> {
    match bytes.checked_sub(HEADER as u32) {
        Some(room) => Some(room / EVENT),
        None => None,
    }
}

/// How many bytes the kernel's ring for so many requests has on a machine that may have so many processors: it has room
/// for twice as many events and for two more, and for all that fits into its last page. (`ioctx_alloc` and
/// `aio_setup_ring` in fs/aio.c.)
#[must_use]
pub fn ring_bytes(requests: u32, processors: u32) -> u64 {
    const PAGE: u64 = 4096;
    let events = u64::from(requests.max(processors.saturating_mul(4))) * 2 + 2;
    (HEADER as u64 + events * u64::from(EVENT)).next_multiple_of(PAGE)
}

/// How many requests a thread that stays on one processor can have of a ring at once: they are given out to processors
/// in portions, and what is less than a portion stays.
#[must_use]
pub fn reachable(events: u32, processors: u32) -> u32 {
    let all = events.saturating_sub(1);
    let portion = (all / processors.saturating_mul(4).max(1)).max(1);
    all / portion * portion
}

/// How many requests contexts can still be made for.
///
/// # Errors
/// If the kernel does not tell.
pub fn room() -> io::Result<u64> {
    let number = |path| {
        let text = crate::sysctl::read(path)?;
        text.trim().parse::<u64>().map_err(io::Error::other)
    };
    Ok(number(MOST)?.saturating_sub(number(TAKEN)?))
}

/// How many processors this machine may ever have: the kernel makes no ring that is too small for all of them.
///
/// # Errors
/// If the kernel does not tell.
pub fn processors() -> io::Result<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count(text.trim()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How many numbers there are in a list of ranges, as `0-3,8`.
fn count(list: &str) -> Option<u32> {
    let ranges = list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    ranges.sum()
}

/// A context of this process.
#[derive(Debug)]
pub struct Context(u64);

impl Context {
    /// Makes one for so many requests.
    ///
    /// # Errors
    /// If the kernel makes none.
    pub fn new(requests: u32) -> io::Result<Self> {
        let mut context = 0_u64;
        // SAFETY: the kernel writes the number to this place.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, requests, &raw mut context) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(context)) }
    }

    /// Its number, which is the address of its ring.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.0
    }

    /// Asks for a read of no bytes, which is done at once where reads are.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn read_nothing(&self, file: impl AsFd) -> io::Result<()> {
        const PREAD: u64 = 0;
        self.submit(PREAD, file, 0)
    }

    /// Asks to be told when there is something to be read.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn poll(&self, file: impl AsFd) -> io::Result<()> {
        const POLL: u64 = 5;
        self.submit(POLL, file, libc::POLLIN.unsigned_abs().into())
    }

    fn submit(&self, operation: u64, file: impl AsFd, buffer: u64) -> io::Result<()> {
        let descriptor = u64::from(file.as_fd().as_raw_fd().cast_unsigned());
        // `struct iocb` by its words: data; key and flags; operation and descriptor; buffer, length, offset.
        let mut request = [0, 0, operation | descriptor << 32, buffer, 0, 0, 0, 0_u64];
        let mut list = [&raw mut request];
        // SAFETY: one request, which the kernel reads now, and whose buffer has no bytes.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1_usize, list.as_mut_ptr()) };
        if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context was made above, and nobody else knows of it.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted() {
        for (list, number) in [("0", Some(1)), ("0-1", Some(2)), ("0-3,8,10-11", Some(7))] {
            assert_eq!(count(list), number, "{list}");
        }
        for list in ["", "1-", "3-1", "x"] {
            assert_eq!(count(list), None, "{list}");
        }
        assert!(processors().unwrap() >= 1);
    }

    #[test]
    fn rings_have_room_for_all_processors() {
        assert_eq!((ring_bytes(1, 2), events(4096)), (4096, Some(127)));
        assert_eq!((ring_bytes(126, 2), events(8192)), (8192, Some(255)));
        assert_eq!(ring_bytes(1, 128), 36_864);
        assert_eq!((reachable(127, 2), reachable(127, 64)), (120, 126));
        assert_eq!(events(31), None);
    }

    #[test]
    fn room_becomes_less() {
        let before = room().unwrap();
        assert!(before >= 500, "{before}");
        let context = Context::new(500).unwrap();
        assert!(context.number() != 0);
        // Others make and destroy theirs meanwhile.
        assert!(room().is_ok());
    }
}
