//! The records that the eBPF programs emit, and the table of structure offsets that they need: what
//! the two sides share.
//!
//! An iterator's output is a plain sequence of records. Each starts with a [`Header`] that gives its
//! kind and its whole size, a path that follows it included, so that a reader can pass over kinds
//! that it does not know.
#![no_std]

pub mod asked;
mod files;
mod keys;
mod mqueue;
pub mod offsets;
mod rings;
mod terminals;
pub mod track;
mod undo;
mod userfaults;
mod waiting;

pub use files::{FileRecord, HeldRecord, HoldersRecord, beside, peculiar};
pub use keys::{KEY_DESCRIPTION_BYTES, KEY_PAYLOAD_BYTES, KeyHead, KeyRecord, KeyringRecord};
pub use mqueue::{
    CURSOR_WORDS, MessageQueueRecord, MessageRecord, PAGE_BYTES, QueueCursor, cursor,
};
pub use rings::{REGISTERED_FILES, RegisteredFile, RequestsRecord, RingRecord, ring};
pub use terminals::{InputState, QueueRecord, TerminalModes, TerminalRecord, TerminalState, queue};
pub use undo::{UNDO_SEMAPHORES, UndoHead, UndoRecord};
pub use userfaults::{ServedRecord, USERFAULT_STARTED, UserfaultRecord};
pub use waiting::{
    ListenerRecord, NESTED, PAGE_FACTOR, PAGE_STRUCTURE, PAGES, PAGES_STEP, PacketRecord,
    WaitingCursor, WaitingRecord, unaccepted,
};

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What every record starts with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Header {
    /// One of the `KIND_*`.
    pub kind: u32,
    /// Bytes of the record with all that belongs to it.
    pub bytes: u32,
}

/// A [`TaskRecord`].
pub const KIND_TASK: u32 = 1;
/// A [`SignalActionsRecord`].
pub const KIND_SIGNAL_ACTIONS: u32 = 2;
/// A [`FileRecord`], with its name.
pub const KIND_FILE: u32 = 3;
/// A [`VmaRecord`], with its name.
pub const KIND_VMA: u32 = 4;
/// A [`PlaceRecord`], with its name.
pub const KIND_PLACE: u32 = 5;
/// A [`HoldersRecord`].
pub const KIND_HOLDERS: u32 = 6;
/// A [`HeldRecord`].
pub const KIND_HELD: u32 = 7;
/// A [`PolicyRecord`], behind the [`VmaRecord`] that it is about.
pub const KIND_POLICY: u32 = 8;
/// A [`TerminalRecord`], behind the [`FileRecord`] of a descriptor of a terminal.
pub const KIND_TERMINAL: u32 = 9;
/// An [`InputState`], behind the [`TerminalRecord`] that it is about, before and behind its
/// [`QueueRecord`]s.
pub const KIND_INPUT: u32 = 10;
/// A [`QueueRecord`].
pub const KIND_QUEUE: u32 = 11;

/// An [`AioRecord`].
pub const KIND_AIO: u32 = 12;
/// A [`RingRecord`], then its [`RegisteredFile`]s.
pub const KIND_RING: u32 = 13;
/// A [`RequestsRecord`].
pub const KIND_REQUESTS: u32 = 14;
/// An [`UndoRecord`].
pub const KIND_UNDO: u32 = 15;
/// A [`MessageQueueRecord`].
pub const KIND_MESSAGE_QUEUE: u32 = 16;
/// A [`MessageRecord`].
pub const KIND_MESSAGE: u32 = 17;
/// A piece of the message before: its bytes follow.
pub const KIND_PIECE: u32 = 18;
/// A [`UserfaultRecord`].
pub const KIND_USERFAULT: u32 = 19;
/// A [`ServedRecord`].
pub const KIND_SERVED: u32 = 20;
/// A [`KeyringRecord`].
pub const KIND_KEYRING: u32 = 21;
/// A [`KeyRecord`], of the keyring before.
pub const KIND_KEY: u32 = 22;
/// A [`ListenerRecord`].
pub const KIND_LISTENER: u32 = 23;
/// A [`WaitingRecord`].
pub const KIND_WAITING: u32 = 24;
/// A [`PacketRecord`]; pieces of its bytes follow.
pub const KIND_PACKET: u32 = 25;

/// Number of namespaces that a [`TaskRecord`] names.
pub const NAMESPACES: usize = 10;

