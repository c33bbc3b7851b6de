//! A page of this process whose number in memory is known, and that the kernel refers to: by it can be found out where the kernel has all
//! pages (vmsplice(2), `/proc/self/pagemap`).

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use arch::memory::PAGE_SIZE;

/// The page, in a pipe.
#[derive(Debug)]
pub struct OwnPage {
    _memory: Vec<u8>,
    _writer: OwnedFd,
    reader: OwnedFd,
    number: u64,
    words: [u64; 2],
}

impl OwnPage {
    /// Makes it.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN, which the kernel tells no numbers of pages.
    pub fn new() -> io::Result<Self> {
        let mut random = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let page = PAGE_SIZE as usize;
        let mut memory = vec![0; page * 2];
        let start = memory.as_ptr().align_offset(page);
        let part = memory.get_mut(start..start.saturating_add(page));
        let part = part.ok_or(io::ErrorKind::InvalidData)?;
        part[..16].copy_from_slice(&random);
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // The pipe keeps the page where it is.
        let flags = nix::fcntl::SpliceFFlags::empty();
        nix::fcntl::vmsplice(&writer, &[IoSlice::new(part)], flags)?;
        let mut entry = [0; 8];
        let place = part.as_ptr() as u64 / PAGE_SIZE * 8;
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, place)?;
        let number = u64::from_ne_bytes(entry) & ((1 << 55) - 1);
        if number == 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let word = |at: usize| random[at..].first_chunk().copied().map_or(0, u64::from_ne_bytes);
        let words = [word(0), word(8)];
        Ok(Self { _memory: memory, _writer: writer, reader, number, words })
    }

    /// Its number in the machine's memory.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What it begins with, which nothing else does.
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        self.words
    }
}

/// The pipe that it is in, as its first buffer.
impl AsFd for OwnPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
