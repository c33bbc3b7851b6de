//! Another name of a file that has lost the one by which it was opened. The kernel does not tell it, but often it is beside
//! the lost one: the C library makes a named semaphore (`sem_open`) under a name of its own, gives it the right one, and
//! removes the first; others make a file without a name (`O_TMPFILE`) and give it one. So the directory is looked
//! through, while the target runs; what is found there no more when it is frozen is looked for again.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};

use crate::mounts::Place;

/// How many entries of a directory are looked at; reading so many takes a few hundredths of a second.
const LOOKED_AT: usize = 1 << 16;

/// Another name of the file, in the directory of the one that it has lost; the first by the alphabet of those that are
/// `good`.
pub(super) fn beside(
    place: &Place<'_>,
    lost: &Path,
    stat: &FileStat,
    good: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let parent = lost.parent()?;
    let directory = place.find(parent).ok()?;
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
    let is_it = |name: &OsStr| {
        fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
    };
    let names = entries.take(LOOKED_AT).flatten();
    let names = names.filter(|entry| entry.ino() == stat.st_ino).map(|entry| entry.file_name());
    let name = names.filter(|name| good(Path::new(name)) && is_it(name)).min()?;
    Some(parent.join(name))
}
