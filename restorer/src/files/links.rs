//! Files that had lost their names, and were given others by the dump (`link_remap.N`): found by those, and gone
//! from there when the tree is restored.
//!
//! `/proc/PID/fd` shows such a file by the name that it has lost. So it is given that for a moment, and opened by
//! it; where the name is somebody else's now, another one like it does.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use images::messages::RegFileEntry;
use kernel::credentials::in_directory;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::Error;
use super::approve::{Approved, Approver, Purpose};
use super::ghosts::free_name;
use super::images::Remap;
use super::reopen::{shown, through};

/// Whether a name is one that dumps give. No other is ever removed.
pub(super) fn is_name(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let number = name.strip_prefix(b"link_remap.").unwrap_or_default();
    path.starts_with(b"/") && !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

/// The file of `entry`, found by its `link`, if the tasks may have it for this purpose.
pub(super) fn approve(
    approver: &Approver,
    entry: &RegFileEntry,
    link: &RegFileEntry,
    purpose: Purpose,
) -> Result<Approved, Error> {
    let stand_in = RegFileEntry {
        name: link.name.clone(),
        identity: entry.identity.or(link.identity),
        ..entry.clone()
    };
    let mut approved = approver.approve(&stand_in, purpose)?;
    let named = by_lost_name(approver, &approved.handle, entry);
    approved.handle = named.map_err(|source| Error::Kernel {
        operation: format!("give {} its lost name {} for a moment", shown(link), shown(entry)),
        source,
    })?;
    Ok(approved)
}

/// Another handle on a file, by a name that it has for a moment.
fn by_lost_name(approver: &Approver, file: &OwnedFd, entry: &RegFileEntry) -> io::Result<OwnedFd> {
    let lost = kernel::paths::of_bytes(&entry.name).ok_or(io::ErrorKind::InvalidInput)?;
    let (directory, _) = approver.nearest_directory(entry.mnt_id, lost)?;
    let name = lost.file_name().unwrap_or_else(|| "link".as_ref());
    let from = through(file);
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    let link = || free_name(name, |free| linkat(AT_FDCWD, &from, &directory, free, follow));
    let name = in_directory(&directory, link)?;
    let named = open_named(&directory, &name);
    let removed = unlinkat(&directory, &*name, UnlinkatFlags::NoRemoveDir);
    let named = named?;
    removed?;
    // Whoever owns the directory may have put something else there.
    let (is, was) = (kernel::paths::attributes(&named)?, kernel::paths::attributes(file)?);
    match (is.device, is.inode) == (was.device, was.inode) {
        true => Ok(named),
        false => Err(Errno::ESTALE.into()),
    }
}

fn open_named(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

/// The names that dumps have given, which nobody needs any more when the tree is there.
#[derive(Debug)]
pub(crate) struct LeftLinks {
    approver: Approver,
    /// With the ids of the files that were found by them.
    links: Vec<(u32, RegFileEntry)>,
    root: Option<PathBuf>,
}

impl LeftLinks {
    pub(super) fn new(
        approver: Approver,
        remaps: BTreeMap<u32, Remap>,
        mut links: BTreeMap<u32, RegFileEntry>,
        root: Option<PathBuf>,
    ) -> Self {
        let links = remaps.into_iter().filter_map(|(file, remap)| match remap {
            Remap::Ghost(_) => None,
            Remap::Link(link) => Some((file, links.remove(&link)?)),
        });
        Self { approver, links: links.collect(), root }
    }

    /// Removes them. It is no error if one stays: the log says which.
    pub(crate) fn remove(&self) {
        for (file, link) in &self.links {
            if let Err(error) = self.remove_one(*file, link) {
                let path = super::changed::locate(&link.name, self.root.as_deref());
                tracing::warn!(
                    "a name that the dump made stays, remove {}: {error}",
                    path.display()
                );
            }
        }
    }

    fn remove_one(&self, file: u32, link: &RegFileEntry) -> io::Result<()> {
        let path = kernel::paths::of_bytes(&link.name).ok_or(io::ErrorKind::InvalidInput)?;
        let directory = path.parent().unwrap_or_else(|| Path::new("/"));
        let directory = self.approver.directory(link.mnt_id, directory, &shown(link));
        let directory = directory.map_err(io::Error::other)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        self.approver.remove((link.mnt_id, &directory), name, link.identity.as_ref(), file)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;

    use crate::files::approve::Trust;
    use crate::files::holders::Holders;

    use super::*;

    #[test]
    fn only_names_that_dumps_give_stand_in() {
        assert!(is_name(b"/tmp/link_remap.17") && is_name(b"/link_remap.1"));
        for other in ["/etc/passwd", "link_remap.1", "/link_remap.", "/link_remap.1/x", "/a.1"] {
            assert!(!is_name(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_file_has_its_lost_name_for_a_moment_and_the_other_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().canonicalize().unwrap();
        let (lost, given) = (dir.join("lost"), dir.join("link_remap.5"));
        std::fs::write(&given, "text").unwrap();
        let entry = |id, path: &Path| RegFileEntry {
            id,
            name: path.as_os_str().as_bytes().to_vec(),
            ..RegFileEntry::default()
        };
        let (file, link) = (entry(1, &lost), entry(2, &given));
        let approver =
            Approver::new(None, Arc::default(), Holders::default(), Trust::Files).unwrap();
        for taken in [false, true] {
            if taken {
                std::fs::write(&lost, "somebody else's").unwrap();
            }
            let found = approve(&approver, &file, &link, Purpose::Access(0)).unwrap();
            let shown = std::fs::read_link(through(&found.handle)).unwrap();
            assert_eq!(std::fs::read(through(&found.handle)).unwrap(), b"text");
            assert_eq!(std::fs::metadata(through(&found.handle)).unwrap().nlink(), 1);
            assert!(taken || shown == dir.join("lost (deleted)"), "{}", shown.display());
            assert_eq!(lost.exists(), taken);
        }
        let remaps = BTreeMap::from([(1, Remap::Link(2))]);
        let left = LeftLinks::new(approver, remaps, BTreeMap::from([(2, link)]), None);
        left.remove();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(std::fs::read(&lost).unwrap(), b"somebody else's");
    }
}
