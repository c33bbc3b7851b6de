//! userfaultfd(2), mainly for one purpose: telling which pages of another process have been written.
//!
//! A userfaultfd belongs to the address space of the task that made it, not to whoever holds the
//! descriptor. So a tracer has the task make one, takes it over by pidfd_getfd(2), and does all
//! else from outside. In the asynchronous write-protect mode (Linux 6.7) the kernel resolves
//! write faults by itself, noting that the page was written: nobody ever waits for the holder, and
//! when the last descriptor is closed everything that was registered is as if it had never been.
//!
//! See `Documentation/admin-guide/mm/userfaultfd.rst`, and [`crate::pagemap`] for reading.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use arch::memory::{END_OF_SPACE, PAGE_SIZE};

/// Flags with which a task makes a userfaultfd that it needs no privilege for: only faults of user
/// mode would be handed to the holder, and in the asynchronous mode none are. (Faults of the
/// kernel's own accesses are noted all the same.)
pub const CREATE_FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY) as u64;

const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;

/// `_IOWR(0xAA, 0x3f, struct uffdio_api)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xAA, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// `_IOR(0xAA, 0x01, struct uffdio_range)`.
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    bytes: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

/// A userfaultfd of some address space, in asynchronous write-protect mode.
#[derive(Debug)]
pub struct WriteLog(OwnedFd);

impl WriteLog {
    /// Takes over a userfaultfd that has not been used yet.
    ///
    /// # Errors
    /// When the kernel has no asynchronous write-protection, or the descriptor is another thing.
    pub fn begin(fd: OwnedFd) -> io::Result<Self> {
        let features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
        let mut api = Api { api: UFFD_API, features, ioctls: 0 };
        // SAFETY: the argument is the struct that this request reads and fills.
        let answer = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) };
        done(answer).map(|()| Self(fd))
    }

    /// Takes over one that is in this mode already: another process began it.
    #[must_use]
    pub const fn resume(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Starts to track an address range that consists of whole mappings or parts of them, all of
    /// which may be written. The kernel's locks are held for a time that grows with the number
    /// of mappings, not with their size.
    ///
    /// # Errors
    /// When something in the range is not mapped, is of a kind that cannot be tracked or is
    /// tracked by another userfaultfd; or the address space is gone.
    pub fn register(&self, start: u64, bytes: u64) -> io::Result<()> {
        let range = Range { start, bytes };
        let mut register = Register { range, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: the argument is the struct that this request reads and fills; the addresses in
        // it are of another address space and checked by the kernel.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) };
        done(answer)
    }

    /// Stops to track a range; its pages are no longer write-protected. The address space is
    /// locked meanwhile, some 25 µs for each MiB of pages of 4 KiB, protected or not.
    ///
    /// # Errors
    /// When something in the range cannot be tracked at all, or the address space is gone.
    pub fn unregister(&self, start: u64, bytes: u64) -> io::Result<()> {
        let mut range = Range { start, bytes };
        // SAFETY: the argument is the struct that this request reads; the addresses in it are of
        // another address space and checked by the kernel.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_UNREGISTER, &raw mut range) };
        done(answer)
    }

    /// Takes the protection off a range: its pages count as written from then on.
    ///
    /// # Errors
    /// `ENOENT` when some of it is not registered here, `ESRCH` when the process is gone.
    pub fn unprotect(&self, start: u64, bytes: u64) -> io::Result<()> {
        let mut argument = [start, bytes, 0];
        // SAFETY: the argument is as large as the request's struct (range and mode), which the
        // kernel reads only; the addresses are of another address space and checked by the kernel.
        let answer =
            unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_WRITEPROTECT, argument.as_mut_ptr()) };
        done(answer)
    }

    /// Whether the address space that it belongs to is still there: a process that has ended or
    /// executed another program has left it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // To unprotect the last page that a process could have fails, since it never has it; but
        // first the kernel looks for the address space.
        match self.unprotect(END_OF_SPACE - PAGE_SIZE, PAGE_SIZE) {
            Ok(()) => true,
            Err(error) => error.raw_os_error() != Some(libc::ESRCH),
        }
    }

    /// The descriptor, to be handed to another process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for WriteLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn done(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a userfaultfd of the calling process that is as another one: `flags` are as `F_GETFL` gives them.
