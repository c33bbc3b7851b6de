//! Where the coordinator keeps what it opens: at numbers that no task wants.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use kernel::descriptors::duplicate_from;

/// The first number that no task wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keep(pub(super) RawFd);

impl Keep {
    /// Moves a descriptor out of the way of the tasks.
    pub(super) fn keep(self, fd: OwnedFd) -> io::Result<OwnedFd> {
        if fd.as_raw_fd() >= self.0 { Ok(fd) } else { duplicate_from(&fd, self.0) }
    }
}
