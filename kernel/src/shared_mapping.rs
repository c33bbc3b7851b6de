//! Memory of a file that others use as well, mapped here: read and written by copies and by words, never borrowed.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// A shared mapping of this process.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl SharedMapping {
    /// Maps so many bytes of a file, from an offset on.
    ///
    /// # Errors
    /// As mmap(2).
    pub(crate) fn new(file: &impl AsFd, offset: u64, bytes: usize) -> io::Result<Self> {
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, bytes })
    }

    /// A copy of all of it.
    pub(crate) fn read(&self) -> Vec<u8> {
        let mut copy = vec![0; self.bytes];
        // SAFETY: the mapping is ours and that long; every bit pattern is a byte, whoever writes meanwhile.
        unsafe {
            self.start.copy_to_nonoverlapping(NonNull::from(&mut copy[..]).cast(), self.bytes);
        }
        copy
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// If they do not all lie inside.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let end = at.checked_add(bytes.len()).filter(|end| *end <= self.bytes);
        end.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the place is inside of the mapping, which is ours; nobody has a borrow of it.
        unsafe {
            let place = self.start.add(at);
            place.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        Ok(())
    }

    /// The word at a place.
    pub(crate) fn word(&self, at: usize) -> Option<&AtomicU32> {
        let end = at.checked_add(size_of::<AtomicU32>()).filter(|end| *end <= self.bytes);
        end.filter(|_| at.is_multiple_of(align_of::<AtomicU32>()))?;
        // SAFETY: it is inside of the mapping, which lives as long as the borrow, and aligned: the mapping begins with a
        // page. Others change it as a whole.
        Some(unsafe { self.start.add(at).cast().as_ref() })
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
