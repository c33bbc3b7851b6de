//! What stands in the way of a dump, as far as an inventory and a little more tell. Pure: all that is
//! known is passed in. A dump refuses by these rules, and whoever lists processes says by them what
//! can be dumped.
//!
//! What an open file only tells when it is looked at (its name, its peer, its locks) is the dump's
//! own to find.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

pub use api::Obstacle;
use kernel::procfs::Status;

use crate::unusual;
use crate::{Mapping, OpenFile, Process, ProcessState, Refusal, VmFlags};

/// What else one has to know to judge a tree.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The process that asks, which cannot stop itself.
    pub own: i32,
    /// Its namespaces.
    pub namespaces: BTreeMap<&'static str, u64>,
    /// The root may belong to a session (and a terminal) outside the tree.
    pub shell_job: bool,
}

/// What stands in the way of a dump of the tree below `root`, whose processes these are.
#[must_use]
pub fn of_tree(root: i32, tree: &[&Process], around: &Surroundings) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let members: BTreeSet<i32> = tree.iter().map(|process| process.pid).collect();
    if members.contains(&around.own) {
        let (reason, remedy) = (
            "a process cannot stop itself and go on",
            "run stasis outside the tree that it is to dump (in another terminal, or by setsid)",
        );
        found.push(Obstacle::of(around.own, "stasis itself", reason, remedy));
    }
    found.extend(of_init(root));
    let sid = tree.iter().find(|process| process.pid == root).map(|process| process.sid);
    for process in tree {
        session(process, (root, sid), &members, around.shell_job, &mut found);
        if !is_zombie(process) {
            of_process(process, tree, around, &mut found);
        } else if process.pid == root {
            let reason = "it has ended and waits for its parent to collect it";
            let remedy = format!("dump the tree of its parent, process {}", process.ppid);
            found.push(Obstacle::of(root, "the process", reason, remedy));
        }
        if process.pid != root
            && let Some((object, (reason, remedy))) = unusual::of_child(process)
        {
            found.push(Obstacle::of(process.pid, object, reason, remedy));
        }
    }
    found
}

/// The first process of a machine, or of a container, cannot come back: it has its number for as long as
/// there are others.
#[must_use]
pub fn of_init(root: i32) -> Option<Obstacle> {
    (root == 1).then(|| {
        let reason = "it is the init of this machine or container: all processes end with it, so it could \
                      not be restored";
        let remedy = "dump the trees below it one by one (`stasis ps` lists them), or a container from \
                      outside, by the number that its init has there";
        Obstacle::of(1, "the process", reason, remedy)
    })
}

/// Sessions and process groups have to lie inside the tree, or else the caller says that the
/// tree is a terminal's job.
fn session(
    process: &Process,
    (root, root_sid): (i32, Option<i32>),
    members: &BTreeSet<i32>,
    shell_job: bool,
    found: &mut Vec<Obstacle>,
) {
    let (pid, sid) = (process.pid, process.sid);
    let mut add = |reason: &str, remedy: String| {
        found.push(Obstacle::of(pid, format!("session {sid}"), reason, remedy));
    };
    if pid == root && sid != pid && !shell_job && !process.kernel_thread {
        let join = "give --shell-job, to have it join the session of whoever restores it";
        // The number 0: the leader is outside of the pid namespace.
        let remedy = match sid {
            0 => format!("{join}, or start it with setsid"),
            _ => format!("{join}, start it with setsid, or dump the tree of process {sid}"),
        };
        add("its leader is outside the tree", remedy);
    } else if pid != root && !members.contains(&sid) && root_sid != Some(sid) {
        add(
            "its leader has ended or is outside the tree",
            "keep the session's leader alive, or start the process with setsid".to_owned(),
        );
    }
}

/// A child of vfork uses the memory of its parent, which waits in the kernel until the child executes
/// a program or ends: that passes.
fn is_in_vfork(process: &Process, tree: &[&Process]) -> bool {
    let memory = process.tables.memory;
    let sharers = tree.iter().filter(|other| other.tables.memory == memory);
    sharers.flat_map(|sharer| sharer.threads.values()).any(|thread| thread.state == 'D')
}

/// Tables that a process shares with another, inside of the tree or outside.
fn of_tables(process: &Process, tree: &[&Process]) -> Vec<(&'static str, String, String)> {
    let (pid, tables) = (process.pid, &process.tables);
    let is_inside = |pid: i32| tree.iter().any(|process| process.pid == pid);
    let mut found = Vec::new();
    for (index, (name, flag, owner)) in [
        ("memory", "CLONE_VM", tables.memory),
        ("descriptor table", "CLONE_FILES", tables.files),
        ("working directory", "CLONE_FS", tables.file_system),
        ("signal handlers", "CLONE_SIGHAND", tables.signal_handlers),
    ]
    .into_iter()
    .enumerate()
    {
        let outside = [tables.others[index], owner].into_iter().find(|other| {
            // The inventory does not tell of itself that it is complete.
            *other != 0 && *other != pid && !is_inside(*other)
        });
        if let Some(other) = outside {
            let reason = format!("it is shared with process {other} outside the tree ({flag})");
            let remedy = format!(
                "end that process (kill {other}), or have the program start it without {flag}: what \
                 processes share by it cannot be carried"
            );
            found.push((name, reason, remedy));
        } else if owner != 0 && owner != pid && !is_in_vfork(process, tree) {
            let reason = format!("it is shared with process {owner}");
            let remedy = "processes made by clone with CLONE_VM and its like cannot be carried";
            found.push((name, reason, remedy.to_owned()));
        }
    }
    found
}

