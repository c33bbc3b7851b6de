//! What speaks against dumping a process, as far as an inventory and a little more tell. Pure: all
//! that is known is passed in.
//!
//! A dump looks closer, at each open file and with the process stopped, and may find more; it does
//! not find less.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use kernel::procfs::{SocketKind, Sockets, Status};

use crate::{Mapping, OpenFile, Process, ProcessState, VmFlags};

/// One thing that speaks against a dump.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Obstacle {
    /// The process.
    pub task: i32,
    /// The object: `descriptor 5 (socket:[77])`, `mapping 0x1000-0x2000`.
    pub object: String,
    /// Why it cannot be dumped.
    pub reason: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// What else one has to know to judge a process.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The namespaces that the dump would run in.
    pub namespaces: BTreeMap<&'static str, u64>,
    /// The sockets of their network namespace.
    pub sockets: Sockets,
}

/// A reason and a remedy.
pub type Refusal = (&'static str, &'static str);

/// Everything that speaks against dumping this process by itself.
#[must_use]
pub fn obstacles(
    process: &Process,
    status: Option<&Status>,
    around: &Surroundings,
) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut add = |object: String, reason: String, remedy: &'static str| {
        found.push(Obstacle { task: process.pid, object, reason, remedy });
    };
    if process.kernel_thread {
        let reason = "it is part of the kernel".to_owned();
        add("the process".to_owned(), reason, "choose another process");
        return found;
    }
    if let ProcessState::Zombie { .. } = process.state {
        let reason = "it has ended and waits for its parent".to_owned();
        add("the process".to_owned(), reason, "dump the tree of its parent");
        return found;
    }
    of_process(process, status, around, &mut add);
    for mapping in &process.mappings {
        if let Some((reason, remedy)) = of_mapping(mapping).or_else(|| of_mapped_file(mapping)) {
            let name = mapping.name.to_string_lossy();
            let object = format!("mapping {:#x}-{:#x} {name}", mapping.start, mapping.end);
            add(object.trim_end().to_owned(), reason.to_owned(), remedy);
        }
    }
    for file in &process.files {
        if process_behind(file.target.as_bytes()) == Some(process.pid) {
            let object = format!("descriptor {} ({})", file.fd, file.target.to_string_lossy());
            add(object, OF_ITSELF.to_owned(), CLOSE);
        } else if let Some((reason, remedy)) = of_file(file, &around.sockets) {
            let object = format!("descriptor {} ({})", file.fd, file.target.to_string_lossy());
            add(object, reason.to_owned(), remedy);
        } else if let Some(protocol) = of_unlisted_socket(process.pid, file, &around.sockets) {
            let object = format!("descriptor {} ({})", file.fd, file.target.to_string_lossy());
            let protocol = protocol.to_lowercase();
            add(object, format!("{protocol} sockets cannot be carried yet"), CLOSE);
        }
    }
    found
}

/// The protocol of a socket that no table lists, because it is not bound or of a family without
/// one, if it is none that a dump carries.
fn of_unlisted_socket(pid: i32, file: &OpenFile, sockets: &Sockets) -> Option<String> {
    let socket = file.mode & libc::S_IFMT == libc::S_IFSOCK;
    if !socket || sockets.get(file.inode).is_some() {
        return None;
    }
    let protocol = kernel::sockets::protocol_name(pid, file.fd)?;
    let carried = ["TCP", "TCPv6", "UDP", "UDPv6"].contains(&protocol.as_str());
    (!carried && !protocol.starts_with("UNIX")).then_some(protocol)
}

