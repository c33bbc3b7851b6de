//! Why a dump did not happen. The target runs on in every case.

use std::io;

use ids::{Clash, HostPid};
use support::{Refusal, Unsupported};

/// Why a dump did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tree holds something that cannot be carried.
    #[error("cannot dump process {root}: {}", support::said(found))]
    Refused {
        /// Root of the tree.
        root: HostPid,
        /// Everything that stands in the way.
        found: Vec<Unsupported>,
    },
    /// Another dump is at it.
    #[error(
        "dump process {pid}: {} is dumping it (it holds a lock on /proc/{pid}/pagemap); \
         try again when that has ended",
        by.map_or_else(|| "another process".to_owned(), |by| format!("process {by}"))
    )]
    Claimed {
        /// The process.
        pid: HostPid,
        /// Who has it, if that is known.
        by: Option<HostPid>,
    },
    /// Who asks may not trace a task of the tree.
    #[error("dump process {root}: uid {uid} may not trace process {pid} of its tree")]
    NotAllowed {
        /// The process.
        pid: HostPid,
        /// Root of the tree.
        root: HostPid,
        /// The user.
        uid: u32,
    },
    /// Open files could not be read.
    #[error("look at the open files of the tree")]
    Files(#[from] crate::files::Error),
    /// Two tasks have one number: one of them is younger than what was read of the other.
    #[error("number the tasks of the tree")]
    Numbers(#[from] Clash),
    /// A task cannot be named in the images.
    #[error(transparent)]
    Unnumbered(#[from] crate::numbers::Unnumbered),
    /// The tree could not be stopped.
    #[error("stop process {root} and its descendants")]
    Freeze {
        /// Root of the tree.
        root: HostPid,
        /// Why not.
        #[source]
        source: freezer::StopError,
    },
    /// Code could not be run in a stopped task.
    #[error("ask process {pid} for its state")]
    Inject {
        /// The process.
        pid: HostPid,
        /// Why not.
        #[source]
        source: crate::inject::Error,
    },
    /// The inventory could not be taken.
    #[error("take the inventory of process {pid}")]
    Inventory {
        /// The process.
        pid: HostPid,
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
        pid: HostPid,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A look at mounts failed.
    #[error(transparent)]
    Mounts(#[from] crate::mounts::Error),
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
        pid: HostPid,
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
    /// Nobody wants it any more.
    #[error("{step}: the dump was cancelled, and the tree runs on")]
    Cancelled {
        /// What was being done, or had just been.
        step: &'static str,
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
        pid: HostPid,
        /// What differs.
        field: &'static str,
    },
    /// The kernel did not allow it.
    #[error("{said}; {}; {}", refusal.reason, refusal.remedy)]
    Denied {
        /// What was done, to what, and the kernel's answer.
        said: String,
        /// Which right is missing, and what would help.
        refusal: Refusal,
    },
    /// One of the hooks refused.
    #[error(transparent)]
    Hook(#[from] hooks::Failed),
    /// What would outlive this process could not be written down.
    #[error("write down what has to be undone")]
    Undo(#[source] freezer::Error),
    /// Connections could not be locked.
    #[error(
        "lock the TCP connections of the tree, so that nobody answers for it while it is away (install \
         nftables; or dump with --leave-running, --tcp-close or --network-lock skip)"
    )]
    Lock(#[source] io::Error),
    /// Of several trees that are dumped together another one cannot be.
    #[error("{step}: another tree of those that are dumped together cannot be")]
    GivenUp {
        /// What was being done, or had just been.
        step: &'static str,
    },
    /// Of several trees that are dumped together one stood in the way of another, or takes too long.
    #[error(
        "wait for the other trees: for {} s no dump of them has gone on (it may wait for one that stands still, as for the server of a \
         file system: dump them one by one); all run on",
        within.as_secs()
    )]
    WaitedInVain {
        /// How long it was waited.
        within: std::time::Duration,
    },
    /// Of several trees that were to be dumped together one is a part of another.
    #[error(
        "dump processes {outer} and {inner} together: process {inner} is in the tree of process {outer}; name {outer} alone"
    )]
    Overlap {
        /// The root of the whole tree.
        outer: HostPid,
        /// The root in it.
        inner: HostPid,
    },
    /// None of several trees was dumped, as one of them cannot be.
    #[error(
        "process {root} cannot be dumped, and so none of those that were to be dumped together: all run on"
    )]
    Together {
        /// The root of the tree that stands in the way.
        root: HostPid,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// It was tried again and again.
    #[error("{source}\n(tried {tries} times in {:.1} s, with pauses: what would have passed had the time to)", within.as_secs_f64())]
    Tried {
        /// How often.
        tries: u32,
        /// From the first to the last.
        within: std::time::Duration,
        /// What the last try said.
        source: Box<Error>,
    },
    /// A defect of ours; the target was let go.
    #[error("the dump panicked; the target runs on (this is a defect, please report it)")]
    Panicked,
}

impl Error {
    /// What went wrong with the open files of the tree below `root`.
    pub(crate) fn of_files(root: HostPid, error: crate::files::Error) -> Self {
        match error {
            crate::files::Error::Refused(found) => Self::Refused { root, found },
            error => Self::Files(error),
        }
    }

    /// Whether it is about a look into the target.
    const fn is_of_the_target(&self) -> bool {
        matches!(
            self,
            Self::Inventory { .. }
                | Self::Procfs(_)
                | Self::Ptrace(_)
                | Self::Process { .. }
                | Self::Freeze { .. }
                | Self::Inject { .. }
                | Self::Files(_)
                | Self::Mounts(_)
        )
    }

    /// Whether something that was to be read of a process was no longer there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let gone = matches!(self, Self::Ptrace(error) if error.is_gone());
        gone || self.is_of_the_target() && leads_to_nothing(self)
    }

    /// Whether it is about a process whose code has nothing to call by: one that executes a program has none for a
    /// moment, and one that ends.
    pub(crate) const fn has_no_code(&self) -> bool {
        matches!(self, Self::Inject { source: crate::inject::Error::NoCodes { .. }, .. })
    }

    /// The process, of the tree below `root`, that this one was not allowed to look into, if it is that.
    pub(crate) fn denied(&self, root: HostPid) -> Option<HostPid> {
        let denied = |number| matches!(number, libc::EPERM | libc::EACCES);
        if !self.is_of_the_target() || !causes(self).any(|error| number(error).is_some_and(denied))
        {
            return None;
        }
        match self {
            Self::Process { pid, .. } | Self::Inject { pid, .. } => Some(*pid),
            _ => Some(root),
        }
    }
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &Error) -> String {
    let said: Vec<String> = causes(error).map(ToString::to_string).collect();
    said.join(": ")
}

/// An error, its cause, the cause of that, and so on.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The kernel's answer, if an error is that.
fn number(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let of_io = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    of_io.or_else(|| error.downcast_ref::<nix::errno::Errno>().map(|errno| *errno as i32))
}

/// Whether any of the causes is that there is no such process, file or descriptor.
fn leads_to_nothing(error: &(dyn std::error::Error + 'static)) -> bool {
    let gone = |number| matches!(number, libc::ENOENT | libc::ESRCH | libc::ECHILD);
    causes(error).any(|error| {
        let of_task = error.downcast_ref::<kernel::ptrace::Error>();
        let of_freeze = match error.downcast_ref::<freezer::StopError>() {
            Some(freezer::StopError::Ptrace(error)) => Some(error),
            _ => None,
        };
        let not_found = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
        of_task.or(of_freeze).is_some_and(kernel::ptrace::Error::is_gone)
            || number(error).is_some_and(gone)
            || not_found
    })
}
