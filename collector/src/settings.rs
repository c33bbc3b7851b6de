//! What a task has set for itself that few tasks set, and which of it a checkpoint cannot carry.
//! `docs/state.md` has the whole list; the kernel's structures are gone through in `docs/state.tsv`.

pub use ebpf_common::unusual;
use serde::Serialize;

use crate::obstacles::Refusal;
use crate::{Process, Thread};

/// What a thread has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThreadSettings {
    /// Nanoseconds by which a sleep may be late.
    pub timer_slack: u64,
    /// The same for threads that it makes; `None` if that is not known.
    pub default_timer_slack: Option<u64>,
    /// As `ioprio_get` gives it, 0 for none.
    pub io_priority: u32,
    /// Its NUMA policy, if it has one.
    pub memory_policy: Option<MemoryPolicy>,
    /// What is to happen when its memory fails, as `PR_MCE_KILL_GET` gives it.
    pub memory_failure: u32,
    /// Bits of [`SPECULATION`].
    pub speculation: u64,
    /// The signal that its parent gets at its end (a leader's).
    pub exit_signal: i32,
    /// Bits of what it has beside.
    #[serde(skip)]
    pub unusual: u32,
}

/// What a process has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessSettings {
    /// As `/proc/PID/coredump_filter` has it.
    pub core_dump_filter: u32,
    /// Nice value of the session's scheduling group.
    pub autogroup_nice: i32,
    /// [`MCL_FUTURE`] and [`MCL_ONFAULT`], as far as they are in force.
    pub future_locks: u32,
    /// As `PR_GET_MDWE` gives it.
    pub deny_write_execute: u32,
    /// `PR_SET_MEMORY_MERGE`.
    pub merge_memory: bool,
}

/// `mlockall`: what is mapped from now on is locked.
pub const MCL_FUTURE: u32 = 2;
/// `mlockall`: pages are locked as they are touched.
pub const MCL_ONFAULT: u32 = 4;

/// A NUMA policy (set_mempolicy(2), mbind(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPolicy {
    /// `MPOL_*`, with the flags that these calls take.
    pub mode: u32,
    /// Nodes 0 to 63, one bit each.
    pub nodes: u64,
    /// It says more than this holds: a node above, or a home node.
    pub wide: bool,
}

impl MemoryPolicy {
    /// `None` for the default policy.
    pub(crate) fn of(policy: &ebpf_common::MemoryPolicy) -> Option<Self> {
        /// Those of `MPOL_F_*` that programs set (include/uapi/linux/mempolicy.h).
        const SET_BY_PROGRAMS: u16 = 0b111 << 13;
        let mode = u32::from(policy.mode) | u32::from(policy.flags & SET_BY_PROGRAMS);
        let wide = policy.wide != 0;
        (mode != 0).then_some(Self { mode, nodes: policy.nodes, wide })
    }
}

/// What `PR_MCE_KILL_GET` makes of the `PF_*` flags.
#[must_use]
pub const fn memory_failure(flags: u32) -> u32 {
    const SET: u32 = 0x80;
    const EARLY: u32 = 0x0800_0000;
    match (flags & SET != 0, flags & EARLY != 0) {
        (false, _) => 2,
        (true, early) => early as u32,
    }
}

/// Of the `PFA_*` flags those of `PR_SET_SPECULATION_CTRL` (include/linux/sched.h).
pub const SPECULATION: u64 = 0b1_1111 << 3;

/// A landlock domain.
pub(crate) const LANDLOCK: u32 = 1 << 31;

/// Something that cannot be carried: its bit, its name, why not and what helps, and what to call it where
/// nothing but eBPF sees it (`None`: `/proc` does).
type Rule = (u32, &'static str, Refusal, Option<&'static str>);

