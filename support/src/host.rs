//! A machine, and whoever restores: what a restore needs of them.

use std::path::Path;

use ids::{HostPid, ImagePid};

use crate::unsupported::{BY_ROOT, Refusal, Unsupported};

/// `RLIMIT_*` by number, as `ulimit` and `setrlimit` call them.
const LIMIT_NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Ids, groups or capabilities (`what`) that a restore may not set.
#[must_use]
pub fn other_ids(what: &str) -> Refusal {
    Refusal::new(
        format!("its {what} are not those of who restores, who may set none"),
        "restore as root, or as the user who ran it, with his groups and capabilities",
    )
}

/// A hard limit of a process, above that of whoever restores: it can be lowered by anyone, raised only with
/// CAP_SYS_RESOURCE.
#[must_use]
pub fn of_limit(pid: ImagePid, resource: usize, limit: u64, ours: u64) -> Option<Unsupported> {
    let said = |limit: u64| match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    (limit > ours).then(|| {
        let (name, remedy) = match LIMIT_NAMES.get(resource) {
            Some(name) => (
                *name,
                format!(
                    "restore with CAP_SYS_RESOURCE, or from a shell whose limit root has raised: prlimit --pid $$ \
                     --{name}=:{}",
                    said(limit)
                ),
            ),
            None => ("an unknown resource", "restore with CAP_SYS_RESOURCE".to_owned()),
        };
        Refusal::new(format!("it is {}, and ours is {}", said(limit), said(ours)), remedy)
            .of(pid, format!("hard limit of {name}"))
    })
}

/// A fanotify group that watches all of a mount, of somebody who could not make it so.
pub const WATCHES_A_MOUNT: Refusal = Refusal::fixed(
    "a fanotify group watches all of it, and those who have the group lack CAP_SYS_ADMIN",
    "have the program remove the mark (FAN_MARK_REMOVE), and dump it again",
);

/// Capabilities, by their names, that a thread had and whoever restores has not.
#[must_use]
pub fn of_capabilities(tid: ImagePid, names: &str) -> Unsupported {
    Refusal::new(
        format!("it had {names}, which this process has not"),
        "restore as root, with all capabilities that the tree had",
    )
    .of(tid, "capabilities")
}

/// A guard region, under a kernel that has none.
#[must_use]
pub fn of_guard(pid: ImagePid, start: u64, end: u64) -> Unsupported {
    Refusal::fixed(
        "this kernel has none (MADV_GUARD_INSTALL)",
        "restore it under Linux 6.13 or newer",
    )
    .of(pid, format!("guard region {start:#x}-{end:#x}"))
}

/// Sealed memory, under a kernel that cannot seal any.
pub const NO_SEALS: Refusal = Refusal::fixed(
    "it was sealed (mseal), which this kernel cannot do",
    "restore it under Linux 6.10 or newer",
);

/// Memory protection keys, where there are none.
pub const NO_KEYS: Refusal = Refusal::fixed(
    "it had some (pkey_alloc), which this processor or kernel does not have",
    "restore it on a processor with the features of the one it was dumped on",
);

/// Droppable memory, under a kernel that has none.
pub const NO_DROPPABLE: Refusal = Refusal::fixed(
    "it was made by MAP_DROPPABLE, which this kernel does not have",
    "restore it under Linux 6.11 or newer",
);

/// Registers, by the names of their components, that a process may use and this processor does not have.
#[must_use]
pub fn of_permitted(pid: ImagePid, names: &str) -> Unsupported {
    Refusal::new(
        format!("it may use {names}, which this processor lacks"),
        "restore it on a processor with the features of the one it was dumped on",
    )
    .of(pid, "processor state")
}

/// What keeps a lock or a lease from being taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// A lock.
    Lock,
    /// That somebody has the file open.
    OpenFile,
}

