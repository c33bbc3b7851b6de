//! Removing a checkpoint: it is there whole until it is no checkpoint any more, and nothing goes with it that is none of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::staging::Staging;
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
        let file = names::is_image(name) || names::is_service(name) || names::is_beside(name);
        let part = (kind.is_file() && file) || (kind.is_symlink() && name == names::PARENT_LINK);
        if !part {
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
