//! What inotify and fanotify watch. The kernel tells a number, a device and a handle of it, and no name.
//!
//! A restore finds what is watched by a name, which is looked for here: the handle is opened and asked what it is
//! called. Of a file system that opens none (overlayfs, those of the kernel's own) directories are read in which
//! it may be. What has no name any more is watched again if it comes back as a deleted file of the tree; what has
//! another name than the one that is known is found by its handle, on this machine.
//!
//! All of this is done while the target runs; of a frozen one it is asked whether each name leads where it led.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use collector::Inventory;
use ids::HostPid;
use images::messages::{FhEntry, FileIdentity};
use kernel::procfs::{Dir, Mounts, ProcFile};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, lstat};

use super::PlanContext;
use super::identity::FileSystems;
use super::paths::name_in_images;
use super::problem::{Doing, Problem};
use kernel::mounts::kernel_device;

/// Words of a handle in the images, which CRIU reads so many of.
const WORDS: usize = 16;

/// Where a search looks, whatever the tree has open.
pub(super) const USUAL: [&str; 6] =
    ["/etc", "/run", "/var/log", "/var/spool", "/lib/udev", "/usr/share/dbus-1"];

/// How many directory entries a search looks at.
pub(super) const MOST: usize = 1 << 20;

/// How deep a search goes into what the tree has open, and into file systems that open no handles.
pub(super) const DEPTH: usize = 3;

/// What is watched, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Inode {
    pub(super) number: u64,
    /// Of its file system, as `st_dev` encodes it.
    pub(super) device: u64,
    pub(super) handle_type: u32,
    pub(super) handle: Vec<u8>,
}

/// What the images say of it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) handle: FhEntry,
    pub(super) identity: Option<FileIdentity>,
    pub(super) mode: Option<u32>,
    pub(super) device: u32,
}

/// What is known of it.
#[derive(Clone, Debug)]
struct Known {
    /// Where we find it; `None` if only its handle leads to it.
    path: Option<PathBuf>,
    /// Device and number as `stat` gives them, which are others on some file systems.
    file: (u64, u64),
    mode: u32,
    identity: Option<FileIdentity>,
}

/// Where inodes are in mount namespaces, by the namespace: the number of a mount, and a path of the namespace.
pub(super) type Names = HashMap<(u64, Inode), (i32, PathBuf)>;

/// What has been found out.
#[derive(Debug, Default)]
pub(super) struct Watched {
    known: HashMap<Inode, Known>,
    mounts: Option<Mounts>,
    /// A directory of each file system that has been met; none where handles lead nowhere.
    anchors: HashMap<u64, Vec<OwnedFd>>,
    pub(super) file_systems: FileSystems,
    /// Names in mount namespaces of the tree's own.
    pub(super) inside: Names,
}

/// Where names are looked for that handles do not tell.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Also when the handle could be opened.
    pub always: bool,
    /// Directories to look in first, with all below them.
    pub below: Vec<PathBuf>,
}

impl Watched {
    /// What the images say of what an instance watches, in the same order. Nothing is searched for when the target is
    /// `frozen`.
    pub(super) fn targets(
        &mut self,
        inodes: &[Inode],
        inventory: &Inventory,
        context: &PlanContext,
        frozen: bool,
    ) -> Result<Vec<Target>, Problem> {
        let search = &context.search;
        let watched = &mut *self;
        let unknown = |watched: &Watched| -> Vec<Inode> {
            inodes.iter().filter(|inode| !watched.holds(inode)).cloned().collect()
        };
        for inode in unknown(watched) {
            watched.by_handle(&inode)?;
        }
        let mut missing = unknown(watched);
        let nameless = |inode: &&Inode| {
            search.always && watched.known.get(*inode).is_some_and(|known| known.path.is_none())
        };
        missing.extend(inodes.iter().filter(nameless).cloned());
        if !missing.is_empty() && !frozen {
            watched.search(&missing, search, inventory)?;
        }
        let targets = inodes.iter().map(|inode| match self.known.get(inode) {
            Some(known) => target(inode, known, inventory, |path| name_in_images(path, context)),
            None => Err(Problem::Refused(support::files::watched_unnamed(
                inode.number,
                (libc::major(inode.device), libc::minor(inode.device)),
            ))),
        });
        targets.collect()
    }
}

