//! What the restorer is told and what it reports.
//!
//! The host maps one region into the task, at an address that neither its old nor its new address
//! space uses, and lays it out so:
//!
//! ```text
//! region_start   the restorer's code                      read, execute
//!                a stack for each thread                  read, write
//!                Arguments, then its tables               read, write
//!                room for the vDSO while the rest goes    (moved over)
//! ```
//!
//! Every table is a [`Table`]: a place relative to [`Arguments`] and a count. So the host can
//! lay out the arguments before it knows where the region will be.
//!
//! Each thread ends by *parking*: it sends itself [`Arguments::park_signal`], the one signal that
//! is not blocked, and its tracer finds it stopped. A thread that cannot go on leaves its
//! [`ThreadProgress`] and runs into an illegal instruction, which the tracer sees likewise.

pub mod births;
mod rings;
mod steps;
mod table;
mod userfaults;

pub use rings::IssuedRing;
pub use steps::Step;
pub use table::Table;
pub use userfaults::{ASK, REGISTER, UserfaultCall};

use crate::plain::Plain;
use crate::task::{AltStack, SigAction, TimerValue};

macro_rules! plain {
    ($($type:ty),* $(,)?) => { $(
        // SAFETY: integers, arrays of them and `#[repr(C)]` structs of such, laid out without
        // padding (asserted below for the structs).
        unsafe impl Plain for $type {}
    )* };
}

plain!(
    u8,
    i32,
    u64,
    [u8; SIGINFO_BYTES],
    Mapping,
    Segment,
    Read,
    Advice,
    Special,
    Action,
    PosixTimer,
    LateDescriptor,
    Filter,
    AioRing,
    IssuedRing,
    UserfaultCall,
    Attachment,
    Piece
);
plain!(Limit, Thread, Arguments, MemoryPolicy, Keyed);

/// Bytes of the kernel's `siginfo_t`.
pub const SIGINFO_BYTES: usize = 128;

/// A mapping of the new address space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Where it is built already, in the spare addresses ([`Arguments::spare_start`]); 0 if it is not.
    pub spare: u64,
    /// File, or -1 for anonymous memory.
    pub fd: i32,
    /// `MAP_*`; 0 for what an [`Attachment`] has made.
    pub flags: u32,
    /// `PROT_*` while pages are put back.
    pub fill_protection: u32,
    /// `PROT_*` in the end.
    pub protection: u32,
    /// Whether it is locked into memory: a `LOCK_*`.
    pub locked: u32,
    /// 1 if nothing about it may be changed any more in the end (`mseal`).
    pub sealed: u32,
    /// 1 if it is of an io_uring's rings, which the kernel maps nowhere but where it would itself.
    pub ring: u32,
    /// Nothing.
    pub pad: u32,
}

/// [`Mapping::locked`]: all of it.
pub const LOCK_NOW: u32 = 1;
/// [`Mapping::locked`]: pages as they are touched.
pub const LOCK_ON_FAULT: u32 = 2;

/// A System V segment that is attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its id.
    pub id: u32,
    /// `SHM_*`.
    pub flags: u32,
    /// Its size in whole pages.
    pub bytes: u64,
    /// How many of the [`Piece`]s are of it.
    pub pieces: u64,
}

/// A part of an attached segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it goes.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Where it is in the segment.
    pub offset: u64,
}

/// An asynchronous I/O context. What its ring is to hold is read into memory at its place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AioRing {
    /// Where the ring is, which is what the process calls the context.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// How many requests it is made for.
    pub requests: u64,
}

/// The NUMA policy of a mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// `MPOL_*` with its flags.
    pub mode: u64,
    /// Nodes 0 to 63, one bit each.
    pub nodes: u64,
}

/// A mapping with a protection key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keyed {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// `PROT_*` in the end.
    pub protection: u32,
    /// Its key.
    pub key: u32,
}

/// `struct iovec`: a stretch of memory that one [`Read`] fills.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Stretches of memory that are filled by what lies in a row in a file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Pages file, or -1 to fill with zeros.
    pub fd: i32,
    /// Number of segments, at most 1,024.
    pub segments: u32,
    /// Index of the first segment.
    pub first: u64,
    /// Where in the file.
    pub offset: u64,
}

/// Advice on a stretch of memory (madvise(2)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// `MADV_*`.
    pub advice: u64,
}

/// A mapping of the kernel's own (vDSO and its data) that moves from the old to the new address
/// space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// Where it is.
    pub from: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Where it waits, from the start of the region.
    pub parked: u64,
    /// Where it goes.
    pub to: u64,
}

/// A signal's action.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Signal number.
    pub signal: u64,
    /// What it does.
    pub action: SigAction,
}

