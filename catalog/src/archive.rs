//! A checkpoint as one stream: an archive of tar(1) with the files of its directory, and nothing else.
//!
//! What comes in such a stream is another's: it says what a restore makes processes of. So names are those that a checkpoint has and no
//! others, a link leads nowhere but to the checkpoint's own pages, and nothing appears before all of it is compared with its manifest.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use images::store::{Destination, NewCheckpoint, Safe};
use images::{Access, Cancel, Images, NewDirectory, WriteOptions, names};
use nix::libc;
use nix::sys::statvfs::statvfs;
use tar::{Builder, EntryType, Header};

/// So many files a checkpoint in an archive has at most.
const MOST_FILES: usize = 200_000;
/// What is left free on the disk.
const LEFT_FREE: u64 = 64 << 20;
/// Copied at a time.
const PIECE: usize = 256 << 10;

/// Why a checkpoint cannot be sent, or is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file cannot be read or written, or the stream cannot.
    #[error("{operation} {name}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// To what.
        name: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Images cannot be read, or their place is taken.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// Some of its pages are in another checkpoint.
    #[error("{name} leads to {}: pages were left to a checkpoint there, which the archive has not", to.display())]
    Increment {
        /// The link.
        name: String,
        /// Where it leads.
        to: PathBuf,
    },
    /// Something in the directory, or in the archive, is no part of a checkpoint.
    #[error("{name}: {what}")]
    Foreign {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The archive is none, or ends early.
    #[error("read the archive")]
    Broken(#[source] io::Error),
    /// What is in it is not what was written.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The disk has no room for it.
    #[error(
        "{bytes} bytes of {name} and what comes with it: {free} bytes are free, of which some stay so"
    )]
    NoRoom {
        /// The file that is too long.
        name: String,
        /// How long it is.
        bytes: u64,
        /// How much there is.
        free: u64,
    },
}

fn failed(
    operation: &'static str,
    name: impl Into<String>,
) -> impl FnOnce(io::Error) -> ArchiveError {
    let name = name.into();
    move |source| ArchiveError::Io { operation, name, source }
}

/// What an archive has.
#[derive(Debug)]
enum Part {
    File,
    Link(PathBuf),
}

/// A checkpoint in a directory, of which all is known to be a part.
#[derive(Debug)]
pub struct Packed {
    path: PathBuf,
    parts: Vec<(String, Part)>,
}

/// Looks through the directory of a checkpoint.
///
/// # Errors
/// If it is none, or not all of it lies there.
pub fn packed(path: &Path) -> Result<Packed, ArchiveError> {
    drop(Images::open_locked(path, &Access::default())?);
    let mut parts = Vec::new();
    let folders = std::iter::once("").chain(names::PRE_COPIES);
    for folder in folders.take_while(|folder| path.join(folder).is_dir()) {
        let listing = |source| failed("list", folder)(source);
        for entry in fs::read_dir(path.join(folder)).map_err(listing)? {
            let entry = entry.map_err(|source| failed("list", folder)(source))?;
            let own = entry.file_name().to_string_lossy().into_owned();
            let name = if folder.is_empty() { own } else { format!("{folder}/{own}") };
            let kind = entry.file_type().map_err(failed("look at", name.as_str()))?;
            if kind.is_dir() && names::PRE_COPIES.contains(&name.as_str()) {
                continue;
            }
            if kind.is_symlink() {
                let to = fs::read_link(entry.path()).map_err(failed("look at", name.as_str()))?;
                check_link(&name, &to)?;
                parts.push((name, Part::Link(to)));
                continue;
            }
            if !kind.is_file() {
                return Err(ArchiveError::Foreign { name, what: "it is no part of a checkpoint" });
            }
            check_file(&name)?;
            if !is_mark(&name) {
                parts.push((name, Part::File));
            }
        }
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Packed { path: path.to_owned(), parts })
}

impl Packed {
    /// Writes the archive.
    ///
    /// # Errors
    /// If a file cannot be read, has changed meanwhile, or the other side takes no more.
    pub fn write(&self, to: impl Write) -> Result<(), ArchiveError> {
        let mut archive = Builder::new(to);
        for (name, part) in &self.parts {
            match part {
                Part::File => self.file(name, &mut archive)?,
                Part::Link(to) => {
                    let mut header = header(EntryType::Symlink, 0, 0);
                    let set = header.set_path(name).and_then(|()| header.set_link_name(to));
                    set.map_err(failed("name", name.as_str()))?;
                    header.set_cksum();
                    archive.append(&header, io::empty()).map_err(failed("send", name.as_str()))?;
                }
            }
        }
        archive.finish().and_then(|()| archive.get_mut().flush()).map_err(failed("send", "the end"))
    }

