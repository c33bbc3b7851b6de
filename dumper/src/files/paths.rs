//! Files that are found again by their path, and files whose path is gone.
//!
//! What a path leads to is checked while the target runs and remembered by device, inode and link
//! text. When the frozen inventory shows the same three, the answer still holds: unlinking a file
//! or moving it changes the text. Giving a name to a file that has none does not, so that the number
//! of names is compared too: a frozen target costs one `fstat` for each file, for that and its size.
//! (What is mounted over a path meanwhile is not seen.)

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ids::HostPid;
use images::messages::{AttributeEntry, FileIdentity};
use kernel::attributes::FileFlags;
use kernel::mounts;
use nix::sys::stat::{FileStat, fstat, lstat};
use nix::unistd::Whence;
use support::files::process_behind;

use super::PlanContext;
use super::content::Content;
use super::identity::FileSystems;
use super::other_names;
use super::problem::{Doing, Problem};
use crate::mounts::{Place, is_lost};

/// What names a file to us: device, inode and link text, in the mount namespace of who has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The kernel's number of the namespace.
    pub(super) namespace: u64,
    /// The number of its mount, where one of another namespace may have the same name; 0 elsewhere.
    pub(super) mount: i32,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) target: OsString,
}

/// How to tell that a handle leads to the file that was meant, as whoever is asked for it may run, and
/// have another file there by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// By device and inode: those are known as `stat` gives them.
    Numbers,
    /// By its name: a mapping's numbers are not those of `stat` on every file system.
    Name,
}

/// What is known of a file.
#[derive(Debug)]
pub(super) struct FileByPath {
    /// An `O_PATH` handle on the file itself.
    pub(super) handle: OwnedFd,
    /// What the file was when it was looked at.
    pub(super) stat_of_then: FileStat,
    /// Its path, as the images have it: from the root, without ` (deleted)`.
    pub(super) name: Vec<u8>,
    /// It has no name any more.
    pub(super) ghost: bool,
    /// It is of `/proc`, about the process with this number there, which has ended.
    pub(super) about_dead: Option<HostPid>,
    /// Its path is another name than that by which it was opened, which it has lost.
    pub(super) renamed: bool,
    /// The name that it has lost, if it has others (and may be carried nevertheless).
    pub(super) lost: Option<PathBuf>,
    /// Which file it is.
    pub(super) identity: Option<FileIdentity>,
    /// Its mount, where the images have mounts.
    pub(super) mount: Option<i32>,
    /// What is in it, once that has been read.
    content: OnceLock<Content>,
}

/// The attributes of a file, access lists among them.
pub(super) fn attributes(file: impl AsFd) -> Result<Vec<AttributeEntry>, Problem> {
    let found = kernel::attributes::list(file).doing("read the attributes of")?;
    Ok(found.into_iter().map(|(name, value)| AttributeEntry { name, value }).collect())
}

/// The flags of an open file without a name, if it has any. By some of them a restore could not make it
/// anew.
pub(super) fn file_flags(file: impl AsFd) -> Result<Option<u32>, Problem> {
    let flags = kernel::attributes::file_flags(file).doing("read the flags of")?;
    match flags.intersects(FileFlags::IMMUTABLE | FileFlags::APPEND) {
        true => Err(Problem::Refused(support::files::UNCHANGEABLE)),
        false => Ok(Some(flags.bits()).filter(|bits| *bits != 0)),
    }
}

/// Bytes of a ghost that are read between two looks at the clock.
const AT_ONCE: usize = 1 << 20;

impl FileByPath {
    /// What the file is now.
    pub(super) fn stat(&self) -> Result<FileStat, Problem> {
        fstat(&self.handle).doing("stat")
    }

    /// Its attributes, access lists among them.
    pub(super) fn attributes(&self) -> Result<Vec<AttributeEntry>, Problem> {
        attributes(&self.handle)
    }

    /// The flags of a file without a name, if it has any.
    pub(super) fn flags(&self) -> Result<Option<u32>, Problem> {
        let path = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
        file_flags(&File::open(path).doing("open again")?)
    }

