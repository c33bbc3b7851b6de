//! Files whose names are gone: made anew, opened, and unlinked before anybody sees them.
//!
//! A ghost is made where its name was, so that `/proc/PID/fd` and `/proc/PID/maps` show what they
//! showed. Where that name is somebody else's now, or its directory is gone, another one in the
//! nearest directory does: nothing that is there is touched, and no link on the way is followed.
//!
//! Where that is on a read-only mount, it is made by a copy of the mount which can be written to and which nobody else has;
//! the tasks are given it by the mount itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use images::checkpoint::{Ghost, GhostPart, PayloadReader};
use images::id_map::owner_is_known;
use images::messages::GhostFileEntry;
use images::{Images, names};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use kernel::attributes::FileFlags;
use kernel::credentials::in_directory;

use super::Error;
use super::approve::Approver;
use super::reopen::through;

/// Largest ghost that is restored.
const LARGEST: u64 = 1 << 40;

/// The mount, as the images have it, and the path of a file.
pub(super) type Name = (Option<i32>, Vec<u8>);

/// A file that has been made.
#[derive(Debug)]
pub(super) struct Made {
    /// To be opened through `/proc/self/fd` (`O_PATH`).
    pub(super) handle: OwnedFd,
    /// The same on other mounts and by other names.
    pub(super) others: BTreeMap<Name, OwnedFd>,
    /// The open file description that it was made by, if it has never had a name.
    pub(super) first: Option<OwnedFd>,
}

/// A directory in which a file is made, or has another name for a moment.
struct Place {
    /// As the tasks see it.
    shown: OwnedFd,
    /// By a mount that can be written to, if that one is read-only.
    writable: Option<OwnedFd>,
}

impl Place {
    fn find(
        approver: &Approver,
        (mount, path): (Option<i32>, &Path),
        common: bool,
    ) -> io::Result<Self> {
        let (shown, above) = approver.nearest_directory(mount, path)?;
        let writable = approver.writable(mount, (&shown, &above), common)?;
        Ok(Self { shown, writable })
    }

    fn to_write(&self) -> &OwnedFd {
        self.writable.as_ref().unwrap_or(&self.shown)
    }

    /// A handle, as the tasks are to see it, on what has just been made at `path` in it: `made` is it.
    fn seen(&self, path: &Path, made: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        if self.writable.is_none() {
            return Ok(None);
        }
        let found = kernel::paths::find(&self.shown, path, kernel::paths::Links::Refused)?;
        let (is, was) = (fstat(&found)?, fstat(made)?);
        match (is.st_dev, is.st_ino) == (was.st_dev, was.st_ino) {
            true => Ok(Some(found)),
            false => Err(Errno::ESTALE.into()),
        }
    }
}

/// A file that has just been made.
struct Fresh {
    /// To fill it by.
    handle: OwnedFd,
    /// For the tasks, if that is another one.
    seen: Option<OwnedFd>,
    /// By its other names.
    others: BTreeMap<Name, OwnedFd>,
}

/// Another name that a file had.
struct Other<'n> {
    name: &'n Name,
    last: &'n OsStr,
    place: Place,
}

