//! A mount of a hierarchy that nobody else sees: it is in no mount namespace, and ends with its descriptor.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

// include/uapi/linux/mount.h
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const CMD_CREATE: u32 = 6;

/// Mounts the hierarchy that `/proc/PID/cgroup` calls so. One with a name (`name=…`) that is not there yet is
/// made.
///
/// # Errors
/// Without the right to (`CAP_SYS_ADMIN`), or if there is no such hierarchy.
pub(super) fn mount(hierarchy: &str) -> io::Result<OwnedFd> {
    let file_system = if hierarchy.is_empty() { c"cgroup2" } else { c"cgroup" };
    // SAFETY: the name ends with a zero byte, and the kernel copies it.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, file_system.as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    for part in hierarchy.split(',').filter(|part| !part.is_empty()) {
        match part.strip_prefix("name=") {
            Some(name) => configure(&context, SET_STRING, Some(c"name"), Some(&text(name)?))?,
            None => configure(&context, SET_FLAG, Some(&text(part)?), None)?,
        }
    }
    configure(&context, CMD_CREATE, None, None)?;
    // SAFETY: it takes numbers alone.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

fn text(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(Errno::result(answer)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this call, so that nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn configure(
    context: &OwnedFd,
    command: u32,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> io::Result<()> {
    let at = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both texts end with a zero byte or are not there, and the kernel copies them.
    let answer = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, at(key), at(value), 0)
    };
    Errno::result(answer)?;
    Ok(())
}
