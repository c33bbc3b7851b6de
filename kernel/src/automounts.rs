//! File systems of kind `autofs`: a directory in which somebody mounts what others look for (Documentation/filesystems/autofs.rst).
//!
//! The kernel writes what is looked for into a pipe, and lets those through who are in the process group of whoever reads it. A
//! *quiet* one ("catatonic") asks nobody.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// `_IO(0x93, 0x62)`: `AUTOFS_IOC_CATATONIC`.
const CATATONIC: libc::Ioctl = 0x9362;
/// `_IOWR(0x93, 0x64, unsigned long)`: `AUTOFS_IOC_SETTIMEOUT`.
const SETTIMEOUT: libc::Ioctl = 0xC008_9364;
/// `_IOWR(0x93, 0x78, struct autofs_dev_ioctl)`: `AUTOFS_DEV_IOCTL_SETPIPEFD`.
const SETPIPEFD: libc::Ioctl = 0xC018_9378;

/// `struct autofs_dev_ioctl` (include/uapi/linux/auto_dev-ioctl.h) without a path.
#[repr(C)]
#[derive(Debug)]
struct Control {
    major: u32,
    minor: u32,
    size: u32,
    of: RawFd,
    argument: [u32; 2],
}

/// The root of one, by a descriptor of its mount. It must be quiet, or the caller in its process group: others would look for
/// something there.
///
/// # Errors
/// As openat(2).
pub fn root(mount: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(mount, ".", flags, Mode::empty())?)
}

/// Sets after which time without use what is mounted in it may go.
///
/// # Errors
/// Without the right to.
pub fn set_timeout(root: impl AsFd, timeout: Duration) -> io::Result<()> {
    let mut seconds = timeout.as_secs();
    // SAFETY: the request reads and writes an `unsigned long`.
    let done = unsafe {
        libc::ioctl(root.as_fd().as_raw_fd(), SETTIMEOUT, std::ptr::from_mut(&mut seconds))
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes it quiet.
///
/// # Errors
/// Without the right to.
pub fn make_quiet(root: impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes nothing.
    let done = unsafe { libc::ioctl(root.as_fd().as_raw_fd(), CATATONIC, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The device by which one that is quiet is given a pipe.
///
/// # Errors
/// `ENOENT` where the kernel has no `autofs`.
pub fn control() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/autofs")?.into())
}

/// Has a quiet one ask by a pipe from now on, whose writing end is descriptor `number`: the caller's process group reads it.
///
/// # Errors
/// `EBUSY` of one that is not quiet, `EINVAL` if it was made in another pid namespace, `EPIPE` of what is no pipe.
pub fn set_pipe(control: impl AsFd, root: impl AsFd, number: RawFd) -> io::Result<()> {
    let mut request = Control {
        major: 1,
        minor: 0,
        size: size_of::<Control>() as u32,
        of: root.as_fd().as_raw_fd(),
        argument: [number.cast_unsigned(), 0],
    };
    // SAFETY: the request reads and writes the structure, of the size that it says.
    let done = unsafe {
        libc::ioctl(control.as_fd().as_raw_fd(), SETPIPEFD, std::ptr::from_mut(&mut request))
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