/// One thread. It is written in pieces, as the program's stack has no room for the whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TaskRecord {
    /// Who it is.
    pub ids: TaskIds,
    /// Its signals.
    pub signals: TaskSignals,
    /// What it refers to.
    pub places: TaskPlaces,
    /// Fingerprints of what it would be slow to write out.
    pub marks: TaskMarks,
    /// What the processor keeps of it.
    pub processor: TaskProcessor,
    /// What it has set that few tasks set.
    pub settings: TaskSettings,
}

/// Who a thread is. All ids are those of the initial pid namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TaskIds {
    /// The header of the whole record.
    pub header: Header,
    /// Thread id.
    pub tid: i32,
    /// Thread group id.
    pub tgid: i32,
    /// Thread group id of the parent.
    pub ppid: i32,
    /// Process group id.
    pub pgid: i32,
    /// Session id.
    pub sid: i32,
    /// Threads in the group.
    pub threads: i32,
    /// `PF_*` flags.
    pub flags: u32,
    /// `__state`.
    pub state: u32,
    /// `exit_state`.
    pub exit_state: u32,
    /// The thread's own exit code.
    pub exit_code: i32,
    /// The group's exit code.
    pub group_exit_code: i32,
    /// `SIGNAL_*` flags of the group.
    pub signal_flags: u32,
    /// Start, in nanoseconds since boot.
    pub start_boottime: u64,
    /// The terminal that controls the process, in the kernel's encoding of devices; 0 for none.
    pub terminal: u32,
    /// The process group in the foreground of that terminal.
    pub foreground: i32,
    /// Name.
    pub comm: [u8; 16],
}

/// A thread's signals.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TaskSignals {
    /// Blocked signals.
    pub blocked: u64,
    /// Signals pending for the thread.
    pub pending: u64,
    /// Signals pending for the group.
    pub shared_pending: u64,
    /// Alternate signal stack: lowest address.
    pub alt_stack_start: u64,
    /// Alternate signal stack: bytes.
    pub alt_stack_bytes: u64,
    /// Alternate signal stack: flags.
    pub alt_stack_flags: u32,
    /// Signal at the death of the parent.
    pub parent_death_signal: i32,
    /// Where 0 is written at exit.
    pub clear_child_tid: u64,
    /// Head of the list of robust futexes.
    pub robust_list: u64,
    /// The same of 32-bit code's list.
    pub compat_robust_list: u64,
    /// Restartable sequences: address.
    pub rseq: u64,
    /// Restartable sequences: bytes, 0 for none.
    pub rseq_bytes: u32,
    /// Restartable sequences: signature.
    pub rseq_signature: u32,
    /// Address of the kernel's function that continues the wait that was interrupted last.
    pub continues: u64,
}

/// Tables that threads may share: address space, descriptors, root and directories, signal handlers.
pub const TABLES: usize = 4;

/// What a thread refers to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TaskPlaces {
    /// Address of the address space, 0 for none: equal ones are the same.
    pub memory: u64,
    /// Address of the descriptor table.
    pub files: u64,
    /// Address of root, working directory and umask.
    pub file_system: u64,
    /// Address of the signal handlers.
    pub signal_handlers: u64,
    /// First address of the heap.
    pub heap_start: u64,
    /// Its end, the program break.
    pub heap_end: u64,
    /// An address in the initial stack.
    pub stack_start: u64,
    /// How many references there are to address space, descriptor table, root and signal handlers; 0 if
    /// that is not known.
    pub users: [u32; TABLES],
    /// Namespaces, in the order of `/proc/PID/ns`; 0 for none.
    pub namespaces: [u32; NAMESPACES],
}

/// Fingerprints: equal ones of the same thread, read at different times, mean that nothing of what
/// they cover has changed between; 0 means that the program could not tell. What each covers is listed beside
/// the code that computes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TaskMarks {
    /// Of the thread: credentials, scheduling, seccomp, umask.
    pub thread: u64,
    /// Of its process, in the leader's record only: limits, places in memory, auxiliary vector.
    pub process: u64,
    /// Of its address space's mappings, in the leader's record only: of the kernel's own count of
    /// changes. 0 while somebody is changing them, too.
    pub mappings: u64,
    /// Nanoseconds by which a sleep may be late.
    pub timer_slack: u64,
    /// `SECBIT_*`.
    pub securebits: u32,
    /// The low word of the address space's `MMF_*` flags.
    pub memory_flags: u32,
    /// 1 if orphans below become its children.
    pub child_subreaper: u32,
    /// 1 if a POSIX or interval timer of the process exists or is set.
    pub timers: u32,
    /// The address space's `MEMBARRIER_STATE_*` flags.
    pub membarrier: u32,
    /// 1 if the thread has had the kernel work for it without calls (io_uring).
    pub asynchronous: u32,
}

