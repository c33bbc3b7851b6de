//! What is known of processes without stopping them: types, and nothing that finds it out. The collector
//! fills them, from eBPF or from /proc; the rules about what can be carried read them.

mod aio;
mod keys;
mod mapping_kind;
mod mqueue;
mod rings;
mod semaphore_undo;
pub mod settings;
pub mod terminals;
mod userfaults;
mod waiting;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroU64;

use ids::HostPid;
use images::MappingKind;
use serde::{Serialize, Serializer};

pub use aio::AioContext;
pub use keys::{Key, SessionKeyring};
pub use mapping_kind::{is_shared_anonymous, is_system_v, mapping_kind};
pub use mqueue::{Message, Messages};
pub use rings::{Registered, RegisteredFile, Requests, Ring};
pub use semaphore_undo::SemaphoreUndo;
use settings::{MemoryPolicy, ProcessSettings, ThreadSettings};
use terminals::Terminal;
pub use userfaults::{Userfaultfd, Userfaults};
pub use waiting::{Peculiar, Unaccepted, WaitingConnection};

/// One process (thread group).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Thread group id.
    pub pid: HostPid,
    /// Parent's thread group id; `None` if this pid namespace has no number for it.
    #[serde(serialize_with = "or_zero")]
    pub ppid: Option<HostPid>,
    /// Process group id; `None` if this pid namespace has no number for it.
    #[serde(serialize_with = "or_zero")]
    pub pgid: Option<HostPid>,
    /// Session id; `None` if this pid namespace has no number for it.
    #[serde(serialize_with = "or_zero")]
    pub sid: Option<HostPid>,
    /// The terminal that controls it, as `st_rdev` has it; 0 for none.
    pub terminal: u64,
    /// The process group in the foreground of that terminal; `None` for none.
    #[serde(serialize_with = "or_zero")]
    pub foreground: Option<HostPid>,
    /// What the process is doing, as far as a checkpoint cares.
    pub state: ProcessState,
    /// The threads by tid, the leader among them.
    pub threads: BTreeMap<HostPid, Thread>,
    /// The mappings, by rising address.
    pub mappings: Vec<Mapping>,
    /// The open files, by rising descriptor number.
    pub files: Vec<OpenFile>,
    /// Ids of the namespaces that the process is in, by their name in `/proc/PID/ns`.
    pub namespaces: BTreeMap<&'static str, u64>,
    /// A thread of the kernel's own: it has no memory and nothing to dump.
    pub kernel_thread: bool,
    /// Which tables the process shares with others of this inventory.
    pub tables: Tables,
    /// What /proc does not tell; `None` from the /proc reader, which leaves it to the parasite.
    pub in_process: Option<Box<InProcess>>,
}

impl Process {
    /// A process of which no more is known than its open files.
    #[must_use]
    pub fn with_files(pid: HostPid, files: Vec<OpenFile>) -> Self {
        Self {
            pid,
            ppid: None,
            pgid: None,
            sid: None,
            terminal: 0,
            foreground: None,
            state: ProcessState::Alive,
            threads: BTreeMap::new(),
            mappings: Vec::new(),
            files,
            namespaces: BTreeMap::new(),
            kernel_thread: false,
            tables: Tables::default(),
            in_process: None,
        }
    }
}

/// Per-process state that only the kernel's own structures, or the process itself, know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InProcess {
    /// End of the heap.
    pub program_break: u64,
    /// As `PR_GET_DUMPABLE` gives it.
    pub dumpable: i32,
    /// Transparent huge pages are restricted (`PR_SET_THP_DISABLE`), in a way that the process
    /// itself has to be asked for.
    pub thp_restricted: bool,
    /// `PR_GET_CHILD_SUBREAPER`.
    pub child_subreaper: bool,
    /// A POSIX timer exists or an interval timer is set: the process itself has to be asked for
    /// their settings.
    pub timers: bool,
    /// The registrations for `membarrier`, as `MEMBARRIER_CMD_GET_REGISTRATIONS` gives them.
    pub membarrier: u32,
    /// Its program and directories; `None` where they take another look: names too long for a record,
    /// file systems that tell `stat` other numbers than the kernel itself uses.
    pub places: Option<ProcessFiles>,
    /// Components of the processor's extended state that it may use.
    pub permitted_components: u64,
    /// It has segments of its own (`modify_ldt`).
    pub local_descriptors: bool,
    /// What each signal does, signal 1 first.
    pub actions: Vec<Action>,
    /// Equal marks of a process, taken at two times, mean that between them nothing has changed of
    /// its limits, oom_score_adj, personality, loginuid, places in memory (but for the break),
    /// auxiliary vector and program.
    pub mark: Option<NonZeroU64>,
    /// Equal marks mean that the mappings have not changed.
    pub mappings_mark: Option<NonZeroU64>,
    /// What it has set that few processes set.
    pub settings: ProcessSettings,
}

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessFiles {
    /// The program that it runs (`/proc/PID/exe`).
    pub program: NamedFile,
    /// Its working directory (`/proc/PID/cwd`).
    pub working_directory: NamedFile,
    /// Its root directory (`/proc/PID/root`).
    pub root_directory: NamedFile,
}