    /// Where a symbolic link leads.
    pub(super) fn leads_to(&self) -> Result<Vec<u8>, Problem> {
        let target = nix::fcntl::readlinkat(&self.handle, "").doing("read the link")?;
        Ok(target.into_vec())
    }

    /// Whether it was a ghost and has a name by now, or the other way round, or may have lost the name that was found.
    pub(super) const fn is_outdated(&self, now: &FileStat) -> bool {
        let then = &self.stat_of_then;
        let is_changed = then.st_ctime != now.st_ctime || then.st_ctime_nsec != now.st_ctime_nsec;
        self.ghost != is_ghost(now) || self.renamed && is_changed
    }

    /// The same file, looked at again: its link text does not tell that a deleted file was given
    /// a name.
    pub(super) fn anew(&self, context: &PlanContext) -> Result<Self, Problem> {
        let handle = self.handle.try_clone().doing("look again at")?;
        let again = look(&path_of(&handle)?, handle, self.stat()?, context)?;
        Ok(Self { identity: self.identity, ..again })
    }

    /// What is in it. It is read now, if that has not been done or it has been written to since; of a
    /// frozen target's file as little as possible.
    pub(super) fn content(&self, now: &FileStat, frozen: bool) -> Result<Content, Problem> {
        let read = || Content::read(&self.handle, now, frozen).doing("read");
        match self.content.get() {
            Some(known) if known.is_of(now) => Ok(known.clone()),
            Some(_) => read(),
            None => {
                let content = read()?;
                Ok(self.content.get_or_init(|| content).clone())
            }
        }
    }

    /// The file's bytes by offset, without its holes. Those of a ghost only: others are found by
    /// their path. Fails once `is_late`, which is asked for every so many bytes.
    pub(super) fn pieces(
        &self,
        size: u64,
        limit: u64,
        is_late: &dyn Fn() -> bool,
    ) -> Result<Vec<(u64, Vec<u8>)>, Problem> {
        let file = File::open(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
            .doing("open deleted file")?;
        let (mut pieces, mut at, mut total) = (Vec::new(), 0, 0);
        while let Some((start, end)) = data_from(&file, at, size)? {
            total += end - start;
            if total > limit {
                return Err(Problem::Refused(support::paths::deleted_and_grows(limit, total)));
            }
            let mut bytes = vec![0; (end - start) as usize];
            for (offset, part) in (start..).step_by(AT_ONCE).zip(bytes.chunks_mut(AT_ONCE)) {
                if is_late() {
                    return Err(Problem::TooLate);
                }
                file.read_exact_at(part, offset).doing("read deleted file")?;
            }
            pieces.push((start, bytes));
            at = end;
        }
        Ok(pieces)
    }
}

/// The first stretch of bytes that are no hole, from `at` on.
fn data_from(file: &File, at: u64, size: u64) -> Result<Option<(u64, u64)>, Problem> {
    let seek = |from: u64, whence| nix::unistd::lseek(file, from.cast_signed(), whence);
    let start = match seek(at, Whence::SeekData) {
        Ok(start) => start.cast_unsigned(),
        // No more data.
        Err(nix::errno::Errno::ENXIO) => return Ok(None),
        Err(source) => return Err(source).doing("seek in deleted file"),
    };
    let end = seek(start, Whence::SeekHole).doing("seek in deleted file")?.cast_unsigned();
    Ok((start < size).then_some((start, end.min(size))))
}

/// The files that have been looked at.
#[derive(Debug, Default)]
pub(super) struct Paths {
    found: HashMap<Key, Arc<FileByPath>>,
    file_systems: FileSystems,
}

impl Paths {
    /// Whether a file is known, and has the name of `key` still.
    pub(super) fn is_called(&self, key: &Key) -> Result<bool, Problem> {
        let Some(found) = self.found.get(key) else { return Ok(false) };
        Ok(path_of(&found.handle)? == key.target)
    }

