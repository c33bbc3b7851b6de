//! fanotify(7): groups and marks, as a restore makes them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Events that somebody waits for an answer to: `FAN_OPEN_PERM`, `FAN_ACCESS_PERM`, `FAN_OPEN_EXEC_PERM` and
/// `FAN_PRE_ACCESS`.
pub const PERMISSION: u64 =
    libc::FAN_OPEN_PERM | libc::FAN_ACCESS_PERM | libc::FAN_OPEN_EXEC_PERM | 0x10_0000;

/// `FAN_MARK_EVICTABLE`.
const EVICTABLE: u32 = 0x200;
/// `FAN_MARK_IGNORE`: ignored events are chosen as precisely as others.
const IGNORE: u32 = 0x400;

/// What a mark is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// A file or directory.
    Inode,
    /// A mount.
    Mount,
    /// A file system.
    FileSystem,
}

/// A new group with flags of fanotify_init(2) and those of the files that it opens.
///
/// # Errors
/// When the caller may not make one with these flags (`EPERM`), or has as many as he may (`EMFILE`).
pub fn create(flags: u32, event_flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = Errno::result(unsafe { libc::fanotify_init(flags, event_flags) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a group watch what a descriptor of ours, which may be a handle (`O_PATH`), leads to: for events, and but
/// for those that are ignored. `flags` are those that fdinfo tells of the mark.
///
/// # Errors
/// When the caller may not, or the group is not for this.
pub fn mark(
    group: impl AsFd,
    on: On,
    target: impl AsFd,
    flags: u32,
    (events, ignored): (u64, u64),
) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}\0", target.as_fd().as_raw_fd());
    let add = |how: u32, events: u64| {
        let on = match on {
            On::Inode => libc::FAN_MARK_INODE,
            On::Mount => libc::FAN_MARK_MOUNT,
            On::FileSystem => libc::FAN_MARK_FILESYSTEM,
        };
        let (group, how) = (group.as_fd().as_raw_fd(), libc::FAN_MARK_ADD | on | how);
        // SAFETY: the path ends in 0.
        let done = Errno::result(unsafe {
            libc::fanotify_mark(group, how, events, libc::AT_FDCWD, path.as_ptr().cast())
        });
        done.map(drop).map_err(io::Error::from)
    };
    if events != 0 {
        add(flags & EVICTABLE, events)?;
    }
    if ignored != 0 {
        let ignore = if flags & IGNORE == 0 { libc::FAN_MARK_IGNORED_MASK } else { IGNORE };
        add(flags & (EVICTABLE | libc::FAN_MARK_IGNORED_SURV_MODIFY) | ignore, ignored)?;
    }
    Ok(())
}