fn of_process(
    process: &Process,
    tree: &[&Process],
    around: &Surroundings,
    found: &mut Vec<Obstacle>,
) {
    let pid = process.pid;
    let mut add = |object: String, reason: String, remedy: &str| {
        found.push(Obstacle::of(pid, object, reason, remedy));
    };
    if process.kernel_thread {
        let reason = "it is part of the kernel".to_owned();
        add("the process".to_owned(), reason, "choose another process");
        return;
    }
    for (name, id) in &process.namespaces {
        if around.namespaces.get(name) != Some(id) {
            let reason = "it is another one than that of stasis".to_owned();
            add(
                format!("{name} namespace"),
                reason,
                "namespaces cannot be carried yet: start it outside of containers and unshare(1)",
            );
        }
    }
    for (object, reason, remedy) in of_tables(process, tree) {
        add(object.to_owned(), reason, &remedy);
    }
    if process.in_process.as_ref().is_some_and(|known| known.local_descriptors) {
        let reason = "it has segments of its own (modify_ldt), which cannot be carried";
        let remedy = "run a build of the program for 64 bits, which does without";
        add("local descriptor table".to_owned(), reason.to_owned(), remedy);
    }
    for thread in process.threads.values() {
        if thread.in_task.is_some_and(|known| known.ports) {
            let reason = "it may use I/O ports (ioperm, iopl), which cannot be carried";
            let remedy = "have it give them back before the dump (iopl(0), ioperm(0, 65536, 0))";
            add(format!("I/O ports of thread {}", thread.tid), reason.to_owned(), remedy);
        }
        if thread.own_tables {
            let reason = "it does not share its files or working directory with its process";
            let remedy = "let threads share them (CLONE_FILES | CLONE_FS)";
            add(format!("thread {}", thread.tid), reason.to_owned(), remedy);
        }
        if thread.own_namespaces {
            let reason = "it is in other namespaces than its process (unshare, setns)";
            let remedy =
                "have it go back to those of its process (setns) before the dump, or end it";
            add(format!("thread {}", thread.tid), reason.to_owned(), remedy);
        }
        if thread.tid == pid && thread.state == 'Z' {
            let reason = "the process's first thread has ended before the others";
            let remedy = "keep the first thread until the others have ended";
            add(format!("thread {}", thread.tid), reason.to_owned(), remedy);
        }
        for (object, (reason, remedy)) in unusual::of_thread(process, thread) {
            add(object, reason.to_owned(), remedy);
        }
    }
    if let Some((object, (reason, remedy))) = unusual::of_process(process) {
        add(object, reason.to_owned(), remedy);
    }
    for mapping in &process.mappings {
        if let Some((reason, remedy)) = of_mapping(mapping) {
            add(object_of(mapping), reason.to_owned(), remedy);
        }
    }
}

/// What to call a mapping.
#[must_use]
pub fn object_of(mapping: &Mapping) -> String {
    let name = mapping.name.to_string_lossy();
    let object = format!("mapping {:#x}-{:#x} {name}", mapping.start, mapping.end);
    object.trim_end().to_owned()
}

const fn is_zombie(process: &Process) -> bool {
    matches!(process.state, ProcessState::Zombie { .. })
}

/// What a thread's status shows that cannot be carried.
#[must_use]
pub fn of_status(task: i32, status: &Status) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut add = |object: &str, reason: &str, remedy: &str| {
        found.push(Obstacle::of(task, object, reason, remedy));
    };
    if status.seccomp != 0 {
        let remedy = "start it without a seccomp filter";
        add("seccomp", "its system calls are filtered", remedy);
    }
    if status
        .thread_features
        .as_deref()
        .is_some_and(|features| features.contains(arch::kernel::SHADOW_STACK))
    {
        let remedy = arch::kernel::WITHOUT_SHADOW_STACK;
        add("shadow stack", "signal frames cannot be made for it", remedy);
    }
    found
}

