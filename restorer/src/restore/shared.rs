//! What the processes of a tree have in common, made before any of them: shared memory, the pages files, the pipe for
//! complaints.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use images::Progress;
use images::messages::VmaEntry;
use kernel::descriptors::duplicate_from;
use kernel::shared_memory::SharedMemory;

use crate::error::Error;
use crate::load::Checkpoint;
use crate::sysv;

/// Descriptors of the restore's own, from the base on, which close when it is over.
#[derive(Debug, Default)]
pub(super) struct OwnDescriptors(Vec<OwnedFd>);

impl OwnDescriptors {
    /// A second descriptor for `file`, out of the tasks' way.
    pub(super) fn keep(&mut self, file: &File, base: RawFd) -> Result<RawFd, Error> {
        let fd = duplicate_from(file, base).map_err(Error::kernel("duplicate a descriptor"))?;
        self.0.push(fd);
        Ok(self.0.last().map_or(-1, AsRawFd::as_raw_fd))
    }
}

/// The descriptors that every process may need.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) segments: BTreeMap<u64, RawFd>,
    /// Of System V segments, by namespace and id.
    pub(super) segment_sizes: BTreeMap<(u32, u64), u64>,
    pub(super) stores: Vec<RawFd>,
}

/// Fills shared anonymous memory, once, and moves the pages files out of the way.
pub(super) fn make(
    checkpoint: &Checkpoint,
    base: RawFd,
    kept: &mut OwnDescriptors,
    progress: &mut dyn Progress,
) -> Result<Shared, Error> {
    let mut shared = Shared { segment_sizes: sysv::sizes(checkpoint), ..Shared::default() };
    for store in checkpoint.stores.iter() {
        shared.stores.push(kept.keep(store, base)?);
    }
    for segment in &checkpoint.segments {
        let failed = |what| Error::kernel(format!("{what} shared memory {}", segment.shmid));
        let flags = segment.huge.map_or(0, VmaEntry::huge_flags).cast_signed();
        let memory = SharedMemory::new(segment.bytes as usize, flags);
        let mut memory = memory.map_err(failed("create"))?;
        for run in &segment.runs {
            let Some((store, offset)) = run.stored() else { continue };
            memory
                .fill(run.start, run.bytes(), &checkpoint.stores[store], offset)
                .map_err(failed("fill"))?;
            progress.advance(run.bytes());
        }
        let file = memory.into_file().map_err(failed("open"))?;
        shared.segments.insert(segment.shmid, kept.keep(&file, base)?);
    }
    Ok(shared)
}

/// Where complaints go in, and where they come out without waiting; out of the tasks' way.
pub(super) fn pipe(base: RawFd) -> Result<(File, File), Error> {
    let failed = || Error::kernel("make a pipe");
    let flags = nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK;
    let (read, write) = nix::unistd::pipe2(flags).map_err(|errno| failed()(errno.into()))?;
    let write = duplicate_from(&write, base).map_err(failed())?;
    Ok((File::from(write), File::from(read)))
}
