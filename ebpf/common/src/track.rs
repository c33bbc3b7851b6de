//! What the tracking programs keep of tracked processes, and what a system call can change.

/// What is kept of a tracked process: the value of the map `TRACKED`, by the process's pid.
///
/// Each generation only grows, with every event that may have changed what it is of. Two readings
/// of the whole value that are equal mean that the process is the same one and has changed
/// nothing between them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackedProcess {
    /// The track that it belongs to: a key of the map `TRACKS`.
    pub track: u64,
    /// When it was entered, in nanoseconds of the monotonic clock: tells it from an earlier process
    /// of the same pid.
    pub entered: u64,
    /// Threads made and ended.
    pub threads: u64,
    /// Ends of system calls that may change descriptors, what they refer to, or directories; and forks,
    /// after which a child holds the same files.
    pub files: u64,
    /// Programs executed, and calls that are not known here. Changes of mappings the kernel counts
    /// itself.
    pub memory: u64,
    /// Ends of system calls that may change credentials, limits, scheduling, signal actions.
    pub credentials: u64,
    /// Calls after which the kernel may work on for the process with no call to be seen
    /// (`io_setup`, `io_uring_setup`).
    pub asynchronous: u64,
}

/// Set in the ids of tracks that dumps make for themselves; the rest is the dumper's pid and a number of
/// its own. Dumpers enter themselves, too.
const OF_DUMP: u64 = 1 << 63;
const PID_SHIFT: u32 = 32;

/// The id of the track of a dump.
#[must_use]
pub const fn dump_track(dumper: i32, number: u32) -> u64 {
    OF_DUMP | (dumper as u64 & 0x7fff_ffff) << PID_SHIFT | number as u64
}

/// Whose track it is, if it is one of a dump.
#[must_use]
pub const fn dumper_of(track: u64) -> Option<i32> {
    if track & OF_DUMP == 0 { None } else { Some(((track & !OF_DUMP) >> PID_SHIFT) as i32) }
}

/// The words of a [`TrackedProcess`].
pub const TRACKED_WORDS: usize = size_of::<TrackedProcess>() / 8;

impl From<[u64; TRACKED_WORDS]> for TrackedProcess {
    fn from(words: [u64; TRACKED_WORDS]) -> Self {
        let [track, entered, threads, files, memory, credentials, asynchronous] = words;
        Self { track, entered, threads, files, memory, credentials, asynchronous }
    }
}

impl From<TrackedProcess> for [u64; TRACKED_WORDS] {
    fn from(process: TrackedProcess) -> Self {
        let TrackedProcess { track, entered, threads, files, memory, credentials, asynchronous } =
            process;
        [track, entered, threads, files, memory, credentials, asynchronous]
    }
}

/// What is kept of a track: the value of the map `TRACKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Processes that came and went.
    pub tree: u64,
    /// Processes that there was no room for: from the first on, nothing is known for sure.
    pub lost: u64,
}

/// The words of a [`Track`].
pub const TRACK_WORDS: usize = size_of::<Track>() / 8;

/// The generation [`TrackedProcess::files`].
pub const FILES: u16 = 1;
/// The generation [`TrackedProcess::memory`].
pub const MEMORY: u16 = 2;
/// The generation [`TrackedProcess::credentials`].
pub const CREDENTIALS: u16 = 4;
/// [`TrackedProcess::asynchronous`].
pub const ASYNCHRONOUS: u16 = 8;
/// Changes files that it finds by their names: counted for the whole machine.
pub const NAMES: u16 = 16;
/// Returns a descriptor of a file that others may have open: counted for the file, if it can be
/// changed by that descriptor.
pub const OPENS: u16 = 32;
/// Changes what a mark may not show, or what others have open, by the descriptor that is its first
/// argument: counted for the file.
pub const TOUCHES: u16 = 64;
/// Has changed nothing when it says that it was interrupted, or would have had to wait.
pub const INTERRUPTIBLE: u16 = 128;
/// Of those that change files by their names: moves what is mounted.
pub const MOUNTS: u16 = 256;
/// Touches the file, as [`TOUCHES`] does, when its second argument, a command of `fcntl`, is to change
/// the size of a pipe.
pub const TOUCHES_BY_COMMAND: u16 = 512;
/// Of those that return a descriptor: the file is one that another process has open.
pub const SHARES: u16 = 1024;
/// Of those that open a file: the flags are its second argument.
pub const FLAGS_SECOND: u16 = 2048;
/// Likewise, its third.
pub const FLAGS_THIRD: u16 = 4096;
/// All that a call can change of which nothing is known.
pub const ALL: u16 = FILES | MEMORY | CREDENTIALS | ASYNCHRONOUS | NAMES | OPENS;

/// How many system calls of one kind a table has; a call behind them is one that is not known.
pub const CALLS: usize = 1024;

/// What the programs know of the system calls of this processor. The loader fills it in; unfilled
/// it says that every call may change all.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// By the number of a native call: what it may change ([`FILES`] and so on); 0 for nothing that
    /// is counted.
    pub native: [u16; CALLS],
    /// By the number of a call of the 32-bit kind.
    pub compat: [u16; CALLS],
    /// A bit of a thread's status that says that its call is of that kind; 0 for none.
    pub compat_status: u32,
    /// A bit in the numbers of calls of a kind that has the native table otherwise; 0 for none.
    pub variant: u32,
}

impl Calls {
    /// Nothing known.
    pub const UNKNOWN: Self =
        Self { native: [ALL; CALLS], compat: [ALL; CALLS], compat_status: 0, variant: 0 };
}

const TOUCHED_BITS: u32 = 16;

/// How many counts of touched files there are, in the map `CHANGED`: 64-bit numbers.
pub const TOUCHED: usize = (1 << TOUCHED_BITS) + 1;

/// The last of them is of files that are not known, and concerns all.
pub const TOUCHED_UNKNOWN: usize = 1 << TOUCHED_BITS;

/// The count of a file, by its inode's address.
#[must_use]
pub const fn touched_place(inode: u64) -> usize {
    (inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TOUCHED_BITS)) as usize
}
