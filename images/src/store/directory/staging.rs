//! The temporary directory of a checkpoint, and how it becomes the final one.
//!
//! - If the target does not exist, or is an empty directory, the temporary directory lies beside it
//!   (`.NAME.stasis-tmp-…`) and is renamed to it.
//! - Else (container runtimes put logs there first; it may be a mount point; somebody may hold it open) the
//!   temporary directory lies inside it (`.stasis-tmp-…`); files are moved out one by one, `inventory.img` last.
//!   A directory without that is no checkpoint.
//!
//! A writer that is dropped removes what it made. One that is killed cannot; it held a lock (`flock`) on its
//! temporary directory, and the next writer into the same place removes those that nobody holds
//! ([`leftovers::clear`]); until then [`leftovers::unfinished`] shows them.
//!
//! A checkpoint is not made inside another one, nor above one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::leftovers::{self, MARK};
use super::nesting::refuse_nested;
use super::output::PagesOutput;
use crate::error::Error;
use crate::names;
use crate::store::{Committed, ImageOutput, NewCheckpoint, Opened, PageSink, Safe, WriteOptions};

/// Files that are being synchronised at once.
const SYNC_THREADS: usize = 8;

/// A temporary directory. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staging {
    /// The final directory.
    target: PathBuf,
    /// The temporary one.
    path: PathBuf,
    /// The temporary one, open and locked.
    lock: File,
    /// It lies beside the target and will be renamed to it.
    beside: bool,
    /// It has its final name now.
    renamed: bool,
    options: WriteOptions,
    /// Page maps and pages that were in the target before, of a checkpoint whose pages come from elsewhere.
    before: BTreeMap<String, Version>,
    /// The inventory that was in the target before.
    inventory: Option<Version>,
}

/// By what a file is known that has been written since, or replaced: inode and time of its last change.
type Version = (u64, i64, i64);

impl Staging {
    pub(crate) fn create(directory: &Path, options: WriteOptions) -> Result<Self, Error> {
        let target = resolve(directory)?;
        let exists = target.exists();
        refuse_checkpoint(&target, options)?;
        clear(target.parent());
        clear(exists.then_some(target.as_path()));
        let keep = options.in_place || is_current(&target);
        if !exists || (!keep && is_empty(&target)?) {
            match Self::make(&target, true, options) {
                // The parent may be another file system, or closed to us.
                Err(_) if exists => {}
                made => return made,
            }
        }
        Self::make(&target, false, options)
    }

