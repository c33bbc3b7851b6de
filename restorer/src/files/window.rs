//! Where tasks find a file that is opened after their birth, by a process that holds the tree.
//!
//! It waits in a message, in a pair of sockets that all inherit. Whoever looks has a descriptor for it and leaves the message to
//! the others. So nobody needs any right over the process that has opened it, which a task in a user namespace has not.

use std::io;
use std::os::fd::OwnedFd;

use ::kernel::passing;
use ::kernel::sockets::create_pair;

use super::keep::Keep;

/// A pair of sockets for a file.
#[derive(Debug)]
pub(super) struct Window {
    outside: OwnedFd,
    inside: OwnedFd,
}

impl Window {
    pub(super) fn new() -> io::Result<Self> {
        let (outside, inside) = create_pair(libc::SOCK_SEQPACKET)?;
        Ok(Self { outside, inside })
    }

    /// Moves the descriptors out of the tasks' way.
    pub(super) fn keep(self, keep: Keep) -> io::Result<Self> {
        Ok(Self { outside: keep.keep(self.outside)?, inside: keep.keep(self.inside)? })
    }

    /// Shows the file to all.
    pub(super) fn show(&self, file: &OwnedFd) -> io::Result<()> {
        passing::send(&self.outside, b".", &[file])
    }

    /// A descriptor for the file.
    pub(super) fn look(&self) -> io::Result<OwnedFd> {
        let found = passing::look_at(&self.inside)?.into_iter().next();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
