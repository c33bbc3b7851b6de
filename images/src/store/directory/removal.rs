//! Removing a checkpoint: it is there whole until it is no checkpoint any more, and nothing goes with it that is none of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::staging::{Staging, remove_if_there};
use crate::error::Error;
use crate::names;
use crate::store::WriteOptions;

/// Removes a checkpoint, and the directory that it is in. Whoever is killed meanwhile leaves it whole, or what the next writer beside it
/// removes ([`super::clear`]).
///
/// # Errors
/// If there is none, if something else is in the directory, or if that cannot be moved or removed.
pub fn remove(directory: &Path) -> Result<(), Error> {
    let failed = |source| Error::OpenDirectory { path: directory.into(), source };
    let path = fs::canonicalize(directory).map_err(failed)?;
    match fs::metadata(path.join(names::inventory().name())) {
        Ok(found) if found.is_file() => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(failed(error)),
        _ => return Err(Error::NotACheckpoint { path }),
    }
    if let Some(other) = foreign(&path)? {
        return Err(Error::Holds { path, other });
    }
    // What is in a temporary directory goes with it, whoever removes that.
    let staging = Staging::make(&path, true, WriteOptions::default())?;
    let away = staging.path().join("removed");
    fs::rename(&path, &away).map_err(Error::path("move away", &path))?;
    fs::remove_dir_all(&away).map_err(Error::path("remove", &away))
}

/// Takes away what makes a checkpoint one, and then what it consisted of. What else is in its directory stays there.
pub(super) fn make_absent(target: &Path) {
    let gone = remove_if_there(&target.join(names::inventory().name()))
        .and_then(|()| remove_parts(target).map_err(Error::path("clear", target)));
    if let Err(error) = gone {
        tracing::warn!(%error, "a checkpoint that is not whole on the disk stays, or some of it");
    }
}

fn remove_parts(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let name = name.to_str().unwrap_or_default();
        match kind.is_dir() && name == names::PRE_COPY {
            true => remove_parts(&entry.path())?,
            false if is_part(name, kind) => fs::remove_file(entry.path())?,
            false => {}
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// Whether something in a checkpoint's directory is part of it, and no directory.
fn is_part(name: &str, kind: fs::FileType) -> bool {
    let file = names::is_image(name) || names::is_service(name) || names::is_beside(name);
    (kind.is_file() && file) || (kind.is_symlink() && name == names::PARENT_LINK)
}

/// Something in a checkpoint's directory that is no part of it.
fn foreign(path: &Path) -> Result<Option<PathBuf>, Error> {
    let listing = |source| Error::path("list", path)(source);
    for entry in fs::read_dir(path).map_err(&listing)? {
        let entry = entry.map_err(&listing)?;
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(&listing)?);
        let name = name.to_str().unwrap_or_default();
        if kind.is_dir() && name == names::PRE_COPY {
            if let Some(other) = foreign(&entry.path())? {
                return Ok(Some(other));
            }
            continue;
        }
        if !is_part(name, kind) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// The real paths of the checkpoints that one has left pages to.
pub fn parents_of(child: &Path) -> Vec<PathBuf> {
    let Ok(own) = child.canonicalize() else { return Vec::new() };
    let early = names::PRE_COPIES.iter().map(|folder| child.join(folder));
    // Without the first of these there is none of the others.
    let folders = std::iter::once(child.to_owned()).chain(early).take_while(|it| it.is_dir());
    let links = folders.filter_map(|it| it.join(names::PARENT_LINK).canonicalize().ok());
    links.filter(|leads_to| !leads_to.starts_with(&own)).collect()
}