    /// What is known of the file that `key` names; `open` gives an `O_PATH` handle on it when it
    /// has not been looked at before.
    pub(super) fn find(
        &mut self,
        key: &Key,
        check: Check,
        context: &PlanContext,
        open: impl FnOnce() -> Result<OwnedFd, Problem>,
    ) -> Result<Arc<FileByPath>, Problem> {
        if let Some(found) = self.found.get(key) {
            return Ok(Arc::clone(found));
        }
        let handle = open()?;
        let stat = fstat(&handle).doing("stat")?;
        let is_it = match check {
            Check::Numbers => (stat.st_dev, stat.st_ino) == (key.device, key.inode),
            Check::Name => path_of(&handle)? == key.target,
        };
        if !is_it {
            return Err(Problem::Gone);
        }
        let identity = self.file_systems.identity(&handle, &stat);
        let found = Arc::new(FileByPath { identity, ..look(&key.target, handle, stat, context)? });
        self.found.insert(key.clone(), Arc::clone(&found));
        Ok(found)
    }
}

fn path_of(handle: &OwnedFd) -> Result<OsString, Problem> {
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    nix::fcntl::readlink(link.as_str()).doing("read the path of")
}

fn look(
    target: &OsStr,
    handle: OwnedFd,
    stat: FileStat,
    context: &PlanContext,
) -> Result<FileByPath, Problem> {
    let place = context.views.place(&handle).doing("find the mount of")?;
    if !place.is_known {
        // Nor are mounts of the kernel's own.
        of_file_system(&handle)?;
        return Err(Problem::Refused(support::mounts::UNMOUNTED));
    }
    if place.own_mount().is_some_and(is_lost) {
        return Err(Problem::Refused(support::mounts::ON_DELETED));
    }
    let (terminal, ghost) = (is_open_terminal(&stat), is_ghost(&stat));
    let about_dead = about_dead(&place, target, &handle)?;
    let leads_to = |path: &Path| leads_to(&place, path, &stat);
    let path = match without_suffix(target) {
        Some(path) if ghost || terminal || about_dead.is_some() => path,
        // It lost this name and was given it again, or the like, which the kernel does not tell.
        Some(path) if leads_to(&path) && !leads_to(Path::new(target)) => path,
        Some(path) if context.evasive_devices && is_device_at(&place, &path, &stat) => path,
        _ => PathBuf::from(target),
    };
    if !path.is_absolute() {
        return Err(Problem::Refused(support::paths::OUTSIDE_OF_ROOT));
    }
    let checked = match (ghost, terminal) {
        (true, _) => check_ghost(&stat, context).and_then(|()| check_mount(&place, &path, &handle)),
        (false, true) => Ok(()),
        _ if about_dead.is_some() => Ok(()),
        (false, false) => {
            check_path(&place, &path, &stat, context.evasive_devices, || is_nfs(&handle))
        }
    };
    let mut renamed = false;
    let (path, checked, lost) = match checked {
        Err(Problem::Lost { path }) if context.link_remaps.are_allowed() => {
            (path.clone(), Ok(()), Some(path))
        }
        Err(Problem::Lost { path }) if stat.st_mode & libc::S_IFMT == libc::S_IFREG => {
            // What NFS calls so goes when it is closed.
            let good = |name: &Path| !is_silly(name);
            match other_names::beside(&place, &path, &stat, good) {
                Some(other) => {
                    renamed = true;
                    (other, Ok(()), None)
                }
                None => (path.clone(), Err(Problem::Lost { path }), None),
            }
        }
        checked => (path, checked, None),
    };
    if ghost || checked.is_err() {
        of_file_system(&handle)?;
    }
    checked?;
    let name = match place.view {
        Some(_) => path.as_os_str().as_bytes().to_vec(),
        None => name_in_images(&path, context)?,
    };
    let (mount, identity, content) = (place.mount, None, OnceLock::new());
    Ok(FileByPath {
        handle,
        stat_of_then: stat,
        name,
        ghost,
        about_dead,
        renamed,
        lost,
        identity,
        mount,
        content,
    })
}

/// The process that a file of `/proc` is about, if that has ended: its folder is there no more.
fn about_dead(
    place: &Place<'_>,
    target: &OsStr,
    handle: &OwnedFd,
) -> Result<Option<HostPid>, Problem> {
    let path = without_suffix(target).unwrap_or_else(|| PathBuf::from(target));
    let Some(about) = process_behind(path.as_os_str().as_bytes()) else { return Ok(None) };
    let system = nix::sys::statfs::fstatfs(handle).doing("find the file system of")?;
    let is_there = place.find(Path::new(&format!("/proc/{about}"))).is_ok();
    let is_of_proc = system.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC;
    Ok(Some(about).filter(|_| is_of_proc && !is_there))
}

/// Files of the kernel's own that look like deleted ones, as their names are in no directory that
/// anybody sees.
fn of_file_system(handle: &OwnedFd) -> Result<(), Problem> {
    // include/uapi/linux/magic.h; the second is in ipc/mqueue.c
    const SECRETMEM: i64 = 0x5345_434d;
    const MQUEUE: i64 = 0x1980_0202;
    const HUGETLBFS: i64 = 0x9584_58f6;
    let found = nix::sys::statfs::fstatfs(handle).doing("find the file system of")?;
    match found.filesystem_type().0 {
        SECRETMEM => Err(Problem::Refused(support::paths::SECRET_MEMORY)),
        MQUEUE => Err(Problem::Refused(support::mqueue::BY_PATH)),
        HUGETLBFS => Err(Problem::Refused(support::paths::HUGE_PAGES)),
        _ => Ok(()),
    }
}

/// A deleted file is carried in the images when it is small enough and of a kind that we make.
fn check_ghost(stat: &FileStat, context: &PlanContext) -> Result<(), Problem> {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO | libc::S_IFCHR | libc::S_IFLNK => {}
        _ => {
            return Err(Problem::Refused(support::paths::DELETED_KIND));
        }
    }
    let allocated = stat.st_blocks.cast_unsigned().saturating_mul(512);
    let limit = context.ghost_limit;
    if allocated > limit {
        return Err(Problem::Refused(support::paths::deleted_and_large(allocated, limit)));
    }
    Ok(())
}