///
/// # Errors
/// When the kernel has none, or refuses.
pub fn create_as(flags: u32, user_mode_only: bool) -> io::Result<OwnedFd> {
    let kept = flags & (libc::O_CLOEXEC | libc::O_NONBLOCK).cast_unsigned();
    let only = if user_mode_only { UFFD_USER_MODE_ONLY as u64 } else { 0 };
    create_with(u64::from(kept) | only)
}

/// Makes a userfaultfd of the calling process, in the way in which others are made to.
///
/// # Errors
/// When the kernel has none, or refuses.
pub fn create() -> io::Result<OwnedFd> {
    create_with(CREATE_FLAGS)
}

fn create_with(flags: u64) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: takes one integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    match i32::try_from(fd) {
        // SAFETY: the system call has just returned this descriptor to us; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;
    use crate::pagemap::{PAGE_SIZE, PageMap, PageRun};

    const PAGES: u64 = 64;

    /// Anonymous memory without huge pages, all of it written to.
    struct Region(u64);

    impl Region {
        fn new() -> Self {
            // SAFETY: a new anonymous mapping at a place that the kernel chooses.
            let start = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    (PAGES * PAGE_SIZE) as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            assert_ne!(start, libc::MAP_FAILED);
            let region = Self(start as u64);
            region.advise(0, PAGES, libc::MADV_NOHUGEPAGE);
            (0..PAGES).for_each(|page| region.write(page));
            region
        }

        fn write(&self, page: u64) {
            // SAFETY: inside the mapping, which nothing else uses.
            unsafe { ((self.0 + page * PAGE_SIZE) as *mut u8).write_volatile(1) };
        }

        fn advise(&self, page: u64, pages: u64, advice: i32) {
            let at = (self.0 + page * PAGE_SIZE) as *mut libc::c_void;
            // SAFETY: inside the mapping, to which there are no references.
            let done = unsafe { libc::madvise(at, (pages * PAGE_SIZE) as usize, advice) };
            assert_eq!(done, 0);
        }

        fn span(&self) -> PageRun {
            PageRun::new(self.0, self.0 + PAGES * PAGE_SIZE)
        }

        fn numbers(&self, runs: &[PageRun]) -> Vec<(u64, u64)> {
            runs.iter()
                .map(|run| ((run.start - self.0) / PAGE_SIZE, (run.end - self.0) / PAGE_SIZE))
                .collect()
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours and not used again.
            unsafe { libc::munmap(self.0 as *mut _, (PAGES * PAGE_SIZE) as usize) };
        }
    }

    #[test]
    fn what_is_written_or_given_back_is_seen() {
        // A kernel without asynchronous write-protection has nothing to show here.
        let Ok(write_log) = create().and_then(WriteLog::begin) else { return };
        let region = Region::new();
        let span = region.span();
        let mut map = PageMap::open(HostPid::own()).unwrap();
        write_log.register(span.start, span.bytes()).unwrap();
        assert!(write_log.is_alive());

        let mut found = Vec::new();
        let stopped = map.written(span, true, 10, &mut found).unwrap();
        assert_eq!(region.numbers(&found), [(0, 10)]);
        assert_eq!(stopped, span.start + 10 * PAGE_SIZE);
        let rest = PageRun::new(stopped, span.end);
        assert_eq!(map.written(rest, true, 0, &mut found).unwrap(), span.end);
        assert_eq!(region.numbers(&found), [(0, PAGES)]);

        found.clear();
        map.unprotected(span, &mut found).unwrap();
        assert_eq!(found, []);
        region.write(5);
        region.advise(20, 2, libc::MADV_DONTNEED);
        map.unprotected(span, &mut found).unwrap();
        assert_eq!(region.numbers(&found), [(5, 6), (20, 22)]);
        assert!(map.holds_page(span.start).unwrap());
        assert!(!map.holds_page(span.start + 20 * PAGE_SIZE).unwrap());
        found.clear();
        assert_eq!(map.written(span, true, 0, &mut found).unwrap(), span.end);
        assert_eq!(region.numbers(&found), [(5, 6)]);

        found.clear();
        map.anonymous_pages(span, &mut found).unwrap();
        assert_eq!(region.numbers(&found), [(0, 20), (22, PAGES)]);
        write_log.unregister(span.start, span.bytes()).unwrap();
        found.clear();
        map.written(span, true, 0, &mut found).unwrap();
        assert_eq!(found, [], "what is not tracked is not protected");
    }
}
