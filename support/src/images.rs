//! What images hold that a restore does not make: those of CRIU's, of another version, or damaged ones.

use ids::ImagePid;

use crate::unsupported::Refusal;

/// For who has only images.
const FROM_IMAGES: &str = "restore the checkpoint by the CRIU that wrote it, have the program close it there, and dump anew";

/// An internet socket of another protocol.
pub const OTHER_INTERNET_SOCKET: Refusal = Refusal::fixed(
    "it is no TCP, UDP, UDP-Lite, ping or raw socket: others are not supported",
    FROM_IMAGES,
);

/// TCP connections that nobody has accepted, on a kernel that cannot be told to make such.
pub const NO_QUEUES: Refusal = Refusal::fixed(
    "TCP connections wait to be accepted at it, which takes Linux 6.9 or later (with CONFIG_SYN_COOKIES) to make again",
    "restore it on such a kernel, or with its connections closed (--tcp-close), or dump with --skip-in-flight",
);

/// A traced thread of a process without a vDSO.
pub const TRACED_WITHOUT_VDSO: Refusal = Refusal::fixed(
    "it traces, or is traced, and its process has no vDSO, in which it would wait to be handed over",
    "dump it without the debugger, which has to detach from it first",
);

/// A TCP connection.
pub const ESTABLISHED: Refusal = Refusal::fixed(
    "it was connected when it was dumped",
    "restore with --tcp-established to have it go on, or with --tcp-close to have it closed",
);

/// A file of a type that no kind restores.
#[must_use]
pub fn unknown_file(name: &str) -> Refusal {
    Refusal::new(format!("files of this type ({name}) cannot be restored yet"), FROM_IMAGES)
}

/// A memfd that may become a program, where none may (`vm.memfd_noexec`).
pub const NO_PROGRAMS: Refusal = Refusal::fixed(
    "vm.memfd_noexec is 2 here: none can be made that may become a program, and it may",
    "sysctl -w vm.memfd_noexec=1",
);

/// A memfd with more memory than there is.
pub const MEMFD_TOO_LARGE: Refusal =
    Refusal::fixed("it has more memory than this machine", "restore on a machine with more memory");

/// A Unix socket whose peer was outside of the tree.
#[must_use]
pub fn connected_outside(name: &[u8]) -> Refusal {
    let name = crate::sockets::unix_name(name);
    Refusal::new(
        format!("it was connected to a process outside the tree ({name})"),
        format!("restore with --ext-unix-sk, which connects it to {name} again"),
    )
}

/// A peer outside of the tree that cannot be found again; `socket` is the inode that the tree's own socket had.
#[must_use]
pub fn nameless_outside(socket: u32) -> Refusal {
    Refusal::new(
        "it was connected to a process outside the tree that has no name to connect to",
        format!(
            "hand it another socket: criu restore --inherit-fd fd[N]:socket:[{socket}]; or dump a tree that \
             holds both ends"
        ),
    )
}

/// A Unix socket that CRIU expects somebody else to make.
pub const UNIX_BY_OTHERS: Refusal = Refusal::fixed(
    "it was left to a plugin of CRIU's, or inherited from who dumped it",
    "dump it again without the plugin of CRIU, or when the program has closed the socket",
);

/// Processes that share what is not made shared.
#[must_use]
pub fn shares(what: &str, other: ImagePid) -> Refusal {
    Refusal::new(
        format!("it shares its {what} with process {other}"),
        "have the program start them without CLONE_VM and CLONE_SIGHAND, and dump it again",
    )
}

/// A process that has the memory of others, and could be born with that by none of them.
pub const MEMORY_APART: Refusal = Refusal::fixed(
    "it shares its memory or signal handlers with processes that could not have made it as it is: they are neither its parent nor children of \
     that by the same session, or are in other namespaces",
    "have the program start them by one parent, in the namespaces of that, and dump it again",
);

/// A process that would have to pass on one table at its birth and use another.
pub const SHARED_APART: Refusal = Refusal::fixed(
    "processes that use descriptors or directories together lie so far apart in the tree that it would have to \
     pass on two tables at once",
    "have the program start them by one parent, and dump it again",
);

/// Pages that stayed with the dumper, to be asked for later.
#[must_use]
pub fn lazy_pages(pages: u64, first: u64) -> Refusal {
    Refusal::new(
        format!(
            "{pages} pages, the first at {first:#x}, are to be brought in by a lazy restore, which \
                 is not supported yet: they are not in the images"
        ),
        "dump the tree again without --lazy-pages",
    )
}

