//! openat2(2), statx(2) and name lookups that follow no symbolic link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// A handle: it opens nothing, and needs no right to what it leads to.
pub(crate) const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// No link is followed, and the root is not left.
pub(crate) const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_NO_SYMLINKS
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS)
    .union(ResolveFlag::RESOLVE_BENEATH);

/// Whether links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// None is: a path that has one in it is not found (`ELOOP`). At its end one is what is found.
    Refused,
    /// They are, inside the root.
    Followed,
}

/// An `O_PATH` handle on what `path` leads to from the directory `root`, which it does not leave. The
/// beginning of an absolute path is `root`.
///
/// # Errors
/// `ELOOP` for a path with a link in it, `EXDEV` for one that leads out.
pub fn find(root: impl AsFd, path: &Path, links: Links) -> io::Result<OwnedFd> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let (flags, resolve) = match links {
        Links::Refused => (HANDLE, BENEATH),
        Links::Followed => (HANDLE.difference(OFlag::O_NOFOLLOW), ResolveFlag::RESOLVE_IN_ROOT),
    };
    match openat2(&root, below, OpenHow::new().flags(flags).resolve(resolve)) {
        // Linux before 5.6, or a filter of system calls that does not know this one: opening a handle
        // is forbidden by nothing else with this error.
        Err(Errno::ENOSYS | Errno::EPERM) if links == Links::Refused => walk(root, below),
        found => Ok(found?),
    }
}