/// A POSIX timer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PosixTimer {
    /// Timer id.
    pub id: i32,
    /// Clock.
    pub clock: i32,
    /// Signal it sends.
    pub signal: i32,
    /// `SIGEV_*`.
    pub notify: i32,
    /// Value that comes with the signal.
    pub value: u64,
    /// Thread that gets the signal with `SIGEV_THREAD_ID`.
    pub thread: i32,
    /// Padding.
    pub pad: u32,
    /// Its setting.
    pub setting: TimerValue,
}

/// A resource limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u64,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// The kernel's `struct prctl_mm_map`; the executable's descriptor and the auxiliary vector are
/// filled in from [`Arguments`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the kernel's of that name")]
pub struct MmMap {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub auxv: u64,
    pub auxv_bytes: u32,
    pub exe_fd: i32,
}

/// A descriptor whose number was the restore's own until the end; another process keeps its file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LateDescriptor {
    /// Its number.
    pub number: i32,
    /// Its number in the process that keeps it.
    pub from: i32,
    /// Whether it closes at an exec.
    pub close_on_exec: u32,
    /// Padding.
    pub pad: u32,
}

/// A filter of system calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Its instructions (`struct sock_filter`).
    pub instructions: Table<u64>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

/// Credentials of a thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials {
    /// Real, effective, saved and file-system user.
    pub users: [u32; 4],
    /// Real, effective, saved and file-system group.
    pub groups: [u32; 4],
    /// Inheritable capabilities.
    pub inheritable: u64,
    /// Permitted capabilities.
    pub permitted: u64,
    /// Effective capabilities.
    pub effective: u64,
    /// Bounding set.
    pub bounding: u64,
    /// Ambient set.
    pub ambient: u64,
    /// Capabilities that this kernel knows.
    pub known: u64,
    /// `PR_SET_SECUREBITS`.
    pub securebits: u32,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: u32,
    /// Supplementary groups (`gid_t`, four bytes each).
    pub supplementary: Table<i32>,
    /// What of this the thread was born with, and does not set: [`BORN_WITH_GROUPS`], [`BORN_WITH_IDS`],
    /// [`BORN_WITHOUT_RIGHTS`].
    pub born_with: u64,
}

/// [`Credentials::born_with`]: its supplementary groups, of which it may set none.
pub const BORN_WITH_GROUPS: u64 = 1;
/// [`Credentials::born_with`]: its groups and users, as it was made by a leader that had the same.
pub const BORN_WITH_IDS: u64 = 2;
/// [`Credentials::born_with`]: its bounding set and secure bits, too, and no right to set any of this.
pub const BORN_WITHOUT_RIGHTS: u64 = 4;

/// The kernel's `struct sched_attr`, second version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the kernel's of that name")]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

/// What a thread has set for itself, beside its scheduling.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Nanoseconds by which a sleep may be late, 0 to leave it.
    pub timer_slack: u64,
    /// The same for what it makes, 0 to leave it.
    pub default_timer_slack: u64,
    /// Nodes of its NUMA policy.
    pub nodes: u64,
    /// Its NUMA policy: `MPOL_*` with its flags.
    pub memory_policy: u32,
    /// I/O priority, or [`UNSET`].
    pub io_priority: u32,
    /// `PR_MCE_KILL_*`, or [`UNSET`].
    pub memory_failure: u32,
    /// The kernel's `PFA_*` flags of `PR_SET_SPECULATION_CTRL`.
    pub speculation: u32,
    /// `personality`, or [`UNSET`].
    pub personality: u32,
    /// Nothing.
    pub pad: u32,
}

/// A setting that is left as it is.
pub const UNSET: u32 = u32::MAX;

/// How far a thread came.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadProgress {
    /// What it was doing: a [`Step`].
    pub step: u32,
    /// Error number of what failed, 0 when nothing did.
    pub error: i32,
    /// Which mapping, timer, signal … (its address or number).
    pub object: u64,
}

/// In [`Thread::processor`]: the instruction that identifies the processor is a
/// fault.
pub const IDENTIFICATION_FAULTS: u32 = 1;
/// In [`Thread::processor`]: reading the processor's clock is a fault.
pub const CLOCK_FAULTS: u32 = 2;
/// In [`Thread::processor`]: it has a part of the extended state in use that the kernel makes
/// room for when a thread first uses it, and lets a tracer set only then (`arch::settings`).
pub const NEEDS_ROOM: u32 = 4;

