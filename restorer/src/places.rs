//! Where the paths of files begin that are in mount namespaces of the tree's own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::paths::{Links, find};

/// How files are found in mount namespaces that have been built.
#[derive(Debug, Default)]
pub struct Roots {
    pub(crate) namespaces: Vec<OwnedFd>,
    /// By the numbers that the images have.
    pub(crate) mounts: BTreeMap<i32, Root>,
    /// What other mounts hide, by the number of its own and its path: handles that were taken before it was hidden.
    pub(crate) hidden: BTreeMap<(i32, PathBuf), OwnedFd>,
    /// Of mounts on which deleted files are made: by which copies those can be, whatever the mounts are like.
    pub(crate) writable: BTreeMap<i32, Writable>,
}

/// A mount by a copy that can be written to.
#[derive(Clone, Debug)]
pub(crate) struct Writable {
    /// Where the mount is.
    pub(crate) place: PathBuf,
    /// A copy of the mount that this one is a part of, or of itself; mounts of one file system have it in common.
    pub(crate) copy: Arc<OwnedFd>,
    /// The path of the mount's root in the copy.
    pub(crate) below: PathBuf,
}

/// A mount.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) namespace: usize,
    /// Its file system has been made from the images.
    pub(crate) is_made: bool,
    /// It is placed when the first task of the tree is there.
    pub(crate) is_late: bool,
}

/// What is looked for on a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sought {
    /// The number that the images have of it.
    pub(crate) mount: i32,
    pub(crate) path: PathBuf,
    /// It is a directory in which something is made that loses its name at once.
    pub(crate) is_to_write: bool,
}

/// Where a path begins.
#[derive(Debug)]
pub struct Start<'r> {
    /// The directory.
    pub from: BorrowedFd<'r>,
    /// The path from there.
    pub path: PathBuf,
    /// What it leads to, if no path leads there.
    pub hidden: Option<BorrowedFd<'r>>,
    /// The root of the namespace.
    pub root: BorrowedFd<'r>,
    /// The file system has been made from the images.
    pub is_made: bool,
}

impl Start<'_> {
    /// A handle on what the path leads to.
    ///
    /// # Errors
    /// As [`find`].
    pub fn find(&self, links: Links) -> io::Result<OwnedFd> {
        match self.hidden {
            Some(hidden) => hidden.try_clone_to_owned(),
            None => find(self.from, &self.path, links),
        }
    }
}

impl Roots {
    /// Where the path of a file that was on a mount begins; `None` of one that is in no namespace that has been built.
    #[must_use]
    pub fn start(&self, mount: Option<i32>, path: &Path) -> Option<Start<'_>> {
        let number = mount?;
        let mount = self.mounts.get(&number)?;
        let root = self.namespaces.get(mount.namespace)?.as_fd();
        let hidden = self.hidden.get(&(number, path.to_owned())).map(OwnedFd::as_fd);
        Some(Start { from: root, path: path.to_owned(), hidden, root, is_made: mount.is_made })
    }

    /// The root of the namespace of the tree's root, if that is one of these.
    #[must_use]
    pub fn first(&self) -> Option<BorrowedFd<'_>> {
        self.namespaces.first().map(OwnedFd::as_fd)
    }

    /// Whether files are in other namespaces than the restoring process's.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    /// Whether a mount of the images is in one of the namespaces.
    #[must_use]
    pub fn holds(&self, mount: Option<i32>) -> bool {
        mount.is_some_and(|mount| self.mounts.contains_key(&mount))
    }

    /// Whether a mount of the images is only there when the first task is.
    #[must_use]
    pub fn is_late(&self, mount: Option<i32>) -> bool {
        mount.and_then(|mount| self.mounts.get(&mount)).is_some_and(|mount| mount.is_late)
    }

    /// A directory of a mount, by a copy of that which can be written to.
    ///
    /// # Errors
    /// `EROFS` if there is none.
    pub(crate) fn writable(&self, mount: Option<i32>, directory: &Path) -> io::Result<OwnedFd> {
        let none = || io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        let by = mount.and_then(|mount| self.writable.get(&mount)).ok_or_else(none)?;
        let below = directory.strip_prefix(&by.place).map_err(|_| none())?;
        find(&by.copy, &kernel::paths::join(&by.below, below), Links::Refused)
    }

    /// How many descriptors this has.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.namespaces.len() + self.hidden.len() + self.writable.len()
    }
}
