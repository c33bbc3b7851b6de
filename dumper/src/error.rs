//! Why a dump did not happen. The target runs on in every case.

use std::fmt;
use std::io;

/// Why a dump did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tree holds something that cannot be carried.
    #[error("cannot dump process {root}:\n{}", list(obstacles))]
    Refused {
        /// Root of the tree.
        root: i32,
        /// Everything that stands in the way.
        obstacles: Vec<Obstacle>,
    },
    /// Another dump is at it.
    #[error(
        "dump process {pid}: {} is dumping it (it holds a lock on /proc/{pid}/pagemap); \
         try again when that has ended",
        by.map_or_else(|| "another process".to_owned(), |by| format!("process {by}"))
    )]
    Claimed {
        /// The process.
        pid: i32,
        /// Who has it, if that is known.
        by: Option<i32>,
    },
    /// Open files that cannot be carried, or could not be read.
    #[error("look at the open files of the tree")]
    Files(#[from] crate::files::Error),
    /// The tree could not be stopped.
    #[error("stop process {root} and its descendants")]
    Freeze {
        /// Root of the tree.
        root: i32,
        /// Why not.
        #[source]
        source: crate::freeze::Error,
    },
    /// Code could not be run in a stopped task.
    #[error("ask process {pid} for its state")]
    Inject {
        /// The process.
        pid: i32,
        /// Why not.
        #[source]
        source: crate::inject::Error,
    },
    /// The inventory could not be taken.
    #[error("take the inventory of process {pid}")]
    Inventory {
        /// The process.
        pid: i32,
        /// Why not.
        #[source]
        source: collector::Error,
    },
    /// A file of /proc could not be read.
    #[error(transparent)]
    Procfs(#[from] kernel::procfs::Error),
    /// A traced task did not answer.
    #[error(transparent)]
    Ptrace(#[from] kernel::ptrace::Error),
    /// A system call about a process failed.
    #[error("{operation} of process {pid}")]
    Process {
        /// What was read.
        operation: &'static str,
        /// The process or thread.
        pid: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The images could not be written.
    #[error("write the images")]
    Images(#[from] images::Error),
    /// The checkpoint that pages are to be left to could not be opened or understood.
    #[error("use the parent checkpoint")]
    Parent(#[source] images::Error),
    /// The pages could not be written.
    #[error("write the pages of process {pid}")]
    Pages {
        /// The process.
        pid: i32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The tree stood still for longer than it may.
    #[error(
        "{step}: the target has stood still for the {} ms that it may ({account}); it runs on",
        limit.as_secs_f64() * 1e3
    )]
    FrozenTooLong {
        /// What was being done, or had just been.
        step: &'static str,
        /// How long it may.
        limit: std::time::Duration,
        /// Where the time went.
        account: Box<crate::options::FrozenAccount>,
    },
    /// The whole dump took too long.
    #[error("{step}: the dump is not done in the {} s that it may take", limit.as_secs_f64())]
    TimedOut {
        /// What was being done, or had just been.
        step: &'static str,
        /// How long it may.
        limit: std::time::Duration,
    },
    /// A task says something else of itself than the kernel's structures.
    #[error(
        "read the {field} of task {pid} in two ways: they do not tell the same \
         (this is a defect, please report it)"
    )]
    CrossCheck {
        /// The process or thread.
        pid: i32,
        /// What differs.
        field: &'static str,
    },
    /// A defect of ours; the target was let go.
    #[error("the dump panicked; the target runs on (this is a defect, please report it)")]
    Panicked,
}

/// One thing that stands in the way of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The process that has it.
    pub pid: i32,
    /// What it is.
    pub object: String,
    /// Why it cannot be carried.
    pub reason: &'static str,
    /// What can be done about it.
    pub remedy: &'static str,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, object, reason, remedy } = self;
        write!(f, "process {pid}, {object}: {reason}; {remedy}")
    }
}

fn list(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