/// A thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Thread {
    /// Thread id.
    pub tid: i32,
    /// Signal it gets when its parent dies.
    pub parent_death_signal: i32,
    /// Where its stack ends, from the start of the region.
    pub stack: u64,
    /// Where the kernel writes 0 when it exits.
    pub clear_child_tid: u64,
    /// Robust futex list.
    pub robust_list: u64,
    /// Its length.
    pub robust_bytes: u64,
    /// Restartable-sequence area, 0 for none.
    pub rseq: u64,
    /// Its length.
    pub rseq_bytes: u32,
    /// Its signature.
    pub rseq_signature: u32,
    /// Alternate signal stack.
    pub alt_stack: AltStack,
    /// Name.
    pub name: [u8; 16],
    /// Scheduling; without a size it is left to who holds the tree.
    pub scheduling: SchedAttr,
    /// What else it has set.
    pub settings: Settings,
    /// What the processor is told of it: [`IDENTIFICATION_FAULTS`], [`CLOCK_FAULTS`], [`NEEDS_ROOM`].
    pub processor: u32,
    /// Whether it may only read, write, exit and return from signals (seccomp's strict mode).
    pub strict: u32,
    /// Its filters of system calls, the one first that was installed first.
    pub filters: Table<Filter>,
    /// Its numbers, from its own pid namespace to that of the tree's root, or as far as they may be chosen: `set_tid` of clone3(2).
    pub numbers: Table<i32>,
    /// Those further up, from that of the tree's root on, each asked of one of the [`Arguments::registrars`].
    pub asked: Table<i32>,
    /// Processors that it may run on, one bit each; empty to leave them as they are.
    pub affinity: Table<u8>,
    /// Credentials.
    pub credentials: Credentials,
    /// Signals pending for this thread alone.
    pub pending: Table<[u8; SIGINFO_BYTES]>,
    /// Out.
    pub report: ThreadProgress,
}

