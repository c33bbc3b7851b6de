//! Open files.

use ids::HostPid;
use inventory::OpenFile;

use crate::unsupported::Refusal;

const CLOSE: &str = "have the program close it before the dump";

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
        _ if target.contains(&b'[') && !target.starts_with(b"/") => None,
        _ => Some(UNKNOWN_KIND),
    }
}

/// Whether an open made a file without a name (`O_TMPFILE`), which has none still as far as its flags and its
/// link text tell.
pub(crate) fn is_unnamed(file: &OpenFile) -> bool {
    file.mode & libc::S_IFMT == libc::S_IFREG
        && file.flags.cast_signed() & libc::O_TMPFILE == libc::O_TMPFILE
        && file.target.as_encoded_bytes().ends_with(b" (deleted)")
}

/// An open file that is of no kind that is carried.
pub const UNKNOWN_KIND: Refusal = Refusal::fixed("it is of a kind that is not known", CLOSE);

/// A root directory in `/proc/PID`, or a file of it that is mapped or run, if the process is in the checkpoint itself or
/// has ended.
pub const OF_ITSELF: Refusal = Refusal::fixed(
    "it is in /proc, in the folder of a process of the tree or of one that has ended, which a restore needs (as a root \
     directory, or to map or run it) before that process is there again",
    "have the process take another root directory (chroot), or unmap the file or run another one, before the dump",
);

/// A namespace that a descriptor keeps open, other than those of stasis.
pub const NAMESPACE_ELSEWHERE: Refusal = Refusal::fixed(
    "it keeps a namespace open that is not that of stasis, and that no process of the tree is in, which cannot be carried yet",
    "have the program close it before the dump, or run stasis in that namespace (nsenter)",
);

/// Why a file of `/proc` about the process `about`, of the tree, cannot be carried, which the process `holder` has
/// open. Most can: they are opened when the processes are there, before they have their threads and mappings.
#[must_use]
pub fn of_process_file(path: &[u8], about: HostPid, holder: HostPid) -> Option<Refusal> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(3).collect();
    let leader = about.to_string();
    let is_there = match parts.as_slice() {
        // By then the process itself has its descriptors.
        [b"fdinfo", _] => about == holder,
        [b"fd" | b"map_files", _] | [b"task", _, _, _, ..] => false,
        [b"task", thread, ..] => *thread == leader.as_bytes(),
        _ => true,
    };
    (!is_there).then_some(NOT_THERE_YET)
}

/// A file of `/proc` about a thread, a descriptor or a mapping.
pub const NOT_THERE_YET: Refusal = Refusal::fixed(
    "a file of /proc about a thread, a descriptor or a mapping cannot be carried: it is opened before that is \
     there again",
    CLOSE,
);

/// A file of a `/proc` that shows another pid namespace than the tree's, about a process of the tree or one that has ended.
pub const OTHER_NUMBERS: Refusal = Refusal::fixed(
    "a file of the /proc of another pid namespace: its processes have other numbers there when they come back",
    "have the program close it before the dump, or start the program where /proc is that of its own pid namespace \
     (unshare --pid --fork --mount-proc)",
);

