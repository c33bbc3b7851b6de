//! open_by_handle_at(2): files by what their file system knows them by.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use ids::HostPid;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::procfs::{Dir, FdInfo, Mount};

/// Most bytes that a handle has (`MAX_HANDLE_SZ`).
pub const LONGEST: usize = 128;

/// `struct file_handle` with all the room that it may have.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; LONGEST],
}

/// The mount that an open file is of, by the id that `mountinfo` has.
#[must_use]
pub fn mount_of(fd: impl AsFd) -> Option<i32> {
    let own = Dir::open(HostPid::own()).ok()?;
    Some(FdInfo::read(&own, fd.as_fd().as_raw_fd()).ok()?.mount)
}

/// The root of a mount, to open files of it by ([`open()`]): nothing but a directory, and `None` if its place leads
/// elsewhere by now, as it does below another mount.
#[must_use]
pub fn anchor(mount: &Mount) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(&*mount.mount_point, flags, Mode::empty()).ok()?;
    (mount_of(&directory) == Some(mount.id)).then_some(directory)
}

/// The same by a handle on the root of a mount.
#[must_use]
pub fn anchor_of(root: OwnedFd) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    nix::fcntl::openat(root, ".", flags, Mode::empty()).ok()
}

/// An `O_PATH` handle on the file that its file system, of which `mount` is a descriptor, knows by `handle`.
///
/// # Errors
/// `ESTALE` when there is no such file; `EINVAL` for what is no handle; `EOPNOTSUPP` where files are not opened
/// so. It takes CAP_DAC_READ_SEARCH (`EPERM`).
pub fn open(mount: impl AsFd, kind: u32, handle: &[u8]) -> io::Result<OwnedFd> {
    let mut given = Handle {
        bytes: u32::try_from(handle.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        kind: kind.cast_signed(),
        handle: [0; LONGEST],
    };
    let room = given.handle.get_mut(..handle.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads a `struct file_handle`, which says how many of its bytes count.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            &raw const given,
            flags,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
