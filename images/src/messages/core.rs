//! `core-TID.img`: a thread, and in the leader's also what belongs to the process.

use prost::Message;

use super::signals::{SaEntry, SignalQueueEntry};
use super::task::{CredsEntry, TaskKobjIdsEntry};
use super::timers::TaskTimersEntry;
use super::x86::ThreadInfoX86;

/// [`CoreEntry::mtype`]: unknown.
pub const MARCH_UNKNOWN: u32 = 0;
/// [`CoreEntry::mtype`]: x86_64, 32-bit tasks included.
pub const MARCH_X86_64: u32 = 1;
/// [`CoreEntry::mtype`]: 32-bit Arm.
pub const MARCH_ARM: u32 = 2;
/// [`CoreEntry::mtype`]: 64-bit Arm.
pub const MARCH_AARCH64: u32 = 3;
/// [`CoreEntry::mtype`]: 64-bit PowerPC.
pub const MARCH_PPC64: u32 = 4;
/// [`CoreEntry::mtype`]: S/390.
pub const MARCH_S390: u32 = 5;
/// [`CoreEntry::mtype`]: MIPS.
pub const MARCH_MIPS: u32 = 6;
/// [`CoreEntry::mtype`]: LoongArch64.
pub const MARCH_LOONGARCH64: u32 = 7;
/// [`CoreEntry::mtype`]: 64-bit RISC-V.
pub const MARCH_RISCV64: u32 = 8;

/// [`TaskCoreEntry::task_state`]: running, or asleep.
pub const TASK_ALIVE: u32 = 1;
/// [`TaskCoreEntry::task_state`]: ended, not yet waited for.
pub const TASK_DEAD: u32 = 2;
/// [`TaskCoreEntry::task_state`]: stopped by a signal.
pub const TASK_STOPPED: u32 = 3;
/// Ours: a process that runs, and that another of the tree traces ([`TracedEntry`]). CRIU knows no such state and restores none.
pub const TASK_TRACED: u32 = 1000;

/// [`ThreadCoreEntry::seccomp_mode`]: off.
pub const SECCOMP_MODE_DISABLED: u32 = 0;
/// [`ThreadCoreEntry::seccomp_mode`]: read, write, exit and sigreturn only.
pub const SECCOMP_MODE_STRICT: u32 = 1;
/// [`ThreadCoreEntry::seccomp_mode`]: filters.
pub const SECCOMP_MODE_FILTER: u32 = 2;

/// A thread. `tc` is in the leader's image only; `ids` too (also in `ids-PID.img`).
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CoreEntry {
    /// Processor (`MARCH_*`).
    #[prost(uint32, required, tag = "1")]
    pub mtype: u32,
    /// Registers on x86_64.
    #[prost(message, optional, tag = "2")]
    pub thread_info: Option<ThreadInfoX86>,
    /// Registers on 32-bit Arm, undecoded.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub ti_arm: Option<Vec<u8>>,
    /// Registers on 64-bit Arm, undecoded.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub ti_aarch64: Option<Vec<u8>>,
    /// Registers on PowerPC, undecoded.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub ti_ppc64: Option<Vec<u8>>,
    /// Registers on S/390, undecoded.
    #[prost(bytes = "vec", optional, tag = "10")]
    pub ti_s390: Option<Vec<u8>>,
    /// Registers on MIPS, undecoded.
    #[prost(bytes = "vec", optional, tag = "11")]
    pub ti_mips: Option<Vec<u8>>,
    /// Registers on LoongArch, undecoded.
    #[prost(bytes = "vec", optional, tag = "12")]
    pub ti_loongarch64: Option<Vec<u8>>,
    /// Registers on RISC-V, undecoded.
    #[prost(bytes = "vec", optional, tag = "13")]
    pub ti_riscv64: Option<Vec<u8>>,
    /// What belongs to the process; in the leader's image.
    #[prost(message, optional, tag = "3")]
    pub tc: Option<TaskCoreEntry>,
    /// Kernel objects of the process (older images; now in `ids-PID.img`).
    #[prost(message, optional, tag = "4")]
    pub ids: Option<TaskKobjIdsEntry>,
    /// What belongs to the thread; absent for a zombie.
    #[prost(message, optional, tag = "5")]
    pub thread_core: Option<ThreadCoreEntry>,
    /// Extension: its numbers in pid namespaces below that of the tree's root, if it is in one.
    #[prost(message, optional, tag = "1000")]
    pub nested: Option<NestedPidsEntry>,
}

