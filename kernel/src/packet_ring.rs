//! The rings of packet sockets, mapped to be looked at and filled again.
//!
//! The kernel writes packets into a ring one behind the other, and keeps where it goes on to itself; a program has a place of its
//! own, up to which it has read. So a new ring is of use to a program only if the kernel goes on in it where it
//! would have in the old one ([`advance`]).

pub mod advance;
pub mod used;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use crate::packet_diag::Ring;

/// `TPACKET_V1`, `TPACKET_V3`.
pub(crate) const FIRST: u32 = 0;
pub(crate) const BLOCKS: u32 = 2;

/// `TP_STATUS_USER`, `TP_STATUS_BLK_TMO`.
pub(crate) const FOR_PROGRAM: u32 = 1;
pub(crate) const BY_TIME: u32 = 1 << 5;

/// Bytes in a frame or block, from its start (include/uapi/linux/if_packet.h).
pub(crate) mod at {
    /// `struct tpacket_hdr` and `struct tpacket2_hdr`: bytes of the packet that are there, where it begins, and seconds and
    /// parts of them at which it came.
    pub(crate) const FIRST: Frame = Frame { kept: 12, begins: 16, time: 20 };
    pub(crate) const SECOND: Frame = Frame { kept: 8, begins: 12, time: 16 };
    /// `struct tpacket_block_desc`.
    pub(crate) const STATUS: u64 = 8;
    pub(crate) const PACKETS: u64 = 12;
    pub(crate) const FIRST_PACKET: u64 = 16;
    pub(crate) const LENGTH: u64 = 20;
    pub(crate) const NUMBER: u64 = 24;
    pub(crate) const LAST_TIME: u64 = 40;
    /// Bytes of all of that.
    pub(crate) const PACKETS_BEGIN: u64 = 48;

    /// Of a frame.
    #[derive(Clone, Copy)]
    pub(crate) struct Frame {
        pub(crate) kept: u64,
        pub(crate) begins: u64,
        pub(crate) time: u64,
    }
}

/// Both rings of a packet socket: that to receive by, and behind it that to send by.
#[derive(Debug)]
pub struct MappedRings {
    start: NonNull<u32>,
    bytes: u64,
}

const WORD: u64 = size_of::<u32>() as u64;

impl MappedRings {
    /// Maps rings of so many bytes together, to be looked at.
    ///
    /// # Errors
    /// As mmap(2): `EINVAL` if they have another size.
    pub fn new(socket: impl AsFd, bytes: u64) -> io::Result<Self> {
        Self::map(socket, bytes, libc::PROT_READ)
    }

    fn map(socket: impl AsFd, bytes: u64, protection: libc::c_int) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
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

    /// The word at a byte that is a multiple of four; 0 behind the end.
    fn word(&self, at: u64) -> u32 {
        if at + WORD > self.bytes {
            return 0;
        }
        // SAFETY: the word is within the mapping, which is the value's own. Volatile, because the kernel and other
        // processes write to it meanwhile.
        unsafe { self.start.add((at / WORD) as usize).read_volatile() }
    }

    /// Whether a frame has a packet for the program: whether its status, as wide as the version has it, is another than 0.
    fn has_packet(&self, frame: u64, version: u32) -> bool {
        if version == FIRST { self.long(frame) != 0 } else { self.word(frame) != 0 }
    }

    fn half(&self, at: u64) -> u16 {
        let bytes = self.word(at & !(WORD - 1)).to_ne_bytes();
        let first = (at % WORD) as usize & 2;
        u16::from_ne_bytes([bytes[first], bytes[first + 1]])
    }

    fn long(&self, at: u64) -> u64 {
        let words = [self.word(at), self.word(at + WORD)].map(u32::to_ne_bytes);
        u64::from_ne_bytes(words.concat().try_into().unwrap_or_default())
    }

    /// So many bytes from a place on that is a multiple of four.
    fn copy(&self, at: u64, bytes: u64) -> Vec<u8> {
        let words = (0..bytes.div_ceil(WORD)).map(|index| self.word(at + index * WORD));
        let mut copied: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        copied.truncate(bytes as usize);
        copied
    }
}

/// Where a frame or block begins.
pub(crate) fn place(ring: &Ring, version: u32, index: u32) -> u64 {
    let (index, block) = (u64::from(index), u64::from(ring.block_size));
    if version == BLOCKS {
        return index * block;
    }
    let frame = u64::from(ring.frame_size.max(1));
    let in_block = (block / frame).max(1);
    index / in_block * block + index % in_block * frame
}

/// How many frames or blocks there are.
pub(crate) const fn count(ring: &Ring, version: u32) -> u32 {
    if version == BLOCKS { ring.block_count } else { ring.frame_count }
}

impl Drop for MappedRings {
    fn drop(&mut self) {
        // SAFETY: the mapping is the value's own, and nothing refers to it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes as usize) };
    }
}
