//! What can go wrong with one file.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use support::Refusal;

/// Why one file could not be looked at.
#[derive(Debug)]
pub(super) enum Problem {
    /// It cannot be dumped.
    Refused(Refusal),
    /// Its name has been deleted, while the file has other names.
    Lost {
        /// The name that it had.
        path: PathBuf,
    },
    /// It was closed, or its process ended, meanwhile.
    Gone,
    /// What the kernel says of it is not said of a file of this kind: it is another one by now.
    Exchanged(&'static str),
    /// There is no time left to read it.
    TooLate,
    /// A kernel interface failed.
    Kernel {
        /// What was done.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The text of `/proc/PID/fdinfo` is not that of a file of this kind.
pub(super) fn unexpected(kind: &'static str) -> Problem {
    Problem::Exchanged(kind)
}

/// Gives kernel errors the name of what was done.
pub(super) trait Doing<T> {
    fn doing(self, operation: &'static str) -> Result<T, Problem>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, operation: &'static str) -> Result<T, Problem> {
        self.map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::EBADF) => Problem::Gone,
            _ => Problem::Kernel { operation, source },
        })
    }
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, operation: &'static str) -> Result<T, Problem> {
        self.map_err(io::Error::from).doing(operation)
    }
}

impl<T> Doing<T> for Result<T, kernel::procfs::Error> {
    fn doing(self, operation: &'static str) -> Result<T, Problem> {
        self.map_err(|error| {
            if error.is_gone() {
                Problem::Gone
            } else {
                Problem::Kernel { operation, source: io::Error::other(error) }
            }
        })
    }
}