/// Extension: the numbers of a thread in the pid namespaces below that of the tree's root, from there down to its own. In the
/// other images it has that of the root's namespace.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct NestedPidsEntry {
    /// Its own.
    #[prost(uint32, repeated, tag = "1")]
    pub pids: Vec<u32>,
    /// Those of its process group, 0 where it is not seen; in the leader's image.
    #[prost(uint32, repeated, tag = "2")]
    pub groups: Vec<u32>,
    /// Those of its session, 0 where it is not seen; in the leader's image.
    #[prost(uint32, repeated, tag = "3")]
    pub sessions: Vec<u32>,
    /// The number of its pid namespace, as in [`TaskKobjIdsEntry::pid_ns_id`]; in the leader's image.
    #[prost(uint32, optional, tag = "4")]
    pub namespace: Option<u32>,
}

impl CoreEntry {
    /// Whether there are registers; `true` where they are another processor's, and not looked at.
    #[must_use]
    pub const fn has_registers(&self) -> bool {
        self.mtype != MARCH_X86_64 || self.thread_info.is_some()
    }
}

/// What belongs to the whole process.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TaskCoreEntry {
    /// Whether it runs (`TASK_*`).
    #[prost(uint32, required, tag = "1")]
    pub task_state: u32,
    /// A zombie's wait status; 0 for others.
    #[prost(uint32, required, tag = "2")]
    pub exit_code: u32,
    /// `personality()`.
    #[prost(uint32, required, tag = "3")]
    pub personality: u32,
    /// The kernel's `PF_*` flags, for information.
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    /// The leader's blocked signals, signal 1 in bit 0.
    #[prost(uint64, required, tag = "5")]
    pub blk_sigset: u64,
    /// Name, up to 15 bytes.
    #[prost(bytes = "vec", required, tag = "6")]
    pub comm: Vec<u8>,
    /// Interval and POSIX timers.
    #[prost(message, optional, tag = "7")]
    pub timers: Option<TaskTimersEntry>,
    /// Resource limits.
    #[prost(message, optional, tag = "8")]
    pub rlimits: Option<TaskRlimitsEntry>,
    /// Control groups (now a thread's).
    #[prost(uint32, optional, tag = "9")]
    pub cg_set: Option<u32>,
    /// Signals pending for the process.
    #[prost(message, optional, tag = "10")]
    pub signals_s: Option<SignalQueueEntry>,
    /// Now a thread's.
    #[prost(uint32, optional, tag = "11")]
    pub old_seccomp_mode: Option<u32>,
    /// Now a thread's.
    #[prost(uint32, optional, tag = "12")]
    pub old_seccomp_filter: Option<u32>,
    /// Audit's login user; `u32::MAX` for none.
    #[prost(uint32, optional, tag = "13")]
    pub loginuid: Option<u32>,
    /// /proc/PID/oom_score_adj.
    #[prost(int32, optional, tag = "14")]
    pub oom_score_adj: Option<i32>,
    /// Handlers of signals 1 to 64 without 9 and 19.
    #[prost(message, repeated, tag = "15")]
    pub sigactions: Vec<SaEntry>,
    /// `PR_GET_CHILD_SUBREAPER`.
    #[prost(bool, optional, tag = "18")]
    pub child_subreaper: Option<bool>,
    /// Blocked signals from 65 (MIPS).
    #[prost(uint64, optional, tag = "20")]
    pub blk_sigset_extended: Option<u64>,
    /// The signal that stopped it.
    #[prost(uint32, optional, tag = "21")]
    pub stop_signo: Option<u32>,
    /// `MEMBARRIER_CMD_GET_REGISTRATIONS`.
    #[prost(uint32, optional, tag = "22")]
    pub membarrier_registration_mask: Option<u32>,
    /// Extension: /proc/PID/coredump_filter.
    #[prost(uint32, optional, tag = "1010")]
    pub core_dump_filter: Option<u32>,
    /// Extension: nice value of the session's scheduling group (/proc/PID/autogroup).
    #[prost(sint32, optional, tag = "1011")]
    pub autogroup_nice: Option<i32>,
    /// Extension: it is in a session keyring of its own, which is empty.
    #[prost(bool, optional, tag = "1012")]
    pub empty_session_keyring: Option<bool>,
    /// Extension: it is stopped, and its parent has been told.
    #[prost(bool, optional, tag = "1013")]
    pub stop_told: Option<bool>,
    /// Extension: it is in a session keyring that holds keys.
    #[prost(message, optional, tag = "1014")]
    pub session_keyring: Option<SessionKeyringEntry>,
    /// Extension: the terminal that controls its session does not control it (`TIOCNOTTY`).
    #[prost(bool, optional, tag = "1040")]
    pub without_terminal: Option<bool>,
}

