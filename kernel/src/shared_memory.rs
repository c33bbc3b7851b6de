//! Shared anonymous memory (`MAP_SHARED | MAP_ANONYMOUS`) that is also a descriptor.
//!
//! The kernel makes a nameless file for every such mapping, which `/proc/PID/map_files` lets one
//! open: so the memory can be mapped again, at any offset, by whoever inherits the descriptor, and
//! looks in every mapping as if it had been made there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// The device of the files in which the kernel keeps shared anonymous memory, memfds and segments of System V. Nobody can make or delete
/// files there.
///
/// # Errors
/// If there is no memory for one more.
pub fn device() -> io::Result<u64> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let memfd = nix::sys::memfd::memfd_create(c"stasis", flags)?;
    Ok(nix::sys::stat::fstat(memfd)?.st_dev)
}

/// A new piece of shared anonymous memory.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<u8>,
    bytes: usize,
}

impl SharedMemory {
    /// Makes `bytes` of zeros, with `flags` (`MAP_*`) beside. Nothing is set aside for them before they are touched.
    ///
    /// # Errors
    /// When there is no room.
    pub fn new(bytes: usize, flags: i32) -> io::Result<Self> {
        Self::map(bytes, flags | libc::MAP_ANONYMOUS, -1)
    }

    /// That of a file, from its beginning on: to fill what is not written to by other calls.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn of(file: &File, bytes: usize) -> io::Result<Self> {
        Self::map(bytes, 0, file.as_raw_fd())
    }

    fn map(bytes: usize, flags: i32, fd: RawFd) -> io::Result<Self> {
        let flags = flags | libc::MAP_SHARED | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, bytes })
    }

    /// Fills `bytes` at `at` from a file.
    ///
    /// # Errors
    /// When the range is outside, or the file cannot be read or ends early, or there is no memory.
    pub fn fill(&mut self, at: u64, bytes: u64, from: &File, offset: u64) -> io::Result<()> {
        // SAFETY: the mapping is ours, `bytes` long and writable; nobody else has it yet.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) };
        let range = usize::try_from(at)
            .ok()
            .zip(usize::try_from(bytes).ok())
            .and_then(|(at, bytes)| memory.get_mut(at..)?.get_mut(..bytes))
            .ok_or(io::ErrorKind::InvalidInput)?;
        from.read_exact_at(range, offset)
    }

    /// The memory as a file, open for reading and writing, which the memory lives on in. The
    /// mapping made to fill it goes.
    ///
    /// # Errors
    /// Without CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN).
    pub fn into_file(self) -> io::Result<File> {
        let (start, end) =
            (self.start.as_ptr() as usize, self.start.as_ptr() as usize + self.bytes);
        let path = format!("/proc/self/map_files/{start:x}-{end:x}");
        OpenOptions::new().read(true).write(true).open(path)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn contents_live_on_in_the_file() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&[7; 8192]).unwrap();
        source.rewind().unwrap();
        let mut memory = SharedMemory::new(16384, 0).unwrap();
        memory.fill(4096, 8192, &source, 0).unwrap();
        assert!(memory.fill(16384, 1, &source, 0).is_err());
        match memory.into_file() {
            Ok(file) => {
                let mut bytes = [1; 12288];
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert!(bytes[..4096].iter().all(|&b| b == 0));
                assert!(bytes[4096..].iter().all(|&b| b == 7));
            }
            // Without the right to open it there is nothing to see.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