/// The directory `path`, or the nearest one above that is there, found as by [`find`] without links; and its path.
///
/// # Errors
/// As [`find`], but for what is not there.
pub fn nearest(root: impl AsFd, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    for above in path.ancestors() {
        match find(&root, above, Links::Refused) {
            Ok(found) => return Ok((found, above.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ENOENT.into())
}

/// The same without openat2: one step at a time.
fn walk(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let mut at = root.as_fd().try_clone_to_owned()?;
    let mut steps = path.components().peekable();
    while let Some(step) = steps.next() {
        let name: &OsStr = match step {
            Component::Normal(name) => name,
            Component::CurDir => ".".as_ref(),
            _ => return Err(Errno::EXDEV.into()),
        };
        at = openat(&at, name, HANDLE, Mode::empty())?;
        if steps.peek().is_some() && is_link(&at)? {
            return Err(Errno::ELOOP.into());
        }
    }
    Ok(at)
}

fn is_link(fd: &OwnedFd) -> io::Result<bool> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// A moment in the time of file systems: seconds and nanoseconds.
pub type Moment = (i64, u32);

/// What statx(2) tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The device of its file system, as `st_dev`.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Kind and permissions.
    pub mode: u32,
    /// Bytes in it.
    pub size: u64,
    /// Its owner.
    pub uid: u32,
    /// When it was last written to.
    pub modified: Moment,
    /// When it was born; `None` where its file system does not say.
    pub born: Option<Moment>,
}

/// What a descriptor, or a handle, leads to.
///
/// # Errors
/// When the file system fails.
pub fn attributes(fd: impl AsFd) -> io::Result<Attributes> {
    let found = match statx(&fd, libc::STATX_BASIC_STATS | libc::STATX_BTIME) {
        Ok(found) => found,
        // Linux before 4.11, or a filter of system calls that does not know this one.
        Err(Errno::ENOSYS | Errno::EPERM) => return older_attributes(fd),
        Err(errno) => return Err(errno.into()),
    };
    Ok(Attributes {
        device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        mode: found.stx_mode.into(),
        size: found.stx_size,
        uid: found.stx_uid,
        modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        born: born(&found),
    })
}

/// The same without statx.
fn older_attributes(fd: impl AsFd) -> io::Result<Attributes> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok(Attributes {
        device: stat.st_dev,
        inode: stat.st_ino,
        mode: stat.st_mode,
        size: stat.st_size.cast_unsigned(),
        uid: stat.st_uid,
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        born: None,
    })
}

fn statx(fd: impl AsFd, wanted: u32) -> Result<libc::statx, Errno> {
    // SAFETY: all zeros is a statx.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, flags) = (fd.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: an empty name that ends in 0, and room for one statx.
    let answer = unsafe { libc::statx(fd, c"".as_ptr(), flags, wanted, &raw mut found) };
    Errno::result(answer).map(|_| found)
}

/// A path below another one, or that one itself. ([`Path::join`] adds a slash to it for nothing, behind which no file is.)
#[must_use]
pub fn join(above: &Path, below: &Path) -> PathBuf {
    match below.as_os_str().is_empty() {
        true => above.to_owned(),
        false => above.join(below),
    }
}

/// The mount that a descriptor, or a handle, is of, by the number that `mountinfo` has.
///
/// # Errors
/// When the kernel does not tell (before Linux 5.8).
pub fn mount(fd: impl AsFd) -> io::Result<i32> {
    let found = statx(fd, libc::STATX_MNT_ID)?;
    match found.stx_mask & libc::STATX_MNT_ID {
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => i32::try_from(found.stx_mnt_id).map_err(io::Error::other),
    }
}

fn born(found: &libc::statx) -> Option<Moment> {
    let known = found.stx_mask & libc::STATX_BTIME != 0;
    known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

/// When a file was born; `None` where its file system does not say.
///
/// # Errors
/// When the kernel has no statx (before Linux 4.11), or the file system fails.
pub fn birth(fd: impl AsFd) -> io::Result<Option<Moment>> {
    Ok(born(&statx(fd, libc::STATX_BTIME)?))
}

/// Whether the calling thread's own rights (those that count for files) let it do `mode` (`R_OK`,
/// `W_OK`, `X_OK`) with what a handle leads to.
///
/// # Errors
/// `EACCES`, `EROFS` when they do not.
pub fn may(fd: impl AsFd, mode: i32) -> io::Result<()> {
    let link = std::ffi::CString::new(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))?;
    // faccessat without flags asks for the real ids, and the C library makes up AT_EACCESS from ids
    // and modes where the kernel is older than 5.8.
    // SAFETY: a string that ends in 0; the rest are integers.
    let answer = unsafe { libc::faccessat(libc::AT_FDCWD, link.as_ptr(), mode, libc::AT_EACCESS) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a path, as bytes, is one that can be looked up.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> Option<&Path> {
    (!bytes.is_empty() && !bytes.contains(&0)).then(|| Path::new(OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// What a lookup finds: the inode, or the error.
    type Found = Result<u64, Option<i32>>;

    fn inode(found: io::Result<OwnedFd>) -> Found {
        let found = found.map_err(|error| error.raw_os_error())?;
        Ok(File::from(found).metadata().unwrap().ino())
    }

    #[test]
    fn nothing_is_joined_to_nothing() {
        // Paths are equal whether a slash is at their end or not.
        let joined =
            |above: &str, below: &str| join(above.as_ref(), below.as_ref()).into_os_string();
        assert_eq!(joined("/a/file", ""), "/a/file");
        assert_eq!(joined("/a", "b/c"), "/a/b/c");
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/file"), "x").unwrap();
        symlink("real", at("link")).unwrap();
        symlink("/etc/passwd", at("real/last")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let file = at("real/file").metadata().unwrap().ino();
        let last = at("real/last").symlink_metadata().unwrap().ino();
        let cases: [(&str, Found); 7] = [
            ("/real/file", Ok(file)),
            ("real/file", Ok(file)),
            ("/link/file", Err(Some(libc::ELOOP))),
            ("/real/last", Ok(last)),
            ("/real/../..", Err(Some(libc::EXDEV))),
            ("/real/none", Err(Some(libc::ENOENT))),
            ("/", Ok(root.metadata().unwrap().ino())),
        ];
        for (path, expected) in cases {
            let path = Path::new(path);
            assert_eq!(inode(find(&root, path, Links::Refused)), expected, "{}", path.display());
            let below = path.strip_prefix("/").unwrap_or(path);
            assert_eq!(inode(walk(&root, below)), expected, "{} walked", path.display());
        }
        assert_eq!(inode(find(&root, Path::new("/link/file"), Links::Followed)), Ok(file));
        // What is absolute counts from the root that was given.
        let found = inode(find(&root, Path::new("/real/last"), Links::Followed));
        assert_eq!(found, Err(Some(libc::ENOENT)));
    }

    #[test]
    fn attributes_are_those_of_stat() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "12345").unwrap();
        for path in [&dir.path().join("file"), dir.path(), Path::new("/dev/null")] {
            let handle = find(File::open("/").unwrap(), path, Links::Refused).unwrap();
            let (found, older) = (attributes(&handle).unwrap(), older_attributes(&handle).unwrap());
            assert_eq!(found.born, birth(&handle).unwrap());
            assert_eq!(Attributes { born: None, ..found }, older, "{}", path.display());
        }
    }

    #[test]
    fn births_differ() {
        let dir = tempfile::tempdir().unwrap();
        let born = |name: &str| birth(File::create(dir.path().join(name)).unwrap()).unwrap();
        let (file, again) = (born("one"), born("one"));
        assert_eq!(file, again);
        std::fs::remove_file(dir.path().join("one")).unwrap();
        let born_anew = || {
            let born = born("two");
            std::fs::remove_file(dir.path().join("two")).unwrap();
            born
        };
        // The clock of file systems goes in steps of some milliseconds.
        assert!(file.is_none() || (0..1_000_000).any(|_| born_anew() != file));
    }

    #[test]
    fn the_nearest_directory_is_found_without_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("there")).unwrap();
        symlink("/etc", dir.path().join("link")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let found = nearest(&root, Path::new("/there/gone/too")).unwrap();
        assert_eq!(found.1, Path::new("/there"));
        assert!(nearest(&root, Path::new("/link/inner")).is_err());
    }
}
