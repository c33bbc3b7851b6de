//! pidfd_open(2) and pidfd_getfd(2): a process by a descriptor that cannot come to mean another,
//! and its open files without its help.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ids::HostPid;

/// A descriptor that names one process for ever.
#[derive(Debug)]
pub struct PidFd {
    pid: HostPid,
    fd: OwnedFd,
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as i32) })
}

/// A pidfd of a process, with flags of pidfd_open(2).
///
/// # Errors
/// When there is none with this pid, or the kernel does not know a flag.
pub fn open_with(pid: HostPid, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.get(), flags) })
}

impl PidFd {
    /// Opens a process.
    ///
    /// # Errors
    /// When there is none with this pid, or it is a thread but no leader.
    pub fn open(pid: HostPid) -> io::Result<Self> {
        Ok(Self { pid, fd: open_with(pid, 0)? })
    }

    /// The same, by the lowest free descriptor from `least` on.
    ///
    /// # Errors
    /// When no number is free.
    pub fn moved_from(self, least: i32) -> io::Result<Self> {
        let fd = crate::descriptors::duplicate_from(&self.fd, least)?;
        Ok(Self { pid: self.pid, fd })
    }

    /// The pid it was opened by.
    #[must_use]
    pub const fn pid(&self) -> HostPid {
        self.pid
    }

    /// A descriptor of ours for the open file that the process has as `fd` (close-on-exec).
    ///
    /// # Errors
    /// When it has no such descriptor, is gone, or may not be traced by us.
    pub fn get(&self, fd: i32) -> io::Result<OwnedFd> {
        // SAFETY: takes three integers.
        owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.fd.as_raw_fd(), fd, 0) })
    }

    /// Sends a signal to the process (pidfd_send_signal(2)).
    ///
    /// # Errors
    /// When it is gone or we may not.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the information pointer is null, which asks for what kill(2) would send.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<u8>(),
                0,
            )
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// How the process of a pidfd ended, as wait(2) would have told; `None` if it has not been reaped, or the
/// kernel does not tell (before Linux 6.15). (`PIDFD_GET_INFO`, `include/uapi/linux/pidfd.h`.)
#[must_use]
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    const WANTED: u64 = 1 << 3;
    /// Words of the first version of `struct pidfd_info`; the mask is the first, and the status the
    /// second half of the last.
    const WORDS: usize = 8;
    const REQUEST: libc::c_ulong = 3 << 30 | (WORDS as libc::c_ulong * 8) << 16 | 0xff << 8 | 11;
    let mut info = [0u64; WORDS];
    info[0] = WANTED;
    // SAFETY: the request says how large the structure is, and that much memory there is.
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), REQUEST, info.as_mut_ptr()) };
    let status = info[WORDS - 1].to_ne_bytes();
    let status = i32::from_ne_bytes([status[4], status[5], status[6], status[7]]);
    (answer == 0 && info[0] & WANTED != 0).then_some(status)
}

/// How far a process has come at the end of a wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It lives, or is still ending.
    Alive,
    /// It has ended, its memory is gone, and its number waits for its parent.
    Unreaped,
    /// It is gone, its number with it.
    Gone,
}

impl PidFd {
    /// Waits until the process has ended and no thread of it is left, at most until `deadline`;
    /// then, if `reaped`, until its parent has waited for it.
    ///
    /// # Errors
    /// When poll(2) does.
    pub fn await_end(&self, reaped: bool, deadline: Instant) -> io::Result<End> {
        if !self.poll(libc::POLLIN, deadline)? {
            return Ok(End::Alive);
        }
        while reaped && self.exists() {
            // Kernels before 6.9 do not tell of the reaping: they are asked again now and then.
            const SLICE: Duration = Duration::from_millis(20);
            if self.poll(0, deadline.min(Instant::now() + SLICE))? {
                return Ok(End::Gone);
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(if self.exists() { End::Unreaped } else { End::Gone })
    }

    /// Whether its number is still taken by it.
    fn exists(&self) -> bool {
        self.signal(0).err().is_none_or(|error| error.raw_os_error() != Some(libc::ESRCH))
    }

    /// Waits for the events, or for `POLLHUP`, which comes without being asked for.
    fn poll(&self, events: libc::c_short, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that what is left of a millisecond is not waited for by turning.
            let wait = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            let mut asked = libc::pollfd { fd: self.fd.as_raw_fd(), events, revents: 0 };
            // SAFETY: one structure that outlives the call.
            match unsafe { libc::poll(&raw mut asked, 1, wait) } {
                0 if wait == 0 => return Ok(false),
                0 => {}
                1.. => return Ok(true),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// To be polled: readable when the process has ended.
impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
