//! Files that have lost the name by which they were opened, and have others (`--link-remap`). The kernel does not
//! tell those, so such a file is given a name, `link_remap.N`, beside the lost one: by that a restore finds it, and
//! removes it then. As in CRIU's images, each open file has a link of its own.
//!
//! The links are made while the target runs. One that is missing when it is frozen, since a name was lost
//! in between, lets the dump fail, which is tried again. A link of a dump that is killed or fails goes, and so
//! does that of a target which runs on: it is written down before it is made ([`freezer::LinkRemap`]).

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use freezer::{Deed, LinkRemap, LockedTree, Undo};
use ids::HostPid;
use images::messages::{REMAP_LINKED, RegFileEntry, RemapFilePathEntry};
use kernel::credentials::in_directory;
use kernel::paths::nearest;
use kernel::procfs::{Dir, ProcFile, Stat};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FileStat, fstatat};
use nix::unistd::linkat;

use super::owners;
use super::paths::{FileByPath, name_in_images};
use super::problem::{Doing, Problem};
use super::survey::Survey;

/// What becomes of a file that has lost its name.
#[derive(Clone, Debug, Default)]
pub enum LinkRemaps {
    /// It is refused.
    #[default]
    Refused,
    /// A dump would give it one; who only looks does not.
    Allowed,
    /// It is given one.
    Make(Arc<GivenLinks>),
    /// It has been given one, or the look fails: the target is frozen.
    Find(Arc<GivenLinks>),
}

/// A file that has lost its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lost {
    /// The number of the mount namespace that it was opened in, if that is not the dumper's, and the mount there.
    namespace: Option<(u64, i32)>,
    device: u64,
    inode: u64,
    /// The name that it has lost.
    name: PathBuf,
}

/// The links that a dump makes. They are removed when this is dropped.
#[derive(Debug)]
pub struct GivenLinks {
    /// Where they are written down.
    undo: PathBuf,
    tree: LockedTree,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    links: HashMap<Lost, Vec<PathBuf>>,
    undo: Vec<(PathBuf, Undo)>,
    /// Those that the images name.
    named: BTreeSet<PathBuf>,
    last: u32,
}

/// How many names in a directory are tried.
const TRIED: u32 = 100_000;

impl GivenLinks {
    /// None yet, of the tree below `root`, for a checkpoint that is to be at `images`; they are written down in `undo`.
    ///
    /// # Errors
    /// If the root of the tree has gone.
    pub(crate) fn new(
        root: HostPid,
        undo: &Path,
        images: &Path,
    ) -> Result<Self, kernel::procfs::Error> {
        let start_time = Dir::open(root).and_then(|dir| Stat::read(&dir))?.start_time;
        let images = std::path::absolute(images).unwrap_or_else(|_| images.to_owned());
        let tree = LockedTree { root, start_time, images };
        Ok(Self { undo: undo.to_owned(), tree, made: Mutex::default() })
    }

    /// Removes those that the images do not name: the file was closed before the target was frozen. The target is frozen
    /// still, so that whoever finds it alive would remove all of them.
    pub(crate) fn remove_others(&self) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let Made { undo, named, .. } = &mut *made;
        undo.retain(|(path, _)| named.contains(path));
    }

    /// The tree has ended, or stays stopped: a restore removes them.
    pub(crate) fn keep(&self) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.undo.drain(..).for_each(|(_, undo)| undo.keep());
    }

    /// The target is frozen: from now on it is noted which are named.
    fn freeze(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).named.clear();
    }

    /// As [`Self::get`], of a link that comes into the images.
    fn name(&self, lost: &Lost, nth: usize) -> Option<PathBuf> {
        let path = self.get(lost, nth)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.named.insert(path.clone());
        Some(path)
    }

    /// The link number `nth` of a file, if it has been made.
    fn get(&self, lost: &Lost, nth: usize) -> Option<PathBuf> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.links.get(lost)?.get(nth).cloned()
    }

    /// Makes one, found from the root directory `root` of its namespace; `None` for a file of which there is no name at all.
    fn make(&self, handle: &OwnedFd, root: &OwnedFd, lost: Lost) -> io::Result<Option<PathBuf>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let (directory, path) = nearest(root, lost.name.parent().unwrap_or_else(|| "/".as_ref()))?;
        let from = format!("/proc/self/fd/{}", handle.as_raw_fd());
        for _ in 0..TRIED {
            made.last += 1;
            let name = format!("link_remap.{}", made.last);
            match fstatat(&directory, &*name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {}
                found => {
                    found?;
                    continue;
                }
            }
            let path = path.join(&name);
            let (namespace, file) = (lost.namespace.map(|(id, _)| id), (lost.device, lost.inode));
            let deed = LinkRemap::new(namespace, path.clone(), file, self.tree.clone())?;
            let undo = Undo::before(&self.undo, Deed::LinkRemap(deed)).map_err(io::Error::other)?;
            let link = || {
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                Ok(linkat(AT_FDCWD, &*from, &directory, &*name, follow)?)
            };
            let linked = in_directory(&directory, link);
            match linked.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)) {
                Ok(()) => {
                    made.undo.push((path.clone(), undo));
                    made.links.entry(lost).or_default().push(path.clone());
                    return Ok(Some(path));
                }
                // It is another one's, which may lead to the same file.
                Err(Errno::EEXIST) => undo.keep(),
                Err(Errno::ENOENT) => {
                    undo.keep();
                    return Ok(None);
                }
                Err(errno) => {
                    undo.keep();
                    return Err(errno.into());
                }
            }
        }
        Err(Errno::EEXIST.into())
    }
}

