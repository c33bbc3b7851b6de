//! Files that are not what they were: one restore names all of them.
//!
//! What is opened is looked at by the handle that it is opened through, so that nothing comes between.
//! Where that finds one changed, all are looked at by their names. What no descriptor refers to (programs,
//! mapped files, directories) is opened late; so it is looked at by its name before anything is made.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use images::messages::RegFileEntry;
use support::Unsupported;
use support::changed::{Was, of_change, of_gone};

use super::images::FileImages;
use super::proc_files::is_of_process;
use super::{Error, Refused};

/// Which files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// All that have a name.
    All,
    /// Those that no descriptor refers to; all only if one of them has changed.
    Undescribed,
}

/// Refuses files and directories that are not there, or have another size or mode, by their paths below
/// `root`. (What is opened is looked at again then.)
///
/// # Errors
/// With every one of them, and a command for each that has only grown.
pub(crate) fn check(
    images: &FileImages,
    root: Option<&Path>,
    any_permissions: bool,
    which: Which,
) -> Result<(), Error> {
    let entries = images.files.values().filter_map(|file| file.reg.as_ref());
    // Where mounts are made there is no path yet.
    let entries = entries.filter(|entry| entry.mnt_id.is_none_or(|mount| mount < 0));
    let named = entries.filter(|entry| {
        !images.remaps.contains_key(&entry.id) && !images.inherited.contains_key(&entry.id)
    });
    if which == Which::Undescribed {
        let opened = images.wanted();
        let others = named.clone().filter(|entry| !opened.contains(&entry.id));
        if all(others, root, any_permissions).is_empty() {
            return Ok(());
        }
    }
    let found = all(named, root, any_permissions);
    if found.is_empty() { Ok(()) } else { Err(Error::Refused(found)) }
}

/// What has changed of these files.
pub(super) fn all<'a>(
    named: impl Iterator<Item = &'a RegFileEntry>,
    root: Option<&Path>,
    any_permissions: bool,
) -> Vec<Refused> {
    let mut found: Vec<Refused> = Vec::new();
    let changed = |entry: &RegFileEntry| {
        let found = by_name(entry, &locate(&entry.name, root), any_permissions)?;
        Some(Refused::new(entry.id, found))
    };
    for one in named.filter_map(changed) {
        // A file that is open and mapped is there twice.
        if !found.iter().any(|other| other.found == one.found) {
            found.push(one);
        }
    }
    found
}

/// The path of a file below `root`.
pub(super) fn locate(name: &[u8], root: Option<&Path>) -> PathBuf {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    match root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_path_buf(),
    }
}

/// Devices are other ones on each machine, and a link may stand for what it leads to.
pub(super) fn is_plain(entry: &RegFileEntry) -> bool {
    entry.mode.is_some_and(is_plain_mode)
}

const fn is_plain_mode(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

fn by_name(entry: &RegFileEntry, path: &Path, any_permissions: bool) -> Option<Unsupported> {
    // What is about a process is there when that is.
    if !is_plain(entry) || is_of_process(entry) {
        return None;
    }
    match path.symlink_metadata() {
        Ok(now) if is_plain_mode(now.mode()) => {
            compare(entry, path, (now.mode(), now.len()), any_permissions)
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Some(of_gone(path))
        }
        _ => None,
    }
}

/// What differs between a file, by its mode and size, and what the images say of it, as far as they do.
pub(super) fn compare(
    entry: &RegFileEntry,
    path: &Path,
    (mode, size): (u32, u64),
    any_permissions: bool,
) -> Option<Unsupported> {
    /// Who may read, write and execute it.
    const PERMISSIONS: u32 = 0o777;
    let mode = match entry.mode.filter(|_| any_permissions) {
        Some(was) => mode & !PERMISSIONS | was & PERMISSIONS,
        None => mode,
    };
    of_change(path, Was { mode: entry.mode, size: entry.size }, mode, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_change_has_its_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a log");
        let entry = |size, mode| RegFileEntry {
            name: path.as_os_str().as_bytes().to_vec(),
            size: Some(size),
            mode: Some(libc::S_IFREG | mode),
            ..RegFileEntry::default()
        };
        let found = |size, mode| by_name(&entry(size, mode), &path, false);
        assert!(found(3, 0o600).unwrap().reason.contains("not there"));
        std::fs::write(&path, "12345").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(found(5, 0o640), None);
        let remedy = found(3, 0o640).unwrap().remedy;
        assert!(remedy.ends_with(&format!(": truncate -s 3 '{}'", path.display())), "{remedy}");
        assert!(found(7, 0o640).unwrap().remedy.starts_with("put it back"));
        let remedy = found(5, 0o600).unwrap().remedy;
        assert!(remedy.contains(": chmod 600 "), "{remedy}");
        let with_any = |mode| by_name(&entry(5, mode), &path, true);
        assert_eq!(with_any(0o600), None);
        assert!(with_any(0o4640).unwrap().reason.contains("mode"));
    }
}
