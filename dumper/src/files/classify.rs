//! What kind of file a descriptor is: decided from what the inventory says, with no system call.

use std::os::unix::ffi::OsStrExt;

use collector::OpenFile;

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

const ANON: &[u8] = b"anon_inode:";
const O_PATH: u32 = libc::O_PATH.cast_unsigned();

/// The kind of an open file; what has none that is dumped is refused.
pub(super) fn kind(file: &OpenFile) -> Result<Kind, Problem> {
    let target = file.target.as_bytes();
    if let Some(name) = target.strip_prefix(ANON) {
        return anonymous(name);
    }
    if target.starts_with(b"/memfd:") {
        return Err(Problem::refused(
            "memfds are not supported yet",
            "close it, or use a file in /dev/shm",
        ));
    }
    if file.flags & O_PATH != 0 && target.starts_with(b"/") {
        return Ok(Kind::Path);
    }
    match file.mode & libc::S_IFMT {
        libc::S_IFSOCK => Ok(Kind::Socket),
        libc::S_IFIFO if target.starts_with(b"pipe:[") => Ok(Kind::Pipe),
        libc::S_IFIFO => Ok(Kind::Fifo),
        libc::S_IFCHR => Ok(Kind::Device),
        libc::S_IFBLK => Err(Problem::refused("it is a block device", "close it")),
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK if target.starts_with(b"/") => Ok(Kind::Path),
        _ => Err(nameless(target)),
    }
}

fn anonymous(name: &[u8]) -> Result<Kind, Problem> {
    match name {
        b"[eventfd]" => Ok(Kind::Eventfd),
        b"[eventpoll]" => Ok(Kind::Epoll),
        b"[timerfd]" => Ok(Kind::Timerfd),
        b"[signalfd]" => Ok(Kind::Signalfd),
        _ => Err(Problem::refused(
            format!("{} is not supported yet", known(name)),
            "close it before the checkpoint",
        )),
    }
}

/// What to call an anonymous inode.
fn known(name: &[u8]) -> String {
    let text = match name {
        b"inotify" => "an inotify instance",
        b"[fanotify]" => "a fanotify group",
        b"[io_uring]" => "an io_uring",
        b"[perf_event]" => "a performance counter",
        b"[userfaultfd]" => "a userfaultfd",
        b"[pidfd]" => "a pidfd",
        b"bpf-map" => "a BPF map",
        b"bpf-prog" => "a BPF program",
        b"bpf_link" | b"bpf-link" => "a BPF link",
        b"seccomp notify" => "a seccomp listener",
        other => return format!("an anonymous file {}", String::from_utf8_lossy(other)),
    };
    text.to_owned()
}

fn nameless(target: &[u8]) -> Problem {
    if target.starts_with(b"pidfd:[") {
        return Problem::refused("a pidfd is not supported yet", "close it before the checkpoint");
    }
    if target.contains(&b'[') && !target.starts_with(b"/") {
        return Problem::refused(
            "a namespace kept open by a descriptor is not supported yet",
            "close it before the checkpoint",
        );
    }
    Problem::refused("it is of a kind that is not known", "close it before the checkpoint")
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
            mark: None,
        }
    }

    #[test]
    fn each_kind_by_its_link_and_mode() {
        for (target, mode, flags, expected) in [
            ("/etc/passwd", libc::S_IFREG, 0, Kind::Path),
            ("/tmp (deleted)", libc::S_IFDIR, 0, Kind::Path),
            ("/dev/null", libc::S_IFCHR, O_PATH, Kind::Path),
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