/// A label of a security module (SELinux, AppArmor, Smack) that a restore would not give back: what it
/// restores gets its own. `own` is that of whoever dumps.
#[must_use]
pub fn of_label(task: i32, label: &str, own: &str) -> Option<Obstacle> {
    let reason = format!("a restore would give it the label of stasis, {own}");
    let remedy = format!(
        "dump and restore under this label (SELinux: runcon {} stasis …; AppArmor: aa-exec -p PROFILE -- \
         stasis …)",
        api::word(label)
    );
    let object = format!("security label {label}");
    (label != own && label != "unconfined").then(|| Obstacle::of(task, object, reason, remedy))
}

/// A tracer other than `own`, a thread: a task can only have one.
#[must_use]
pub fn of_tracer(task: i32, status: &Status, own: i32) -> Option<Obstacle> {
    let tracer = status.tracer;
    let remedy = format!("detach the debugger, process {tracer}, or end it: kill {tracer}");
    let reason = format!("process {tracer} traces it");
    (tracer != 0 && tracer != own).then(|| Obstacle::of(task, "the process", reason, remedy))
}

const DEVICE: Refusal = ("memory of a device", "close the device before the dump");
const USERFAULTFD: Refusal =
    ("the process serves its own page faults by userfaultfd", "unregister it before the dump");

const REFUSED_FLAGS: [(VmFlags, Refusal); 10] = [
    (
        VmFlags::HUGE_TLB,
        ("memory of hugetlbfs", "use transparent huge pages instead of MAP_HUGETLB"),
    ),
    (VmFlags::PFN_MAP, DEVICE),
    (VmFlags::IO, DEVICE),
    (VmFlags::MIXED_MAP, DEVICE),
    (VmFlags::UFFD_MISSING, USERFAULTFD),
    (VmFlags::UFFD_MINOR, USERFAULTFD),
    (VmFlags::SHADOW_STACK, ("a shadow stack", arch::kernel::WITHOUT_SHADOW_STACK)),
    (VmFlags::SEALED, ("sealed by mseal", "start the program without sealing its mappings")),
    (VmFlags::DROPPABLE, ("made by MAP_DROPPABLE", "unmap it before the dump")),
    (VmFlags::UNKNOWN, ("has a flag that this program does not know", "unmap it before the dump")),
];

/// Mappings by what their names begin with.
const REFUSED_NAMES: [(&[u8], Refusal); 3] = [
    (
        b"/secretmem",
        ("memory that nobody but the process may read (memfd_secret)", "unmap it before the dump"),
    ),
    (b"anon_inode:[io_uring]", ("the rings of an io_uring", "close the io_uring before the dump")),
    (
        b"anon_inode:[perf_event]",
        ("the ring of a performance counter", "close the counter before the dump"),
    ),
];

/// Why a mapping cannot be carried, if it cannot. (Whether a file can that is mapped is a question of
/// its own; here only those without any path are refused.)
#[must_use]
pub fn of_mapping(mapping: &Mapping) -> Option<Refusal> {
    let name = mapping.name.as_bytes();
    match name {
        // The kernel's own carry the flags of devices, and come with every kernel anew.
        b"[vdso]" | b"[vvar]" | b"[vvar_vclock]" | arch::memory::GATE => return None,
        b"[uprobes]" => return Some(("holds the kernel's uprobes", "detach the tracer first")),
        b"/anon_hugepage (deleted)" => return Some(REFUSED_FLAGS[0].1),
        _ => {}
    }
    // Before the flags, which say no more than that somebody else put the pages there.
    if let Some((_, refusal)) = REFUSED_NAMES.iter().find(|(start, _)| name.starts_with(start)) {
        return Some(*refusal);
    }
    if let Some((_, refusal)) = REFUSED_FLAGS.iter().find(|(flag, _)| mapping.flags.contains(*flag))
    {
        return Some(*refusal);
    }
    if mapping.policy.is_some_and(|policy| policy.wide) {
        return Some(unusual::WIDE_POLICY);
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
    if is_anonymous_file(name) && !mapping.flags.contains(VmFlags::MAY_SHARE) {
        return Some((
            "a private mapping of shared anonymous memory (made by /proc/PID/map_files)",
            "unmap it before the dump",
        ));
    }
    if name.starts_with(b"anon_inode:") || name.starts_with(b"socket:[") {
        return Some(("of a file without a path", "unmap it before the dump"));
    }
    None
}

/// Whether this is the name of the file that the kernel makes for shared anonymous memory.
fn is_anonymous_file(name: &[u8]) -> bool {
    name == b"/dev/zero (deleted)"
}

const CLOSE: &str = "close it before the dump";

/// Why an open file is of a kind that cannot be carried, if it is.
#[must_use]
pub fn of_file(file: &OpenFile) -> Option<(String, &'static str)> {
    let target = file.target.as_bytes();
    let close = |reason: &str| Some((reason.to_owned(), CLOSE));
    if let Some(name) = target.strip_prefix(b"anon_inode:") {
        return anonymous(name).map(|what| (format!("{what} cannot be carried yet"), CLOSE));
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
        _ => close("it is of a kind that is not known"),
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

#[cfg(test)]
#[path = "obstacles_tests.rs"]
mod tests;
