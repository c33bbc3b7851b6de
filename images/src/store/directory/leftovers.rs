//! What killed writers left: temporary directories that nobody holds a lock on.

use std::fs::{self, DirEntry, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the names of temporary directories contain.
pub(super) const MARK: &str = ".stasis-tmp-";

/// A temporary directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Where it is.
    pub path: PathBuf,
    /// How much of the disk it takes.
    pub bytes: u64,
    /// Whether its writer is still at work: otherwise it was killed.
    pub being_written: bool,
}

/// The temporary directories that lie in a directory, those of other users left out.
///
/// # Errors
/// If the directory cannot be listed.
pub fn unfinished(place: &Path) -> io::Result<Vec<Unfinished>> {
    let mut found = Vec::new();
    each(place, |path, directory| {
        let being_written = matches!(directory.try_lock(), Err(TryLockError::WouldBlock));
        found.push(Unfinished { path: path.to_owned(), bytes: bytes(path), being_written });
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Removes the temporary directories in a directory whose writers are gone, and says which they
/// were. What cannot be removed is left, with a warning: it is in nobody's way.
///
/// # Errors
/// If the directory cannot be listed.
pub fn clear(place: &Path) -> io::Result<Vec<Unfinished>> {
    let mut cleared = Vec::new();
    each(place, |path, directory| match directory.try_lock() {
        Ok(()) => {
            let gone =
                Unfinished { path: path.to_owned(), bytes: bytes(path), being_written: false };
            match fs::remove_dir_all(path) {
                Ok(()) => cleared.push(gone),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "what a killed dump left stays");
                }
            }
        }
        Err(TryLockError::WouldBlock) => {}
        // A file system without locks: nothing can be told from what is being written.
        Err(TryLockError::Error(error)) => {
            tracing::debug!(%error, path = %path.display(), "cannot tell whether its writer lives");
        }
    })?;
    Ok(cleared)
}

/// Shows every temporary directory of our own, opened. One of another user's is not touched: its name
/// may be a trap.
fn each(place: &Path, mut show: impl FnMut(&Path, &File)) -> io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    let ours = |entry: &DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with('.') && name.contains(MARK)
    };
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        if !ours(&entry) || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let Ok(directory) = File::open(&path) else { continue };
        if directory.metadata().is_ok_and(|found| found.is_dir() && found.uid() == own) {
            show(&path, &directory);
        }
    }
    Ok(())
}

/// What the files of a directory take of the disk; of those that go meanwhile, nothing.
fn bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(of).sum()
}
