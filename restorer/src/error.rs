//! Why a restore failed.

use std::io;

use support::Unsupported;

use crate::files;
use crate::levels;
use crate::pids::NoTask;

/// Why a restore failed. Whatever had been built by then is gone again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The images cannot be read.
    #[error("read the images")]
    Images(#[from] images::Error),
    /// The images say something that cannot be so.
    #[error("{object}: {reason}")]
    Image {
        /// The image or what it describes.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The images hold something that this restore does not do, or not here.
    #[error("{}", support::said(.0))]
    Refused(Vec<Unsupported>),
    /// One of the hooks refused.
    #[error(transparent)]
    Hook(#[from] hooks::Failed),
    /// The open files cannot be restored.
    #[error("open the files")]
    Files(#[source] files::Error),
    /// The kernel refused something.
    #[error("{operation}")]
    Kernel {
        /// What was done, to what.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// `/proc` could not be read.
    #[error("look at this process")]
    ProcFs(#[from] kernel::procfs::Error),
    /// A task under construction could not be traced.
    #[error("trace the new tasks")]
    Trace(#[from] kernel::ptrace::Error),
    /// A task under construction failed; it said why.
    #[error("process {pid}: {message}")]
    Task {
        /// Its pid.
        pid: i32,
        /// What it was doing and what the kernel answered.
        message: String,
    },
    /// What the process that held the tree while it was built could not do.
    #[error("{0}")]
    Told(String),
    /// A task under construction ended or crashed.
    #[error("process {pid}: {what}")]
    Lost {
        /// Its pid, or its thread's.
        pid: i32,
        /// What became of it.
        what: String,
    },
}

impl From<levels::Wrong> for Error {
    fn from(wrong: levels::Wrong) -> Self {
        Self::image(format!("process {}", wrong.pid), wrong.what)
    }
}

impl From<NoTask> for Error {
    fn from(error: NoTask) -> Self {
        match error {
            NoTask::Asked(source) => Self::ProcFs(source),
            error => Self::image("the process tree", error.to_string()),
        }
    }
}

impl From<files::Error> for Error {
    fn from(error: files::Error) -> Self {
        match error {
            files::Error::Refused(found) => {
                Self::Refused(found.into_iter().map(files::Refused::into_found).collect())
            }
            error => Self::Files(error),
        }
    }
}

impl Error {
    /// All that was refused, as one error; or the first error of another kind.
    pub(crate) fn all(results: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let mut refused = Vec::new();
        for result in results {
            match result {
                Err(Self::Refused(found)) => refused.extend(found),
                done => done?,
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(Self::Refused(refused)) }
    }

    /// Names an operation that the kernel refused.
    pub(crate) fn kernel(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Kernel { operation, source }
    }

    pub(crate) fn image(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Image { object: object.into(), reason: reason.into() }
    }

    pub(crate) fn refused(found: Unsupported) -> Self {
        Self::Refused(vec![found])
    }
}

/// An error with all its causes on one line, for a pipe or a log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