/// A deleted file is made again where it was, which a read-only mount does not hinder, but a read-only file system does.
fn check_mount(place: &Place<'_>, path: &Path, handle: &OwnedFd) -> Result<(), Problem> {
    if !mounts::is_read_only(handle).doing("find the file system of")? {
        return Ok(());
    }
    let tried = match place.own_mount() {
        // A restore makes it.
        Some(mount) if mount.file_system_flags().0 & libc::MS_RDONLY == 0 => Ok(()),
        Some(_) => Err(nix::errno::Errno::EROFS.into()),
        None => File::open("/")
            .and_then(|root| kernel::paths::nearest(root, path.parent().unwrap_or(path)))
            .and_then(|(directory, _)| mounts::writable_copy(directory).map(drop)),
    };
    tried.map_err(|error| {
        Problem::Refused(support::paths::deleted_and_read_only(&error.to_string()))
    })
}

/// The path must lead to the very file, or to the same device if that will do.
fn check_path(
    place: &Place<'_>,
    path: &Path,
    stat: &FileStat,
    evasive_devices: bool,
    is_nfs: impl FnOnce() -> bool,
) -> Result<(), Problem> {
    let by_path = match at(place, path, stat.st_mode) {
        Ok(by_path) => by_path,
        // What another mount hides is found by its own, below which the kernel says that it has this name.
        _ if place.is_hidden(path) => return Ok(()),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {
            let lost = without_suffix(path.as_os_str()).unwrap_or_else(|| path.to_owned());
            return Err(Problem::Lost { path: lost });
        }
        Err(source) => {
            return Err(Problem::Kernel { operation: "stat path", source: source.into() });
        }
    };
    if (by_path.st_dev, by_path.st_ino) == (stat.st_dev, stat.st_ino) || place.is_hidden(path) {
        return match is_silly(path) && is_nfs() {
            true => Err(Problem::Lost { path: path.to_owned() }),
            false => Ok(()),
        };
    }
    match evasive_devices && is_same_device(stat, &by_path) {
        true => Ok(()),
        false => Err(Problem::Refused(support::paths::LEADS_ELSEWHERE)),
    }
}