/// A file by its numbers and its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamedFile {
    /// Device of the file as `st_dev` has it.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// The text of the link in `/proc/PID`.
    #[serde(serialize_with = "lossy")]
    pub target: OsString,
}

/// What a signal does, as `struct sigaction` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Handler: 0 default, 1 ignore.
    pub handler: u64,
    /// `SA_*` flags.
    pub flags: u64,
    /// Restorer.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// Whose tables a process uses: for each, the lowest pid of this inventory that has the same one,
/// which is its own pid when it shares with none of a lower pid. `None` for a table that is gone (a
/// zombie) or never was (a kernel thread).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// Address space (`CLONE_VM`).
    pub memory: Option<HostPid>,
    /// Descriptors (`CLONE_FILES`).
    pub files: Option<HostPid>,
    /// Root, working directory and umask (`CLONE_FS`).
    pub file_system: Option<HostPid>,
    /// Signal handlers (`CLONE_SIGHAND`).
    pub signal_handlers: Option<HostPid>,
    /// Of each of these, in this order, another process that has the same: one that is not in the
    /// inventory, if there is any (which the /proc reader does not look for).
    pub others: [Option<HostPid>; 4],
}

/// The states that a checkpoint treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProcessState {
    /// Running or sleeping.
    Alive,
    /// Stopped by job control.
    Stopped,
    /// Exited and not yet waited for.
    Zombie {
        /// The status that `wait` will report.
        exit_status: i32,
    },
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Thread id.
    pub tid: HostPid,
    /// Start, in clock ticks since boot (`/proc/PID/stat` field 22): with the tid it names a
    /// thread for ever.
    pub start_time: u64,
    /// Name, at most 15 bytes.
    #[serde(serialize_with = "lossy")]
    pub comm: OsString,
    /// The state's letter as `/proc/PID/stat` has it: `R`, `S`, `D`, `T`, `t`, `Z`, …
    pub state: char,
    /// The thread has a descriptor table, or a root and working directory, that are not the
    /// process's (`unshare`, or `clone` without `CLONE_FILES` or `CLONE_FS`).
    pub own_tables: bool,
    /// The thread is in other namespaces than the process's first one (`unshare`, `setns`).
    pub own_namespaces: bool,
    /// Blocked signals, as a bit mask with signal 1 at bit 0.
    pub blocked: u64,
    /// Signals pending for this thread alone.
    pub pending: u64,
    /// Signals pending for the whole process.
    pub shared_pending: u64,
    /// Signals ignored by the process.
    pub ignored: u64,
    /// Signals with a handler.
    pub caught: u64,
    /// What /proc does not tell; `None` from the /proc reader, which leaves it to the parasite.
    pub in_task: Option<InTask>,
}

