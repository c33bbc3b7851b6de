//! A checkpoint in a directory, as CRIU has it.

mod arriving;
mod group;
mod leftovers;
mod nesting;
mod output;
mod removal;
mod staging;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;

pub(crate) use arriving::Arriving;
pub use group::{InGroup, NewGroup};
pub use leftovers::{Unfinished, clear, unfinished};
pub use removal::{parents_of, remove};
pub(crate) use staging::Staging;

use super::{
    Complete, Destination, Identity, ImageFile, ImageStore, NewCheckpoint, Opened, PageSource,
    WriteOptions,
};
use crate::error::Error;
use crate::names;
use crate::pagemap::PAGE_SIZE;

/// A directory, open for reading.
///
/// It holds a descriptor of the directory and opens files relative to it: what happens to the path, the mount
/// namespace or the root of the process afterwards does not matter.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())
            .map_err(|errno| Error::OpenDirectory { path: path.into(), source: errno.into() })?;
        Ok(Self::from_fd(fd, path))
    }

    /// Takes a directory that is open already; `path` is what errors call it.
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Self {
        Self { fd, path: path.into() }
    }

    fn list_below(&self, at: &str, prefix: &str, files: &mut Vec<ImageFile>) -> Result<(), Error> {
        let listing = |errno: Errno| Error::path("list", self.path.join(at))(errno.into());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.fd, at, flags, Mode::empty()).map_err(listing)?;
        for entry in dir.iter() {
            let entry = entry.map_err(listing)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !names::is_image(name) && !names::is_service(name) {
                continue;
            }
            let name = format!("{prefix}{name}");
            if let Some((_, size)) = self.open_file(&name)? {
                files.push(ImageFile { name, size });
            }
        }
        Ok(())
    }

    /// Opens a file of the directory. Only a regular file will do: no link that leads elsewhere, no fifo to hang on.
    fn open_file(&self, name: &str) -> Result<Option<(File, u64)>, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::io("open", name)(errno.into())),
        };
        let metadata = file.metadata().map_err(Error::io("stat", name))?;
        if !metadata.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(Error::io("open", name)(source));
        }
        Ok(Some((file, metadata.len())))
    }
}

/// A directory that a checkpoint is to come into. It is made when it does not exist; its parent must.
#[derive(Clone, Debug)]
pub struct NewDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// How it is written.
    pub options: WriteOptions,
}

impl NewDirectory {
    /// Begins one there.
    pub(in crate::store) fn staging(&self) -> Result<Staging, Error> {
        Staging::create(&self.path, self.options)
    }
}

impl Destination for NewDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn begin(&self) -> Result<Box<dyn NewCheckpoint>, Error> {
        Ok(Box::new(self.staging()?))
    }

    fn make_safe(&self, complete: &Complete<'_>) -> Result<(), Error> {
        let make = || {
            complete(&Directory::open(&self.path)?)?;
            if self.options.sync { staging::sync_whole(&self.path) } else { Ok(()) }
        };
        make().inspect_err(|_| removal::make_absent(&self.path))
    }
}

impl ImageStore for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str) -> Result<Option<Opened>, Error> {
        let opened = self.open_file(name)?;
        Ok(opened.map(|(file, size)| Opened { content: Box::new(file), size }))
    }

    fn pages(&self, name: &str) -> Result<Option<Arc<dyn PageSource>>, Error> {
        let opened = self.open_file(name)?;
        Ok(opened.map(|(file, bytes)| Arc::new(PagesFile { file, bytes }) as Arc<dyn PageSource>))
    }

    fn list(&self) -> Result<Vec<ImageFile>, Error> {
        let mut files = Vec::new();
        self.list_below(".", "", &mut files)?;
        for early in names::PRE_COPIES {
            match self.list_below(early, &format!("{early}/"), &mut files) {
                Err(Error::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    break;
                }
                listed => listed?,
            }
        }
        Ok(files)
    }

    fn parent(&self) -> Result<Option<Arc<dyn ImageStore>>, Error> {
        let path = self.path.join(names::PARENT_LINK);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match openat(&self.fd, names::PARENT_LINK, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Arc::new(Self { fd, path }))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::OpenDirectory { path, source: errno.into() }),
        }
    }

    fn parent_is_lost(&self) -> bool {
        let link = self.path.join(names::PARENT_LINK);
        link.symlink_metadata().is_ok() && !link.exists()
    }

    fn give_back(&self, name: &str, places: &[(u64, u64)]) -> Result<(), Error> {
        let failed = |errno: Errno| Error::io("give back room of", name)(errno.into());
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.fd, name, flags, Mode::empty()).map_err(failed)?);
        let found = file.metadata().map_err(Error::io("stat", name))?;
        // Whoever has it by another name may want what is in it.
        if !found.is_file() || found.nlink() > 1 {
            let what =
                "its pages are not given back: the file has other names, or is none; copy it";
            return Err(Error::invalid(name, what));
        }
        // Behind the end there is nothing to give back: it is asked of the file system.
        for &(offset, bytes) in [(found.len(), PAGE_SIZE)].iter().chain(places) {
            output::punch(&file, offset, bytes).map_err(Error::io("give back room of", name))?;
        }
        Ok(())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (folder, file) = name.rsplit_once('/').unwrap_or((".", name));
        let new = format!("{folder}/.{file}.stasis-new-{}", std::process::id());
        let failed = |errno: Errno| Error::io("replace", name)(errno.into());
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_TRUNC
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, new.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file = File::from(fd.map_err(failed)?);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("replace", name))?;
        renameat(&self.fd, new.as_str(), &self.fd, name).map_err(failed)
    }

    fn identity(&self) -> Result<Identity, Error> {
        let stat = nix::sys::stat::fstat(&self.fd)
            .map_err(|errno| Error::path("stat", &self.path)(errno.into()))?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

/// A pages file.
#[derive(Debug)]
struct PagesFile {
    file: File,
    bytes: u64,
}

impl PageSource for PagesFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
