//! Why a tree cannot be stopped.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ids::HostPid;
use kernel::{cgroup, procfs, ptrace};

/// Why a tree cannot be stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cgroup is in the way.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// What /proc says cannot be had.
    #[error(transparent)]
    Proc(#[from] procfs::Error),
    /// It does not stop, or may not be stopped.
    #[error("stop process tree {root}")]
    Stop {
        /// Root of the tree.
        root: HostPid,
        /// Why.
        #[source]
        source: StopError,
    },
    /// The thread that would hold the tree cannot be made.
    #[error("make a thread to hold process tree {root}")]
    Thread {
        /// Root of the tree.
        root: HostPid,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that would hold the tree panicked.
    #[error("stop process tree {0}: the thread that holds it is gone")]
    Lost(HostPid),
    /// We would stop ourselves.
    #[error("freeze {0}: this process is in it")]
    Ourselves(PathBuf),
    /// A cgroup holds more than the tree.
    #[error("freeze the cgroup of process {pid}: process {other} is in it and not in the tree")]
    Shared {
        /// Root of the tree.
        pid: HostPid,
        /// A process that would be stopped with it.
        other: HostPid,
    },
    /// The tree is not in one cgroup that can be frozen.
    #[error("freeze the cgroup of process {0}: the tree is not in one of its own")]
    NoCgroup(HostPid),
    /// A cgroup cannot be stopped by ptrace.
    #[error("freeze cgroup {0} by ptrace: ptrace stops process trees")]
    CgroupByPtrace(String),
    /// Connections are locked, or a file has a name of ours, and that stays so.
    #[error("take away the {what}")]
    Locked {
        /// The lock, or the name.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is to be undone cannot be written down, or read.
    #[error("{operation} {path}, which tells what to undo")]
    Undo {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What helps, where something does.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Shared { .. } | Self::NoCgroup(_) => {
                Some("use the method ptrace, or move the tree into a cgroup of its own")
            }
            Self::CgroupByPtrace(_) => Some("use the method auto, or name a pid"),
            Self::Ourselves(_) => Some("name a cgroup that does not hold the freezer"),
            Self::Cgroup(cgroup::Error::NotMounted(_)) => {
                Some("use another method, or mount the hierarchy")
            }
            Self::Cgroup(cgroup::Error::Name(_)) => {
                Some("name it as /proc/PID/cgroup does, for example /box/one")
            }
            Self::Stop { source: StopError::DidNotStop { .. }, .. }
            | Self::Cgroup(cgroup::Error::Timeout { .. }) => {
                Some("a task may be waiting for a device or file system: try again")
            }
            _ => None,
        }
    }

    /// Whether the process or cgroup simply is not there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Proc(error) | Self::Cgroup(cgroup::Error::Proc(error)) => error.is_gone(),
            Self::Stop { source, .. } => source.is_gone(),
            Self::Cgroup(
                cgroup::Error::Read { source, .. } | cgroup::Error::Write { source, .. },
            ) => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Why a tree or a thread could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// ptrace refused.
    #[error(transparent)]
    Ptrace(#[from] ptrace::Error),
    /// /proc could not be read.
    #[error(transparent)]
    Procfs(#[from] procfs::Error),
    /// The control group that is to stop the tree cannot be used.
    #[error("stop the tree by its control group")]
    Group(#[source] Box<Error>),
    /// Another tracer has the task.
    #[error("thread {tid} is already traced by process {tracer}; detach that debugger first")]
    Traced {
        /// The thread.
        tid: HostPid,
        /// Its tracer.
        tracer: HostPid,
    },
    /// A thread did not stop in time.
    #[error("thread {tid} did not stop within {} ms (tried {tries} times): {why}", after.as_millis())]
    DidNotStop {
        /// The thread.
        tid: HostPid,
        /// What it seems to be at.
        why: String,
        /// How long it was given, with pauses.
        after: Duration,
        /// How often.
        tries: u32,
    },
    /// Tasks of the tree were missed again and again.
    #[error(
        "thread {tid} of process {pid} was missed while the tree was being stopped, as others before"
    )]
    Slipped {
        /// Its process.
        pid: HostPid,
        /// The task.
        tid: HostPid,
    },
    /// The root ended before it could be stopped.
    #[error("process {0} has ended")]
    RootEnded(HostPid),
}

impl StopError {
    /// Whether there is nothing to stop (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Ptrace(error) => error.is_gone(),
            Self::Procfs(error) => error.is_gone(),
            Self::RootEnded(_) => true,
            _ => false,
        }
    }
}
