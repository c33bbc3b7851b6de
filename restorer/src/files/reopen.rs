//! How a file is opened again.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use images::messages::RegFileEntry;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// Flags that a file is opened with again. Those that make, empty or insist on a new file are not
/// among them, nor `O_ASYNC`, which comes with the owner.
const AGAIN: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_SYNC
    | libc::O_PATH
    | libc::O_LARGEFILE;

/// The flags by which a file is made without a name, as it was made first.
pub(super) fn unnamed(with: u32) -> OFlag {
    flags(with) | OFlag::O_TMPFILE
}

/// The flags that a file with `flags` is opened with again.
pub(super) fn flags(mut flags: u32) -> OFlag {
    // What was made without a name is there when it is opened again: it is no directory.
    let nameless = libc::O_TMPFILE.cast_unsigned();
    if flags & nameless == nameless {
        flags &= !nameless;
    }
    OFlag::from_bits_retain(flags.cast_signed() & AGAIN) | OFlag::O_CLOEXEC | OFlag::O_NOCTTY
}

/// The path of an entry, for messages.
pub(super) fn shown(entry: &RegFileEntry) -> String {
    String::from_utf8_lossy(&entry.name).into_owned()
}

/// Where a descriptor of ours is opened again.
pub(super) fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Opens again, with other flags, what a descriptor of ours refers to.
pub(super) fn reopen(fd: &OwnedFd, with: u32) -> nix::Result<OwnedFd> {
    let mut with = flags(with);
    with.remove(OFlag::O_NOFOLLOW);
    nix::fcntl::open(&through(fd), with, Mode::empty())
}