/// Extension: a session keyring without a name, and its keys.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SessionKeyringEntry {
    /// Its number when it was dumped, to be compared with others.
    #[prost(int32, required, tag = "1")]
    pub serial: i32,
    /// Owner.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// Who may do what, as `KEYCTL_SETPERM` takes it.
    #[prost(fixed32, required, tag = "4")]
    pub permissions: u32,
    /// In the order of their making.
    #[prost(message, repeated, tag = "5")]
    pub keys: Vec<KeyEntry>,
}

/// Extension: a key whose payload is bytes.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct KeyEntry {
    /// Its type: `user` or `logon`.
    #[prost(string, required, tag = "1")]
    pub kind: String,
    /// What it is found by.
    #[prost(bytes = "vec", required, tag = "2")]
    pub description: Vec<u8>,
    /// Its content.
    #[prost(bytes = "vec", required, tag = "3")]
    pub payload: Vec<u8>,
    /// Owner.
    #[prost(uint32, required, tag = "4")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "5")]
    pub gid: u32,
    /// Who may do what, as `KEYCTL_SETPERM` takes it.
    #[prost(fixed32, required, tag = "6")]
    pub permissions: u32,
}

/// What belongs to one thread, registers aside.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ThreadCoreEntry {
    /// Address of the robust futex list's head.
    #[prost(uint64, required, tag = "1")]
    pub futex_rla: u64,
    /// Size of that head.
    #[prost(uint32, required, tag = "2")]
    pub futex_rla_len: u32,
    /// Nice value.
    #[prost(sint32, optional, tag = "3")]
    pub sched_nice: Option<i32>,
    /// `SCHED_*`.
    #[prost(uint32, optional, tag = "4")]
    pub sched_policy: Option<u32>,
    /// Real-time priority.
    #[prost(uint32, optional, tag = "5")]
    pub sched_prio: Option<u32>,
    /// Blocked signals, signal 1 in bit 0.
    #[prost(uint64, optional, tag = "6")]
    pub blk_sigset: Option<u64>,
    /// Alternate signal stack.
    #[prost(message, optional, tag = "7")]
    pub sas: Option<ThreadSasEntry>,
    /// Signal on the parent's death.
    #[prost(uint32, optional, tag = "8")]
    pub pdeath_sig: Option<u32>,
    /// Signals pending for the thread.
    #[prost(message, optional, tag = "9")]
    pub signals_p: Option<SignalQueueEntry>,
    /// Credentials. CRIU does without in no thread.
    #[prost(message, optional, tag = "10")]
    pub creds: Option<CredsEntry>,
    /// `SECCOMP_MODE_*`.
    #[prost(uint32, optional, tag = "11")]
    pub seccomp_mode: Option<u32>,
    /// The last filter's number in `seccomp.img`.
    #[prost(uint32, optional, tag = "12")]
    pub seccomp_filter: Option<u32>,
    /// Name, up to 15 bytes.
    #[prost(bytes = "vec", optional, tag = "13")]
    pub comm: Option<Vec<u8>>,
    /// Blocked signals from 65 (MIPS).
    #[prost(uint64, optional, tag = "14")]
    pub blk_sigset_extended: Option<u64>,
    /// Restartable sequences.
    #[prost(message, optional, tag = "15")]
    pub rseq_entry: Option<RseqEntry>,
    /// Control groups, a [`CgSetEntry`](super::CgSetEntry).
    #[prost(uint32, optional, tag = "16")]
    pub cg_set: Option<u32>,
    /// Extension: processors that the thread may run on, one bit each, as `sched_getaffinity`
    /// gives them. CRIU does not carry them, and passes over the field.
    #[prost(bytes = "vec", optional, tag = "1001")]
    pub cpu_affinity: Option<Vec<u8>>,
    /// Extension: I/O priority as `ioprio_get` gives it.
    #[prost(uint32, optional, tag = "1010")]
    pub io_priority: Option<u32>,
    /// Extension: nanoseconds by which a sleep may be late.
    #[prost(uint64, optional, tag = "1011")]
    pub timer_slack: Option<u64>,
    /// Extension: the same for tasks that it makes.
    #[prost(uint64, optional, tag = "1012")]
    pub default_timer_slack: Option<u64>,
    /// Extension: NUMA policy; absent for the default one.
    #[prost(message, optional, tag = "1013")]
    pub memory_policy: Option<MemoryPolicyEntry>,
    /// Extension: what is to happen when its memory fails (`PR_MCE_KILL_*`).
    #[prost(uint32, optional, tag = "1014")]
    pub memory_failure: Option<u32>,
    /// Extension: the kernel's `PFA_*` flags of `PR_SET_SPECULATION_CTRL`.
    #[prost(uint64, optional, tag = "1015")]
    pub speculation: Option<u64>,
    /// Extension: scheduling beyond policy, priority and nice value.
    #[prost(message, optional, tag = "1016")]
    pub scheduling: Option<SchedulingEntry>,
    /// Extension: `personality` of a thread other than its process's leader, and the leader's if it is not 0.
    #[prost(uint32, optional, tag = "1017")]
    pub personality: Option<u32>,
    /// Extension: what the end of the thread undoes in sets of System V semaphores (`SEM_UNDO`). Threads of a process
    /// have that in common: it is with one of them.
    #[prost(message, repeated, tag = "1018")]
    pub semaphore_undo: Vec<SemaphoreUndoEntry>,
    /// Extension: the thread has that for itself, and not in common with others (`unshare` with `CLONE_SYSVSEM`).
    #[prost(bool, optional, tag = "1019")]
    pub own_semaphore_undo: Option<bool>,
    /// Extension: it stands in a stop of the thread that traces it. Its process has the state [`TASK_TRACED`].
    #[prost(message, optional, tag = "1020")]
    pub traced: Option<TracedEntry>,
}

