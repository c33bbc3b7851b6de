//! Reading a checkpoint directory.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use prost::Message;

use crate::error::Error;
use crate::messages::{IMG_VERSION_1, IMG_VERSION_1_1, InventoryEntry, PagemapHead};
use crate::names::{self, Image};
use crate::pagemap::PageMap;
use crate::reader::ImageReader;

/// A checkpoint directory, open for reading.
///
/// It holds a descriptor of the directory and opens files relative to it: what happens to the path, the mount
/// namespace or the root of the process afterwards does not matter.
#[derive(Debug)]
pub struct ImageDir {
    fd: OwnedFd,
    path: PathBuf,
    inventory: InventoryEntry,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

impl ImageDir {
    /// Opens the checkpoint in `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())
            .map_err(|errno| Error::OpenDirectory { path: path.into(), source: errno.into() })?;
        Self::from_fd(fd, path)
    }

    /// Takes a directory that is open already; `path` is what errors call it.
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Result<Self, Error> {
        let mut dir = Self { fd, path: path.into(), inventory: InventoryEntry::default() };
        dir.inventory = dir
            .read_one(&names::inventory())?
            .ok_or_else(|| Error::NotACheckpoint { path: path.into() })?;
        match dir.inventory.img_version {
            IMG_VERSION_1 | IMG_VERSION_1_1 => Ok(dir),
            version => Err(Error::Version { version }),
        }
    }

    /// The same directory once more.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let cloned = self.fd.try_clone();
        let fd =
            cloned.map_err(|source| Error::OpenDirectory { path: self.path.clone(), source })?;
        Ok(Self { fd, path: self.path.clone(), inventory: self.inventory.clone() })
    }

    /// What the directory was opened as.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `inventory.img`.
    pub fn inventory(&self) -> &InventoryEntry {
        &self.inventory
    }

    /// Opens an image to read its messages one after another; `None` if there is no such file.
    ///
    /// CRIU writes no file where there is nothing to say: to most readers no file and no message are the same.
    pub fn reader<M: Message + Default>(
        &self,
        image: &Image<M>,
    ) -> Result<Option<ImageReader<BufReader<File>, M>>, Error> {
        let Some((file, size)) = self.open_file(image.name())? else { return Ok(None) };
        let common = self.inventory.img_version != IMG_VERSION_1;
        ImageReader::new(image, BufReader::new(file), size, common).map(Some)
    }

    /// The only message of an image; `None` if there is no such file.
    pub fn read_one<M: Message + Default>(&self, image: &Image<M>) -> Result<Option<M>, Error> {
        self.reader(image)?.map(ImageReader::only).transpose()
    }

    /// The only message of an image that must be there.
    pub fn require<M: Message + Default>(&self, image: &Image<M>) -> Result<M, Error> {
        self.read_one(image)?.ok_or_else(|| Error::Missing { name: image.name().into() })
    }

    /// All messages of an image; none if there is no such file.
    pub fn read_all<M: Message + Default>(&self, image: &Image<M>) -> Result<Vec<M>, Error> {
        Ok(self.reader(image)?.map(ImageReader::entries).transpose()?.unwrap_or_default())
    }

    /// A page map, checked against the length of its pages file; `None` if there is no such image.
    pub fn page_map(&self, image: &Image<PagemapHead>) -> Result<Option<PageMap>, Error> {
        let Some(reader) = self.reader(image)? else { return Ok(None) };
        let map = PageMap::read(image.name(), reader)?;
        let stored = map.stored_bytes();
        if stored > 0 {
            let (_, size) = self.pages(map.pages_id)?;
            if size < stored {
                let name = names::pages(map.pages_id);
                return Err(Error::Truncated { name, offset: 0, wanted: stored, left: size });
            }
        }
        Ok(Some(map))
    }

    /// A pages file, and its length.
    pub fn pages(&self, pages_id: u32) -> Result<(File, u64), Error> {
        let name = names::pages(pages_id);
        self.open_file(&name)?.ok_or(Error::Missing { name })
    }

    /// A file of the directory, as it is.
    pub fn raw(&self, name: &str) -> Result<File, Error> {
        let (file, _) =
            self.open_file(name)?.ok_or_else(|| Error::Missing { name: name.into() })?;
        Ok(file)
    }

    /// The checkpoint that holds the pages marked as being in the parent; `None` if there is none.
    pub fn parent(&self) -> Result<Option<Self>, Error> {
        let path = self.path.join(names::PARENT_LINK);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match openat(&self.fd, names::PARENT_LINK, flags, Mode::empty()) {
            Ok(fd) => Self::from_fd(fd, &path).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::OpenDirectory { path, source: errno.into() }),
        }
    }

    /// Device and inode of the directory.
    pub(crate) fn identity(&self) -> Result<(u64, u64), Error> {
        let stat = nix::sys::stat::fstat(&self.fd)
            .map_err(|errno| Error::path("stat", &self.path)(errno.into()))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// The files of the checkpoint, by name; those with pages that were copied early too.
    pub fn files(&self) -> Result<Vec<ImageFile>, Error> {
        let mut files = Vec::new();
        self.list(".", "", &mut files)?;
        for early in names::PRE_COPIES {
            match self.list(early, &format!("{early}/"), &mut files) {
                Err(Error::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    break;
                }
                listed => listed?,
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn list(&self, at: &str, prefix: &str, files: &mut Vec<ImageFile>) -> Result<(), Error> {
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

impl AsFd for ImageDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