fn is_same_device(one: &FileStat, other: &FileStat) -> bool {
    let device = |of: &FileStat| (of.st_mode & libc::S_IFMT, of.st_rdev);
    let is_device = matches!(device(one).0, libc::S_IFCHR | libc::S_IFBLK);
    is_device && device(one) == device(other)
}

/// Whether a path leads to a node of the same device.
fn is_device_at(place: &Place<'_>, path: &Path, stat: &FileStat) -> bool {
    at(place, path, stat.st_mode).is_ok_and(|found| is_same_device(stat, &found))
}

/// Whether a name is like those that NFS gives to files which are deleted while they are open. It goes when
/// they are closed.
fn is_silly(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".nfs"))
}

fn is_nfs(handle: &OwnedFd) -> bool {
    let found = nix::sys::statfs::fstatfs(handle);
    found.is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NFS_SUPER_MAGIC)
}

fn leads_to(place: &Place<'_>, path: &Path, stat: &FileStat) -> bool {
    at(place, path, stat.st_mode)
        .is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
}

/// What a path leads to. (The kernel's paths have no links; in our own namespace the last may be one, if it is none that is asked for.)
fn at(place: &Place<'_>, path: &Path, mode: u32) -> nix::Result<FileStat> {
    match place.view {
        Some(_) => {
            let found = place.find(path);
            let number = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
            fstat(&found.map_err(|error| nix::errno::Errno::from_raw(number(error)))?)
        }
        None if mode & libc::S_IFMT == libc::S_IFLNK => lstat(path),
        None => nix::sys::stat::stat(path),
    }
}

/// The path as the images have it: below the root that was asked for.
pub(super) fn name_in_images(path: &Path, context: &PlanContext) -> Result<Vec<u8>, Problem> {
    let Some(root) = &context.root else {
        return Ok(path.as_os_str().as_bytes().to_vec());
    };
    let Ok(below) = path.strip_prefix(root) else {
        return Err(Problem::Refused(support::paths::outside_of_tree(root)));
    };
    Ok(Path::new("/").join(below).into_os_string().into_vec())
}

