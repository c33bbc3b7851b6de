//! Names that a dump gives to files which have lost theirs (`--link-remap`).

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use kernel::namespaces::{find_mounts, mount_view};
use kernel::paths::{Links, find};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use crate::connections::LockedTree;

/// A name that a dump gives to a file of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRemap {
    /// The number of the mount namespace in which the path leads there.
    namespace: u64,
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Whose restore needs it.
    tree: LockedTree,
}

/// The number of the mount namespace that this thread is in.
fn namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/mnt")?.ino())
}

impl LinkRemap {
    /// One that is about to be made, in the mount namespace with a number or here: `path` has no link in it, and what it
    /// will lead to has this device and inode.
    ///
    /// # Errors
    /// If it cannot be told where that is.
    pub fn new(
        elsewhere: Option<u64>,
        path: PathBuf,
        (device, inode): (u64, u64),
        tree: LockedTree,
    ) -> io::Result<Self> {
        let namespace = elsewhere.map_or_else(namespace, Ok)?;
        Ok(Self { namespace, path, device, inode, tree })
    }

    /// The root directory that the path begins at.
    fn root(&self) -> io::Result<OwnedFd> {
        if namespace()? == self.namespace {
            return Ok(open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?);
        }
        match find_mounts(self.namespace)? {
            Some(namespace) => Ok(mount_view(namespace)?.root),
            None => {
                let elsewhere = "it is in another mount namespace: run any stasis command in that";
                Err(io::Error::new(io::ErrorKind::NotFound, elsewhere))
            }
        }
    }

    /// Removes the name, but for a tree whose dumper was killed when all was done; whether it was there.
    ///
    /// # Errors
    /// When it stays. That something else has the name by now is none.
    pub(crate) fn undo(&self) -> io::Result<bool> {
        if self.tree.is_away() {
            return Ok(false);
        }
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(false);
        };
        let root = self.root()?;
        let gone = |error: &io::Error| {
            let gone = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP];
            error.raw_os_error().is_some_and(|errno| gone.contains(&errno))
        };
        let directory = match find(&root, directory, Links::Refused) {
            Err(error) if gone(&error) => return Ok(false),
            found => found?,
        };
        let is_ours = |found: &FileStat| (found.st_dev, found.st_ino) == (self.device, self.inode);
        match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Ok(found) if !is_ours(&found) => Ok(false),
            found => {
                found?;
                unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir)?;
                Ok(true)
            }
        }
    }
}

impl fmt::Display for LinkRemap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name {} of a file that has lost its own", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ids::HostPid;
    use kernel::procfs::{Dir, ProcFile, Stat};

    use super::*;

    fn of(path: &Path, images: &Path, later: u64) -> LinkRemap {
        let found = path.symlink_metadata().unwrap();
        let root = HostPid::own();
        let start_time = Dir::open(root).and_then(|dir| Stat::read(&dir)).unwrap().start_time;
        let tree = LockedTree { root, start_time: start_time + later, images: images.to_owned() };
        LinkRemap::new(None, path.to_owned(), (found.dev(), found.ino()), tree).unwrap()
    }

    #[test]
    fn a_name_goes_if_it_is_the_one_and_nobody_needs_it() {
        let scratch = tempfile::tempdir().unwrap();
        let scratch = scratch.path().canonicalize().unwrap();
        let (file, name) = (scratch.join("file"), scratch.join("link_remap.1"));
        std::fs::write(&file, "").unwrap();
        std::fs::hard_link(&file, &name).unwrap();
        let living = of(&name, &scratch, 0);
        assert!(living.undo().unwrap());
        assert!(!name.exists() && file.exists());
        assert!(!living.undo().unwrap(), "it is gone");
        std::fs::write(&name, "another file").unwrap();
        assert!(!living.undo().unwrap() && name.exists(), "it is somebody else's");
        let ended = of(&name, &scratch, 1);
        std::fs::write(scratch.join("inventory.img"), "").unwrap();
        assert!(!ended.undo().unwrap() && name.exists(), "a restore needs it");
        let elsewhere = LinkRemap { namespace: 1, ..living };
        assert!(elsewhere.undo().is_err(), "not to be seen from here");
    }
}