/// A lock or a lease that cannot be had now; `holder` is who stands in its way, with its program, if he is
/// to be seen from here.
#[must_use]
pub fn lock_taken(what: InTheWay, holder: Option<(HostPid, &str)>) -> Refusal {
    let (has, gives_up) = match what {
        InTheWay::Lock => ("holds a conflicting lock on the file", "releases it"),
        InTheWay::OpenFile => ("has the file open, which the lease does not allow", "closes it"),
    };
    match holder {
        Some((pid, program)) => Refusal::new(
            format!("process {pid} ({program}) {has}"),
            format!("restore again when it {gives_up} or has ended (kill {pid})"),
        ),
        None => Refusal::new(
            format!("somebody who cannot be seen from here {has}"),
            "find out who has it (lslocks, as root in the initial namespaces) and restore again when it \
             has ended",
        ),
    }
}

/// A lease that a user might not take himself.
pub const LEASE_OF_ANOTHER: Refusal = Refusal::fixed(
    "the file belongs to another user, who alone may take it",
    "restore as root, or have the program give the lease up before the dump",
);

/// A file that the dump has left to the outside, by this name, is not handed to the restore.
#[must_use]
pub fn not_handed(name: &str) -> Refusal {
    Refusal::new(
        "the dump has left it to the outside (--external), and nothing is handed over in its place",
        format!(
            "open what is to take its place as descriptor N, and give criu restore --inherit-fd 'fd[N]:{name}'"
        ),
    )
}

/// More open files than may be.
#[must_use]
pub fn open_files(hard: u64) -> Refusal {
    Refusal::new(
        format!("the hard limit of open files here, {hard}, does not allow them"),
        format!("as root, ulimit -Hn {}, and restore from that shell", hard.saturating_mul(2)),
    )
}

/// A descriptor in the way of those of the restore's own.
pub const LAST_DESCRIPTOR: Refusal = Refusal::fixed(
    "its number is among the last below the hard limit of open files, and it can only be \
                 opened when the tree is there",
    "as root, raise the hard limit of open files (ulimit -Hn N), and restore from that shell",
);

/// Files that have to be open together, of which only so many can be.
#[must_use]
pub fn files_at_once(batch: usize) -> Refusal {
    Refusal::new(
        format!("the hard limit of open files allows {batch} of them at a time"),
        "as root, raise the hard limit of open files (ulimit -Hn N), and restore from that shell",
    )
}

/// A terminal of a shell's job, restored as none.
pub const TERMINAL_OUTSIDE: Refusal = Refusal::fixed(
    "it was outside the tree",
    "restore with --shell-job, from the terminal it shall have",
);

/// A shell's job, restored where there is no terminal.
pub const NO_TERMINAL: Refusal =
    Refusal::fixed("there is no terminal to take its place", "restore from a shell in a terminal");

/// A Unix socket that is bound to an absolute path, below a root directory of the restore's own.
pub const ABSOLUTE_NAME: Refusal = Refusal::fixed(
    "an absolute name cannot be given to a socket below another root directory",
    "restore without a root directory",
);

/// A file that was made without a name and may be given one, where the file system makes none such
/// (`O_TMPFILE`). Made in another way it could not be given one, and nobody would be told.
#[must_use]
pub fn no_unnamed_files(directory: &str) -> Refusal {
    Refusal::new(
        format!(
            "it can be given a name (O_TMPFILE), and the file system of {directory} cannot make a file \
             that can"
        ),
        format!(
            "restore it where {directory} is on a file system that can (ext4, XFS, Btrfs, tmpfs; overlayfs \
             from Linux 6.1 on), or dump the tree again after the program has named the file (linkat) or \
             closed it"
        ),
    )
}

/// A machine without a free process number.
pub const NO_NUMBER: Refusal = Refusal::fixed(
    "there is no free process number to work with",
    "end some processes, or have more numbers: sysctl -w kernel.pid_max=4194304",
);

/// A process whose threads may be inside, or hold addresses, of functions that are elsewhere in this
/// kernel's vDSO.
pub const OTHER_VDSO: Refusal = Refusal::fixed(
    "it was dumped under a kernel with another vdso",
    "restore it under that kernel: redirecting the functions of the vdso is not supported yet",
);