/// An asynchronous I/O context whose ring is of another size on this machine: the kernel makes one that has room for
/// all processors.
#[must_use]
pub fn aio_ring(bytes: u64, here: u64, processors: u32) -> Refusal {
    Refusal::new(
        format!(
            "its ring is of {bytes} bytes, and of {here} on this machine, which may have \
             {processors} processors"
        ),
        "restore on a machine with as many processors as that of the dump (/sys/devices/system/cpu/possible)",
    )
}

/// An asynchronous I/O context of which more events wait than a new one has room for at once.
pub const AIO_EVENTS: Refusal = Refusal::fixed(
    "more of its events wait than the kernel gives out requests for, as this machine may have other processors",
    "restore on a machine with as many processors as that of the dump, or dump it again when it has taken events",
);

/// A process of which one part is 32-bit code and another 64-bit code.
pub const MIXED_CODE: Refusal = Refusal::fixed(
    "it runs 32-bit code and 64-bit code",
    "run a build of the program that is all of one kind, and dump that",
);

/// A process in another pid namespace than the root of the tree, of images that do not say which.
pub const NESTED_PIDS: Refusal = Refusal::fixed(
    "it was in a pid namespace below that of the tree's root, and its numbers there are not in the images",
    "dump it again with a version that has them, or the tree of the first process of that namespace by itself",
);

/// A process that would have to be made from another pid namespace than that of its parent.
pub const PIDS_APART: Refusal = Refusal::fixed(
    "who would have to make it, in its session or group, is not in a pid namespace from which it can be born into its own",
    "start it with setsid, and dump the tree again",
);

/// Processes that would wait for each other's pid namespaces.
pub const PIDS_IN_CIRCLE: Refusal = Refusal::fixed(
    "it and others have entered each other's pid namespaces (setns), so that none of them can be made first",
    "have their parents make them in their own namespaces, and dump the tree again",
);

/// Advice (madvise) that this version does not know.
#[must_use]
pub fn unknown_advice(bits: u64) -> Refusal {
    Refusal::new(
        format!("it was given advice that is not known (bits {bits:#x})"),
        "restore with a version that knows it",
    )
}

/// A thread that is scheduled by deadline.
pub const DEADLINE: Refusal = Refusal::fixed(
    "it is scheduled by deadline, and these images (of CRIU's) lack its parameters",
    "dump it with stasis, or give it another policy before the dump (chrt --other --pid 0 PID)",
);

/// A thread with a profile of a security module.
pub const CONFINED: Refusal = Refusal::fixed(
    "it is confined by a security module",
    "run the program unconfined, and dump it again",
);

/// A shadow stack of the processor's.
pub const SHADOW_STACK: Refusal =
    Refusal::fixed("it is a shadow stack", arch::kernel::WITHOUT_SHADOW_STACK);

/// Processes had uprobes, and it is not said that these are there.
pub const WITH_UPROBES: Refusal = Refusal::fixed(
    "processes had uprobes when they were dumped (--allow-uprobes): their breakpoints are in memory, and end whoever comes upon one that \
     the kernel does not know",
    "have the same uprobes active, and give --allow-uprobes to `criu restore`, too",
);

/// What the kernel maps for its probes.
pub const PROBES: Refusal = Refusal::fixed(
    "it holds the kernel's probes",
    "remove the uprobes (perf probe --del, or end bpftrace or bcc), start the program again and dump it",
);

/// A mapping of a kind that this version does not know.
pub const UNKNOWN_MAPPING: Refusal =
    Refusal::fixed("it is of no known kind", "dump with a version that this one knows");

/// A session whose number is not known, as its leader was in another pid namespace.
pub const SESSION_OUTSIDE: Refusal = Refusal::fixed(
    "the leader of its session is outside its pid namespace",
    "dump a tree whose root leads a session (start it with setsid)",
);

/// A leader of a session in another group.
#[must_use]
pub fn leader_in_group(pgid: Option<ImagePid>) -> Refusal {
    Refusal::new(
        format!("it leads a session but is in group {}", pgid.map_or(0, ImagePid::get)),
        "no kernel makes such a process, so the images are damaged: dump the tree again",
    )
}

/// A group in two sessions.
#[must_use]
pub fn group_in_two_sessions(pgid: ImagePid) -> Refusal {
    Refusal::new(
        format!("its group {pgid} is in two sessions"),
        "no kernel makes such a group, so the images are damaged: dump the tree again",
    )
}
