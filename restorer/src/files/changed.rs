//! Files that are not what they were: all of them are found before anything is opened, so that one
//! restore names them all.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use api::{Obstacle, word};
use images::messages::RegFileEntry;

use super::Error;
use super::images::FileImages;

/// Refuses files and directories that are not there, or have another size or mode, by their paths below
/// `root`. (What is opened is looked at again then.)
///
/// # Errors
/// With every one of them, and a command for each that has only grown.
pub(crate) fn check(images: &FileImages, root: Option<&Path>) -> Result<(), Error> {
    let entries = images.files.values().filter_map(|file| file.reg.as_ref());
    let named = entries.filter(|entry| !images.remaps.contains_key(&entry.id));
    let mut found: Vec<Obstacle> = Vec::new();
    for obstacle in named.filter_map(|entry| of(entry, &locate(&entry.name, root))) {
        // A file that is open and mapped is there twice.
        if !found.contains(&obstacle) {
            found.push(obstacle);
        }
    }
    if found.is_empty() { Ok(()) } else { Err(Error::Refused(found)) }
}

fn locate(name: &[u8], root: Option<&Path>) -> PathBuf {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    match root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_path_buf(),
    }
}

/// Devices are other ones on each machine, and a link may stand for what it leads to.
const fn is_plain(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

fn of(entry: &RegFileEntry, path: &Path) -> Option<Obstacle> {
    let mode = entry.mode.filter(|mode| is_plain(*mode))?;
    let shown = path.to_string_lossy();
    let refuse = |reason: String, remedy: String| {
        Some(Obstacle::of(0, format!("file {shown}"), reason, remedy))
    };
    let now: Metadata = match path.symlink_metadata() {
        Ok(now) => now,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let remedy = "put it back, as it was when it was dumped".to_owned();
            return refuse("it is not there any more".to_owned(), remedy);
        }
        Err(_) => return None,
    };
    if !is_plain(now.mode()) {
        return None;
    }
    let (is, name) = (now.len(), word(&shown));
    if let Some(was) = entry.size.filter(|was| *was != is && now.is_file()) {
        let reason = format!("it has {is} bytes, and had {was} when it was dumped");
        let remedy = match is > was {
            true => format!("cut off what was added since: truncate -s {was} {name}"),
            false => "put it back, as it was when it was dumped".to_owned(),
        };
        return refuse(reason, remedy);
    }
    if mode == now.mode() {
        return None;
    }
    let reason = format!("its mode is {:o}, and was {mode:o} when it was dumped", now.mode());
    let remedy = match mode & libc::S_IFMT == now.mode() & libc::S_IFMT {
        true => format!("give it the mode that it had: chmod {:o} {name}", mode & 0o7777),
        false => "put it back, as it was when it was dumped".to_owned(),
    };
    refuse(reason, remedy)
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
        let found = |size, mode| of(&entry(size, mode), &path);
        assert!(found(3, 0o600).unwrap().reason.contains("not there"));
        std::fs::write(&path, "12345").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(found(5, 0o640), None);
        let remedy = found(3, 0o640).unwrap().remedy;
        assert!(remedy.ends_with(&format!(": truncate -s 3 '{}'", path.display())), "{remedy}");
        assert!(found(7, 0o640).unwrap().remedy.starts_with("put it back"));
        let remedy = found(5, 0o600).unwrap().remedy;
        assert!(remedy.contains(": chmod 600 "), "{remedy}");
    }
}
