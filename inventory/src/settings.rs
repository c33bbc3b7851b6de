//! What a task has set for itself that few tasks set. `docs/state.md` has the whole list; the kernel's structures are gone through in `docs/state.tsv`.

pub use ebpf_common::unusual;
use serde::Serialize;

/// Of [`ThreadSettings::traced`] (the kernel's `PT_*`): it was seized, and can be interrupted.
pub const TRACE_SEIZED: u32 = 1 << 16;
/// The `PTRACE_O_*` that its tracer has set, from this bit on.
pub const TRACE_OPTIONS: u32 = 3;

/// The `PTRACE_O_*` that the tracer of a thread has set, and whether it has seized it, as [`ThreadSettings::traced`] tells.
#[must_use]
pub const fn traced_how(traced: u32) -> (u32, bool) {
    /// `PTRACE_O_TRACESYSGOOD` up to `PTRACE_O_TRACESECCOMP`, then `EXITKILL` and `SUSPEND_SECCOMP`, which have their own places.
    const OPTIONS: u32 = 0xff | 1 << 20 | 1 << 21;
    ((traced >> TRACE_OPTIONS) & OPTIONS, traced & TRACE_SEIZED != 0)
}

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
    /// As `/proc/PID/task/TID/personality` has it.
    pub personality: u32,
    /// How it is traced ([`TRACE_OPTIONS`]); 0 if it is not, or if that is not known.
    #[serde(skip)]
    pub traced: u32,
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
    /// `mm->mmap_base`; 0 if that is not known.
    pub mapping_base: u64,
    /// The same for calls of 32-bit code.
    pub compat_mapping_base: u64,
    /// As `PR_GET_MDWE` gives it.
    pub deny_write_execute: u32,
    /// `PR_SET_MEMORY_MERGE`.
    pub merge_memory: bool,
    /// Protection keys that it has taken (`pkey_alloc`), one bit each; without key 0, which all memory
    /// has at first.
    pub protection_keys: u32,
    /// Which of these the kernel has taken for code that may not be read; 0 for none.
    pub execute_only_key: u32,
    /// It is stopped, and its parent has been told (`WUNTRACED`).
    pub stop_told: bool,
}

impl ProcessSettings {
    /// The bit of the protection key that the kernel has taken; 0 if it has none.
    #[must_use]
    pub const fn kernels_key(&self) -> u32 {
        if self.execute_only_key == 0 { 0 } else { 1 << self.execute_only_key }
    }
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
    #[must_use]
    pub fn of(policy: &ebpf_common::MemoryPolicy) -> Option<Self> {
        /// Those of `MPOL_F_*` that programs set (include/uapi/linux/mempolicy.h).
        const SET_BY_PROGRAMS: u16 = 0b111 << 13;
        /// Memory of the node that the thread runs on: the kernel has no nodes for it, and does not
        /// clear what is in their place.
        const MPOL_LOCAL: u16 = 4;
        let mode = u32::from(policy.mode) | u32::from(policy.flags & SET_BY_PROGRAMS);
        let (nodes, wide) = match policy.mode {
            MPOL_LOCAL => (0, false),
            _ => (policy.nodes, policy.wide != 0),
        };
        (mode != 0).then_some(Self { mode, nodes, wide })
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
pub const LANDLOCK: u32 = 1 << 31;

/// What the `PF_*` flags of a task tell: that it allocates memory for those who write for others.
#[must_use]
pub const fn unusual_by_flags(flags: u32) -> u32 {
    /// `PF_MEMALLOC_NOIO` and `PF_LOCAL_THROTTLE`.
    const IO_FLUSHER: u32 = 0x0008_0000 | 0x0010_0000;
    if flags & IO_FLUSHER == IO_FLUSHER { unusual::IO_FLUSHER } else { 0 }
}

/// Whether it is in an empty session keyring of its own.
#[must_use]
pub const fn in_empty_session(settings: &ThreadSettings) -> bool {
    settings.unusual & unusual::EMPTY_SESSION != 0
}

/// Whether its session keyring holds keys of its own.
#[must_use]
pub const fn holds_session_keys(settings: &ThreadSettings) -> bool {
    settings.unusual & unusual::SESSION_KEYRING != 0
}

/// Whether its pid namespace has settings that none has by itself.
#[must_use]
pub const fn has_pid_settings(settings: &ThreadSettings) -> bool {
    settings.unusual & unusual::PID_SETTINGS != 0
}

/// Whether operations on System V semaphores may have to be undone at its end.
#[must_use]
pub const fn undoes_semaphores(settings: &ThreadSettings) -> bool {
    settings.unusual & unusual::SEM_UNDO != 0
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
        let local = ebpf_common::MemoryPolicy { nodes: !0, mode: 4, flags: 0, wide: 1 };
        let without_nodes = MemoryPolicy { mode: 4, nodes: 0, wide: false };
        assert_eq!(MemoryPolicy::of(&local), Some(without_nodes));
    }

    #[test]
    fn flags_of_tasks_that_flush() {
        assert_eq!(unusual_by_flags(0x0018_0000), unusual::IO_FLUSHER);
        assert_eq!(unusual_by_flags(0x0008_0000), 0);
    }
}