/// Per-thread state that only the kernel's own structures, or the thread itself, know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InTask {
    /// Alternate signal stack: lowest address.
    pub alt_stack_start: u64,
    /// Alternate signal stack: bytes, 0 for none.
    pub alt_stack_bytes: u64,
    /// Alternate signal stack: `SS_*` flags.
    pub alt_stack_flags: u32,
    /// Where the kernel writes 0 and wakes a futex when the thread exits.
    pub clear_child_tid: u64,
    /// Signal sent when the parent dies, 0 for none.
    pub parent_death_signal: i32,
    /// Head of the list of robust futexes, 0 for none.
    pub robust_list: u64,
    /// The same of 32-bit code, whose list has members of 32 bits.
    pub compat_robust_list: u64,
    /// Restartable sequences: address of the area, 0 for none.
    pub rseq: u64,
    /// Restartable sequences: bytes of the area, 0 for none.
    pub rseq_bytes: u32,
    /// Restartable sequences: signature.
    pub rseq_signature: u32,
    /// Address of the kernel's function that would continue the wait that was interrupted last, 0 if
    /// that is not known. It is the kernel's secret.
    #[serde(skip)]
    pub continues: u64,
    /// `SECBIT_*`.
    pub securebits: u32,
    /// Bytes of extended state (vector registers and the like) that the kernel puts into the
    /// thread's signal frames; `None` where it does not tell.
    pub extended_bytes: Option<usize>,
    /// The kernel's flags of the thread, whose bits have other meanings from kernel to kernel
    /// (`thread_info.flags`).
    pub kernel_flags: u64,
    /// It has segments for its thread-local storage, as 32-bit code has them (`set_thread_area`).
    pub segments: bool,
    /// It may use I/O ports.
    pub ports: bool,
    /// Equal marks of a thread, taken at two times, mean that between them nothing has changed of
    /// its credentials, seccomp mode, shadow stack, umask, scheduling, processors and control groups.
    pub mark: Option<NonZeroU64>,
    /// What it has set that few threads set.
    pub settings: ThreadSettings,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// The kernel's `vm_flags`, restricted to the bits that `/proc/PID/smaps` names (see
    /// [`VmFlags`]).
    pub flags: VmFlags,
    /// Offset in the file, in bytes (0 when there is no file).
    pub offset: u64,
    /// Device of the file as `st_dev` has it, 0 when there is none.
    pub device: u64,
    /// Inode of the file, 0 when there is none.
    pub inode: u64,
    /// Memory protection key, 0 for none.
    pub protection_key: u32,
    /// Its NUMA policy, if it has one of its own; the /proc reader is not told.
    pub policy: Option<MemoryPolicy>,
    /// Whether there were locks or leases on the inode of its file, whoever has them, when the mappings were
    /// read (locks come and go without a change of theirs); `None` from the /proc reader, which is not told.
    #[serde(skip)]
    pub locked: Option<bool>,
    /// The name as `/proc/PID/maps` has it: path, `[heap]`, `[vdso]`, …; empty for none.
    #[serde(serialize_with = "lossy")]
    pub name: OsString,
    /// What that makes it ([`mapping_kind`]).
    #[serde(skip)]
    pub kind: MappingKind,
}

/// One open file descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// Descriptor number.
    pub fd: i32,
    /// Close on exec.
    pub close_on_exec: bool,
    /// Names the open file description: two descriptors, of any processes of this inventory, with
    /// equal values are one open file. It is made of the lowest pid that has it open and that
    /// process's lowest descriptor for it, so that inventories of the same processes can be
    /// compared; see [`OpenFile::description_of`].
    pub description: u64,
    /// File position.
    pub position: u64,
    /// `O_*` flags (access mode and status) as `/proc/PID/fdinfo` has them, without
    /// `O_CLOEXEC`.
    pub flags: u32,
    /// Type and permissions as `st_mode` has them.
    pub mode: u32,
    /// Device of the file as `st_dev` has it.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// The link text of `/proc/PID/fd/N`: path, `pipe:[…]`, `socket:[…]`, `anon_inode:[…]`.
    #[serde(serialize_with = "lossy")]
    pub target: OsString,
    /// Whether somebody may have been named to be signalled when it is ready (`F_SETOWN`,
    /// `F_SETSIG`); `None` from the /proc reader, which is not told.
    #[serde(skip)]
    pub owned: Option<bool>,
    /// Whether there are locks or leases on its inode, whoever has them; `None` from the /proc reader.
    #[serde(skip)]
    pub locked: Option<bool>,
    /// Whether it has never had a name and may be given one (`O_TMPFILE` without `O_EXCL`); `None` from the
    /// /proc reader, which is not told.
    #[serde(skip)]
    pub linkable: Option<bool>,
    /// Whether it is a UDP, ping or raw socket that is known to hold nothing back (`UDP_CORK`, `MSG_MORE`). The /proc reader is not told.
    #[serde(skip)]
    pub uncorked: bool,
    /// How the terminal behind it is; `None` for what is none, and from the /proc reader, which is not told.
    #[serde(skip)]
    pub terminal: Option<Box<Terminal>>,
    /// What tells later whether it has changed; `None` from the /proc reader, of sockets and pipes that are not
    /// watched (the collector's `watch`), and for what has to be looked at each time: files with an owner to signal, with locks or with no name, terminals,
    /// event files, pipes that hold somebody else's pages.
    #[serde(skip)]
    pub mark: Option<FileMark>,
}

