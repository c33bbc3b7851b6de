//! Files of an encrypted checkpoint that is being written.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{EncryptedOutput, Encrypts};
use crate::error::Error;
use crate::store::{ImageOutput, PageSink};

type Stream = Box<dyn EncryptedOutput>;

/// Files whose end could not be written, which nobody else could tell: the first of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures(Arc<Mutex<Option<(String, io::Error)>>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, Option<(String, io::Error)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn told(&self) -> Result<(), Error> {
        match self.lock().take() {
            Some((name, source)) => Err(Error::io("encrypt", &name)(source)),
            None => Ok(()),
        }
    }
}

/// An image. Its last piece is written when it is dropped.
pub(super) struct EncryptedImage {
    name: String,
    stream: Option<Stream>,
    failures: Failures,
}

impl fmt::Debug for EncryptedImage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("EncryptedImage").field(&self.name).finish()
    }
}

impl EncryptedImage {
    pub(super) fn begin(
        name: &str,
        file: File,
        recipients: &dyn Encrypts,
        failures: Failures,
    ) -> io::Result<Self> {
        let stream = Some(recipients.begin(file)?);
        Ok(Self { name: name.to_owned(), stream, failures })
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for EncryptedImage {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream()?.flush()
    }
}

impl ImageOutput for EncryptedImage {
    /// The kernel must not copy into it.
    fn file(&mut self) -> Option<&mut File> {
        None
    }
}

impl Drop for EncryptedImage {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.stream.take().map(EncryptedOutput::finish) {
            self.failures.lock().get_or_insert((std::mem::take(&mut self.name), error));
        }
    }
}

/// A pages file.
pub(super) struct EncryptedPages {
    name: String,
    front: Mutex<Front>,
    /// If it is to be on the disk in the end: for who has the disk begin with that.
    file: Option<File>,
}

/// How far a pages file has come.
struct Front {
    /// `None` once it is ended, or cannot be written any further.
    stream: Option<Stream>,
    /// Bytes that were taken.
    taken: u64,
    /// Bytes that were written.
    at: u64,
    /// What has come before what is in front of it, by offset.
    early: BTreeMap<u64, Vec<u8>>,
}

impl fmt::Debug for EncryptedPages {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("EncryptedPages").field(&self.name).finish()
    }
}

impl EncryptedPages {
    pub(super) fn begin(
        name: &str,
        file: File,
        recipients: &dyn Encrypts,
        sync: bool,
    ) -> io::Result<Self> {
        let same = sync.then(|| file.try_clone()).transpose()?;
        let stream = Some(recipients.begin(file)?);
        let front = Front { stream, taken: 0, at: 0, early: BTreeMap::new() };
        Ok(Self { name: name.to_owned(), front: Mutex::new(front), file: same })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn lock(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes its last piece.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut front = self.lock();
        if front.at != front.taken || !front.early.is_empty() {
            return Err(io::Error::other(
                "room for pages was taken, and not all of it was written",
            ));
        }
        front
            .stream
            .take()
            .map_or_else(|| Err(io::ErrorKind::BrokenPipe.into()), EncryptedOutput::finish)
    }
}

impl Front {
    /// What can be written now that had come too early.
    fn next_early(&mut self) -> Option<Vec<u8>> {
        let at = self.at;
        self.early.remove(&at)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream.take().ok_or(io::ErrorKind::BrokenPipe)?;
        // A stream that could not be written to has lost a part.
        stream.write_all(bytes)?;
        self.stream = Some(stream);
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl PageSink for EncryptedPages {
    fn reserve(&self, bytes: u64) -> io::Result<u64> {
        let mut front = self.lock();
        let start = front.taken;
        front.taken = start.checked_add(bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(start)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut front = self.lock();
        let length = bytes.len() as u64;
        if offset.saturating_add(length) > front.taken {
            return Err(io::Error::other("pages are written where no room was taken"));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if offset > front.at {
            front.early.insert(offset, bytes.to_vec());
            return Ok(());
        }
        if offset < front.at {
            return Err(io::Error::other("pages are written twice"));
        }
        front.write(bytes)?;
        while let Some(bytes) = front.next_early() {
            front.write(&bytes)?;
        }
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// What is encrypted is one stream, of which no part can go.
    fn give_back(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