/// Handles by these names on a file that has one in a directory: each is given to it for a moment.
fn by_others(
    directory: &OwnedFd,
    name: &OsStr,
    others: &[Other<'_>],
) -> io::Result<BTreeMap<Name, OwnedFd>> {
    let mut found = BTreeMap::new();
    for Other { name: other, last, place } in others {
        let to = place.to_write();
        let is_linked = free_name(last, |free| linkat(directory, name, to, free, AtFlags::empty()));
        let linked = match is_linked {
            Ok(linked) => linked,
            // It has no way there, or its file system has no links: its other handle does, but for what /proc tells of it.
            Err(error) => {
                tracing::debug!(%error, "a deleted file is given no name by another mount");
                continue;
            }
        };
        let seen = openat(&place.shown, &*linked, HANDLE, Mode::empty());
        unlinkat(to, &*linked, UnlinkatFlags::NoRemoveDir)?;
        let (seen, was) = (seen?, fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?);
        let is = fstat(&seen)?;
        if (is.st_dev, is.st_ino) != (was.st_dev, was.st_ino) {
            return Err(Errno::ESTALE.into());
        }
        found.insert((*other).clone(), seen);
    }
    Ok(found)
}

/// A ghost as the images have it: what it is, and the pieces of its contents.
#[derive(Debug)]
pub(super) struct GhostImage {
    entry: GhostFileEntry,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl GhostImage {
    /// Reads the contents from `ghost-file-ID.img`.
    pub(super) fn read(dir: &Images, id: u32, ghost: Ghost) -> Result<Self, Error> {
        let image = names::ghost_file(id);
        let Ghost { entry, parts } = ghost;
        let mut pieces = Vec::new();
        if !parts.is_empty() {
            let mut reader = PayloadReader::open(dir, &image)?;
            for GhostPart { at, payload } in parts {
                if at.saturating_add(payload.size) > LARGEST {
                    return Err(Error::image(image.name(), "a piece of it lies beyond any file"));
                }
                pieces.push((at, reader.read(payload)?));
            }
        }
        Ok(Self { entry, pieces })
    }

    /// The device, as the kernel packs it, and the inode that it had.
    pub(super) fn inode(&self) -> Option<(u32, u64)> {
        Some((self.entry.dev?, self.entry.ino?))
    }

    fn kind(&self) -> u32 {
        self.entry.mode & libc::S_IFMT
    }

    /// Makes the file, at `path` or near it, and takes its name away again. One that was made without a
    /// name, by an open with the flags `unnamed`, is made so again: it alone can be given one.
    ///
    /// Whoever owns the directory can exchange names in it at any time, so what has a name is empty and
    /// root's own; all that it is to be it becomes by a descriptor, when the name has gone.
    pub(super) fn make(
        &self,
        approver: &Approver,
        own: &Name,
        names: &BTreeSet<Name>,
        unnamed: Option<OFlag>,
    ) -> Result<Made, Error> {
        let shown = String::from_utf8_lossy(&own.1);
        let failed =
            |source| Error::Kernel { operation: format!("make deleted file {shown}"), source };
        let path = of_bytes(&own.1).map_err(failed)?;
        let common = names.iter().any(|name| name.0 != own.0);
        let find = |mount, path| {
            Place::find(approver, (mount, path), common).map_err(|error| {
                match error.raw_os_error() {
                    Some(libc::EROFS | libc::EPERM) => {
                        let refusal = support::paths::deleted_and_read_only(&error.to_string());
                        Error::refused_of_none(refusal, format!("deleted file {shown}"))
                    }
                    _ => failed(error),
                }
            })
        };
        let place = find(own.0, path)?;
        let others = names.iter().filter(|name| *name != own && self.kind() != libc::S_IFDIR);
        let others = others.map(|name| {
            let path = of_bytes(&name.1).map_err(failed)?;
            let last = path.file_name().unwrap_or_else(|| "ghost".as_ref());
            Ok(Other { name, last, place: find(name.0, path)? })
        });
        let others = others.collect::<Result<Vec<_>, Error>>()?;
        let Some(flags) = unnamed.filter(|_| self.kind() == libc::S_IFREG) else {
            let name = path.file_name().unwrap_or_else(|| "ghost".as_ref());
            return in_directory(place.to_write(), || self.make_and_remove(&place, name, &others))
                .map_err(failed);
        };
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        // The tasks get it as it is made: by a mount that is theirs, which a copy is not.
        let directory = &place.shown;
        match in_directory(directory, || Ok(openat(directory, ".", flags, mode)?)) {
            Ok(first) => self.fill_unnamed(first).map_err(failed),
            Err(error)
                if has_no_unnamed_files(
                    Errno::from_raw(error.raw_os_error().unwrap_or(0)),
                    flags,
                ) =>
            {
                let above = path.parent().unwrap_or(path).to_string_lossy();
                let refusal = support::host::no_unnamed_files(&above);
                Err(Error::refused_of_none(refusal, format!("deleted file {shown}")))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn fill_unnamed(&self, first: OwnedFd) -> io::Result<Made> {
        let handle = handle(&first)?;
        self.fill(&handle)?;
        Ok(Made { handle, others: BTreeMap::new(), first: Some(first) })
    }

    fn make_and_remove(
        &self,
        place: &Place,
        name: &OsStr,
        others: &[Other<'_>],
    ) -> io::Result<Made> {
        let Fresh { handle, seen, others } = match self.kind() {
            libc::S_IFREG => regular(place, name, others)?,
            libc::S_IFDIR | libc::S_IFIFO | libc::S_IFCHR | libc::S_IFLNK => {
                self.special(place, name, others)?
            }
            kind => {
                let what = format!("a deleted file of kind {kind:o} is not supported");
                return Err(io::Error::other(what));
            }
        };
        if self.kind() != libc::S_IFDIR && fstat(&handle)?.st_nlink != 0 {
            return Err(io::Error::other("its name was changed by somebody else meanwhile"));
        }
        self.fill(&handle)?;
        Ok(Made { handle: seen.unwrap_or(handle), others, first: None })
    }

    /// Contents, owner, mode and times of the file that has just been made.
    fn fill(&self, handle: &OwnedFd) -> io::Result<()> {
        let path = through(handle);
        if self.kind() == libc::S_IFREG {
            self.write(&OpenOptions::new().write(true).open(&path)?)?;
        }
        owner_is_known(self.entry.uid, self.entry.gid)?;
        std::os::unix::fs::chown(&path, Some(self.entry.uid), Some(self.entry.gid))?;
        // A symbolic link has no permissions.
        if self.kind() != libc::S_IFLNK {
            let mode = Mode::from_bits_truncate(self.entry.mode);
            fchmodat(AT_FDCWD, &path, mode, FchmodatFlags::FollowSymlink)?;
        }
        for attribute in &self.entry.attributes {
            kernel::attributes::set(handle, &attribute.name, &attribute.value).map_err(
                |error| {
                    let name = String::from_utf8_lossy(&attribute.name);
                    io::Error::new(error.kind(), format!("set its attribute {name}: {error}"))
                },
            )?;
        }
        if let Some(flags) = self.entry.flags {
            let flags = FileFlags::from_bits_truncate(flags);
            kernel::attributes::set_file_flags(&File::open(&path)?, flags)
                .map_err(|error| io::Error::new(error.kind(), format!("set its flags: {error}")))?;
        }
        if let (Some(atim), Some(mtim)) = (&self.entry.atim, &self.entry.mtim) {
            let time = |time: &images::messages::Timeval, nanoseconds: Option<u32>| {
                let fraction = nanoseconds.map_or(time.tv_usec.cast_signed() * 1000, i64::from);
                TimeSpec::new(time.tv_sec.cast_signed(), fraction)
            };
            let follow = UtimensatFlags::FollowSymlink;
            let (accessed, changed) = (
                time(atim, self.entry.atime_nanoseconds),
                time(mtim, self.entry.mtime_nanoseconds),
            );
            utimensat(AT_FDCWD, &path, &accessed, &changed, follow)?;
        }
        Ok(())
    }

    fn write(&self, mut file: &File) -> io::Result<()> {
        match &self.pieces[..] {
            [(0, bytes)] => file.write_all(bytes)?,
            pieces => {
                for (offset, bytes) in pieces {
                    file.write_all_at(bytes, *offset)?;
                }
            }
        }
        if let Some(size) = self.entry.size {
            file.set_len(size)?;
        }
        Ok(())
    }

    /// A directory, fifo, device or symbolic link without a name. The call that makes one gives no descriptor, so it is
    /// made in a directory that nobody else can enter, and comes to its own name from there.
    fn special(&self, place: &Place, name: &OsStr, others: &[Other<'_>]) -> io::Result<Fresh> {
        let directory = place.to_write();
        let closed = Mode::S_IRWXU;
        let inner = free_name(".stasis".as_ref(), |inner| mkdirat(directory, inner, closed))?;
        let made = self.special_in(place, &inner, name, others);
        let removed = unlinkat(directory, &*inner, UnlinkatFlags::RemoveDir);
        let made = made?;
        removed?;
        Ok(made)
    }

    fn special_in(
        &self,
        place: &Place,
        name_of_inner: &OsStr,
        name: &OsStr,
        others: &[Other<'_>],
    ) -> io::Result<Fresh> {
        let directory = place.to_write();
        let inner = openat(directory, name_of_inner, HANDLE | OFlag::O_DIRECTORY, Mode::empty())?;
        let stat = fstat(&inner)?;
        // What is made is of the user for files, which this only asks for: -1 is nobody.
        let own = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(u32::MAX));
        if stat.st_uid != own.as_raw() || stat.st_mode & 0o777 != 0o700 {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let (only, remove) = (
            Mode::S_IRUSR | Mode::S_IWUSR,
            match self.kind() {
                libc::S_IFDIR => UnlinkatFlags::RemoveDir,
                _ => UnlinkatFlags::NoRemoveDir,
            },
        );
        if self.kind() == libc::S_IFDIR {
            mkdirat(&inner, name, only)?;
        } else if self.kind() == libc::S_IFLNK {
            let target = self.entry.symlnk_target.as_deref().unwrap_or_default();
            let target = kernel::paths::of_bytes(target).ok_or(ErrorKind::InvalidInput)?;
            symlinkat(target, &inner, name)?;
        } else {
            let kind = SFlag::from_bits_truncate(self.kind());
            mknodat(&inner, name, kind, only, self.entry.rdev.unwrap_or(0).into())?;
        }
        let handle = openat(&inner, name, HANDLE, Mode::empty())?;
        let seen = place.seen(&Path::new(name_of_inner).join(name), &handle);
        let others = by_others(&inner, name, others);
        let flags = RenameFlags::RENAME_NOREPLACE;
        let moved = free_name(name, |free| renameat2(&inner, name, directory, free, flags));
        match moved {
            Ok(moved) => unlinkat(directory, &*moved, remove)?,
            Err(_) => unlinkat(&inner, name, remove)?,
        }
        Ok(Fresh { handle, seen: seen?, others: others? })
    }
}

fn of_bytes(path: &[u8]) -> io::Result<&Path> {
    kernel::paths::of_bytes(path).ok_or_else(|| ErrorKind::InvalidInput.into())
}

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// An empty regular file without a name.
fn regular(place: &Place, name: &OsStr, others: &[Other<'_>]) -> io::Result<Fresh> {
    let directory = place.to_write();
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = None;
    let name = free_name(name, |free| {
        let only = Mode::S_IRUSR | Mode::S_IWUSR;
        file = Some(openat(directory, free, flags | OFlag::O_WRONLY, only)?);
        Ok(())
    })?;
    let file = file.ok_or(ErrorKind::NotFound)?;
    let seen = place.seen(Path::new(&name), &file);
    let others = by_others(directory, &name, others);
    unlinkat(directory, &*name, UnlinkatFlags::NoRemoveDir)?;
    Ok(Fresh { handle: handle(&file)?, seen: seen?, others: others? })
}

/// Whether a file system has no `O_TMPFILE`, by the error of an open with these flags. The last of the errors
/// may be of a combination of flags, too.
fn has_no_unnamed_files(errno: Errno, flags: OFlag) -> bool {
    let is_usual =
        !flags.contains(OFlag::O_DIRECT) && flags.intersects(OFlag::O_RDWR | OFlag::O_WRONLY);
    matches!(errno, Errno::EOPNOTSUPP | Errno::EISDIR) || errno == Errno::EINVAL && is_usual
}

/// A handle on a file that we have open.
fn handle(file: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(&through(file), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Tries a name, and others like it while there is something that has it.
pub(super) fn free_name(
    name: &OsStr,
    mut make: impl FnMut(&OsStr) -> nix::Result<()>,
) -> io::Result<OsString> {
    for attempt in 0..1000 {
        let mut free = name.to_owned();
        if attempt > 0 {
            free.push(format!(".stasis-{}-{attempt}", std::process::id()));
        }
        match make(&free) {
            Ok(()) => return Ok(free),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::approve::Trust;
    use crate::files::holders::Holders;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    fn ghost(mode: u32, bytes: &[u8]) -> GhostImage {
        let entry = GhostFileEntry { mode, ..GhostFileEntry::default() };
        GhostImage { entry, pieces: vec![(0, bytes.to_vec())] }
    }

    fn make(ghost: &GhostImage, path: &Path) -> OwnedFd {
        let approver =
            Approver::new(None, Arc::default(), Holders::default(), Trust::Files).unwrap();
        let own = (None, path.as_os_str().as_bytes().to_vec());
        ghost.make(&approver, &own, &BTreeSet::new(), None).unwrap().handle
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        for kind in [libc::S_IFREG, libc::S_IFDIR, libc::S_IFIFO] {
            let handle = make(&ghost(kind | 0o600, b""), &dir.path().join("link/gone"));
            let path = std::fs::read_link(through(&handle)).unwrap();
            assert!(path.starts_with(dir.path()), "{}", path.display());
            assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_ghost_leaves_no_name_and_spares_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone");
        for taken in [false, true] {
            if taken {
                std::fs::write(&path, "somebody else's").unwrap();
            }
            let handle = make(&ghost(libc::S_IFREG | 0o640, b"boo"), &path);
            assert_eq!(std::fs::read(through(&handle)).unwrap(), b"boo");
            let metadata = std::fs::metadata(through(&handle)).unwrap();
            assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (0, 0o640));
            assert_eq!(path.exists(), taken);
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Made in another way it would have lost that it can be named, and nobody would know. It needs root:
    /// nobody else may write into a directory of /proc, whose file system makes no files at all.
    #[test]
    fn a_file_that_can_be_named_is_refused_where_there_are_none() {
        let approver =
            Approver::new(None, Arc::default(), Holders::default(), Trust::Files).unwrap();
        let make = |path: &[u8]| {
            let flags = Some(OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC);
            let own = (None, path.to_vec());
            ghost(libc::S_IFREG | 0o600, b"text").make(&approver, &own, &BTreeSet::new(), flags)
        };
        let refused = make(b"/proc/#7").map(|_| ()).unwrap_err();
        let Error::Refused(found) = refused else { panic!("{refused:?}") };
        let [found] = &found[..] else { panic!("{found:?}") };
        let found = &found.found;
        assert_eq!(found.object, "deleted file /proc/#7");
        assert!(found.reason.contains("file system of /proc "), "{found}");
        assert!(found.remedy.contains("restore it where /proc is on"), "{found}");
        let dir = tempfile::tempdir().unwrap();
        assert!(make(dir.path().join("#7").as_os_str().as_bytes()).unwrap().first.is_some());
        assert!(has_no_unnamed_files(Errno::EINVAL, OFlag::O_RDWR));
        assert!(!has_no_unnamed_files(Errno::EINVAL, OFlag::O_RDWR | OFlag::O_DIRECT));
        assert!(!has_no_unnamed_files(Errno::ENOSPC, OFlag::O_RDWR));
    }

    #[test]
    fn a_link_leads_where_it_led() {
        let dir = tempfile::tempdir().unwrap();
        let mut link = ghost(libc::S_IFLNK | 0o777, b"");
        link.pieces.clear();
        link.entry.symlnk_target = Some(b"/nowhere/at all".to_vec());
        let handle = make(&link, &dir.path().join("gone"));
        assert_eq!(nix::fcntl::readlinkat(&handle, "").unwrap(), "/nowhere/at all");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_and_lost_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/gone");
        let handle = make(&ghost(libc::S_IFDIR | 0o755, b""), &path);
        assert!(std::fs::metadata(through(&handle)).unwrap().is_dir());
        let handle = make(&ghost(libc::S_IFIFO | 0o600, b""), &path);
        assert_eq!(
            std::fs::metadata(through(&handle)).unwrap().mode() & libc::S_IFMT,
            libc::S_IFIFO
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