/// A fingerprint of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMark {
    /// Equal ones of the same file, taken at two times, mean that between them nothing has changed of
    /// a pipe or fifo and its contents; of a socket, its options, its state and its peer; of a file
    /// with a name, its owner and its rights. (Not of that file's contents, and not of what this
    /// inventory says itself.)
    pub print: NonZeroU64,
    /// Of a regular file its bytes, of a pipe or fifo how many pages it may hold, of a Unix socket how
    /// many messages wait to be read (at a listening one: connections, to be accepted); of another
    /// socket 0, as it has no mark while anything waits. `None` if that takes another look.
    pub size: Option<u64>,
}

impl OpenFile {
    /// The name of the description whose lowest holder is descriptor `fd` of process `pid`.
    #[must_use]
    pub const fn description_of(pid: HostPid, fd: i32) -> u64 {
        ((pid.unsigned() as u64) << 32) | fd.cast_unsigned() as u64
    }

    /// The process and the descriptor that the description is named by; `None` if it has not been named.
    #[must_use]
    pub fn lowest_holder(&self) -> Option<(HostPid, i32)> {
        let pid = HostPid::try_from((self.description >> 32) as u32).ok()?;
        Some((pid, (self.description as u32).cast_signed()))
    }

    /// Whether it is an io_uring.
    #[must_use]
    pub fn is_ring(&self) -> bool {
        self.target == "anon_inode:[io_uring]"
    }

    /// Whether it is a userfaultfd.
    #[must_use]
    pub fn is_userfaultfd(&self) -> bool {
        self.target == "anon_inode:[userfaultfd]"
    }
}

/// A number of a process for who reads it in JSON: 0 stands for none.
fn or_zero<S: Serializer>(pid: &Option<HostPid>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i32(pid.map_or(0, HostPid::get))
}

fn lossy<S: Serializer>(text: &OsString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text.to_string_lossy())
}

/// Flags of a mapping: the kernel's `VM_*` bits, one for each two-letter name that
/// `/proc/PID/smaps` prints (`Documentation/filesystems/proc.rst`).
///
/// The numeric values are ours, not the kernel's, which differ between versions and processors;
/// each source translates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmFlags(pub u64);

macro_rules! vm_flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $letters:literal;)*) => {
        impl VmFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            /// Every flag with its two letters in `/proc/PID/smaps`.
            pub const LETTERS: &'static [(Self, [u8; 2])] = &[$((Self::$name, *$letters),)*];
        }
    };
}