const REFUSED: [Rule; 13] = [
    (
        LANDLOCK,
        "landlock domain",
        (
            "it has given up rights by landlock, which nothing can read back to give up again",
            "start it without its sandbox",
        ),
        Some("landlock domains"),
    ),
    (
        unusual::SESSION_KEYRING,
        "session keyring",
        (
            "it holds keys, which stay in the kernel",
            "start it in an empty one (keyctl session - COMMAND), or unlink the keys (keyctl unlink KEY @s)",
        ),
        Some("keys of its own"),
    ),
    (
        unusual::PROCESS_KEYRING,
        "process keyring",
        ("it holds keys, which stay in the kernel", "have it unlink them before the dump"),
        Some("keys of its own"),
    ),
    (
        unusual::THREAD_KEYRING,
        "thread keyring",
        ("it holds keys, which stay in the kernel", "have it unlink them before the dump"),
        Some("keys of its own"),
    ),
    (
        unusual::REQUEST_KEY,
        "request for a key",
        ("the kernel waits for the key that it was started to make", "dump it when that is done"),
        Some("requests for keys"),
    ),
    (
        unusual::SYSCALL_DISPATCH,
        "system call dispatch",
        (
            "its system calls are handed back to itself (PR_SET_SYSCALL_USER_DISPATCH), those of a \
             restore too",
            "have it switch that off before the dump",
        ),
        Some("system call dispatch"),
    ),
    (
        unusual::IO_FLUSHER,
        "I/O flusher",
        (
            "it allocates memory without waiting for I/O (PR_SET_IO_FLUSHER), as others wait for it",
            "have it switch that off before the dump",
        ),
        None,
    ),
    (
        unusual::CORE_COOKIE,
        "core scheduling",
        (
            "it has a cookie, which it shares with whoever may run beside it",
            "start it without one (PR_SCHED_CORE)",
        ),
        Some("core scheduling cookies"),
    ),
    (
        unusual::SEM_UNDO,
        "System V semaphores",
        (
            "operations on them are to be undone when it ends (SEM_UNDO)",
            "have it give back what it took of the semaphores (ipcs -s lists them)",
        ),
        Some("semaphore undo"),
    ),
    (
        unusual::TRACER,
        "tracer",
        ("it traces other processes (ptrace)", "have it detach from them (a debugger: quit it)"),
        None,
    ),
    (
        unusual::SHARED_IO,
        "I/O context",
        (
            "it shares its I/O context with another task (clone with CLONE_IO)",
            "start it without CLONE_IO",
        ),
        Some("shared I/O contexts"),
    ),
    (
        unusual::RINGS,
        "io_uring",
        ("it has an io_uring, which the kernel works on by itself", "close it before the dump"),
        Some("io_uring without a descriptor"),
    ),
    (
        unusual::PROTECTION_KEYS,
        "memory protection keys",
        ("it has allocated some (pkey_alloc)", "have it free them (pkey_free) before the dump"),
        Some("protection keys"),
    ),
];

/// What of a thread of a process cannot be carried: its name, why not and what helps. An io_uring that a
/// descriptor leads to is refused with that.
pub fn of_thread(process: &Process, thread: &Thread) -> impl Iterator<Item = (String, Refusal)> {
    let known = thread.in_task.map(|known| known.settings).unwrap_or_default();
    let has_ring = process.files.iter().any(|file| file.target == "anon_inode:[io_uring]");
    let told = if has_ring { unusual::RINGS } else { 0 };
    let wide = known.memory_policy.is_some_and(|policy| policy.wide);
    refused(known.unusual & !told)
        .chain(wide.then_some(("NUMA policy", WIDE_POLICY)))
        .map(|(object, refusal)| (format!("{object} of thread {}", thread.tid), refusal))
}

/// What of these things cannot be carried.
pub fn refused(unusual: u32) -> impl Iterator<Item = (&'static str, Refusal)> {
    let refused = REFUSED.iter().filter(move |(bit, ..)| unusual & bit != 0);
    refused.map(|(_, object, refusal, _)| (*object, *refusal))
}

/// What the `PF_*` flags of a task tell: that it allocates memory for those who write for others.
#[must_use]
pub const fn unusual_by_flags(flags: u32) -> u32 {
    /// `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE`.
    const IO_FLUSHER: u32 = 0x0008_0000 | 0x0010_0000;
    if flags & IO_FLUSHER == IO_FLUSHER { unusual::IO_FLUSHER } else { 0 }
}

/// Why a NUMA policy cannot be carried.
pub const WIDE_POLICY: Refusal = (
    "its NUMA policy names a node above 63 or a home node",
    "give it another policy before the dump",
);

