//! What a dump is asked for, and what it says of itself.

use std::path::PathBuf;
use std::time::Duration;

/// What becomes of the tree when its images are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDump {
    /// It runs on.
    Resume,
    /// It stays, stopped as by `SIGSTOP`.
    Stop,
    /// It is ended by `SIGKILL`.
    Kill,
}

/// What a dump is asked for.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// Process at the root of the tree.
    pub pid: i32,
    /// Directory that will hold the images. It is made when it does not exist.
    pub images_dir: PathBuf,
    /// What becomes of the tree afterwards.
    pub after: AfterDump,
    /// The root may belong to a session (and a terminal) outside the tree.
    pub shell_job: bool,
    /// Root directory that the paths in the images are relative to; `None` for the caller's.
    pub root: Option<PathBuf>,
    /// Replace a checkpoint that is in the directory already.
    pub overwrite: bool,
    /// Keep the directory itself even if it is empty: someone holds it open.
    pub in_place: bool,
}

/// Where the frozen time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrozenAccount {
    /// Stopping every task.
    pub stop: Duration,
    /// Reading the inventory again.
    pub inventory: Duration,
    /// Registers and signal state by ptrace.
    pub registers: Duration,
    /// What only the tasks know.
    pub parasite: Duration,
    /// Contents of files that live in the kernel: pipes, sockets.
    pub files: Duration,
    /// Memory.
    pub memory: Duration,
    /// Removing the parasite and giving the registers back.
    pub cure: Duration,
}

/// What a dump says of itself.
#[derive(Clone, Debug, Default)]
pub struct DumpReport {
    /// From the first stopped task to the last resumed one.
    pub frozen: Duration,
    /// Where that time went.
    pub account: FrozenAccount,
    /// The whole dump.
    pub total: Duration,
    /// Processes dumped, zombies included.
    pub processes: usize,
    /// Threads dumped.
    pub threads: usize,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Bytes of all images.
    pub image_bytes: u64,
}
