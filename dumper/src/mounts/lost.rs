//! Mounts of what has been deleted since: a restore makes that anew, without a name.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use images::messages::LostMountEntry;
use kernel::procfs::Mount;
use nix::sys::stat::{FileStat, fstat};

use super::View;

/// The largest file that is carried so.
const LARGEST: u64 = 1 << 20;

/// Whether what is mounted has been deleted.
pub(crate) fn is_lost(mount: &Mount) -> bool {
    mount.root.as_encoded_bytes().ends_with(b"//deleted")
}

/// Whether it is a directory or a small file.
fn is_small(stat: &FileStat) -> bool {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => true,
        libc::S_IFREG => u64::try_from(stat.st_size).is_ok_and(|bytes| bytes <= LARGEST),
        _ => false,
    }
}

/// Whether a mount that [`is_lost`] can be carried.
pub(super) fn can_be_carried(view: &View, mount: &Mount) -> bool {
    view.root_of(mount).and_then(|root| fstat(root).ok()).is_some_and(|stat| is_small(&stat))
}

impl View {
    /// What is mounted by a mount that [`is_lost`].
    pub(crate) fn read_lost(&self, mount: &Mount) -> io::Result<LostMountEntry> {
        let root = self.root_of(mount).ok_or(io::ErrorKind::NotFound)?;
        let stat = fstat(&root)?;
        if !is_small(&stat) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut contents = Vec::new();
        if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            let file = File::open(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
            file.take(LARGEST).read_to_end(&mut contents)?;
        }
        Ok(LostMountEntry {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            contents,
            inode: stat.st_ino,
        })
    }
}