impl LinkRemaps {
    /// Whether a file may have lost its name.
    pub(super) const fn are_allowed(&self) -> bool {
        !matches!(self, Self::Refused)
    }

    /// From now on the target is frozen.
    pub(super) fn freeze(&mut self) {
        if let Self::Make(links) = self {
            links.freeze();
            *self = Self::Find(Arc::clone(links));
        }
    }
}

/// What is kept of such files beside their entries.
#[derive(Debug, Default)]
pub(super) struct RemappedFiles {
    /// How often each has been met.
    met: HashMap<Lost, usize>,
    pub(super) remaps: Vec<RemapFilePathEntry>,
}

impl super::beside::Part for RemappedFiles {}

/// How a file that has lost its name comes into the images.
pub(super) enum Found {
    /// By another name: the entry of that, if one is made.
    Linked(Option<RegFileEntry>),
    /// As deleted: it has no name at all, and its file system (overlayfs) does not say so.
    Deleted,
}

impl Survey<'_> {
    /// Gives the file `id`, which has lost its name, another one.
    pub(super) fn link_remap(
        &mut self,
        found: &FileByPath,
        lost: &Path,
        id: u32,
        stat: &FileStat,
    ) -> Result<Found, Problem> {
        let refused = || Problem::Lost { path: lost.to_owned() };
        let place = self.context.views.place(&found.handle).doing("find the mount of")?;
        let name = Lost {
            namespace: place.view.map(|view| view.id).zip(place.mount),
            device: stat.st_dev,
            inode: stat.st_ino,
            name: lost.to_owned(),
        };
        let remapped = self.out.beside.of::<RemappedFiles>();
        let met = remapped.met.entry(name.clone()).or_default();
        let nth = *met;
        *met += 1;
        let path = match &self.context.link_remaps {
            LinkRemaps::Refused => return Err(refused()),
            LinkRemaps::Allowed => return Ok(Found::Linked(None)),
            LinkRemaps::Find(links) => links.name(&name, nth).ok_or_else(refused)?,
            LinkRemaps::Make(links) => match links.get(&name, nth) {
                Some(path) => path,
                None => {
                    match place.root().and_then(|root| links.make(&found.handle, &root, name)) {
                        Ok(Some(path)) => path,
                        Ok(None) => return Ok(Found::Deleted),
                        Err(error) => {
                            let refusal = support::paths::not_linked(lost, &error.to_string());
                            return Err(Problem::Refused(refusal));
                        }
                    }
                }
            },
        };
        // Which link it is, is for the frozen look to say.
        self.to_keep = false;
        let link = RegFileEntry {
            id: self.new_id(),
            fown: owners::nobody(),
            name: match place.view {
                Some(_) => path.into_os_string().into_vec(),
                None => name_in_images(&path, self.context)?,
            },
            mnt_id: found.mount,
            mode: Some(stat.st_mode),
            identity: found.identity,
            ..RegFileEntry::default()
        };
        self.out.beside.of::<RemappedFiles>().remaps.push(RemapFilePathEntry {
            orig_id: id,
            remap_id: link.id,
            remap_type: Some(REMAP_LINKED),
        });
        Ok(Found::Linked(Some(link)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn links(undo: &Path) -> GivenLinks {
        GivenLinks::new(HostPid::own(), undo, &undo.join("images")).unwrap()
    }

    #[test]
    fn each_link_has_a_free_name_and_goes_with_its_maker() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().canonicalize().unwrap();
        let place = dir.join("undo");
        std::fs::write(dir.join("other"), "text").unwrap();
        std::fs::write(dir.join("link_remap.1"), "not ours").unwrap();
        let file = File::open(dir.join("other")).unwrap();
        let found = file.metadata().unwrap();
        let (device, inode, name) = (found.dev(), found.ino(), dir.join("gone/lost"));
        let lost = Lost { namespace: None, device, inode, name };
        let root: OwnedFd = File::open("/").unwrap().into();
        let handle: OwnedFd = file.into();
        let made = links(&place);
        assert_eq!(made.get(&lost, 0), None);
        let first = made.make(&handle, &root, lost.clone()).unwrap().unwrap();
        let second = made.make(&handle, &root, lost.clone()).unwrap().unwrap();
        assert_eq!((&first, &second), (&dir.join("link_remap.2"), &dir.join("link_remap.3")));
        assert_eq!(made.get(&lost, 1).as_ref(), Some(&second));
        assert_eq!(std::fs::metadata(&second).unwrap().ino(), found.ino());
        drop(made);
        assert!(!first.exists() && !second.exists() && dir.join("link_remap.1").exists());
        let kept = links(&place);
        let first = kept.make(&handle, &root, lost.clone()).unwrap().unwrap();
        let unnamed = kept.make(&handle, &root, lost.clone()).unwrap().unwrap();
        kept.freeze();
        assert_eq!(kept.name(&lost, 0).as_ref(), Some(&first));
        kept.remove_others();
        assert!(first.exists() && !unnamed.exists());
        kept.keep();
        drop(kept);
        assert!(first.exists());
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
        std::fs::remove_file(dir.join("other")).unwrap();
        std::fs::remove_file(&first).unwrap();
        assert_eq!(
            links(&place).make(&handle, &root, lost).unwrap(),
            None,
            "it has no name at all"
        );
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    }
}