vm_flags! {
    /// Readable.
    READ = 0, b"rd";
    /// Writable.
    WRITE = 1, b"wr";
    /// Executable.
    EXEC = 2, b"ex";
    /// Shared.
    SHARED = 3, b"sh";
    /// May be made readable.
    MAY_READ = 4, b"mr";
    /// May be made writable.
    MAY_WRITE = 5, b"mw";
    /// May be made executable.
    MAY_EXEC = 6, b"me";
    /// May be shared: with a file, the mapping is a shared one.
    MAY_SHARE = 7, b"ms";
    /// Grows downwards, as a stack does.
    GROWS_DOWN = 8, b"gd";
    /// Pure page-frame mapping of a device.
    PFN_MAP = 9, b"pf";
    /// Locked in memory.
    LOCKED = 10, b"lo";
    /// Memory-mapped input and output.
    IO = 11, b"io";
    /// `MADV_SEQUENTIAL`.
    SEQUENTIAL_READ = 12, b"sr";
    /// `MADV_RANDOM`.
    RANDOM_READ = 13, b"rr";
    /// `MADV_DONTFORK`.
    DONT_COPY = 14, b"dc";
    /// Must not grow by `mremap`.
    DONT_EXPAND = 15, b"de";
    /// Counted as committed memory.
    ACCOUNT = 16, b"ac";
    /// `MAP_NORESERVE`.
    NO_RESERVE = 17, b"nr";
    /// Huge TLB pages.
    HUGE_TLB = 18, b"ht";
    /// `MAP_SYNC`.
    SYNC = 19, b"sf";
    /// Architecture's own flag 1.
    ARCH_1 = 20, b"ar";
    /// `MADV_WIPEONFORK`.
    WIPE_ON_FORK = 21, b"wf";
    /// `MADV_DONTDUMP`.
    DONT_DUMP = 22, b"dd";
    /// Soft-dirty.
    SOFT_DIRTY = 23, b"sd";
    /// Mixed page frames and pages.
    MIXED_MAP = 24, b"mm";
    /// `MADV_HUGEPAGE`.
    HUGE_PAGE = 25, b"hg";
    /// `MADV_NOHUGEPAGE`.
    NO_HUGE_PAGE = 26, b"nh";
    /// `MADV_MERGEABLE`.
    MERGEABLE = 27, b"mg";
    /// userfaultfd: missing pages.
    UFFD_MISSING = 28, b"um";
    /// userfaultfd: write protection.
    UFFD_WRITE_PROTECT = 29, b"uw";
    /// userfaultfd: minor faults.
    UFFD_MINOR = 30, b"ui";
    /// Shadow stack of the processor's control-flow enforcement.
    SHADOW_STACK = 31, b"ss";
    /// Sealed by `mseal`.
    SEALED = 32, b"sl";
    /// `MAP_DROPPABLE`.
    DROPPABLE = 33, b"dp";
    /// Locked as its pages are touched (`MLOCK_ONFAULT`).
    LOCK_ON_FAULT = 34, b"lf";
    /// Guard regions inside (`MADV_GUARD_INSTALL`).
    GUARD = 35, b"gu";
}

/// Position of the flag of each pair of letters, `aa` first; 255 for none.
const BY_LETTERS: [u8; 26 * 26] = {
    let mut table = [255; 26 * 26];
    let mut next = 0;
    while next < VmFlags::LETTERS.len() {
        let (flag, letters) = VmFlags::LETTERS[next];
        let index = (letters[0] - b'a') as usize * 26 + (letters[1] - b'a') as usize;
        table[index] = flag.0.trailing_zeros() as u8;
        next += 1;
    }
    table
};

impl VmFlags {
    /// A flag that this program does not know.
    pub const UNKNOWN: Self = Self(1 << 63);

    /// The flag of two letters of `/proc/PID/smaps`.
    #[must_use]
    pub const fn from_letters(letters: [u8; 2]) -> Self {
        let first = letters[0].wrapping_sub(b'a') as usize;
        let second = letters[1].wrapping_sub(b'a') as usize;
        if first >= 26 || second >= 26 {
            return Self::UNKNOWN;
        }
        match BY_LETTERS[first * 26 + second] {
            255 => Self::UNKNOWN,
            bit => Self(1 << bit),
        }
    }

    /// The flags' letters, as `/proc/PID/smaps` prints them (`??` for unknown ones).
    #[must_use]
    pub fn letters(self) -> String {
        let known = Self::LETTERS.iter().filter(|(flag, _)| self.contains(*flag));
        let mut words: Vec<String> =
            known.map(|(_, letters)| letters.iter().copied().map(char::from).collect()).collect();
        if self.contains(Self::UNKNOWN) {
            words.push("??".to_owned());
        }
        words.join(" ")
    }

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for VmFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for VmFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl Serialize for VmFlags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.letters())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_letters_go_both_ways() {
        for (flag, letters) in VmFlags::LETTERS {
            assert_eq!(VmFlags::from_letters(*letters), *flag);
        }
        assert_eq!(VmFlags::from_letters(*b"zz"), VmFlags::UNKNOWN);
        assert_eq!(VmFlags::from_letters(*b"!?"), VmFlags::UNKNOWN);
        assert_eq!((VmFlags::READ | VmFlags::MAY_EXEC).letters(), "rd me");
    }
}