    pub(super) fn make(target: &Path, beside: bool, options: WriteOptions) -> Result<Self, Error> {
        let (place, prefix) = match (beside, target.parent(), target.file_name()) {
            (true, Some(parent), Some(name)) => {
                // Short enough for any file system, also when the name itself is as long as it may be.
                let name: String = name.to_string_lossy().chars().take(50).collect();
                (parent, format!(".{name}{MARK}"))
            }
            _ => (target, MARK.to_owned()),
        };
        for attempt in 0..1000 {
            let path = place.join(format!("{prefix}{}-{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::path("create directory", &path)(error)),
            }
            // Between creation and lock another writer may have taken the directory for a stale one.
            let Ok(lock) = File::open(&path) else { continue };
            let same = |file: &File| {
                let (ours, there) = (file.metadata().ok()?, fs::metadata(&path).ok()?);
                Some(ours.ino() == there.ino())
            };
            // A file system without locks has no stale directories that could be told from others: none are
            // removed there.
            let taken = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
            if taken || same(&lock) != Some(true) {
                continue;
            }
            let before = match options.pages_elsewhere && !beside {
                true => pages_in(target)?,
                false => BTreeMap::new(),
            };
            let inventory = version_of(&target.join(names::inventory().name()));
            let (target, renamed) = (target.into(), false);
            return Ok(Self { target, path, lock, beside, renamed, options, before, inventory });
        }
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(Error::path("create a temporary directory in", place)(source))
    }

    /// The temporary directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The final one.
    pub(super) fn place(&self) -> &Path {
        &self.target
    }

    pub(in crate::store) fn create_file(&self, name: &str) -> Result<File, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path.join(name))
            .map_err(Error::io("create", name))
    }

    /// Counts the files and, if asked, has them on the disk.
    fn settle(&self, names: &BTreeSet<String>) -> Result<Committed, Error> {
        let mut files = Vec::new();
        for name in names.iter().map(String::as_str).filter(|name| !is_parent_link(name)) {
            let file = File::open(self.path.join(name)).map_err(Error::io("open", name))?;
            files.push((name, file));
        }
        let mut committed = Committed { files: files.len(), bytes: 0 };
        for (name, file) in &files {
            committed.bytes += file.metadata().map_err(Error::io("stat", name))?.len();
        }
        if self.options.sync {
            let files: Vec<_> = files.iter().map(|(name, file)| (*name, file)).collect();
            sync_files(&files)?;
            for directory in names::PRE_COPIES.iter().filter(|name| is_in_use(name, names)) {
                sync_directory(&self.path.join(directory))?;
            }
            self.lock.sync_all().map_err(Error::path("sync", &self.path))?;
        }
        Ok(committed)
    }

    /// Gives the directory its final name. `false`: something has come into the target, or it is a mount point.
    fn rename(&self) -> Result<bool, Error> {
        refuse_checkpoint(&self.target, self.options)?;
        if let Ok(there) = fs::metadata(&self.target) {
            let mode = fs::Permissions::from_mode(there.mode() & 0o7777);
            fs::set_permissions(&self.path, mode).map_err(Error::path("chmod", &self.path))?;
            std::os::unix::fs::chown(&self.path, Some(there.uid()), Some(there.gid()))
                .map_err(Error::path("chown", &self.path))?;
        }
        match fs::rename(&self.path, &self.target) {
            Ok(()) => {}
            Err(error) if self.target.is_dir() => {
                tracing::debug!(%error, "the directory cannot be renamed into place: moving files");
                return Ok(false);
            }
            Err(error) => return Err(Error::path("rename into place", &self.target)(error)),
        }
        Ok(true)
    }

    /// Gives the directory, with all that is in it, its final name, on the disk if that is asked for. `false`: as of [`rename`](Self::rename).
    pub(super) fn become_target(&mut self) -> Result<bool, Error> {
        if self.options.sync {
            self.lock.sync_all().map_err(Error::path("sync", &self.path))?;
        }
        self.renamed = self.rename()?;
        if self.renamed && self.options.sync {
            let synced = sync_directory(self.target.parent().unwrap_or(Path::new("/")));
            // What may not be there when the machine has ended is not to be there before.
            synced.inspect_err(|_| self.renamed = fs::rename(&self.target, &self.path).is_err())?;
        }
        Ok(self.renamed)
    }

    /// Moves the files into the target, `inventory.img` last.
    fn move_all(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        refuse_checkpoint(&self.target, self.options)?;
        let inventory = names::inventory();
        remove_if_there(&self.target.join(inventory.name()))?;
        let fresh = self.fresh_pages()?;
        remove_old_images(&self.target, names, &fresh)?;
        let pre_copy = is_in_use(names::PRE_COPY, names).then_some(names::PRE_COPY);
        let others = names.iter().filter(|name| *name != inventory.name() && !name.contains('/'));
        let others = others.map(String::as_str).chain(pre_copy);
        for name in others.chain([inventory.name()]) {
            if self.options.sync && name == inventory.name() {
                sync_directory(&self.target)?;
            }
            let moved = fs::rename(self.path.join(name), self.target.join(name));
            if let Err(error) = moved {
                self.take_back(names);
                return Err(Error::io("move", name)(error));
            }
        }
        if self.options.sync {
            sync_directory(&self.target)?;
        }
        Ok(())
    }

    /// Removes what will not be in the checkpoint: pages that are elsewhere by now.
    fn remove_others(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).map_err(Error::path("list", &self.path))? {
            let entry = entry.map_err(Error::path("list", &self.path))?;
            let is_part = entry.file_name().to_str().is_some_and(|name| names.contains(name));
            let path = entry.path();
            let removed = match entry.file_type() {
                _ if is_part => Ok(()),
                Ok(kind) if kind.is_dir() => remove_tree(&path),
                _ => fs::remove_file(&path),
            };
            removed.map_err(Error::path("remove", &path))?;
        }
        Ok(())
    }

    /// Page maps and pages that have come into the target since.
    fn fresh_pages(&self) -> Result<BTreeSet<String>, Error> {
        if !self.options.pages_elsewhere {
            return Ok(BTreeSet::new());
        }
        let there = pages_in(&self.target)?.into_iter();
        let fresh = there.filter(|(name, version)| self.before.get(name) != Some(version));
        Ok(fresh.map(|(name, _)| name).collect())
    }

    /// Has what was a checkpoint be none any more, if it still is the one that was there.
    pub(super) fn replace_old(&self) -> Result<(), Error> {
        let inventory = self.target.join(names::inventory().name());
        if self.inventory.is_some() && version_of(&inventory) == self.inventory {
            remove_if_there(&inventory)?;
            return self.sync_target();
        }
        Ok(())
    }

    /// Has files on the disk, if asked, that are to be moved one by one.
    pub(super) fn sync_some(&self, names: &[String]) -> Result<(), Error> {
        if !self.options.sync {
            return Ok(());
        }
        let mut files = Vec::new();
        for name in names {
            let file = File::open(self.path.join(name)).map_err(Error::io("open", name))?;
            files.push((name.as_str(), file));
        }
        let files: Vec<_> = files.iter().map(|(name, file)| (*name, file)).collect();
        sync_files(&files)
    }

    /// Has the target's list of files on the disk, if asked.
    pub(super) fn sync_target(&self) -> Result<(), Error> {
        if self.options.sync { sync_directory(&self.target) } else { Ok(()) }
    }

    fn take_back(&self, names: &BTreeSet<String>) {
        for name in names {
            // What was not moved is still in the temporary directory, and goes with it.
            let moved = fs::symlink_metadata(self.path.join(name)).is_err();
            if moved && let Err(error) = remove_if_there(&self.target.join(name)) {
                tracing::warn!(%error, "a file of the failed checkpoint stays");
            }
        }
        if is_in_use(names::PRE_COPY, names)
            && !self.path.join(names::PRE_COPY).exists()
            && let Err(error) = remove_tree(&self.target.join(names::PRE_COPY))
        {
            tracing::warn!(%error, "a directory of the failed checkpoint stays");
        }
    }
}