/// A task of 32-bit code, where the kernel has none.
pub const NO_COMPAT: Refusal = Refusal::fixed(
    "the kernel runs no 32-bit code here, or does not map its vdso where it is told",
    "restore it under a kernel with CONFIG_IA32_EMULATION and CONFIG_CHECKPOINT_RESTORE, started without \
     ia32_emulation=0",
);

/// Registers that this processor does not have.
#[must_use]
pub fn processor_state(names: &str) -> Refusal {
    Refusal::new(
        format!("it uses {names}, which this processor or its kernel lacks"),
        "restore it on a processor with the features of the one it was dumped on",
    )
}

/// Images of another kind of processor.
pub const OTHER_PROCESSOR: Refusal = Refusal::fixed(
    "it was dumped on another kind of processor",
    "restore it on a machine of that kind",
);

/// A number of a process that this machine does not have.
#[must_use]
pub fn number_too_high(id: HostPid, limit: i32) -> Refusal {
    Refusal::new(
        format!("process numbers end at {limit} here"),
        format!("sysctl -w kernel.pid_max={}", id.get().saturating_add(1)),
    )
}

/// A process that was restored and has not ended.
#[must_use]
pub fn runs_already(images: &Path) -> Refusal {
    Refusal::new(
        format!("it runs: it was restored from {}", images.display()),
        "end it before it is restored again",
    )
}

/// A number that a zombie has, with its parent as it is said (`process 7 (sh)`).
#[must_use]
pub fn number_of_zombie(parent: &str, ppid: Option<HostPid>) -> Refusal {
    Refusal::new(
        format!("its number is in use by a zombie: {parent} has not waited for its child"),
        have_it_waited_for(ppid),
    )
}

/// What makes a zombie go.
fn have_it_waited_for(ppid: Option<HostPid>) -> String {
    match ppid {
        // Whoever is the init of a pid namespace ends all of it.
        Some(ppid) if ppid.get() != 1 => {
            format!("have its parent wait for it, or end the parent: kill {ppid}")
        }
        _ => "have its parent wait for it, or restore in another pid namespace".to_owned(),
    }
}

/// A number that somebody has, with its parent, as they are said.
#[must_use]
pub fn number_taken(id: HostPid, who: &str, state: char, parent: &str) -> Refusal {
    Refusal::new(
        format!("its number is in use by {who} in state {state}, a child of {parent}"),
        format!("end it (kill {id}), or restore in another pid namespace"),
    )
}

/// A number that process `by` has in the pid namespace that is given, be it that of a thread of it, its group or its session.
#[must_use]
pub fn number_taken_inside(by: HostPid) -> Refusal {
    Refusal::new(
        format!(
            "its number is in use in the pid namespace that is given: by process {by}, or its group or session"
        ),
        format!("end it (kill {by}), have its parent wait for it, or give another pid namespace"),
    )
}

/// A number that a process group or session has, as this process of it lives.
#[must_use]
pub fn number_of_group(member: HostPid, who: &str) -> Refusal {
    Refusal::new(
        format!("its number is in use as that of a process group or session, which {who} is in"),
        format!("end that process (kill {member}), or restore in another pid namespace"),
    )
}

/// A number that a process group or session has in which there is a zombie, with its parent as it is said.
#[must_use]
pub fn number_of_group_of_zombie(zombie: HostPid, parent: &str, ppid: Option<HostPid>) -> Refusal {
    Refusal::new(
        format!(
            "its number is in use as that of a process group or session, which zombie {zombie} is in: {parent} has not waited for its child"
        ),
        have_it_waited_for(ppid),
    )
}

/// A number that somebody had a moment ago.
pub const NUMBER_WAS_TAKEN: Refusal =
    Refusal::fixed("its number is in use", "try again: it has ended by now");