/// What the processor keeps of a thread; 0 for what this kernel or this processor lacks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TaskProcessor {
    /// Components of the extended state that the process may use. Counts in the leader's record.
    pub permitted: u64,
    /// `thread_info.flags`, whose bits have other meanings from kernel to kernel.
    pub flags: u64,
    /// Bytes of extended state in the thread's signal frames.
    pub extended_bytes: u32,
    /// 1 if the thread may use ports that it asked for (`ioperm`).
    pub ports: u32,
    /// The level of `iopl`.
    pub port_level: u32,
    /// 1 if the process has made descriptors of its own (`modify_ldt`).
    pub local_descriptors: u32,
    /// The processor's flags of the address space.
    pub space_flags: u64,
    /// 1 if the thread has segments for its thread-local storage (`set_thread_area`).
    pub segments: u32,
    /// Nothing.
    pub pad: u32,
}

/// Words of a task's security modules that a record carries: the first ones of `cred.security`.
pub const SECURITY_WORDS: usize = 4;

/// What a thread has set that few tasks set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct TaskSettings {
    /// What security modules keep of it.
    pub security: [u64; SECURITY_WORDS],
    /// What a new thread of it starts with as [`TaskMarks::timer_slack`].
    pub default_timer_slack: u64,
    /// The `PFA_*` flags.
    pub atomic_flags: u64,
    /// The `VM_*` flags of mappings to come, in the leader's record only.
    pub default_memory_flags: u64,
    /// Where mappings without an address of their own are put, from there downwards, in the leader's
    /// record only.
    pub mapping_base: u64,
    /// The same for calls of 32-bit code.
    pub compat_mapping_base: u64,
    /// Its NUMA policy.
    pub policy: MemoryPolicy,
    /// Bits of [`unusual`].
    pub unusual: u32,
    /// `IOPRIO_PRIO_VALUE`.
    pub io_priority: u32,
    /// The signal that its parent gets at its end.
    pub exit_signal: i32,
    /// Nice value of the session's scheduling group, in the leader's record only.
    pub autogroup_nice: i32,
    /// As `personality` has it.
    pub personality: u32,
    /// How it is traced: the kernel's `PT_*` flags, 0 if it is not.
    pub traced: u32,
    /// Nothing.
    pub reserved: u32,
    /// Protection keys that its address space has taken, one bit each, in the leader's record only.
    pub protection_keys: u16,
    /// Which of these the kernel has taken for code that may not be read, -1 for none, in the leader's
    /// record only.
    pub execute_only_key: i16,
}

/// A NUMA policy, of a task or of a mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct MemoryPolicy {
    /// Nodes 0 to 63, one bit each, as the program gave them.
    pub nodes: u64,
    /// `MPOL_*`, 0 for none.
    pub mode: u16,
    /// `MPOL_F_*`.
    pub flags: u16,
    /// 1 if it names nodes that have no bit here, or a home node.
    pub wide: u32,
}

/// The NUMA policy of a mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct PolicyRecord {
    /// The header.
    pub header: Header,
    /// The mapping's first address.
    pub start: u64,
    /// The policy.
    pub policy: MemoryPolicy,
}

/// A mapping of the ring of an asynchronous I/O context, with the context.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct AioRecord {
    /// The header.
    pub header: Header,
    /// The mapping's first address.
    pub start: u64,
    /// What the process calls the context: the address of its ring.
    pub context: u64,
    /// How many requests it was made for.
    pub requests: u32,
    /// How many events the ring has room for.
    pub events: u32,
    /// Where the next event goes.
    pub tail: u32,
    /// Requests that have not been completed; [`AIO_UNKNOWN`] where that cannot be told.
    pub in_flight: u32,
    /// 1 if the context is one of the process that has the mapping. A child inherits the mapping without.
    pub owned: u32,
    /// 1 if there are requests that wait for something to happen, for as long as that takes.
    pub waiting: u32,
}

/// [`AioRecord::in_flight`]: this kernel does not tell.
pub const AIO_UNKNOWN: u32 = u32::MAX;