impl NewCheckpoint for Staging {
    fn target(&self) -> &Path {
        &self.target
    }

    fn place(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn create(&self, name: &str) -> Result<Box<dyn ImageOutput>, Error> {
        Ok(Box::new(self.create_file(name)?))
    }

    fn create_pages(&self, name: &str) -> Result<Arc<dyn PageSink>, Error> {
        Ok(Arc::new(PagesOutput::new(self.create_file(name)?, self.options.sync)))
    }

    fn create_directory(&self, name: &str) -> Result<(), Error> {
        match fs::DirBuilder::new().mode(0o700).create(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::path("create directory", self.path.join(name))(error))
            }
            _ => Ok(()),
        }
    }

    fn link(&self, name: &str, to: &Path) -> Result<(), Error> {
        std::os::unix::fs::symlink(to, self.path.join(name)).map_err(Error::io("link", name))
    }

    fn read(&self, name: &str) -> Result<Opened, Error> {
        let file = File::open(self.path.join(name)).map_err(Error::io("open", name))?;
        let size = file.metadata().map_err(Error::io("stat", name))?.len();
        Ok(Opened { content: Box::new(file), size })
    }

    fn commit(
        mut self: Box<Self>,
        names: &BTreeSet<String>,
        safe: Safe,
    ) -> Result<Committed, Error> {
        self.options.sync &= safe == Safe::AtOnce;
        if self.options.pages_elsewhere {
            self.remove_others(names)?;
        }
        let committed = self.settle(names)?;
        self.renamed = self.beside && self.rename()?;
        if !self.renamed {
            self.move_all(names)?;
        } else if self.options.sync {
            sync_directory(self.target.parent().unwrap_or(Path::new("/")))?;
        }
        Ok(committed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Once renamed, the old name may be another writer's.
        if !self.renamed
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "temporary directory not removed");
        }
    }
}

