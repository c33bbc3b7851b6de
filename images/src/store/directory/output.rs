//! Files of a checkpoint that is being written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::pieces::Written;
use crate::store::{ImageOutput, PageSink};

impl ImageOutput for File {
    fn file(&mut self) -> Option<&mut File> {
        Some(self)
    }
}

/// A pages file.
#[derive(Debug)]
pub(super) struct PagesOutput {
    file: File,
    /// Bytes that were taken.
    taken: AtomicU64,
    /// It is to be on the disk in the end.
    sync: bool,
    written: Arc<Written>,
}

impl PagesOutput {
    pub(super) fn new(file: File, sync: bool) -> Self {
        Self { file, taken: AtomicU64::new(0), sync, written: Arc::default() }
    }
}

impl PageSink for PagesOutput {
    fn reserve(&self, bytes: u64) -> io::Result<u64> {
        Ok(self.taken.fetch_add(bytes, Ordering::Relaxed))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset.saturating_add(bytes.len() as u64) > self.taken.load(Ordering::Relaxed) {
            return Err(io::Error::other("pages are written where no room was taken"));
        }
        self.file.write_all_at(bytes, offset)?;
        self.written.add(bytes, offset);
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        self.sync.then_some(&self.file)
    }

    fn give_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.written.forget(offset, bytes);
        punch(&self.file, offset, bytes)
    }

    fn written(&self) -> Option<Arc<Written>> {
        Some(Arc::clone(&self.written))
    }
}

/// Makes a hole in a file, which keeps its length.
pub(super) fn punch(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let (start, length) = (offset.cast_signed(), bytes.cast_signed());
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, hole, start, length)?)
}
