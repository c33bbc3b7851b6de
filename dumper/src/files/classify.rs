//! What kind of file a descriptor is: decided from what the inventory says, with no system call.

use std::os::unix::ffi::OsStrExt;

use collector::OpenFile;
use collector::obstacles::of_file;

use super::problem::Problem;

/// The kinds of open file that are dumped each in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Found again by its path: regular file, directory, `O_PATH` handle.
    Path,
    /// A character device: harmless ones are found by their path, terminals have more to them.
    Device,
    /// One end of a pipe.
    Pipe,
    /// A fifo.
    Fifo,
    /// A socket of any family.
    Socket,
    Eventfd,
    Epoll,
    Timerfd,
    Signalfd,
}

/// The kind of an open file; what has none that is dumped is refused.
pub(super) fn kind(file: &OpenFile) -> Result<Kind, Problem> {
    if let Some((reason, remedy)) = of_file(file) {
        return Err(Problem::refused(reason, remedy));
    }
    let target = file.target.as_bytes();
    match target {
        b"anon_inode:[eventfd]" => return Ok(Kind::Eventfd),
        b"anon_inode:[eventpoll]" => return Ok(Kind::Epoll),
        b"anon_inode:[timerfd]" => return Ok(Kind::Timerfd),
        b"anon_inode:[signalfd]" => return Ok(Kind::Signalfd),
        _ if file.flags & libc::O_PATH.cast_unsigned() != 0 && target.starts_with(b"/") => {
            return Ok(Kind::Path);
        }
        _ => {}
    }
    Ok(match file.mode & libc::S_IFMT {
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFIFO if target.starts_with(b"pipe:[") => Kind::Pipe,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFCHR => Kind::Device,
        _ => Kind::Path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(target: &str, mode: u32, flags: u32) -> OpenFile {
        OpenFile {
            fd: 3,
            close_on_exec: false,
            description: 1,
            position: 0,
            flags,
            mode,
            device: 1,
            inode: 1,
            target: target.into(),
            owned: None,
            locked: None,
            mark: None,
        }
    }

    #[test]
    fn each_kind_by_its_link_and_mode() {
        for (target, mode, flags, expected) in [
            ("/etc/passwd", libc::S_IFREG, 0, Kind::Path),
            ("/tmp (deleted)", libc::S_IFDIR, 0, Kind::Path),
            ("/dev/null", libc::S_IFCHR, libc::O_PATH.cast_unsigned(), Kind::Path),
            ("/dev/null", libc::S_IFCHR, 0, Kind::Device),
            ("pipe:[1]", libc::S_IFIFO, 0, Kind::Pipe),
            ("/tmp/pipe:[1]", libc::S_IFIFO, 0, Kind::Fifo),
            ("socket:[1]", libc::S_IFSOCK, 0, Kind::Socket),
            ("anon_inode:[eventfd]", 0, 0, Kind::Eventfd),
            ("anon_inode:[eventpoll]", libc::S_IFREG, 0, Kind::Epoll),
            ("anon_inode:[timerfd]", 0, 0, Kind::Timerfd),
            ("anon_inode:[signalfd]", 0, 0, Kind::Signalfd),
        ] {
            assert_eq!(kind(&file(target, mode, flags)).unwrap(), expected, "{target}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (target, mode, word) in [
            ("anon_inode:inotify", 0, "inotify"),
            ("anon_inode:[io_uring]", 0, "io_uring"),
            ("anon_inode:[perf_event]", 0, "performance counter"),
            ("anon_inode:bpf-map", 0, "BPF map"),
            ("anon_inode:kvm-vm", 0, "kvm-vm"),
            ("/memfd:x (deleted)", libc::S_IFREG, "memfd"),
            ("mnt:[4026531841]", libc::S_IFREG, "namespace"),
            ("pidfd:[77]", libc::S_IFREG, "pidfd"),
            ("/dev/sda", libc::S_IFBLK, "block device"),
        ] {
            let Err(Problem::Refused { reason, .. }) = kind(&file(target, mode, 0)) else {
                panic!("{target} was not refused");
            };
            assert!(reason.contains(word), "{target}: {reason}");
        }
    }
}