/// What the restorer is told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Arguments {
    /// Where the region starts.
    pub region_start: u64,
    /// Its length in bytes.
    pub region_bytes: u64,
    /// First address that user space cannot have.
    pub end_of_space: u64,
    /// Where the task has memory that it has built before it had children, or was born with.
    pub spare_start: u64,
    /// Its length in bytes, 0 if there is none.
    pub spare_bytes: u64,
    /// Restartable-sequence area of the old address space, 0 for none.
    pub old_rseq: u64,
    /// Its length.
    pub old_rseq_bytes: u32,
    /// Its signature.
    pub old_rseq_signature: u32,
    /// The vDSO and its data.
    pub specials: Table<Special>,
    /// The new address space.
    pub mappings: Table<Mapping>,
    /// System V segments.
    pub attachments: Table<Attachment>,
    /// The parts of them, of each in a row.
    pub attached: Table<Piece>,
    /// Where there is room for the largest of them.
    pub scratch: u64,
    /// Its contents.
    pub reads: Table<Read>,
    /// Where they go.
    pub segments: Table<Segment>,
    /// Asynchronous I/O contexts.
    pub rings: Table<AioRing>,
    /// io_urings to which one thread alone may submit.
    pub issued: Table<IssuedRing>,
    /// What userfaultfds are to be asked for and to serve.
    pub userfaults: Table<UserfaultCall>,
    /// What it was advised.
    pub advice: Table<Advice>,
    /// The NUMA policies of its mappings.
    pub policies: Table<MemoryPolicy>,
    /// The protection keys of its mappings.
    pub keyed: Table<Keyed>,
    /// Protection keys that are taken, one bit each, beside key 0.
    pub protection_keys: u32,
    /// Which of them is the kernel's, for code that may not be read; 0 for none.
    pub execute_only_key: u32,
    /// The other fields of the address space.
    pub mm: MmMap,
    /// Auxiliary vector.
    pub auxv: Table<u64>,
    /// Signal actions.
    pub actions: Table<Action>,
    /// Interval timers: real, virtual, profiling.
    pub interval_timers: [TimerValue; 3],
    /// POSIX timers.
    pub timers: Table<PosixTimer>,
    /// Signals pending for the process.
    pub pending: Table<[u8; SIGINFO_BYTES]>,
    /// Resource limits.
    pub limits: Table<Limit>,
    /// Threads, the leader first.
    pub threads: Table<Thread>,
    /// Process id.
    pub pid: i32,
    /// Descriptors from this one on are closed.
    pub close_from: i32,
    /// The signal to park by.
    pub park_signal: i32,
    /// `PR_SET_DUMPABLE`, or -1 to leave it.
    pub dumpable: i32,
    /// `personality`.
    pub personality: u32,
    /// Whether orphans below it become its children.
    pub child_subreaper: u32,
    /// Whether transparent huge pages are off, as `PR_GET_THP_DISABLE` gives it.
    pub thp_disable: u32,
    /// The `MEMBARRIER_CMD_REGISTER_*` it made.
    pub membarrier: u32,
    /// Threads that have given their credentials away (a futex).
    pub settled: u32,
    /// The next of the [`Arguments::reads`] that nobody has taken up yet.
    pub next_read: u32,
    /// Number of a thread that helps to read pages and ends; 0 for none.
    pub helper: i32,
    /// Not 0 while the helper is there (a futex).
    pub helping: u32,
    /// Error number of what the helper could not read.
    pub helper_error: u32,
    /// `MCL_*` of mappings to come.
    pub future_locks: u32,
    /// `PR_SET_MDWE`.
    pub deny_write_execute: u32,
    /// Whether its memory is merged (`PR_SET_MEMORY_MERGE`).
    pub merge_memory: u32,
    /// Descriptor (pidfd) of the process that keeps the late descriptors; -1 for none.
    pub late_from: i32,
    /// Descriptor (eventfd) by which those wait for each other who have the same descriptors; -1 for none.
    pub turns: i32,
    /// How many others the one who closes the restore's own descriptors waits for; 0 for one of the others.
    pub others: u32,
    /// How many of their first filters all threads have in common, as they had them before they were made.
    pub common_filters: u32,
    /// The late descriptors.
    pub late: Table<LateDescriptor>,
    /// The numbers of the helper, as [`Thread::numbers`].
    pub helper_numbers: Table<i32>,
    /// Where the helper's stack ends, from the start of the region.
    pub helper_stack: u64,
    /// Components of the processor's extended state to ask for, as a mask.
    pub components: u64,
    /// Descriptor of the user namespace to enter, -1 for none. With several threads the leader enters it before it makes the others.
    pub user_namespace: i32,
    /// Descriptor (eventfd) by which those take turns who ask registrars; -1 if it asks none.
    pub registrars_turn: i32,
    /// Descriptors (sockets) of those that it asks for the numbers of its threads ([`births`]).
    pub registrars: Table<i32>,
    /// Descriptors of the restore's own that are not closed with the others, in rising order.
    pub kept: Table<i32>,
    /// Where the arguments of the process are whose memory this one has as well, 0 for none.
    pub lender: u64,
    /// Where those of the next process are that has the same memory, 0 for none. From the lender on, all are in this chain.
    pub next_sharer: u64,
    /// Bytes from the start of the region on that stay when the old address space goes: the regions of all who have the same memory.
    pub kept_bytes: u64,
    /// Not 0 when a process that has another's memory runs in its region (a futex).
    pub there: u32,
    /// Not 0 when the memory is in place that it has as well (a futex).
    pub ready: u32,
    /// Threads of other processes that have this one's memory: their credentials are waited for, too.
    pub sharing_threads: u32,
    /// 1 if it is a task of 32-bit code: calls that note whose code has made them are made as such code makes them. The region is
    /// below 4 GiB then, and its vDSO, of which no [`Special::from`] is told, is made where it waits.
    pub compat: u32,
    /// Where that is, from the start of the region.
    pub vdso_parked: u64,
    /// Bytes of it, data and code.
    pub vdso_bytes: u64,
}

// No padding: the sizes are the sums of the fields'.
const _: () = {
    assert!(size_of::<Mapping>() == 4 * 8 + 8 * 4);
    assert!(size_of::<Read>() == 24);
    assert!(size_of::<Action>() == 40);
    assert!(size_of::<PosixTimer>() == 4 * 4 + 8 + 8 + 32);
    assert!(size_of::<MmMap>() == 12 * 8 + 8);
    assert!(size_of::<Credentials>() == 32 + 6 * 8 + 8 + 16 + 8);
    assert!(size_of::<SchedAttr>() == 56 && size_of::<Settings>() == 48);
    assert!(size_of::<Thread>() == 8 + 5 * 8 + 8 + 24 + 16 + 56 + 48 + 8 + 4 * 16 + 112 + 16 + 16);
    assert!(size_of::<Arguments>() == 56 + 13 * 16 + 8 + 8 + 104 + 32 + 96 + 5 * 16 + 96 + 40 + 56);
    assert!(size_of::<Keyed>() == 24 && size_of::<AioRing>() == 24);
    assert!(size_of::<IssuedRing>() == 24 + 12 * 4 + 2 * 16);
    assert!(size_of::<UserfaultCall>() == 32);
    assert!(size_of::<Attachment>() == 24 && size_of::<Piece>() == 24);
    assert!(size_of::<LateDescriptor>() == 16 && size_of::<Filter>() == 24);
};
