//! Memory that is there before it is needed: pages that a frozen target does not wait for.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Anonymous memory whose pages are all present, so that copying into it takes no page fault.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the arena is plain memory that this value alone owns.
unsafe impl Send for Arena {}
// SAFETY: shared access only reads.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps and fills `bytes` (rounded up to whole pages); if there are many, in huge pages where
    /// the kernel has them.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        const PAGE: usize = arch::memory::PAGE_SIZE as usize;
        // Of a few, small ones are quicker to come by: those were in use a moment ago, while a huge
        // one the kernel may have to put together, or to ask its host for.
        const WORTH_HUGE_PAGES: usize = 64 << 20;
        let bytes = bytes.max(1).next_multiple_of(PAGE);
        // SAFETY: a new anonymous mapping at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let arena =
            Self { start: NonNull::new(start.cast()).unwrap_or(NonNull::dangling()), bytes };
        // SAFETY: advice on our own mapping. Huge pages are a wish; that every page is there is
        // what the value promises, and is checked.
        let populated = unsafe {
            if bytes >= WORTH_HUGE_PAGES {
                libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
            }
            libc::madvise(start, bytes, libc::MADV_POPULATE_WRITE)
        };
        // Kernels before 5.14 do not know the advice; there the pages come as they are touched.
        if populated != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(io::Error::last_os_error());
        }
        Ok(arena)
    }
}

impl Deref for Arena {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `bytes` long, initialised (zeros), and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
