//! A store that is read for as long as somebody wants it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use super::{Identity, ImageFile, ImageStore, Opened, PageSource};
use crate::cancel::Cancel;
use crate::error::Error;

/// A store of which nothing is read any more once that is cancelled: each read fails then. It is for readers of all of a
/// checkpoint, which can be much.
#[derive(Debug)]
pub(crate) struct Wanted<S: ?Sized> {
    cancel: Cancel,
    of: S,
}

impl<S> Wanted<S> {
    pub(crate) const fn new(of: S, cancel: Cancel) -> Self {
        Self { cancel, of }
    }
}

impl<S: ?Sized> Wanted<S> {
    fn check(&self) -> io::Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(io::Error::other("nobody wants it any more")),
            false => Ok(()),
        }
    }
}

impl ImageStore for Wanted<Arc<dyn ImageStore>> {
    fn path(&self) -> &Path {
        self.of.path()
    }

    fn open(&self, name: &str) -> Result<Option<Opened>, Error> {
        let Some(Opened { content, size }) = self.of.open(name)? else { return Ok(None) };
        let content = Box::new(Wanted::new(content, self.cancel.clone()));
        Ok(Some(Opened { content, size }))
    }

    fn pages(&self, name: &str) -> Result<Option<Arc<dyn PageSource>>, Error> {
        let pages = self.of.pages(name)?;
        Ok(pages.map(|pages| Arc::new(Wanted::new(pages, self.cancel.clone())) as _))
    }

    fn list(&self) -> Result<Vec<ImageFile>, Error> {
        self.of.list()
    }

    fn parent(&self) -> Result<Option<Arc<dyn ImageStore>>, Error> {
        let parent = self.of.parent()?;
        Ok(parent.map(|parent| Arc::new(Self::new(parent, self.cancel.clone())) as _))
    }

    fn parent_is_lost(&self) -> bool {
        self.of.parent_is_lost()
    }

    fn give_back(&self, name: &str, places: &[(u64, u64)]) -> Result<(), Error> {
        self.of.give_back(name, places)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.of.replace(name, bytes)
    }

    fn identity(&self) -> Result<Identity, Error> {
        self.of.identity()
    }
}

impl<R: Read> Read for Wanted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.of.read(buffer)
    }
}

impl<S: Seek> Seek for Wanted<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.of.seek(to)
    }
}

impl PageSource for Wanted<Arc<dyn PageSource>> {
    fn bytes(&self) -> u64 {
        self.of.bytes()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check()?;
        self.of.read_exact_at(buffer, offset)
    }

    fn file(&self) -> Option<&File> {
        self.of.file()
    }
}
