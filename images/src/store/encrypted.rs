//! Checkpoints in a directory that are encrypted on their way there: [`crate::encryption`] says how, and reads them.
//!
//! Nothing comes to the disk before it is encrypted. Each file is a stream, so what comes too early of pages waits in memory until all that
//! is before it has come.

mod output;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Committed, Complete, Destination, ImageOutput, InGroup, NewCheckpoint, NewDirectory, Opened,
    PageSink, Safe, Staging,
};
use crate::error::Error;
use crate::names;
use output::{EncryptedImage, EncryptedPages, Failures};

/// Who files can be encrypted to.
pub trait Encrypts: fmt::Debug + Send + Sync {
    /// Begins a file of age's: what is written to what this gives comes to `file` encrypted.
    ///
    /// # Errors
    /// As the file's.
    fn begin(&self, file: File) -> io::Result<Box<dyn EncryptedOutput>>;
}

/// A file that is being encrypted, from its beginning to its end.
pub trait EncryptedOutput: Write + Send {
    /// Writes the last piece, without which a file is none.
    ///
    /// # Errors
    /// As the file's.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A directory that a checkpoint is to come into.
#[derive(Clone, Debug)]
pub enum DirectoryKind {
    /// By itself.
    Alone(NewDirectory),
    /// With others that appear at once.
    InGroup(InGroup),
}

impl From<NewDirectory> for DirectoryKind {
    fn from(directory: NewDirectory) -> Self {
        Self::Alone(directory)
    }
}

impl From<InGroup> for DirectoryKind {
    fn from(directory: InGroup) -> Self {
        Self::InGroup(directory)
    }
}

/// A directory that an encrypted checkpoint is to come into.
#[derive(Clone, Debug)]
pub struct EncryptedDirectory {
    /// Where it is, and how it is written.
    pub directory: DirectoryKind,
    /// To whom it is encrypted.
    pub recipients: Arc<dyn Encrypts>,
}

impl EncryptedDirectory {
    fn plain(&self) -> &dyn Destination {
        match &self.directory {
            DirectoryKind::Alone(directory) => directory,
            DirectoryKind::InGroup(directory) => directory,
        }
    }
}

impl Destination for EncryptedDirectory {
    fn path(&self) -> &Path {
        self.plain().path()
    }

    fn encrypts(&self) -> bool {
        true
    }

    fn begin(&self) -> Result<Box<dyn NewCheckpoint>, Error> {
        let options = match &self.directory {
            DirectoryKind::Alone(directory) => directory.options,
            DirectoryKind::InGroup(directory) => directory.options(),
        };
        if options.pages_elsewhere {
            let name = self.path().display().to_string();
            return Err(Error::Misuse {
                name,
                what: "pages that are sent elsewhere are not encrypted",
            });
        }
        let staging = match &self.directory {
            DirectoryKind::Alone(directory) => directory.staging()?,
            DirectoryKind::InGroup(directory) => directory.staging()?,
        };
        Ok(Box::new(NewEncrypted {
            staging: Box::new(staging),
            recipients: self.recipients.clone(),
            sync: options.sync,
            pages: Mutex::default(),
            failures: Failures::default(),
        }))
    }

    fn make_safe(&self, complete: &Complete<'_>) -> Result<(), Error> {
        self.plain().make_safe(complete)
    }
}

/// An encrypted checkpoint that is being written.
#[derive(Debug)]
struct NewEncrypted {
    staging: Box<Staging>,
    recipients: Arc<dyn Encrypts>,
    /// Files are to be on the disk in the end.
    sync: bool,
    /// Pages files, whose last piece comes when all is written.
    pages: Mutex<Vec<Arc<EncryptedPages>>>,
    /// What could not be ended.
    failures: Failures,
}

impl NewCheckpoint for NewEncrypted {
    fn target(&self) -> &Path {
        self.staging.target()
    }

    fn place(&self) -> Option<&Path> {
        NewCheckpoint::place(&*self.staging)
    }

    fn create(&self, name: &str) -> Result<Box<dyn ImageOutput>, Error> {
        if names::stays_plain(name) {
            return self.staging.create(name);
        }
        let file = self.staging.create_file(name)?;
        let begun = EncryptedImage::begin(name, file, &*self.recipients, self.failures.clone());
        Ok(Box::new(begun.map_err(Error::io("encrypt", name))?))
    }

    fn create_pages(&self, name: &str) -> Result<Arc<dyn PageSink>, Error> {
        let file = self.staging.create_file(name)?;
        let begun = EncryptedPages::begin(name, file, &*self.recipients, self.sync);
        let pages = Arc::new(begun.map_err(Error::io("encrypt", name))?);
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).push(pages.clone());
        Ok(pages)
    }

    fn create_directory(&self, name: &str) -> Result<(), Error> {
        self.staging.create_directory(name)
    }

    fn link(&self, name: &str, to: &Path) -> Result<(), Error> {
        self.staging.link(name, to)
    }

    fn read(&self, name: &str) -> Result<Opened, Error> {
        self.staging.read(name)
    }

    fn encrypts(&self) -> bool {
        true
    }

    /// Ends what has not been ended yet.
    fn kept(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Error> {
        let pages = std::mem::take(&mut *self.pages.lock().unwrap_or_else(PoisonError::into_inner));
        for file in pages {
            file.finish().map_err(Error::io("encrypt", file.name()))?;
        }
        self.staging.kept(names)
    }

    fn commit(self: Box<Self>, names: &BTreeSet<String>, safe: Safe) -> Result<Committed, Error> {
        self.failures.told()?;
        self.staging.commit(names, safe)
    }
}