/// What of a process as a whole cannot be carried.
#[must_use]
pub fn of_process(process: &Process) -> Option<(String, Refusal)> {
    let known = process.in_process.as_ref()?;
    let asked = known.timers || known.thp_restricted;
    (asked && known.settings.deny_write_execute != 0).then(|| {
        let object = "write xor execute (PR_SET_MDWE)".to_owned();
        let refusal = (
            "it has timers or restricts huge pages, for which it has to be asked by code of ours, \
             which it does not let in",
            "start it without PR_SET_MDWE (systemd: MemoryDenyWriteExecute=no)",
        );
        (object, refusal)
    })
}

/// Why a child of a process that is dumped cannot be carried: it is none as `fork` makes it.
#[must_use]
pub fn of_child(process: &Process) -> Option<(String, Refusal)> {
    let leader = process.threads.get(&process.pid)?;
    of_exit_signal(leader.in_task?.settings.exit_signal)
}

/// The same of the signal that its parent gets at its end.
#[must_use]
pub fn of_exit_signal(signal: i32) -> Option<(String, Refusal)> {
    (signal != libc::SIGCHLD).then_some((
        "exit signal".to_owned(),
        (
            "its end is not told to its parent by SIGCHLD (clone with another signal, or with none)",
            "start it by fork, or by clone with SIGCHLD",
        ),
    ))
}

/// Whether it is in an empty session keyring of its own.
#[must_use]
pub const fn in_empty_session(settings: &ThreadSettings) -> bool {
    settings.unusual & unusual::EMPTY_SESSION != 0
}

/// What only eBPF sees beside what is refused.
const UNSEEN: [&str; 8] = [
    "memory merging before Linux 6.15",
    "tracers of single threads",
    "segments (modify_ldt)",
    "I/O ports",
    "locks of memory to come (MCL_FUTURE)",
    "write-xor-execute (PR_SET_MDWE)",
    "speculation control (PR_SET_SPECULATION_CTRL)",
    "default timer slack",
];

/// What is seen in the kernel's structures alone: without eBPF a dump cannot tell whether a task has
/// any of it.
#[must_use]
pub fn unseen_without_bpf() -> String {
    let refused = REFUSED.iter().filter_map(|(.., name)| *name);
    let mut all: Vec<&str> =
        refused.chain(UNSEEN).chain(crate::sharing::peculiar_names()).collect();
    all.dedup();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_what_prctl_says() {
        assert_eq!(memory_failure(0x40_0000), 2);
        assert_eq!(memory_failure(0x80), 0);
        assert_eq!(memory_failure(0x0800_0080), 1);
    }

    #[test]
    fn only_what_programs_set_of_a_policy_is_told() {
        let policy = |mode, flags| ebpf_common::MemoryPolicy { nodes: 1, mode, flags, wide: 0 };
        assert_eq!(MemoryPolicy::of(&policy(0, 0)), None);
        let bound = MemoryPolicy { mode: 2, nodes: 1, wide: false };
        assert_eq!(MemoryPolicy::of(&policy(2, 0b1_1000)), Some(bound));
        let fixed = MemoryPolicy { mode: 1 << 15 | 2, ..bound };
        assert_eq!(MemoryPolicy::of(&policy(2, 1 << 15)), Some(fixed));
    }

    #[test]
    fn every_bit_is_told_once() {
        let all = REFUSED.iter().fold(0, |all, (bit, ..)| {
            assert_eq!((all & bit, bit.count_ones()), (0, 1));
            all | bit
        });
        assert_eq!(all & unusual::EMPTY_SESSION, 0);
    }

    /// What /proc does not show is in the line that a dump without eBPF prints.
    #[test]
    fn what_is_not_seen_is_listed() {
        let line = unseen_without_bpf();
        for (bit, .., name) in REFUSED {
            let told = bit == unusual::IO_FLUSHER || bit == unusual::TRACER;
            assert_eq!(name.is_none(), told);
            assert!(name.is_none_or(|name| line.contains(name)));
        }
        assert_eq!(line.matches("keys of its own").count(), 1);
        assert!(line.contains("IPsec"));
    }

    #[test]
    fn flags_of_tasks_that_flush() {
        assert_eq!(unusual_by_flags(0x0018_0000), unusual::IO_FLUSHER);
        assert_eq!(unusual_by_flags(0x0008_0000), 0);
    }
}
