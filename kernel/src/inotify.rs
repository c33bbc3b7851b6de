//! inotify(7), with what restoring an instance needs: watches of chosen numbers, and the event that tells its
//! reader that others were lost.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::tty::bytes_waiting;

/// `_IOW('I', 0, __s32)`; its argument is the number itself.
const INOTIFY_IOC_SETNEXTWD: libc::Ioctl = nix::request_code_write!(b'I', 0, 4) as libc::Ioctl;

/// What of a mask the kernel remembers of a watch.
pub const KEPT: u32 = libc::IN_ALL_EVENTS | libc::IN_EXCL_UNLINK | libc::IN_ONESHOT;

/// Bytes of an event without a name.
const EVENT: usize = size_of::<libc::inotify_event>();

/// How many numbers are tried one after the other where none can be asked for.
const MOST_TRIES: i32 = 1 << 20;

/// The largest queue that is filled to tell that events were lost.
const LARGEST_QUEUE: usize = 1 << 22;

/// A new instance, close-on-exec and non-blocking.
///
/// # Errors
/// When the caller's user has as many as he may (`EMFILE`).
pub fn create() -> io::Result<OwnedFd> {
    // SAFETY: takes an integer.
    let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Watches what a descriptor of ours, which may be a handle (`O_PATH`), leads to. Returns the number of the
/// watch.
///
/// # Errors
/// When the caller may not read it, or has as many watches as he may (`ENOSPC`).
pub fn watch(inotify: impl AsFd, target: impl AsFd, mask: u32) -> io::Result<i32> {
    let path = format!("/proc/self/fd/{}\0", target.as_fd().as_raw_fd());
    let inotify = inotify.as_fd().as_raw_fd();
    // SAFETY: the path ends in 0.
    Ok(Errno::result(unsafe { libc::inotify_add_watch(inotify, path.as_ptr().cast(), mask) })?)
}

/// Has the next watch get the number `next`, or the next one after it that is free.
///
/// # Errors
/// When the kernel cannot (before Linux 4.16, or without checkpoint support).
pub fn set_next(inotify: impl AsFd, next: i32) -> io::Result<()> {
    let inotify = inotify.as_fd().as_raw_fd();
    // SAFETY: the argument is a number.
    Errno::result(unsafe { libc::ioctl(inotify, INOTIFY_IOC_SETNEXTWD, next) })?;
    Ok(())
}

/// Ends a watch, which its reader is told of.
///
/// # Errors
/// When there is none of this number.
pub fn unwatch(inotify: impl AsFd, number: i32) -> io::Result<()> {
    let inotify = inotify.as_fd().as_raw_fd();
    // SAFETY: takes two integers.
    Errno::result(unsafe { libc::inotify_rm_watch(inotify, number) })?;
    Ok(())
}

/// Watches `target` by the number `number`. Of an instance that numbers are not asked for of (see
/// [`set_next`]) that is larger than all that it has given before; then its reader is told of others.
///
/// # Errors
/// As [`watch`]; `AlreadyExists` when the number, or the target, has a watch.
pub fn watch_as(inotify: impl AsFd, target: impl AsFd, mask: u32, number: i32) -> io::Result<()> {
    let asked = set_next(&inotify, number).is_ok();
    for _ in 0..MOST_TRIES {
        let given = watch(&inotify, &target, mask)?;
        if given == number {
            return Ok(());
        }
        if asked || given > number {
            return Err(ErrorKind::AlreadyExists.into());
        }
        unwatch(&inotify, given)?;
    }
    Err(ErrorKind::Unsupported.into())
}

/// Forgets the events that wait now; others may come all the while. The instance is non-blocking.
///
/// # Errors
/// When it cannot be read.
pub fn forget(inotify: impl AsFd) -> io::Result<()> {
    let mut file = File::from(inotify.as_fd().try_clone_to_owned()?);
    let mut events = vec![0; 1 << 16];
    let mut waiting = bytes_waiting(&file)? as usize;
    while waiting > 0 {
        match file.read(&mut events) {
            Ok(read) => waiting = waiting.saturating_sub(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has the reader find `IN_Q_OVERFLOW`, by which the kernel tells that events were lost, and nothing before it.
///
/// The kernel says so when a queue is full. So the queue is filled with events of a pipe, which are read again.
///
/// # Errors
/// When the queue cannot be filled: it is very long, or pipes tell of nothing.
pub fn tell_of_loss(inotify: impl AsFd) -> io::Result<()> {
    let longest = crate::sysctl::read("/proc/sys/fs/inotify/max_queued_events")?;
    let longest = longest.trim().parse().ok().filter(|longest| *longest <= LARGEST_QUEUE);
    let longest: usize = longest.ok_or(ErrorKind::QuotaExceeded)?;
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let number = watch(&inotify, &reader, libc::IN_ACCESS | libc::IN_MODIFY)?;
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    // Two events each: those that are equal and follow each other would be one.
    for _ in 0..longest / 2 + 1 {
        writer.write_all(&[0])?;
        reader.read_exact(&mut [0])?;
    }
    // That the watch has ended is not told any more: the queue is full.
    unwatch(&inotify, number)?;
    let waiting = bytes_waiting(&inotify)? as usize;
    if waiting < longest.saturating_mul(EVENT) {
        return Err(ErrorKind::Unsupported.into());
    }
    let mut left = waiting - EVENT;
    let mut file = File::from(inotify.as_fd().try_clone_to_owned()?);
    let mut events = vec![0; 1 << 16];
    while left > 0 {
        let some = left.min(events.len());
        match file.read(&mut events[..some])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => left -= read.min(left),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(inotify: &OwnedFd) -> Option<(i32, u32)> {
        let mut file = File::from(inotify.try_clone().unwrap());
        let mut event = [0; EVENT];
        file.read_exact(&mut event).ok()?;
        let word = |at: usize| event[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap();
        Some((word(0).cast_signed(), word(4)))
    }

    #[test]
    fn numbers_and_losses() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            OwnedFd::from(File::open(path).unwrap())
        };
        let (one, other) = (path("one"), path("other"));
        let inotify = create().unwrap();
        watch_as(&inotify, &one, libc::IN_MODIFY, 5).unwrap();
        watch_as(&inotify, &other, libc::IN_MODIFY | libc::IN_ONESHOT, 77).unwrap();
        let again = watch_as(&inotify, &other, libc::IN_MODIFY, 78).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        forget(&inotify).unwrap();
        tell_of_loss(&inotify).unwrap();
        std::fs::write(dir.path().join("one"), "1").unwrap();
        assert_eq!(next(&inotify), Some((-1, libc::IN_Q_OVERFLOW)));
        assert_eq!(next(&inotify), Some((5, libc::IN_MODIFY)));
        forget(&inotify).unwrap();
        assert_eq!(next(&inotify), None);
    }
}
