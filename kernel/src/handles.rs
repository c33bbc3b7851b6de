//! name_to_handle_at(2), open_by_handle_at(2): files by what their file system knows them by.

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

/// What the file system of a file knows it by, whether or not one can be opened so (`AT_HANDLE_FID`, Linux 6.5): its type, and its bytes.
///
/// # Errors
/// `EOPNOTSUPP` or `EINVAL` where there is none, or from an older kernel.
pub fn of(file: impl AsFd) -> io::Result<(u32, Vec<u8>)> {
    // include/uapi/linux/fcntl.h
    const AT_HANDLE_FID: libc::c_int = 0x200;
    let room = u32::try_from(LONGEST).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (mut found, mut mount) = (Handle { bytes: room, kind: 0, handle: [0; LONGEST] }, 0_i32);
    // SAFETY: an empty string; the kernel writes a `struct file_handle` of at most the bytes that it says, and an int.
    let got = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut found,
            &raw mut mount,
            libc::AT_EMPTY_PATH | AT_HANDLE_FID,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = found.handle.get(..found.bytes as usize).ok_or(io::ErrorKind::InvalidData)?;
    Ok((found.kind.cast_unsigned(), bytes.to_vec()))
}

/// What an overlay shows as this file or directory: how the file system of the layer that it is in knows that, as [`of`] says it.
/// Of the root of an overlay it is that of the uppermost layer.
///
/// # Errors
/// Those of [`of`]; `EINVAL` for a file of another file system. Overlays say it since Linux 6.6.
pub fn in_layer(file: impl AsFd) -> io::Result<(u32, Vec<u8>)> {
    // `struct ovl_fh` (fs/overlayfs/overlayfs.h): three bytes of padding; version, magic, length from the version on, flags and
    // type; the UUID of the file system; the handle there.
    const OVL_FILEID_V1: u32 = 0xf8;
    const PADDING: usize = 3;
    const LENGTH: usize = 5;
    const TYPE: usize = 7;
    const HANDLE: usize = 24;
    let (kind, bytes) = of(file)?;
    let length = bytes.get(LENGTH).filter(|_| kind == OVL_FILEID_V1).copied();
    let handle = length.and_then(|length| bytes.get(HANDLE..PADDING + usize::from(length)));
    match (bytes.get(TYPE), handle) {
        (Some(kind), Some(handle)) => Ok((u32::from(*kind), handle.to_vec())),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
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
