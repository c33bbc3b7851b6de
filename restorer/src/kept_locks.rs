//! Locks of open files that mappings alone keep: the task that had one takes it at the descriptor that the file is mapped by. All
//! mappings of the file in the tree are made of that open file, so that the lock goes with the last of them.

use std::io;
use std::os::fd::RawFd;

use ids::{HostPid, ImagePid};
use images::messages::{FileLockEntry, VmaEntry, lock_kind};
use kernel::descriptors::take_flock;

use crate::error::Error;
use crate::locks::{in_the_way, is_possible, name};

/// A flock that nothing but a mapping keeps, with the descriptor that its file is mapped by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptByMapping {
    fd: RawFd,
    start: u64,
    entry: FileLockEntry,
}

impl KeptByMapping {
    /// The one of a mapping that is made by `fd`.
    pub(crate) fn of(pid: ImagePid, vma: &VmaEntry, fd: RawFd) -> Option<Result<Self, Error>> {
        let entry = FileLockEntry {
            flag: lock_kind::FLOCK,
            r#type: vma.flock?,
            pid: pid.get(),
            fd,
            start: 0,
            len: 0,
        };
        let wrong = || {
            let object = format!("process {pid}, mapping {:#x}", vma.start);
            Error::image(object, "it keeps a lock that there cannot be")
        };
        let kept = Self { fd, start: vma.start, entry };
        Some(if is_possible(&entry) { Ok(kept) } else { Err(wrong()) })
    }
}

/// Takes the locks that the mappings of this task keep.
pub(crate) fn take(pid: ImagePid, all: &[KeptByMapping]) -> Result<(), Error> {
    for KeptByMapping { fd, start, entry } in all {
        let object = format!("{} of mapping {start:#x}", name(entry));
        match take_flock(*fd, entry.r#type.cast_signed()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let refusal = in_the_way(entry, HostPid::own(), *fd);
                return Err(Error::refused(refusal.of(pid.get(), object)));
            }
            Err(error) => {
                return Err(Error::kernel(format!("take the {object} of process {pid}"))(error));
            }
        }
    }
    Ok(())
}