/// Extension: how a thread is traced (ptrace). It stands in a stop for a signal, of which its tracer has been told.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TracedEntry {
    /// The thread that traces it.
    #[prost(uint32, required, tag = "1")]
    pub tracer: u32,
    /// It was seized (`PTRACE_SEIZE`), and not attached to.
    #[prost(bool, required, tag = "2")]
    pub seized: bool,
    /// `PTRACE_O_*`.
    #[prost(uint32, required, tag = "3")]
    pub options: u32,
    /// The `siginfo_t` of the signal.
    #[prost(bytes = "vec", required, tag = "4")]
    pub signal: Vec<u8>,
    /// Debug registers in the order of `arch::trace::DEBUG_REGISTERS`; none if they are as those of a new thread.
    #[prost(uint64, repeated, packed = "false", tag = "5")]
    pub debug_registers: Vec<u64>,
}

/// Extension: what is to be undone in a set of System V semaphores.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SemaphoreUndoEntry {
    /// The set's id.
    #[prost(uint32, required, tag = "1")]
    pub set: u32,
    /// Its key, 0 for none.
    #[prost(uint32, required, tag = "2")]
    pub key: u32,
    /// How many semaphores it has.
    #[prost(uint32, required, tag = "3")]
    pub semaphores: u32,
    /// The machine's boot: in the same one the kernel gives no id to two.
    #[prost(fixed64, optional, tag = "4")]
    pub boot: Option<u64>,
    /// What is added to which.
    #[prost(message, repeated, tag = "5")]
    pub adjustments: Vec<SemaphoreAdjustmentEntry>,
}

