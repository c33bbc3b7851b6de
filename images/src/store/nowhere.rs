//! Where nothing comes to: what a checkpoint would be is counted, and let go of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Committed, Complete, Destination, ImageOutput, NewCheckpoint, Opened, PageSink, Safe};
use crate::error::Error;

/// A place of which nothing is kept but how much was written.
#[derive(Clone, Debug)]
pub struct Nowhere {
    /// What errors call it.
    pub path: PathBuf,
    /// What would come there would be encrypted.
    pub encrypts: bool,
}

impl Destination for Nowhere {
    fn path(&self) -> &Path {
        &self.path
    }

    fn encrypts(&self) -> bool {
        self.encrypts
    }

    fn begin(&self) -> Result<Box<dyn NewCheckpoint>, Error> {
        let Self { path, encrypts } = self.clone();
        Ok(Box::new(Counting { path, encrypts, files: Mutex::default() }))
    }

    /// There is nothing.
    fn make_safe(&self, _complete: &Complete<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// A checkpoint whose files are lengths.
#[derive(Debug)]
struct Counting {
    path: PathBuf,
    encrypts: bool,
    files: Mutex<BTreeMap<String, Arc<Length>>>,
}

impl Counting {
    fn file(&self, name: &str) -> Result<Counted, Error> {
        let length = Arc::<Length>::default();
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        match files.insert(name.to_owned(), Arc::clone(&length)) {
            None => Ok(Counted(length)),
            Some(_) => Err(Error::io("create", name)(io::ErrorKind::AlreadyExists.into())),
        }
    }
}

impl NewCheckpoint for Counting {
    fn target(&self) -> &Path {
        &self.path
    }

    fn encrypts(&self) -> bool {
        self.encrypts
    }

    fn create(&self, name: &str) -> Result<Box<dyn ImageOutput>, Error> {
        Ok(Box::new(self.file(name)?))
    }

    fn create_pages(&self, name: &str) -> Result<Arc<dyn PageSink>, Error> {
        Ok(Arc::new(self.file(name)?))
    }

    fn create_directory(&self, _name: &str) -> Result<(), Error> {
        Ok(())
    }

    fn link(&self, _name: &str, _to: &Path) -> Result<(), Error> {
        Ok(())
    }

    /// As long as what was written, and all zeros.
    fn read(&self, name: &str) -> Result<Opened, Error> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let length = files.get(name).ok_or_else(|| Error::Missing { name: name.to_owned() })?;
        let size = length.0.load(Ordering::Relaxed);
        Ok(Opened { content: Box::new(Zeros { size, at: 0 }), size })
    }

    fn commit(self: Box<Self>, names: &BTreeSet<String>, _safe: Safe) -> Result<Committed, Error> {
        let files = self.files.into_inner().unwrap_or_else(PoisonError::into_inner);
        let kept = files.iter().filter(|(name, _)| names.contains(*name));
        let lengths: Vec<u64> = kept.map(|(_, length)| length.0.load(Ordering::Relaxed)).collect();
        Ok(Committed { files: lengths.len(), bytes: lengths.iter().sum() })
    }
}

/// How much was written.
#[derive(Debug, Default)]
struct Length(AtomicU64);

/// A file of which nothing is kept.
#[derive(Debug)]
struct Counted(Arc<Length>);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ImageOutput for Counted {
    fn file(&mut self) -> Option<&mut File> {
        None
    }
}

impl PageSink for Counted {
    fn reserve(&self, bytes: u64) -> io::Result<u64> {
        Ok(self.0.0.fetch_add(bytes, Ordering::Relaxed))
    }

    fn write_all_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        None
    }

    /// The room stays part of the length, as it does in a directory.
    fn give_back(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}

/// So many zeros.
#[derive(Debug)]
struct Zeros {
    size: u64,
    at: u64,
}

impl Read for Zeros {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let read = left.min(buffer.len());
        buffer[..read].fill(0);
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Zeros {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.size, by),
        };
        self.at = from.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::InventoryEntry;
    use crate::store::{Memory, MemoryDestination, WriteOptions};
    use crate::{ImageWriter, names};

    /// An inventory and a pages file of so many bytes.
    fn written(destination: &dyn Destination, bytes: u64) -> Committed {
        let writer = ImageWriter::of(destination.begin().unwrap());
        let (_, pages) = writer.pages().unwrap();
        let at = pages.reserve(bytes).unwrap();
        pages.write_all_at(&vec![7; usize::try_from(bytes).unwrap()], at).unwrap();
        writer.write_one(&names::inventory(), &InventoryEntry::default()).unwrap();
        writer.commit_as(Safe::Later).unwrap()
    }

    #[test]
    fn it_counts_what_another_place_would_hold() {
        let options = WriteOptions::default();
        let memory = MemoryDestination { memory: Memory::default(), path: "/a".into(), options };
        let nowhere = Nowhere { path: "nowhere".into(), encrypts: false };
        for bytes in [0, 4096, 9 << 20] {
            let memory = MemoryDestination { path: format!("/{bytes}").into(), ..memory.clone() };
            let (kept, counted) = (written(&memory, bytes), written(&nowhere, bytes));
            assert_eq!(kept.files, counted.files);
            // The manifest tells of other contents, of the same length.
            assert!(kept.bytes.abs_diff(counted.bytes) < 64, "{kept:?} {counted:?}");
        }
    }

    #[test]
    fn zeros_end_where_what_was_written_does() {
        let mut zeros = Zeros { size: 10, at: 0 };
        let mut read = Vec::new();
        assert_eq!(zeros.seek(SeekFrom::End(-3)).unwrap(), 7);
        assert_eq!(zeros.read_to_end(&mut read).unwrap(), 3);
        assert_eq!(zeros.seek(SeekFrom::Start(20)).unwrap(), 20);
        assert_eq!(zeros.read_to_end(&mut read).unwrap(), 0);
        assert!(zeros.seek(SeekFrom::Current(-21)).is_err());
    }
}
