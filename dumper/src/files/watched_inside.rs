//! What inotify and fanotify watch in mount namespaces of the tree's own.
//!
//! A handle is opened on a mount of the namespace where what it leads to has a name. Of a file system that opens none
//! (overlayfs, the root of most containers) the mount is gone through from its root, nearest names first, while the
//! target runs; of a frozen one it is asked whether the name leads where it led.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use collector::Inventory;
use ids::HostPid;
use kernel::procfs::Mount;
use nix::sys::stat::{FileStat, fstat};

use super::problem::Problem;
use super::survey::Survey;
use super::watched::{
    DEPTH, Inode, MOST, Search, Target, USUAL, Watched, handle, is_open, numbers,
};
use crate::mounts::{View, Views};
use kernel::mounts::kernel_device;

/// Something that is watched, and where it is.
#[derive(Debug)]
struct Found {
    mount: i32,
    path: PathBuf,
    named: OwnedFd,
    is: FileStat,
}

/// What asks for it.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    views: &'a Views,
    inventory: &'a Inventory,
    search: &'a Search,
    /// Nothing is searched for when the target is frozen.
    frozen: bool,
}

impl Survey<'_> {
    /// What the images say of what an instance of a process watches, in the same order.
    pub(super) fn watched_targets(
        &mut self,
        pid: HostPid,
        inodes: &[Inode],
    ) -> Result<Vec<Target>, Problem> {
        let (inventory, context, frozen) = (self.inventory, self.context, self.frozen);
        let watched = &mut self.held.watched;
        let Some(view) = context.views.of(pid) else {
            return watched.targets(inodes, inventory, context, frozen);
        };
        let (views, search) = (&context.views, &context.search);
        watched.inside(inodes, view, Asked { views, inventory, search, frozen })
    }
}

impl Watched {
    /// What the images say of what an instance watches that is in a mount namespace of the tree's own, first in the namespace
    /// `view` of who watches, in the same order.
    fn inside(
        &mut self,
        inodes: &[Inode],
        view: &View,
        asked: Asked<'_>,
    ) -> Result<Vec<Target>, Problem> {
        let others = asked.views.all().filter(|other| other.id != view.id);
        let views: Vec<&View> = [view].into_iter().chain(others).collect();
        let mut targets = Vec::new();
        for _ in 0..2 {
            targets = inodes.iter().map(|inode| self.somewhere(inode, &views, asked)).collect();
            let missing: Vec<Inode> = (targets.iter().zip(inodes))
                .filter(|(target, _)| matches!(target, Err(Problem::Refused(_))))
                .map(|(_, inode)| inode.clone())
                .collect();
            if missing.is_empty() || asked.frozen {
                break;
            }
            for view in &views {
                self.search_inside(&missing, view, asked);
            }
        }
        targets.into_iter().collect()
    }

    /// The first of some namespaces that has it.
    fn somewhere(
        &mut self,
        inode: &Inode,
        views: &[&View],
        asked: Asked<'_>,
    ) -> Result<Target, Problem> {
        let mut failed = Problem::Refused(support::mounts::WATCHED);
        for (at, view) in views.iter().enumerate() {
            match self.one_inside(inode, view, asked.inventory) {
                Err(problem) if at == 0 => {
                    let is_refused = matches!(problem, Problem::Refused(_));
                    failed = problem;
                    if !is_refused {
                        break;
                    }
                }
                Err(_) => {}
                found => return found,
            }
        }
        Err(failed)
    }

    fn one_inside(
        &mut self,
        inode: &Inode,
        view: &View,
        inventory: &Inventory,
    ) -> Result<Target, Problem> {
        let mut is_ghost = false;
        let found = self.by_name(inode, view);
        let found = found.or_else(|| by_handle(inode, view, inventory, &mut is_ghost));
        let device = kernel_device(inode.device);
        let Some(Found { mount, path, named, is }) = found else {
            // It comes back as a deleted file of the tree.
            if is_ghost {
                let handle = handle(inode, None, None)?;
                return Ok(Target { handle, identity: None, mode: None, device });
            }
            return Err(Problem::Refused(support::mounts::WATCHED));
        };
        let path = Some(path.into_os_string().into_vec());
        Ok(Target {
            handle: handle(inode, path, Some(mount.cast_unsigned()))?,
            identity: self.file_systems.identity(&named, &is),
            mode: Some(is.st_mode),
            device,
        })
    }

    /// By a name that was found before, if that still leads there.
    fn by_name(&self, inode: &Inode, view: &View) -> Option<Found> {
        let (mount, path) = self.inside.get(&(view.id, inode.clone()))?;
        named(view, path, *mount, inode.number)
    }