/// The path without the ` (deleted)` that the kernel appends; `None` when it does not end so.
fn without_suffix(target: &OsStr) -> Option<PathBuf> {
    let path = target.as_bytes().strip_suffix(b" (deleted)")?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// The kernel makes and names the files of devpts itself: there a lost name means nothing.
const fn is_open_terminal(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && is_terminal(stat.st_rdev)
}

/// Whether a file has no name any more.
const fn is_ghost(stat: &FileStat) -> bool {
    stat.st_nlink == 0 && !is_open_terminal(stat)
}

/// Whether a device number is one of a terminal (`Documentation/admin-guide/devices.txt`).
pub(super) const fn is_terminal(device: u64) -> bool {
    matches!((libc::major(device), libc::minor(device)), (4 | 136..=143, _) | (5, 0..=2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(root: Option<&str>) -> PlanContext {
        let root = root.map(PathBuf::from);
        let joined = std::collections::BTreeMap::new();
        let hidden = Default::default();
        let (ghost_limit, search) = (1 << 20, Default::default());
        PlanContext {
            root,
            ghost_limit,
            file_locks: true,
            joined,
            hidden,
            contents: true,
            search,
            ..Default::default()
        }
    }

    fn look(target: &OsStr, handle: OwnedFd, context: &PlanContext) -> Result<FileByPath, Problem> {
        let stat = fstat(&handle).unwrap();
        super::look(target, handle, stat, context)
    }

    fn handle(path: &Path) -> OwnedFd {
        use nix::fcntl::{OFlag, open};
        open(path, OFlag::O_PATH, nix::sys::stat::Mode::empty()).unwrap()
    }

    #[test]
    fn a_file_is_known_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file (deleted)");
        std::fs::write(&path, b"x").unwrap();
        let found = look(path.as_os_str(), handle(&path), &context(None)).unwrap();
        assert!(!found.ghost);
        assert_eq!(found.name, path.as_os_str().as_bytes());
        let rooted = look(path.as_os_str(), handle(&path), &context(dir.path().to_str())).unwrap();
        assert_eq!(rooted.name, b"/file (deleted)");
    }

    #[test]
    fn a_deleted_file_is_a_ghost_with_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"gone").unwrap();
        let handle = handle(&path);
        std::fs::remove_file(&path).unwrap();
        let target = format!("{} (deleted)", path.display());
        let found = look(OsStr::new(&target), handle, &context(None)).unwrap();
        assert!(found.ghost);
        assert_eq!(found.name, path.as_os_str().as_bytes());
        let pieces = |limit, is_late: bool| found.pieces(4, limit, &|| is_late);
        assert_eq!(pieces(100, false).unwrap(), [(0, b"gone".to_vec())]);
        assert!(pieces(3, false).is_err());
        assert!(matches!(pieces(100, true), Err(Problem::TooLate)));
    }

    #[test]
    fn a_ghost_that_is_given_a_name_is_none() {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).custom_flags(libc::O_TMPFILE).open(dir.path()).unwrap();
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let target = std::fs::read_link(&link).unwrap();
        let found = look(target.as_os_str(), handle(&link), &context(None)).unwrap();
        assert!(found.ghost && !found.is_outdated(&found.stat().unwrap()));
        let (here, follow) = (nix::fcntl::AT_FDCWD, nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW);
        nix::unistd::linkat(here, &link, here, &dir.path().join("out"), follow).unwrap();
        assert!(found.is_outdated(&found.stat().unwrap()));
        let named = found.anew(&context(None)).unwrap();
        assert_eq!(named.name, dir.path().join("out").as_os_str().as_bytes());
        // It has another name, and loses that: the time of its change tells.
        assert!(named.renamed && !named.is_outdated(&named.stat().unwrap()));
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::fs::rename(dir.path().join("out"), dir.path().join("elsewhere/out")).unwrap();
        assert!(named.is_outdated(&named.stat().unwrap()));
        match named.anew(&context(None)) {
            Err(Problem::Lost { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn holes_are_left_out() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"far", 1 << 30).unwrap();
        file.set_len(2 << 30).unwrap();
        let (start, end) = data_from(&file, 0, 2 << 30).unwrap().unwrap();
        assert!(start > 0 && start <= 1 << 30 && end > 1 << 30 && end < 2 << 30);
        assert_eq!(data_from(&file, end, 2 << 30).unwrap(), None);
    }

    #[test]
    fn a_lost_name_and_a_taken_one_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("elsewhere/other"));
        std::fs::write(&path, b"x").unwrap();
        std::fs::hard_link(&path, &other).unwrap();
        let file = handle(&path);
        std::fs::remove_file(&path).unwrap();
        let target = format!("{} (deleted)", path.display());
        let again = handle(&other);
        let lost = look(OsStr::new(&target), file.try_clone().unwrap(), &context(None));
        assert!(matches!(lost, Err(Problem::Lost { path: lost }) if lost == path));
        std::fs::hard_link(&other, &path).unwrap();
        let found = look(OsStr::new(&target), file, &context(None)).unwrap();
        assert_eq!(found.name, path.as_os_str().as_bytes());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"y").unwrap();
        match look(path.as_os_str(), again, &context(None)) {
            Err(Problem::Refused(refusal)) => assert!(refusal.reason.contains("another file")),
            other => panic!("{other:?}"),
        }
    }
}
