//! User namespaces: which are carried.

use crate::unsupported::{Refusal, word};

/// A process in a user namespace below that of the root of the tree, if that has one of its own with a pid namespace.
pub const NESTED: Refusal = Refusal::fixed(
    "it is another one than that of the tree's root (as sandboxes of browsers make them), which is not carried there yet: only \
     of a tree in the user namespace of stasis, or in one that has no pid namespace of its own",
    "dump the tree of the first process in it by itself (`stasis ps` lists them), or start the program without its \
     sandbox",
);

/// A namespace that belongs to a user namespace below that of the root of the tree.
pub const OF_NESTED: Refusal = Refusal::fixed(
    "it belongs to a user namespace below that of the tree's root (as sandboxes of browsers make them), which cannot be carried yet \
     but for those of networks, names, mounts, processes, control groups, IPC and time",
    "dump the tree of the first process in it by itself (`stasis ps` lists them), or start the program without its \
     sandbox",
);

/// An IPC namespace that belongs to a user namespace below that of the root, with limits or queues that nobody but root in there could make.
pub const IPC_UNUSUAL: Refusal = Refusal::fixed(
    "it belongs to a user namespace below that of the tree's root, and there are POSIX message queues in it, or it has other limits than \
     a new one (kernel.sem, kernel.msg*, kernel.shm*, fs.mqueue.*), which are not made there yet",
    "have the program remove the queues, and leave the limits as they are, or start it without an IPC namespace of its own",
);

/// A pid namespace that belongs to a user namespace that its first process is neither in nor below any more.
pub const FIRST_ELSEWHERE: Refusal = Refusal::fixed(
    "it belongs to a user namespace that its first process is neither in nor below",
    "dump the tree of that first process by itself (`stasis ps` lists them)",
);

/// A process in the session of the first process of such a pid namespace: it is born there, with what that has.
pub const SESSION_OF_FIRST: Refusal = Refusal::fixed(
    "it is led by the first process of a pid namespace that belongs to a user namespace below that of the tree's root, and the \
     process, born there with others of the session, has other namespaces, another /proc/PID/oom_score_adj, loginuid or \
     coredump_filter than that first process, or another maker than its parent: nobody can give it these from there",
    "start it so that its first process leads no session (bwrap without --new-session), or dump the tree of that first process \
     by itself, if it shares no descriptors with the others",
);

/// Mount namespaces of a tree that belong to several user namespaces.
pub const MOUNTS_OF_SEVERAL: Refusal = Refusal::fixed(
    "it belongs to a user namespace below that of the tree's root, and another one of the tree does not: mounts are made for \
     one user namespace only",
    "dump the tree of the first process in it by itself (`stasis ps` lists them)",
);

/// A file system in a mount namespace that belongs to a user namespace below that of the root, where nobody may make it.
#[must_use]
pub fn not_made_in(kind: &str) -> Refusal {
    Refusal::new(
        format!(
            "it shows what does not belong to the user namespace that its mount namespace belongs to, where a file system of kind \
             {} cannot be made again",
            word(kind)
        ),
        "if it is mounted here as well, dump and restore with --external 'mnt[]'",
    )
}

/// A thread in a user namespace below that of the root of the tree, with other ids than the first one of its process. A restore makes it
/// in there, where nobody may take ids that have no number.
pub const THREAD_IDS: Refusal = Refusal::fixed(
    "it has other users or groups than the first thread of its process, and some of them have no number in its user namespace",
    "have all threads of the process take the same ids (setuid(2) of the C library does), or ids that are mapped",
);

/// A process in a user namespace below that of the tree's root which shares descriptors or directories. A restore has it enter that
/// namespace, and nobody enters one who shares these.
pub const NESTED_TABLES: Refusal = Refusal::fixed(
    "it is one below that of the tree's root, and the process shares its descriptors or directories with another one, by \
     which nobody enters it (CLONE_FILES, CLONE_FS)",
    "have the program start it so that they do not share them: by fork",
);

/// The same of a process for which a restore keeps descriptors, since its limit of open files leaves no room for them.
pub const NESTED_LATE: Refusal = Refusal::fixed(
    "it was in a user namespace below that of the tree's root, and its limit of open files leaves no room to enter one",
    "raise the limit of open files for the restore (ulimit -n)",
);

/// A user namespace whose parent is not the one that stasis is in.
pub const NOT_A_CHILD: Refusal = Refusal::fixed(
    "it was not made in the user namespace that stasis is in, but in one in between",
    "run stasis in the user namespace that it was made in (nsenter --user)",
);

/// One that maps nobody yet.
pub const WITHOUT_IDS: Refusal = Refusal::fixed(
    "no user or group ids are mapped into it, so that its processes have none",
    "write its /proc/PID/uid_map and /proc/PID/gid_map before the dump",
);

/// One whose processes have numbers of outside: nobody in it may choose these.
pub const WITHOUT_PIDS: Refusal = Refusal::fixed(
    "its processes are in a pid namespace that does not belong to it, where nobody in it may choose their numbers",
    "start it with a pid namespace of its own (unshare --user --pid --fork)",
);

/// A namespace of a tree with a user namespace that belongs to neither that nor the one around it.
pub const OF_ANOTHER: Refusal = Refusal::fixed(
    "it belongs to another user namespace than that of the tree and that of stasis",
    "start the tree so that it makes its namespaces itself, or is given those of the machine",
);

/// A mount namespace that belongs to the namespace around, while the tree has a user namespace.
pub const MOUNTS_OF_AROUND: Refusal = Refusal::fixed(
    "it does not belong to the user namespace of the tree, in which its file systems would be mounted",
    "start the tree with a mount namespace that is made in its user namespace (unshare --user --mount)",
);

/// Tasks with several login users (`/proc/PID/loginuid`), of which the user namespace does not map all.
pub const LOGIN_USERS: Refusal = Refusal::fixed(
    "it has no number in the user namespace of the tree, and other processes of the tree have another one, which nobody there may \
     choose again",
    "start the tree so that all of its processes have one login user, or none",
);

/// A task with ids that the user namespace does not map.
#[must_use]
pub fn unmapped(what: &str) -> Refusal {
    Refusal::new(
        format!("its {what} has no number in its user namespace"),
        "start it with ids that are mapped, without supplementary groups of outside (setpriv --clear-groups)",
    )
}

/// Images in which some task is in another user namespace than the root.
pub const NESTED_IN_IMAGES: Refusal = Refusal::fixed(
    "it was in another user namespace than the tree's root, and the images do not say how: that is not supported yet",
    "dump the tree of the first process of that namespace by itself",
);

/// A thread with other supplementary groups than the first, where nobody may set them (`setgroups` is "deny").
pub const OTHER_GROUPS: Refusal = Refusal::fixed(
    "they are others than those of the tree's first task, and nobody in its user namespace may set them",
    "start the tree where setgroups(2) is allowed, or with the same groups for all, and dump it again",
);