    /// Goes through the mounts of the file systems whose handles lead nowhere.
    fn search_inside(&mut self, missing: &[Inode], view: &View, asked: Asked<'_>) {
        let mut wanted: BTreeMap<u64, Vec<&Inode>> = BTreeMap::new();
        for inode in missing {
            wanted.entry(inode.device).or_default().push(inode);
        }
        let mut left = MOST;
        for mount in &view.mounts.0 {
            let Some(inodes) = wanted.get_mut(&mount.device) else { continue };
            // Whoever serves it may be of the tree, and never answer.
            if mount.fs_type.as_encoded_bytes().starts_with(b"fuse") {
                continue;
            }
            let mut walk = Walk::new(view, mount, asked);
            walk.go(&mut left, |path, number| {
                inodes.retain(|inode| {
                    let is =
                        inode.number == number && named(view, path, mount.id, number).is_some();
                    if is {
                        let key = (view.id, (*inode).clone());
                        self.inside.insert(key, (mount.id, path.to_owned()));
                    }
                    !is
                });
                inodes.is_empty()
            });
        }
    }
}

/// What has a name in a namespace, if it is the inode of a mount that it was.
fn named(view: &View, path: &Path, mount: i32, number: u64) -> Option<Found> {
    let named = view.find(path).ok()?;
    let is = fstat(&named).ok()?;
    let same = is.st_ino == number && kernel::mounts::id(&named).is_ok_and(|id| id == mount);
    same.then(|| Found { mount, path: path.to_owned(), named, is })
}

/// By its handle, on a mount where it has a name; or it is one that has none any more, and is open in the tree.
fn by_handle(
    inode: &Inode,
    view: &View,
    inventory: &Inventory,
    is_ghost: &mut bool,
) -> Option<Found> {
    let mut mounts = view.mounts.0.iter().filter(|mount| mount.device == inode.device);
    mounts.find_map(|mount| {
        let anchor = kernel::handles::anchor_of(view.root_of(mount)?)?;
        let found = kernel::handles::open(&anchor, inode.handle_type, &inode.handle).ok()?;
        let link = format!("/proc/self/fd/{}", found.as_raw_fd());
        let path = PathBuf::from(nix::fcntl::readlink(link.as_str()).ok()?);
        let is = fstat(&found).ok()?;
        let deleted = is.st_nlink == 0 && is.st_ino == inode.number;
        *is_ghost |= deleted && is_open(numbers(&is), inventory);
        let place = named(view, &path, mount.id, inode.number)?;
        (numbers(&place.is) == numbers(&is)).then_some(place)
    })
}

/// A way through the directories of one mount, which enters no other one.
#[derive(Debug)]
struct Walk<'a> {
    view: &'a View,
    /// Where something is mounted.
    covered: BTreeSet<&'a Path>,
    /// Directories that are still to be read, and how deep.
    ahead: VecDeque<(PathBuf, usize)>,
}

impl<'a> Walk<'a> {
    fn new(view: &'a View, mount: &'a Mount, asked: Asked<'_>) -> Self {
        let top = Path::new(&mount.mount_point);
        let covered = view.mounts.0.iter().map(|mount| Path::new(&mount.mount_point));
        let covered = covered.filter(|path| *path != top && path.starts_with(top)).collect();
        let mut walk = Self { view, covered, ahead: VecDeque::new() };
        let mut add = |path: &Path, depth| {
            if path.starts_with(top) && !walk.is_covered(path) {
                walk.ahead.push_back((path.to_owned(), depth));
            }
        };
        asked.search.below.iter().for_each(|path| add(path, usize::MAX));
        let files = asked.inventory.processes.values().flat_map(|process| &process.files);
        let open = files.map(|file| Path::new(&file.target)).filter(|path| path.is_absolute());
        let open: BTreeSet<&Path> =
            open.flat_map(|path| [Some(path), path.parent()]).flatten().collect();
        open.into_iter().for_each(|path| add(path, 1));
        USUAL.iter().for_each(|path| add(Path::new(path), DEPTH));
        add(top, usize::MAX);
        walk
    }

    /// Whether something else is mounted there, or above: who serves that may never answer.
    fn is_covered(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.covered.contains(above))
    }

    /// Gives each name with its number to `seen`, which says when to stop: first the places themselves. `left` names are looked at.
    fn go(&mut self, left: &mut usize, mut seen: impl FnMut(&Path, u64) -> bool) {
        for (path, _) in &self.ahead {
            let found = self.view.find(path).and_then(|found| Ok(fstat(&found)?));
            if found.is_ok_and(|is| seen(path, is.st_ino)) {
                return;
            }
        }
        while let Some((directory, depth)) = self.ahead.pop_front() {
            let Ok(opened) = self.view.find(&directory) else { continue };
            let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
            let Ok(entries) = std::fs::read_dir(link) else { continue };
            for entry in entries.flatten() {
                let Some(fewer) = left.checked_sub(1) else { return };
                *left = fewer;
                let path = directory.join(entry.file_name());
                if self.covered.contains(path.as_path()) {
                    continue;
                }
                if seen(&path, entry.ino()) {
                    return;
                }
                let is_directory = entry.file_type().is_ok_and(|found| found.is_dir());
                if is_directory && depth > 1 {
                    self.ahead.push_back((path, depth - 1));
                }
            }
        }
    }
}
