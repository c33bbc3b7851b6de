//! The rings of packet sockets, mapped to be looked at.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use crate::packet_diag::PacketSocket;

/// Both rings of a packet socket: that to receive by, and behind it that to send by.
#[derive(Debug)]
pub struct MappedRings {
    start: NonNull<u64>,
    bytes: usize,
}

/// `TPACKET_V3`.
const BLOCKS: u32 = 2;
/// Words of `struct tpacket_block_desc` that describe a block, and which of them is what: how many packets are in
/// it (with its status), and which in the row of all blocks it is.
const DESCRIPTION: usize = 6;
const STATUS_AND_PACKETS: usize = 1;
const NUMBER: usize = 3;

impl MappedRings {
    /// Maps rings of so many bytes together.
    ///
    /// # Errors
    /// As mmap(2): `EINVAL` if they have another size.
    pub fn new(socket: impl AsFd, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                socket.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, bytes })
    }

    /// Whether the kernel and the program have done nothing with them yet.
    #[must_use]
    pub fn is_unused(&self, socket: &PacketSocket) -> bool {
        let first_block = match socket.receive_ring {
            Some(ring) if socket.version == BLOCKS => ring.block_size as usize / size_of::<u64>(),
            _ => 0,
        };
        if first_block > DESCRIPTION {
            let (state, number) = (self.word(STATUS_AND_PACKETS), self.word(NUMBER));
            if state != 0 || number != 1 {
                return false;
            }
        }
        // The kernel describes the first block when it begins with it.
        let rest = if first_block == 0 { 0 } else { DESCRIPTION };
        (rest..self.bytes / size_of::<u64>()).all(|at| self.word(at) == 0)
    }

    fn word(&self, at: usize) -> u64 {
        if at >= self.bytes / size_of::<u64>() {
            return 0;
        }
        // SAFETY: the word is within the mapping, which is the value's own. Volatile, because the kernel and other
        // processes write to it meanwhile.
        unsafe { self.start.add(at).read_volatile() }
    }
}

impl Drop for MappedRings {
    fn drop(&mut self) {
        // SAFETY: the mapping is the value's own, and nothing refers to it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
