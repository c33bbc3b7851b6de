//! pidfd_open(2) and pidfd_getfd(2): a process by a descriptor that cannot come to mean another,
//! and its open files without its help.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A descriptor that names one process for ever.
#[derive(Debug)]
pub struct PidFd {
    pid: i32,
    fd: OwnedFd,
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as i32) })
}

impl PidFd {
    /// Opens a process.
    ///
    /// # Errors
    /// When there is none with this pid, or it is a thread but no leader.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: takes two integers.
        let fd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        Ok(Self { pid, fd })
    }

    /// The pid it was opened by.
    #[must_use]
    pub const fn pid(&self) -> i32 {
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

/// To be polled: readable when the process has ended.
impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