    fn file(&self, name: &str, archive: &mut Builder<impl Write>) -> Result<(), ArchiveError> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(self.path.join(name)).map_err(failed("open", name))?;
        let found = file.metadata().map_err(failed("look at", name))?;
        if !found.is_file() {
            return Err(ArchiveError::Foreign { name: name.to_owned(), what: "it is no file" });
        }
        let modified = u64::try_from(found.mtime()).unwrap_or(0);
        let mut header = header(EntryType::Regular, found.len(), modified);
        header.set_path(name).map_err(failed("name", name))?;
        header.set_cksum();
        let mut sent = Counted { file, left: found.len() };
        archive.append(&header, &mut sent).map_err(failed("send", name))?;
        match sent.left {
            0 => Ok(()),
            _ => Err(failed("send", name)(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// So many bytes of a file, whatever becomes of it.
struct Counted {
    file: File,
    left: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

fn header(kind: EntryType, bytes: u64, modified: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_mtime(modified);
    header.set_size(bytes);
    header
}

/// Splits the name of a file into the folder of a checkpoint that it is in and its own.
fn split(name: &str) -> Option<(&str, &str)> {
    let (folder, own) = name.rsplit_once('/').unwrap_or(("", name));
    (folder.is_empty() || names::PRE_COPIES.contains(&folder)).then_some((folder, own))
}

/// Whether it says that a checkpoint came as an archive, which it says of this machine alone.
fn is_mark(name: &str) -> bool {
    split(name).is_some_and(|(_, own)| own == names::UPLOADED)
}

fn check_file(name: &str) -> Result<(), ArchiveError> {
    let is_part = |own: &str| {
        own.bytes().all(|byte| byte.is_ascii_graphic())
            && (names::is_image(own) || names::is_service(own) || names::is_beside(own))
    };
    match split(name) {
        Some((_, own)) if is_part(own) => Ok(()),
        _ => {
            let what = "no file of a checkpoint is called so";
            Err(ArchiveError::Foreign { name: crate::describe::printable(name.as_bytes()), what })
        }
    }
}

/// Checks that a link leads to pages of the checkpoint itself, which were copied early.
fn check_link(name: &str, to: &Path) -> Result<(), ArchiveError> {
    let foreign = |what| {
        let name = crate::describe::printable(name.as_bytes());
        Err(ArchiveError::Foreign { name, what })
    };
    let Some((folder, names::PARENT_LINK)) = split(name) else {
        return foreign("a checkpoint has no such link");
    };
    let mut place: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    let mut leads_out = false;
    for part in to.components() {
        match part {
            Component::Normal(part) => place.push(part.to_str().unwrap_or("/")),
            Component::CurDir => {}
            Component::ParentDir => leads_out |= place.pop().is_none(),
            Component::RootDir | Component::Prefix(_) => leads_out = true,
        }
    }
    let place = place.join("/");
    match !leads_out && place != folder && names::PRE_COPIES.contains(&place.as_str()) {
        true => Ok(()),
        false => Err(ArchiveError::Increment {
            name: crate::describe::printable(name.as_bytes()),
            to: crate::describe::printable(to.as_os_str().as_encoded_bytes()).into(),
        }),
    }
}

/// Takes a checkpoint out of an archive into a directory that is not there yet. It appears when all of it is there and as it was
/// written; otherwise nothing is left of it.
///
/// # Errors
/// If the archive is none, is not whole, has something else in it, or if there is no room for it.
pub fn unpack(from: impl Read, path: &Path) -> Result<(), ArchiveError> {
    let target = NewDirectory { path: path.to_owned(), options: WriteOptions::default() };
    let new = target.begin()?;
    let beside = path.parent().unwrap_or(path);
    let disk = statvfs(beside).map_err(|errno| failed("look at", "the disk")(errno.into()))?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let mut names = take(from, &*new, free)?;
    for name in [names::inventory().name(), names::manifest().name()] {
        if !names.contains(name) {
            return Err(ArchiveError::Foreign {
                name: name.to_owned(),
                what: "it is not in the archive, which is no whole checkpoint of stasis",
            });
        }
    }
    check_whole(&*new)?;
    let mut mark = new.create(names::UPLOADED)?;
    mark.flush().map_err(failed("write", names::UPLOADED))?;
    drop(mark);
    names.insert(names::UPLOADED.to_owned());
    new.commit(&names, Safe::AtOnce)?;
    Ok(())
}

/// Takes the files out of an archive; their names.
fn take(
    from: impl Read,
    new: &dyn NewCheckpoint,
    free: u64,
) -> Result<BTreeSet<String>, ArchiveError> {
    let mut archive = tar::Archive::new(from);
    let mut names = BTreeSet::new();
    let mut taken = 0_u64;
    // As they are: longer names, and what else other entries say of the next, no checkpoint has.
    for entry in archive.entries().map_err(ArchiveError::Broken)?.raw(true) {
        let mut entry = entry.map_err(ArchiveError::Broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        let foreign = |what| {
            let name = crate::describe::printable(name.as_bytes());
            Err(ArchiveError::Foreign { name, what })
        };
        match entry.header().entry_type() {
            EntryType::Directory => {
                let folder = name.trim_end_matches('/');
                if !folder.is_empty() && !names::PRE_COPIES.contains(&folder) {
                    return foreign("a checkpoint has no such directory");
                }
                continue;
            }
            EntryType::Regular => check_file(&name)?,
            EntryType::Symlink => {
                let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                check_link(&name, Path::new(&*String::from_utf8_lossy(&to)))?;
            }
            _ => return foreign("only files and directories are taken out of an archive"),
        }
        if is_mark(&name) {
            continue;
        }
        if names.len() == MOST_FILES {
            return foreign("there are more files before it than a checkpoint has");
        }
        if !names.insert(name.clone()) {
            return foreign("it is twice in the archive");
        }
        make_folders(new, &name)?;
        if entry.header().entry_type() == EntryType::Symlink {
            let to = entry.link_name_bytes().unwrap_or_default().into_owned();
            new.link(&name, Path::new(&*String::from_utf8_lossy(&to)))?;
            continue;
        }
        let bytes = entry.size();
        taken = taken.saturating_add(bytes);
        if taken > free.saturating_sub(LEFT_FREE) {
            return Err(ArchiveError::NoRoom { name, bytes, free });
        }
        copy(&mut entry, new, &name)?;
    }
    Ok(names)
}

fn make_folders(new: &dyn NewCheckpoint, name: &str) -> Result<(), ArchiveError> {
    let Some((folder, _)) = name.rsplit_once('/') else { return Ok(()) };
    let way = names::PRE_COPIES.iter().filter(|above| folder.starts_with(**above));
    for above in way {
        new.create_directory(above)?;
    }
    Ok(())
}

/// Takes out a file.
fn copy(
    entry: &mut tar::Entry<'_, impl Read>,
    new: &dyn NewCheckpoint,
    name: &str,
) -> Result<(), ArchiveError> {
    let mut file = new.create(name)?;
    let mut left = entry.size();
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = entry.read(&mut piece[..most]).map_err(ArchiveError::Broken)?;
        if read == 0 {
            return Err(ArchiveError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_all(&piece[..read]).map_err(failed("write", name))?;
        left -= read as u64;
    }
    file.flush().map_err(failed("write", name))?;
    // When it was made is when its inventory was.
    let modified = entry.header().mtime().ok().map(Duration::from_secs);
    let modified = modified.and_then(|since| UNIX_EPOCH.checked_add(since));
    if let (Some(modified), Some(file)) = (modified, file.file()) {
        file.set_modified(modified).map_err(failed("write", name))?;
    }
    Ok(())
}

/// Compares all of what was taken out with its manifest.
fn check_whole(new: &dyn NewCheckpoint) -> Result<(), ArchiveError> {
    let place = new.place().unwrap_or_else(|| new.target());
    let found = images::verify(place, &Access::default(), &Cancel::default())?;
    let own = |path: &Path| path.strip_prefix(place).unwrap_or(path).display().to_string();
    if let Some(damage) = found.damages.first() {
        let (path, what) = (own(&damage.path), damage.what.clone());
        return Err(ArchiveError::Damaged { path, what });
    }
    let unknown = found.in_part.first().or(found.unknown.first());
    match unknown {
        None => Ok(()),
        Some(path) => {
            let what = "the manifest does not tell all of it, and nobody could tell whether it is as it was written";
            Err(ArchiveError::Damaged { path: own(path), what: what.to_owned() })
        }
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
