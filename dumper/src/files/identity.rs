//! Which file it is: what a restore recognises it by, whatever has its name then.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use images::messages::FileIdentity;
use nix::sys::stat::FileStat;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

/// The file systems that have been met, by device: whether what they say of their files is the kernel's
/// word. A process that serves one (FUSE) may say what it likes.
#[derive(Debug, Default)]
pub(super) struct FileSystems(HashMap<u64, bool>);

impl FileSystems {
    /// The identity of a file; `None` where its file system gives none: then the tasks' rights
    /// count at the restore.
    pub(super) fn identity(&mut self, handle: &OwnedFd, stat: &FileStat) -> Option<FileIdentity> {
        let honest =
            || fstatfs(handle).is_ok_and(|found| found.filesystem_type() != FUSE_SUPER_MAGIC);
        if !*self.0.entry(stat.st_dev).or_insert_with(honest) {
            return None;
        }
        let (seconds, nanoseconds) = kernel::paths::birth(handle).ok()??;
        Some(FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
            birth: since_1970(seconds, nanoseconds.into()),
            uid: stat.st_uid,
            gid: stat.st_gid,
        })
    }
}

/// A time in nanoseconds, as the images have it.
pub(super) const fn since_1970(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