/// A thread that a user may not have back.
#[must_use]
pub fn more_rights(uid: u32, gid: u32) -> Refusal {
    Refusal::new(
        format!("its rights are more, or others, than those of uid {uid}, gid {gid}"),
        BY_ROOT,
    )
}

/// A socket that tells its peer of a maker who is not the user.
#[must_use]
pub fn ids_of_others(uid: u32, gid: u32) -> Refusal {
    Refusal::new(
        format!("it tells others of ids that are not those of uid {uid}, gid {gid}"),
        BY_ROOT,
    )
}

/// A TCP connection of a user: it could take the place of another's.
pub const CONNECTION_OF_USER: Refusal = Refusal::fixed(
    "TCP connections are restored for root alone, as they may have addresses that are another's by now",
    "have root restore it, or restore it with its connections closed (tcp_close)",
);

/// A namespace that takes root to make.
pub const NAMESPACE_OF_ROOT: Refusal =
    Refusal::fixed("it was in a namespace of its own, which takes root to make", BY_ROOT);

/// Filters of system calls that programs with more rights would meet.
pub const FILTERS_OF_ROOT: Refusal = Refusal::fixed(
    "it has seccomp filters without no_new_privs, which only root can install",
    BY_ROOT,
);

/// A restore of processes in user namespaces without a right to have numbers given out.
#[must_use]
pub fn no_numbers(why: &str) -> Refusal {
    Refusal::new(
        format!(
            "numbers in the pid namespaces around its user namespace are given out by /proc/sys/kernel/ns_last_pid, which does not \
                 open: {why}"
        ),
        "restore it where /proc/sys can be written to, as root, under a kernel with CONFIG_CHECKPOINT_RESTORE",
    )
}

/// A restore of filters by a program that is under seccomp itself, or lacks a right.
pub const FILTERS_FROM_INSIDE: Refusal = Refusal::fixed(
    "a program that has seccomp filters itself, or lacks CAP_SYS_ADMIN, cannot restore one that has some",
    "restore it as root, from outside of containers and sandboxes",
);

/// A process that has used up its address space.
#[must_use]
pub fn no_gap(bytes: usize) -> Refusal {
    Refusal::new(
        format!("its address space has no gap of {bytes} bytes"),
        "dump it again when it has unmapped some of its memory: the restore needs such a gap to work in",
    )
}

/// A tree in which every signal is pending.
pub const NO_SIGNAL: Refusal = Refusal::fixed(
    "every signal is pending in it",
    "dump it again when it has handled some of them: the restore needs one to work with",
);

/// A shell's job that is restored as none.
pub const JOB: Refusal = Refusal::fixed(
    "it is a job of a session outside the tree",
    "restore it into the session of this terminal with --shell-job",
);

/// A process group whose number is not known, as its leader was in another pid namespace.
pub const GROUP_OUTSIDE: Refusal = Refusal::fixed(
    "the leader of its process group is outside its pid namespace",
    "start the restore in a group of its own (setsid stasis restore …, setsid criu restore …)",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: i32) -> ImagePid {
        ImagePid::new(number).unwrap()
    }

    #[test]
    fn limits_are_named() {
        assert_eq!(of_limit(image(7), 7, 1024, 1024), None);
        assert_eq!(of_limit(image(7), 7, 1025, 1024).unwrap().object, "hard limit of nofile");
        assert!(of_limit(image(7), 99, 1, 0).unwrap().object.ends_with("an unknown resource"));
        let unlimited = of_limit(image(7), 8, u64::MAX, 65536).unwrap();
        assert_eq!(unlimited.reason, "it is unlimited, and ours is 65536");
        assert!(unlimited.remedy.ends_with("prlimit --pid $$ --memlock=:unlimited"), "{unlimited}");
    }

    #[test]
    fn a_number_that_is_too_high_is_allowed_by_a_command() {
        assert_eq!(
            number_too_high(HostPid::new(40000).unwrap(), 32768).remedy,
            "sysctl -w kernel.pid_max=40001"
        );
    }
}