/// What a task may have that a checkpoint cannot carry.
pub mod unusual {
    /// Its session keyring is neither its user's nor empty. (Most are carried.)
    pub const SESSION_KEYRING: u32 = 1 << 0;
    /// A process keyring.
    pub const PROCESS_KEYRING: u32 = 1 << 1;
    /// A thread keyring.
    pub const THREAD_KEYRING: u32 = 1 << 2;
    /// It serves a request for a key.
    pub const REQUEST_KEY: u32 = 1 << 3;
    /// Its system calls are handed back to itself (`PR_SET_SYSCALL_USER_DISPATCH`).
    pub const SYSCALL_DISPATCH: u32 = 1 << 4;
    /// `PR_SET_IO_FLUSHER`.
    pub const IO_FLUSHER: u32 = 1 << 5;
    /// A core-scheduling cookie.
    pub const CORE_COOKIE: u32 = 1 << 6;
    /// System V semaphore operations that its end undoes (`SEM_UNDO`). (They are carried.)
    pub const SEM_UNDO: u32 = 1 << 7;
    /// It traces others.
    pub const TRACER: u32 = 1 << 8;
    /// Its I/O context belongs to others, too (`CLONE_IO`).
    pub const SHARED_IO: u32 = 1 << 9;
    /// An io_uring.
    pub const RINGS: u32 = 1 << 10;
    /// An empty session keyring of its own. (This one is carried.)
    pub const EMPTY_SESSION: u32 = 1 << 11;
    /// Its pid namespace has settings that none has by itself (`kernel.pid_max`, `vm.memfd_noexec`).
    pub const PID_SETTINGS: u32 = 1 << 12;
}

/// One signal's action, as `struct sigaction` is in the kernel of every processor with a restorer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct SignalAction {
    /// Handler: 0 default, 1 ignore.
    pub handler: u64,
    /// `SA_*` flags.
    pub flags: u64,
    /// Restorer.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// Signals that there are.
pub const SIGNALS: usize = 64;

/// How many actions the program writes at a time: what its stack has room for.
pub const ACTIONS_AT_ONCE: usize = 4;

/// The actions of a thread group: this header, then [`SIGNALS`] times [`SignalAction`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct SignalActionsRecord {
    /// The header.
    pub header: Header,
    /// The thread group.
    pub tgid: i32,
    /// Nothing.
    pub reserved: u32,
}

/// Longest name that a record carries, with its zero byte: what the program's stack has room for.
/// Longer ones are left to /proc.
pub const NAME_BYTES: usize = 256;

/// What a [`PlaceRecord`] is of.
pub mod place {
    /// The program that the process runs.
    pub const PROGRAM: u32 = 0;
    /// Its working directory.
    pub const WORKING_DIRECTORY: u32 = 1;
    /// Its root directory.
    pub const ROOT_DIRECTORY: u32 = 2;
}

/// Where a process is, then `name_bytes` of name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct PlaceRecord {
    /// The header.
    pub header: Header,
    /// The process.
    pub tgid: i32,
    /// One of [`place`].
    pub place: u32,
    /// Inode.
    pub inode: u64,
    /// Which file system it is on (`*_SUPER_MAGIC`).
    pub magic: u64,
    /// Device, in the kernel's encoding.
    pub device: u32,
    /// Bytes of name that follow, with its zero byte; 0 for a name too long.
    pub name_bytes: u32,
}

/// What a mapping is of.
pub mod backing {
    /// No file.
    pub const NONE: u32 = 0;
    /// The file that the program mapped.
    pub const FILE: u32 = 1;
    /// Another file, in place of the one that the program mapped: a stacked file system's (overlayfs).
    /// Device, inode and name are of the other one.
    pub const STACKED: u32 = 2;
}

/// Where a mapping's name comes from.
pub mod name {
    /// There is none, or it follows from the addresses (heap and stack).
    pub const NONE: u16 = 0;
    /// The path of the mapped file.
    pub const PATH: u16 = 1;
    /// The name that its maker in the kernel gave it (`[vdso]`).
    pub const SPECIAL: u16 = 2;
    /// The name that the program gave to anonymous memory.
    pub const ANONYMOUS: u16 = 3;
    /// The name that the program gave to shared anonymous memory.
    pub const ANONYMOUS_SHARED: u16 = 4;
}

/// One mapping, then `name_bytes` of name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct VmaRecord {
    /// The header.
    pub header: Header,
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// `VM_*` flags.
    pub flags: u64,
    /// Offset in the file, in pages.
    pub page_offset: u64,
    /// Inode, 0 for no file.
    pub inode: u64,
    /// Device, in the kernel's encoding.
    pub device: u32,
    /// One of [`backing`].
    pub backing: u32,
    /// One of [`name`].
    pub name_kind: u16,
    /// Bits of [`beside`], of the file.
    pub beside: u16,
    /// Bytes of name that follow, with its zero byte; 0 for no name or one too long.
    pub name_bytes: u32,
}
