//! POSIX message queues of the calling thread's IPC namespace (mq_overview(7)).
//!
//! The kernel keeps queues as files of a file system of their own, one for each IPC namespace, which need not be mounted
//! anywhere.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// `fsconfig`: make the file system.
const FSCONFIG_CMD_CREATE: libc::c_long = 6;

/// The names of all queues of the namespace.
///
/// # Errors
/// Without the right to mount (`CAP_SYS_ADMIN`).
pub fn names() -> io::Result<Vec<OsString>> {
    let directory = match file_system() {
        // A kernel without.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Vec::new()),
        found => found?,
    };
    let flags =
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    let mut directory =
        nix::dir::Dir::openat(&directory, ".", flags, nix::sys::stat::Mode::empty())?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// The root of the namespace's file system of queues, mounted nowhere.
fn file_system() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string, and no pointers but that one are given.
    unsafe {
        let context = opened(libc::syscall(libc::SYS_fsopen, c"mqueue".as_ptr(), 1))?;
        let null = std::ptr::null::<libc::c_void>();
        let of = context.as_raw_fd();
        done(libc::syscall(libc::SYS_fsconfig, of, FSCONFIG_CMD_CREATE, null, null, 0))?;
        opened(libc::syscall(libc::SYS_fsmount, of, 1, 0))
    }
}

fn done(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn opened(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = done(answer)?;
    // SAFETY: the kernel has just opened it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