fn of_process(
    process: &Process,
    status: Option<&Status>,
    around: &Surroundings,
    add: &mut impl FnMut(String, String, &'static str),
) {
    for (name, id) in &process.namespaces {
        if around.namespaces.get(name) != Some(id) {
            let reason = "it is another one than that of this program".to_owned();
            add(format!("{name} namespace"), reason, "namespaces cannot be carried yet");
        }
    }
    let tables = &process.tables;
    for (name, owner) in [
        ("memory", tables.memory),
        ("descriptor table", tables.files),
        ("working directory", tables.file_system),
        ("signal handlers", tables.signal_handlers),
    ] {
        if owner != 0 && owner != process.pid {
            let remedy = "processes made by clone with CLONE_VM and its like cannot be carried";
            add(name.to_owned(), format!("it is shared with process {owner}"), remedy);
        }
    }
    for thread in process.threads.values() {
        if thread.own_tables {
            let reason = "it does not share its files or working directory with its process";
            let remedy = "threads that unshared them cannot be carried";
            add(format!("thread {}", thread.tid), reason.to_owned(), remedy);
        }
        if thread.tid == process.pid && thread.state == 'Z' {
            let reason = "the process's first thread has ended before the others".to_owned();
            let remedy = "keep the first thread until the others have ended";
            add(format!("thread {}", thread.tid), reason, remedy);
        }
    }
    let Some(status) = status else { return };
    if status.tracer != 0 {
        let reason = format!("process {} traces it", status.tracer);
        add("the process".to_owned(), reason, "detach the tracer");
    }
    if status.seccomp != 0 {
        let reason = "its system calls are filtered".to_owned();
        add("seccomp".to_owned(), reason, "start it without a seccomp filter");
    }
    if status.x86_thread_features.as_deref().is_some_and(|features| features.contains("shstk")) {
        let reason = "signal frames cannot be made for it".to_owned();
        let remedy = "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off";
        add("shadow stack".to_owned(), reason, remedy);
    }
}

const DEVICE: Refusal = ("memory of a device", "close the device before the dump");
const USERFAULTFD: Refusal =
    ("the process serves its own page faults by userfaultfd", "unregister it before the dump");

const REFUSED_FLAGS: [(VmFlags, Refusal); 12] = [
    (
        VmFlags::HUGE_TLB,
        ("memory of hugetlbfs", "use transparent huge pages instead of MAP_HUGETLB"),
    ),
    (VmFlags::PFN_MAP, DEVICE),
    (VmFlags::IO, DEVICE),
    (VmFlags::MIXED_MAP, DEVICE),
    (VmFlags::UFFD_MISSING, USERFAULTFD),
    (VmFlags::UFFD_MINOR, USERFAULTFD),
    (
        VmFlags::SHADOW_STACK,
        ("a shadow stack", "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"),
    ),
    (VmFlags::SEALED, ("sealed by mseal", "start the program without sealing its mappings")),
    (
        VmFlags::LOCK_ON_FAULT,
        ("locked by MLOCK_ONFAULT", "lock it with mlock, or unlock it before the dump"),
    ),
    (VmFlags::DROPPABLE, ("made by MAP_DROPPABLE", "unmap it before the dump")),
    (
        VmFlags::GUARD,
        ("holds guard regions (MADV_GUARD_INSTALL)", "remove them by MADV_GUARD_REMOVE"),
    ),
    (VmFlags::UNKNOWN, ("has a flag that this program does not know", "unmap it before the dump")),
];

/// Why a mapping cannot be carried, if it cannot. (Whether a file can that is mapped is a question of
/// its own; here only those without any path are refused.)
#[must_use]
pub fn of_mapping(mapping: &Mapping) -> Option<Refusal> {
    let name = mapping.name.as_bytes();
    match name {
        // The kernel's own carry the flags of devices, and come with every kernel anew.
        b"[vdso]" | b"[vvar]" | b"[vvar_vclock]" | b"[vsyscall]" => return None,
        b"[uprobes]" => return Some(("holds the kernel's uprobes", "detach the tracer first")),
        b"/anon_hugepage (deleted)" => return Some(REFUSED_FLAGS[0].1),
        _ => {}
    }
    if let Some((_, refusal)) = REFUSED_FLAGS.iter().find(|(flag, _)| mapping.flags.contains(*flag))
    {
        return Some(*refusal);
    }
    if mapping.protection_key != 0 {
        return Some(("has a protection key", "free its protection key before the dump"));
    }
    if name.starts_with(b"/[aio]") {
        return Some(("the ring of an asynchronous I/O context", "io_destroy it before the dump"));
    }
    if name.starts_with(b"/SYSV") {
        return Some((
            "System V shared memory",
            "use POSIX shared memory or a shared anonymous mapping instead",
        ));
    }
    if name.starts_with(b"anon_inode:") || name.starts_with(b"socket:[") {
        return Some(("of a file without a path", "unmap it before the dump"));
    }
    None
}

/// Why the file that is mapped cannot be carried, if it cannot.
fn of_mapped_file(mapping: &Mapping) -> Option<Refusal> {
    let memfd = mapping.name.as_bytes().starts_with(b"/memfd:");
    memfd.then_some(("of a memfd", "map a file in /dev/shm, or anonymous memory"))
}

const CLOSE: &str = "close it before the dump";

/// Why an open file is known to be of a kind that cannot be carried, if it is.
#[must_use]
pub fn of_file(file: &OpenFile, sockets: &Sockets) -> Option<Refusal> {
    let target = file.target.as_bytes();
    if let Some(name) = target.strip_prefix(b"anon_inode:") {
        return anonymous(name).map(|reason| (reason, CLOSE));
    }
    if target.starts_with(b"/memfd:") {
        return Some(("memfds cannot be carried yet", "close it, or use a file in /dev/shm"));
    }
    if file.flags & libc::O_PATH.cast_unsigned() != 0 && target.starts_with(b"/") {
        return None;
    }
    match file.mode & libc::S_IFMT {
        libc::S_IFSOCK => socket(sockets.get(file.inode)),
        libc::S_IFBLK => Some(("it is a block device", CLOSE)),
        libc::S_IFIFO | libc::S_IFCHR => None,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK if target.starts_with(b"/") => None,
        _ if target.starts_with(b"pidfd:") => Some(("a pidfd", CLOSE)),
        _ if target.contains(&b'[') => Some(("a namespace kept open by a descriptor", CLOSE)),
        _ => Some(("it is of a kind that is not known", CLOSE)),
    }
}

/// Why a file of `/proc/PID` cannot be carried if the process is in the checkpoint itself.
pub const OF_ITSELF: &str = "a file of /proc about a process of the tree cannot be carried: it is \
                             opened before the process is there again";

/// The process that a file of `/proc/PID` is about.
#[must_use]
pub fn process_behind(path: &[u8]) -> Option<i32> {
    let number = path.strip_prefix(b"/proc/")?.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn anonymous(name: &[u8]) -> Option<&'static str> {
    match name {
        b"[eventfd]" | b"[eventpoll]" | b"[timerfd]" | b"[signalfd]" => None,
        b"inotify" => Some("inotify instances cannot be carried yet"),
        b"[fanotify]" => Some("fanotify groups cannot be carried yet"),
        b"[io_uring]" => Some("an io_uring"),
        b"[perf_event]" => Some("a performance counter"),
        b"[userfaultfd]" => Some("a userfaultfd"),
        b"[pidfd]" => Some("a pidfd"),
        b"bpf-map" => Some("a BPF map"),
        b"bpf-prog" => Some("a BPF program"),
        b"bpf_link" | b"bpf-link" => Some("a BPF link"),
        b"seccomp notify" => Some("a seccomp listener"),
        _ => Some("an anonymous file of a kind that cannot be carried"),
    }
}

/// `TCP_LISTEN` and `TCP_CLOSE` (include/net/tcp_states.h).
const TCP_AT_REST: [u8; 2] = [10, 7];

fn socket(kind: Option<SocketKind>) -> Option<Refusal> {
    match kind {
        Some(SocketKind::Unix | SocketKind::Udp) => None,
        Some(SocketKind::Tcp(state)) if TCP_AT_REST.contains(&state) => None,
        Some(SocketKind::Tcp(_)) => {
            Some(("a connected TCP socket, which cannot be carried yet", "close the connection"))
        }
        Some(SocketKind::Netlink) => Some(("netlink sockets cannot be carried yet", CLOSE)),
        Some(SocketKind::Packet) => Some(("packet sockets cannot be carried yet", CLOSE)),
        Some(SocketKind::Raw | SocketKind::Icmp | SocketKind::UdpLite) => {
            Some(("raw, ping and UDP-Lite sockets cannot be carried yet", CLOSE))
        }
        // Of another family, or a TCP socket not yet bound, or just closed by the other side: only
        // a dump, which asks the socket itself, can tell.
        None => None,
    }
}

#[cfg(test)]
#[path = "obstacles_tests.rs"]
mod tests;
