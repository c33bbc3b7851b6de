//! What a restore is asked for, and what it says of itself.

use std::path::PathBuf;
use std::time::Duration;

/// What becomes of the tree once it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestore {
    /// It runs.
    Resume,
    /// It stays, stopped as by `SIGSTOP`.
    Stop,
}

/// What a restore is asked for.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Directory that holds the images.
    pub images_dir: PathBuf,
    /// What becomes of the tree.
    pub after: AfterRestore,
    /// The root joins the caller's session (and terminal) instead of one of its own.
    pub shell_job: bool,
    /// Root directory that the paths in the images are relative to; `None` for the caller's.
    pub root: Option<PathBuf>,
    /// Make the root a sibling of the caller (`CLONE_PARENT`), not its child.
    pub sibling: bool,
}

/// What a restore says of itself.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// Pid of the restored root.
    pub pid: i32,
    /// The whole restore.
    pub total: Duration,
    /// Processes restored, zombies included.
    pub processes: usize,
    /// Threads restored.
    pub threads: usize,
    /// Pages put back.
    pub pages_restored: u64,
}
