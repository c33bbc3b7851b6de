//! Open files.

use inventory::OpenFile;

use crate::unsupported::Refusal;

const CLOSE: &str = "close it before the dump";

/// Why an open file is of a kind that cannot be carried, if it is.
#[must_use]
pub fn of_file(file: &OpenFile) -> Option<Refusal> {
    let target = file.target.as_encoded_bytes();
    let close = |reason| Some(Refusal::fixed(reason, CLOSE));
    if let Some(name) = target.strip_prefix(b"anon_inode:") {
        return anonymous(name)
            .map(|what| Refusal::new(format!("{what} cannot be carried yet"), CLOSE));
    }
    if file.flags & libc::O_PATH.cast_unsigned() != 0 && target.starts_with(b"/") {
        return None;
    }
    match file.mode & libc::S_IFMT {
        libc::S_IFBLK => close("it is a block device"),
        libc::S_IFSOCK | libc::S_IFIFO | libc::S_IFCHR => None,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK if target.starts_with(b"/") => None,
        _ if target.starts_with(b"pidfd:") => None,
        _ if target.contains(&b'[') && !target.starts_with(b"/") => {
            close("a namespace kept open by a descriptor cannot be carried yet")
        }
        _ => Some(UNKNOWN_KIND),
    }
}

/// An open file that is of no kind that is carried.
pub const UNKNOWN_KIND: Refusal = Refusal::fixed("it is of a kind that is not known", CLOSE);

/// A file of `/proc/PID` if the process is in the checkpoint itself.
pub const OF_ITSELF: Refusal = Refusal::fixed(
    "a file of /proc about a process of the tree cannot be carried: it is opened before the process is \
     there again",
    "close it before the checkpoint",
);

/// The process that a file of `/proc/PID` is about.
#[must_use]
pub fn process_behind(path: &[u8]) -> Option<i32> {
    let number = path.strip_prefix(b"/proc/")?.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// What to call an anonymous file that is not carried.
fn anonymous(name: &[u8]) -> Option<String> {
    let text = match name {
        b"[eventfd]" | b"[eventpoll]" | b"[timerfd]" | b"[signalfd]" | b"[pidfd]" => return None,
        b"inotify" => "an inotify instance",
        b"[fanotify]" => "a fanotify group",
        b"[io_uring]" => "an io_uring",
        b"[perf_event]" => "a performance counter",
        b"[userfaultfd]" => "a userfaultfd",
        b"bpf-map" => "a BPF map",
        b"bpf-prog" => "a BPF program",
        b"bpf_link" | b"bpf-link" => "a BPF link",
        b"seccomp notify" => "a seccomp listener",
        other => return Some(format!("an anonymous file {}", String::from_utf8_lossy(other))),
    };
    Some(text.to_owned())
}