/// Extension: what the end of a thread adds to a semaphore.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct SemaphoreAdjustmentEntry {
    /// The semaphore, from 0.
    #[prost(uint32, required, tag = "1")]
    pub semaphore: u32,
    /// What is added, which is not 0.
    #[prost(sint32, required, tag = "2")]
    pub by: i32,
}

/// Extension: a NUMA policy, as `set_mempolicy` takes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MemoryPolicyEntry {
    /// `MPOL_*` with its flags.
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    /// Nodes 0 to 63, one bit each.
    #[prost(uint64, required, tag = "2")]
    pub nodes: u64,
}

/// Extension: `struct sched_attr`, as far as there is no other field for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct SchedulingEntry {
    /// `SCHED_*`; that of [`ThreadCoreEntry`] is 0 for what CRIU cannot set.
    #[prost(uint32, required, tag = "1")]
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    #[prost(uint64, required, tag = "2")]
    pub flags: u64,
    /// Nanoseconds in a period, or of a slice.
    #[prost(uint64, required, tag = "3")]
    pub runtime: u64,
    /// Nanoseconds.
    #[prost(uint64, required, tag = "4")]
    pub deadline: u64,
    /// Nanoseconds.
    #[prost(uint64, required, tag = "5")]
    pub period: u64,
    /// Least clock, in 1/1024.
    #[prost(uint32, required, tag = "6")]
    pub utilization_min: u32,
    /// Highest clock, in 1/1024.
    #[prost(uint32, required, tag = "7")]
    pub utilization_max: u32,
}

/// The alternate signal stack, as `sigaltstack` gives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ThreadSasEntry {
    /// Its lowest address.
    #[prost(uint64, required, tag = "1")]
    pub ss_sp: u64,
    /// Its size.
    #[prost(uint64, required, tag = "2")]
    pub ss_size: u64,
    /// `SS_*`: 2 when there is none.
    #[prost(uint32, required, tag = "3")]
    pub ss_flags: u32,
}

/// The registered restartable-sequence area.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct RseqEntry {
    /// Its address.
    #[prost(uint64, required, tag = "1")]
    pub rseq_abi_pointer: u64,
    /// Its size.
    #[prost(uint32, required, tag = "2")]
    pub rseq_abi_size: u32,
    /// The word before abort handlers.
    #[prost(uint32, required, tag = "3")]
    pub signature: u32,
    /// The critical section that was interrupted and is to be put back.
    #[prost(uint64, optional, tag = "4")]
    pub rseq_cs_pointer: Option<u64>,
}

/// Resource limits; the index in the list is the number of the resource (`RLIMIT_*`).
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TaskRlimitsEntry {
    /// Limits, by number.
    #[prost(message, repeated, tag = "1")]
    pub rlimits: Vec<RlimitEntry>,
}

/// A resource limit. `u64::MAX` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct RlimitEntry {
    /// Soft limit.
    #[prost(uint64, required, tag = "1")]
    pub cur: u64,
    /// Hard limit.
    #[prost(uint64, required, tag = "2")]
    pub max: u64,
}