/// The target by its real path: a link to a directory stands for the directory.
pub(super) fn resolve(directory: &Path) -> Result<PathBuf, Error> {
    let opening = |source| Error::OpenDirectory { path: directory.into(), source };
    match directory.canonicalize() {
        Ok(path) if path.is_dir() => return Ok(path),
        Ok(_) => return Err(opening(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(opening(error)),
    }
    let name = directory.file_name().ok_or_else(|| opening(io::ErrorKind::NotFound.into()))?;
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    Ok(parent.canonicalize().map_err(opening)?.join(name))
}

fn is_parent_link(name: &str) -> bool {
    name == names::PARENT_LINK
        || name.rsplit_once('/').is_some_and(|(_, name)| name == names::PARENT_LINK)
}

/// Whether any of these files is in such a directory, one of those for pages that were copied early.
fn is_in_use(directory: &str, names: &BTreeSet<String>) -> bool {
    names.iter().any(|name| name.rsplit_once('/').is_some_and(|(there, _)| there == directory))
}

pub(super) fn refuse_checkpoint(target: &Path, options: WriteOptions) -> Result<(), Error> {
    // Who overwrites, as CRIU does, lays out the directories himself.
    if options.overwrite {
        return Ok(());
    }
    if target.join(names::inventory().name()).exists() {
        return Err(Error::Exists { path: target.into() });
    }
    refuse_nested(target)
}

/// Whether this process is in the directory (as in `dump -D .`): whoever called it likely is too, and would be left
/// in a removed one.
pub(super) fn is_current(directory: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let here = identity(Path::new("."));
    here.is_some() && here == identity(directory)
}

pub(super) fn is_empty(directory: &Path) -> Result<bool, Error> {
    let mut entries = fs::read_dir(directory).map_err(Error::path("list", directory))?;
    Ok(entries.next().is_none())
}

/// Has files on the disk. Each waits for the file system's journal: several at once wait for it together.
fn sync_files(files: &[(&str, &File)]) -> Result<(), Error> {
    let sync = |(name, file): &(&str, &File)| file.sync_all().map_err(Error::io("sync", name));
    let share = files.len().div_ceil(SYNC_THREADS).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .chunks(share)
            .map(|files| scope.spawn(move || files.iter().try_for_each(sync)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Has a checkpoint that has appeared on the disk, with its name.
pub(super) fn sync_whole(target: &Path) -> Result<(), Error> {
    // A relative one may have nothing before its name.
    let target = target.canonicalize().map_err(Error::path("find", target))?;
    let below = names::PRE_COPIES.iter().map(|name| target.join(name));
    for directory in below.filter(|path| path.is_dir()).chain([target.clone()]) {
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).map_err(Error::path("list", &directory))? {
            let path = entry.map_err(Error::path("list", &directory))?.path();
            if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
                let file = File::open(&path).map_err(Error::path("open", &path))?;
                files.push((path.to_string_lossy().into_owned(), file));
            }
        }
        let files: Vec<_> = files.iter().map(|(name, file)| (name.as_str(), file)).collect();
        sync_files(&files)?;
        sync_directory(&directory)?;
    }
    sync_directory(target.parent().unwrap_or(Path::new("/")))
}

fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(Error::path("sync", directory))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::path("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `None` of what is not there.
fn version_of(path: &Path) -> Option<Version> {
    let there = path.symlink_metadata().ok()?;
    Some((there.ino(), there.ctime(), there.ctime_nsec()))
}

/// The page maps and pages in a directory.
fn pages_in(directory: &Path) -> Result<BTreeMap<String, Version>, Error> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(Error::path("list", directory))? {
        let entry = entry.map_err(Error::path("list", directory))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if names::is_of_pages(&name)
            && let Some(version) = version_of(&entry.path())
        {
            found.insert(name, version);
        }
    }
    Ok(found)
}

/// Removes images of an older checkpoint: a reader would take a leftover `remap-fpath.img` for one of the new.
fn remove_old_images(
    target: &Path,
    new: &BTreeSet<String>,
    fresh: &BTreeSet<String>,
) -> Result<(), Error> {
    for entry in fs::read_dir(target).map_err(Error::path("list", target))? {
        let entry = entry.map_err(Error::path("list", target))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == names::PRE_COPY && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            remove_tree(&path).map_err(Error::path("remove", path))?;
            continue;
        }
        // They vouch for what is replaced.
        let vouches = name == names::signature().name() || name == names::seal().name();
        let replaced = new.contains(name) || vouches;
        if replaced || (names::is_image(name) && !fresh.contains(name)) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes what killed writers left where this one will write: those that live hold a lock on theirs.
pub(super) fn clear(place: Option<&Path>) {
    let Some(place) = place else { return };
    match leftovers::clear(place) {
        Ok(cleared) => {
            for gone in cleared {
                tracing::info!(bytes = gone.bytes, path = %gone.path.display(), "removed what a killed dump left");
            }
        }
        Err(error) => tracing::debug!(%error, path = %place.display(), "cannot look for leftovers"),
    }
}
