//! Open files of every kind: opened once, handed to each task that shares them.
//!
//! The coordinator opens every file description of the images at descriptors that no task wants
//! (at and above [`OpenFiles::base`]). Its children inherit them; each puts its own into place
//! ([`OpenFiles::install`]) and, when its mappings are made, closes everything from the base on.

use std::os::fd::RawFd;
use std::path::PathBuf;

/// What the rest of the restore tells the files part.
#[derive(Clone, Debug)]
pub struct OpenContext {
    /// The root joins the caller's session and terminal.
    pub shell_job: bool,
    /// Directory that the paths in the images are relative to; `None` for the caller's root.
    pub root: Option<PathBuf>,
}

/// Why the files of the images were not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel interface failed.
    #[error("{operation}")]
    Kernel {
        /// What was done, to what.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The images say something that cannot be so.
    #[error("{object}: {reason}")]
    Image {
        /// The image entry.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The images hold something that this restore does not do.
    #[error("{object}: {reason}; {remedy}")]
    Refused {
        /// The file.
        object: String,
        /// Why it cannot be restored.
        reason: String,
        /// What can be done about it.
        remedy: String,
    },
}

/// The open files of the images, in the descriptor table of the coordinator.
#[derive(Debug)]
pub struct OpenFiles {
    base: RawFd,
}

impl OpenFiles {
    /// First descriptor number that no task of the images wants. The caller's own descriptors
    /// that must live on in the children are moved to this number or above
    /// (`fcntl(F_DUPFD_CLOEXEC, base)`): everything below belongs to the tasks.
    #[must_use]
    pub fn base(&self) -> RawFd {
        self.base
    }
}