fn target(
    inode: &Inode,
    known: &Known,
    inventory: &Inventory,
    name: impl FnOnce(&Path) -> Result<Vec<u8>, Problem>,
) -> Result<Target, Problem> {
    if known.path.is_none() && known.identity.is_none() && !is_open(known.file, inventory) {
        return Err(Problem::Refused(support::files::WATCHED_DELETED));
    }
    let path = known.path.as_deref().map(name).transpose()?;
    Ok(Target {
        handle: handle(inode, path, None)?,
        identity: known.identity,
        mode: known.path.is_some().then_some(known.mode),
        device: kernel_device(inode.device),
    })
}

/// The handle of an inode as the images have it, with its path and, in a mount namespace of the tree's own, its mount.
pub(super) fn handle(
    inode: &Inode,
    path: Option<Vec<u8>>,
    mnt_id: Option<u32>,
) -> Result<FhEntry, Problem> {
    let mut words = [0; 8 * WORDS];
    let room = words.get_mut(..inode.handle.len());
    room.ok_or(Problem::Gone)?.copy_from_slice(&inode.handle);
    let words = words.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
    let (bytes, r#type) = (inode.handle.len() as u32, inode.handle_type);
    Ok(FhEntry { bytes, r#type, handle: words.collect(), path, mnt_id })
}

/// Whether a process of the tree has a file open.
pub(super) fn is_open(file: (u64, u64), inventory: &Inventory) -> bool {
    let mut files = inventory.processes.values().flat_map(|process| &process.files);
    files.any(|open| (open.device, open.inode) == file)
}

pub(super) fn numbers(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Watched {
    /// Whether what was found of an inode is still so.
    fn holds(&self, inode: &Inode) -> bool {
        let Some(known) = self.known.get(inode) else { return false };
        known
            .path
            .as_ref()
            .is_some_and(|path| lstat(path).is_ok_and(|stat| numbers(&stat) == known.file))
    }

    /// Opens what is watched by its handle, and finds out what it is called.
    fn by_handle(&mut self, inode: &Inode) -> Result<(), Problem> {
        self.known.remove(inode);
        let Some(handle) = self.open(inode)? else { return Ok(()) };
        let stat = fstat(&handle).doing("stat what is watched by")?;
        if stat.st_ino != inode.number {
            return Ok(());
        }
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let path = PathBuf::from(nix::fcntl::readlink(link.as_str()).doing("read the path of")?);
        let path = Some(path)
            .filter(|path| lstat(path).is_ok_and(|found| numbers(&found) == numbers(&stat)));
        // A deleted file comes back as another one.
        let deleted = stat.st_nlink == 0;
        let identity = self.file_systems.identity(&handle, &stat).filter(|_| !deleted);
        let known = Known { path, file: numbers(&stat), mode: stat.st_mode, identity };
        self.known.insert(inode.clone(), known);
        Ok(())
    }

    fn open(&mut self, inode: &Inode) -> Result<Option<OwnedFd>, Problem> {
        if inode.handle.is_empty() {
            return Ok(None);
        }
        if !self.anchors.contains_key(&inode.device) {
            let mounts = self.mounts()?;
            let of_device = mounts.0.iter().filter(|mount| mount.device == inode.device);
            let anchors = of_device.filter_map(kernel::handles::anchor).collect();
            self.anchors.insert(inode.device, anchors);
        }
        let anchors = self.anchors.get(&inode.device).map_or(&[][..], Vec::as_slice);
        let mut opened = anchors.iter().filter_map(|anchor| {
            kernel::handles::open(anchor, inode.handle_type, &inode.handle).ok()
        });
        Ok(opened.next())
    }

    pub(super) fn mounts(&mut self) -> Result<&Mounts, Problem> {
        if self.mounts.is_none() {
            let own = Dir::open(HostPid::own()).doing("open our own process for")?;
            self.mounts = Some(Mounts::read(&own).doing("read the mounts for")?);
        }
        self.mounts.as_ref().ok_or(Problem::Gone)
    }

    /// Looks for names in directories.
    fn search(
        &mut self,
        missing: &[Inode],
        search: &Search,
        inventory: &Inventory,
    ) -> Result<(), Problem> {
        let mounts = self.mounts()?.clone();
        let mut places = Places::default();
        places.add(search.below.iter().map(PathBuf::as_path), usize::MAX);
        let devices: BTreeSet<u64> = missing.iter().map(|inode| inode.device).collect();
        let of_devices = mounts.0.iter().filter(|mount| devices.contains(&mount.device));
        places.add(of_devices.map(|mount| Path::new(&mount.mount_point)), DEPTH);
        let files = inventory.processes.values().flat_map(|process| &process.files);
        let open = files.map(|file| Path::new(&file.target)).filter(|path| path.is_absolute());
        places.add(open.clone(), DEPTH);
        places.add(open.filter_map(Path::parent), 1);
        places.add(USUAL.iter().map(Path::new), usize::MAX);
        let mut wanted: BTreeMap<u64, Vec<&Inode>> = BTreeMap::new();
        for inode in missing {
            wanted.entry(inode.number).or_default().push(inode);
        }
        places.walk(|path, number| {
            if let Some(inodes) = wanted.get_mut(&number) {
                inodes.retain(|inode| !self.is_named(inode, path, &mounts));
                if inodes.is_empty() {
                    wanted.remove(&number);
                }
            }
            wanted.is_empty()
        });
        Ok(())
    }

    /// Whether a path leads to an inode, which is noted then.
    fn is_named(&mut self, inode: &Inode, path: &Path, mounts: &Mounts) -> bool {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Ok(handle) = open(path, flags, Mode::empty()) else { return false };
        let Ok(stat) = fstat(&handle) else { return false };
        let mount = kernel::handles::mount_of(&handle).and_then(|id| mounts.get(id));
        if stat.st_ino != inode.number || mount.is_none_or(|mount| mount.device != inode.device) {
            return false;
        }
        let identity = self.file_systems.identity(&handle, &stat);
        let path = Some(path.to_owned());
        let known = Known { path, file: numbers(&stat), mode: stat.st_mode, identity };
        self.known.insert(inode.clone(), known);
        true
    }
}

/// Directories to look in, and how deep.
#[derive(Debug, Default)]
struct Places(VecDeque<(PathBuf, usize)>);

impl Places {
    fn add<'a>(&mut self, paths: impl Iterator<Item = &'a Path>, depth: usize) {
        let paths: BTreeSet<&Path> = paths.collect();
        self.0.extend(paths.into_iter().map(|path| (path.to_owned(), depth)));
    }

    /// Gives each name with its number to `seen`, which says when to stop: first the places themselves, then what
    /// is in them, then what is in that.
    fn walk(mut self, mut seen: impl FnMut(&Path, u64) -> bool) {
        use std::os::unix::fs::{DirEntryExt, MetadataExt};
        for (path, _) in &self.0 {
            if std::fs::symlink_metadata(path).is_ok_and(|found| seen(path, found.ino())) {
                return;
            }
        }
        let mut left = MOST;
        while let Some((directory, depth)) = self.0.pop_front() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                left -= 1;
                if seen(&entry.path(), entry.ino()) || left == 0 {
                    return;
                }
                let is_directory = entry.file_type().is_ok_and(|found| found.is_dir());
                if is_directory && depth > 1 {
                    self.0.push_back((entry.path(), depth - 1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;

    fn inode(path: &Path) -> Inode {
        let found = std::fs::symlink_metadata(path).unwrap();
        let (number, device) = (found.ino(), found.dev());
        Inode { number, device, handle_type: 0, handle: Vec::new() }
    }

    #[test]
    fn names_are_found_without_handles() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        std::fs::create_dir_all(deep.parent().unwrap()).unwrap();
        std::fs::write(&deep, "").unwrap();
        let below = vec![dir.path().to_owned()];
        let search = Search { always: false, below };
        let mut watched = Watched::default();
        let wanted = [inode(&deep), inode(&dir.path().join("a"))];
        watched.search(&wanted, &search, &Inventory::default()).unwrap();
        assert!(wanted.iter().all(|inode| watched.holds(inode)));
        assert_eq!(watched.known[&wanted[0]].path.as_ref(), Some(&deep));
        std::fs::rename(&deep, dir.path().join("moved")).unwrap();
        assert!(!watched.holds(&wanted[0]));
    }

    #[test]
    fn places_are_gone_through_no_deeper_than_they_are_to_be() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("1/2/3")).unwrap();
        let mut places = Places::default();
        places.add([dir.path()].into_iter(), 2);
        let mut seen = Vec::new();
        places.walk(|path, _| {
            seen.push(path.strip_prefix(dir.path()).unwrap().as_os_str().as_bytes().to_vec());
            false
        });
        assert_eq!(seen, [&b""[..], b"1", b"1/2"]);
    }
}