/// The process that a file of `/proc/PID` is about.
#[must_use]
pub fn process_behind(path: &[u8]) -> Option<HostPid> {
    let number = path.strip_prefix(b"/proc/")?.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// What to call an anonymous file that is not carried.
fn anonymous(name: &[u8]) -> Option<String> {
    let text = match name {
        b"[eventfd]" | b"[eventpoll]" | b"[timerfd]" | b"[signalfd]" | b"[pidfd]" | b"inotify"
        | b"[fanotify]" | b"[io_uring]" | b"bpf-map" | b"[userfaultfd]" => return None,
        b"[perf_event]" => "a performance counter",
        b"bpf-prog" => "a BPF program",
        b"bpf_link" | b"bpf-link" => "a BPF link",
        b"seccomp notify" => "a seccomp listener",
        other => return Some(format!("an anonymous file {}", String::from_utf8_lossy(other))),
    };
    Some(text.to_owned())
}

/// The kernel's log, open to be read.
pub const KERNEL_LOG_READ: Refusal = Refusal::fixed(
    "it reads the kernel's log, and the kernel does not tell how far it has come",
    CLOSE,
);

/// Devices that are known not to be carried: their number (no minor: all of them), what has them open, and what helps.
const DEVICES: [(u32, Option<u32>, &str, &str); 4] = [
    (
        10,
        Some(229),
        "it serves a FUSE file system (/dev/fuse), and the kernel does not give back what it was asked and has not answered",
        "unmount the file system before the dump (umount), and mount it again after the restore; or dump the processes that \
         use it without the one that serves it, which runs on",
    ),
    (
        10,
        Some(232),
        "it runs a virtual machine (/dev/kvm)",
        "have its own program save the machine; or run it without KVM (of QEMU: -accel tcg)",
    ),
    (226, None, "it draws by a graphics card (/dev/dri)", RENDER),
    (195, None, "it computes on a graphics card (/dev/nvidia)", RENDER),
];

const RENDER: &str = "have the program close it before the dump, or run it without the card";

/// A character device that no kind of file carries.
#[must_use]
pub fn unknown_device(major: u32, minor: u32) -> Refusal {
    let is_it = |of: &(u32, Option<u32>, _, _)| of.0 == major && of.1.is_none_or(|it| it == minor);
    match DEVICES.into_iter().find(is_it) {
        Some((_, _, reason, remedy)) => Refusal::fixed(reason, remedy),
        None => Refusal::new(format!("character device {major}:{minor} is not supported"), CLOSE),
    }
}

/// An epoll instance that watches a file twice, by a number that is free by now: that would have to be
/// the file's again for a moment.
#[must_use]
pub fn watched_twice(fd: i32, closed: i32) -> Refusal {
    Refusal::new(
        format!("it watches one file twice, as descriptor {fd} and as {closed}, which was closed"),
        "remove the entry (EPOLL_CTL_DEL) before the descriptor is closed",
    )
}

/// An epoll instance that watches a file which its process no longer has open.
#[must_use]
pub fn watched_elsewhere(fd: i32) -> Refusal {
    Refusal::new(
        format!(
            "it watches a file that was added as descriptor {fd} and is open in another process only"
        ),
        "remove the entry (EPOLL_CTL_DEL) before the descriptor is closed",
    )
}

/// Something watched whose name is not known.
#[must_use]
pub fn watched_unnamed(inode: u64, (major, minor): (u32, u32)) -> Refusal {
    Refusal::new(
        format!(
            "it watches a file whose name the kernel does not tell (number {inode} of device {major}:{minor})"
        ),
        "name a directory that it is below (--irmap-scan-path DIR), or have the program remove the watch",
    )
}

/// A fanotify group that others ask for permission.
pub const FANOTIFY_PERMISSION: Refusal = Refusal::fixed(
    "it is asked for permission (FAN_OPEN_PERM and its like): whoever opens a file would wait for a program \
     that stands still",
    "have the program remove those marks, or end it and start it again after the restore",
);

/// A mark on a mount of another mount namespace.
pub const MOUNT_ELSEWHERE: Refusal = Refusal::fixed(
    "it watches a mount that is not among those of stasis",
    "have the program remove the mark, or run stasis in its mount namespace",
);

/// A deleted file that is watched, and that nobody of the tree has open.
pub const WATCHED_DELETED: Refusal = Refusal::fixed(
    "it watches a deleted file that no process of the tree has open",
    "have the program remove the watch, or end whoever has the file open",
);

/// A lock that is held by what a mapping keeps of an open file whose descriptors have been closed.
pub const LOCK_OF_MAPPING: Refusal = Refusal::fixed(
    "a lock is held on its file, of which the descriptor has been closed",
    "have the program unmap it before the dump, or the program keep the descriptor by which it took the lock",
);

/// A mapping of a file of a kind that no program can map.
pub const NOT_MAPPABLE: Refusal =
    Refusal::fixed("it cannot be mapped", "have the program unmap it before the dump");

/// A memfd that cannot be read by its descriptor.
pub const MEMFD_HANDLE: Refusal = Refusal::fixed(
    "it is a handle on a memfd (O_PATH), which cannot be carried yet",
    "have the program close it before the dump, or open it to be read",
);

/// A mapped file that is only called like a memfd.
pub const NAMED_LIKE_A_MEMFD: Refusal = Refusal::fixed(
    "it is a deleted file with the name of a memfd",
    "have the program unmap it before the dump, or start it with that file under another name",
);

/// A memfd by the name of something else.
pub const MEMFD_NAME: Refusal = Refusal::fixed(
    "a memfd called /dev/zero or /anon_hugepage looks like shared anonymous memory in the images",
    "have the program make it (memfd_create) under another name",
);

/// A file without a name that may not be changed: it could not be filled, or opened to be written, anew.
pub const UNCHANGEABLE: Refusal = Refusal::fixed(
    "it has no name and must not be changed (FS_IMMUTABLE_FL or FS_APPEND_FL), which cannot be carried yet",
    "take that from it before the dump, by its descriptor (FS_IOC_SETFLAGS, as chattr -ia does it)",
);

/// A file that signals a process or group which its holder does not see.
#[must_use]
pub fn owner_unseen(pid: HostPid) -> Refusal {
    Refusal::new(
        format!(
            "it signals process {pid} (F_SETOWN), which is outside of the pid namespace of the process that holds it"
        ),
        "have it signal nobody before the dump (F_SETOWN with 0)",
    )
}

/// Somebody outside is signalled when the file is ready.
#[must_use]
pub fn owner_outside(owner: HostPid) -> Refusal {
    Refusal::new(
        format!("its owner (F_SETOWN) is {owner}, which is not in the tree"),
        "set its owner to 0, or dump a tree that holds the owner",
    )
}

/// A single thread is signalled when the file is ready.
#[must_use]
pub fn owner_thread(owner: HostPid) -> Refusal {
    Refusal::new(
        format!("its owner is thread {owner} (F_SETOWN_EX), and not a process"),
        "have it set the process as its owner (fcntl F_SETOWN)",
    )
}

/// A pidfd of a single thread.
#[must_use]
pub fn pidfd_of_thread(thread: HostPid, pid: HostPid) -> Refusal {
    Refusal::new(
        format!(
            "it stands for thread {thread} of process {pid} (PIDFD_THREAD), which cannot be carried yet"
        ),
        "have the program close it before the dump, or open the process",
    )
}

/// A pidfd whose process has no number here.
pub const PIDFD_ELSEWHERE: Refusal =
    Refusal::fixed("it stands for a process in another pid namespace", CLOSE);

/// A pidfd whose process is not in the checkpoint.
#[must_use]
pub fn pidfd_outside(target: HostPid) -> Refusal {
    Refusal::new(
        format!("it stands for process {target}, which is outside the tree"),
        "have the program close it before the dump, or dump a tree that holds both",
    )
}

/// A handle on the file of a Unix socket.
pub const SOCKET_FILE: Refusal = Refusal::fixed(
    "it leads to the file of a Unix socket (O_PATH), which its socket may make anew",
    CLOSE,
);

/// Shared memory that is reached in two ways.
pub const MEMORY_BEHIND_A_DESCRIPTOR: Refusal = Refusal::fixed(
    "it is shared anonymous memory that is mapped as well (opened by /proc/PID/map_files), and on its way in a message",
    "have it received, or unmap the memory, before the dump",
);

/// A directory with somebody to be signalled: nothing else gives it one.
pub const WATCHED_DIRECTORY: Refusal = Refusal::fixed(
    "changes in the directory are watched through it (F_NOTIFY), which is not supported",
    "have the program close it before the dump, or open it anew for other uses",
);

/// Locks and leases, where it was not asked that they be carried.
pub const LOCKED: Refusal = Refusal::fixed(
    "a file lock or a lease is held through it",
    "give --file-locks, or have the program release it before the dump",
);

/// A lock that no program can take by itself again.
pub const OTHER_LOCK: Refusal = Refusal::fixed(
    "a lock of a kind that cannot be carried is held through it (a delegation, or a mandatory flock)",
    "have the program release it before the dump",
);

/// A lease that reading the file would break.
pub const DELETED_LEASE: Refusal = Refusal::fixed(
    "it is a deleted file, whose contents cannot be read without breaking the lease on it",
    "have the program give the lease up (fcntl F_SETLEASE with F_UNLCK) before the dump",
);

/// Packets in a pipe behind bytes that are none.
pub const PACKETS_WAIT: Refusal = Refusal::fixed(
    "packets (written with O_DIRECT) wait in it behind other bytes, and where they begin is not told",
    "try again when they have been read",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_their_numbers() {
        let reason = |major, minor| unknown_device(major, minor).reason;
        assert!(reason(10, 229).contains("FUSE") && reason(10, 232).contains("virtual machine"));
        assert!(reason(226, 128).contains("graphics card"));
        assert_eq!(reason(10, 7), "character device 10:7 is not supported");
    }
}
