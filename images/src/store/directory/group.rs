//! Several checkpoints that come to one directory, all at once.
//!
//! They are written in a temporary directory beside it (`.NAME.stasis-tmp-…`), each by its own name, and that is renamed to it when all
//! are there: whoever is killed, or sees the machine end, leaves all of them or none. The lock on the temporary directory tells that it is
//! in use, as for a single checkpoint ([`super::staging`]).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::NewDirectory;
use super::staging::{Staging, clear, is_current, is_empty, refuse_checkpoint, resolve};
use crate::error::Error;
use crate::store::{Complete, Destination, NewCheckpoint, WriteOptions};

/// A directory in which several checkpoints are to appear. Dropped before they have, it leaves nothing.
pub struct NewGroup {
    target: PathBuf,
    /// Where they are until then.
    place: PathBuf,
    options: WriteOptions,
    staging: Mutex<Staging>,
}

impl fmt::Debug for NewGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewGroup").field("target", &self.target).finish_non_exhaustive()
    }
}

/// The place of one of them, as a dump sees it: it will be in the directory of all.
#[derive(Clone, Debug)]
pub struct InGroup {
    path: PathBuf,
    until_then: NewDirectory,
}

impl NewGroup {
    /// Begins some that will be in `directory`. It must not exist, or be empty; its parent must exist.
    ///
    /// # Errors
    /// If it is not empty, lies in a checkpoint, or cannot be made.
    pub fn create(directory: &Path, options: WriteOptions) -> Result<Self, Error> {
        let target = resolve(directory)?;
        refuse_checkpoint(&target, options)?;
        if target.exists() && (is_current(&target) || !is_empty(&target)?) {
            return Err(Error::NotEmpty { path: target });
        }
        clear(target.parent());
        let staging = Staging::make(&target, true, options)?;
        let place = staging.path().to_owned();
        Ok(Self { target, place, options, staging: Mutex::new(staging) })
    }

    /// The place of one.
    #[must_use]
    pub fn member(&self, name: &str) -> InGroup {
        let until_then = NewDirectory { path: self.place.join(name), options: self.options };
        InGroup { path: self.target.join(name), until_then }
    }

    /// Where one is until all appear.
    #[must_use]
    pub fn place(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// Makes all of them appear, which have been committed.
    ///
    /// # Errors
    /// If something has come into the directory meanwhile, or it cannot be made. Then none has appeared.
    pub fn appear(&self) -> Result<(), Error> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        match staging.become_target()? {
            true => Ok(()),
            false => Err(Error::NotEmpty { path: self.target.clone() }),
        }
    }
}

impl InGroup {
    /// Begins one there.
    pub(in crate::store) fn staging(&self) -> Result<Staging, Error> {
        let left = &self.until_then.path;
        // Of a try that failed when this one had been written, and another had not.
        match fs::remove_dir_all(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::path("remove", left)(error))
            }
            _ => self.until_then.staging(),
        }
    }

    /// How it is written.
    pub(in crate::store) fn options(&self) -> WriteOptions {
        self.until_then.options
    }
}

impl Destination for InGroup {
    fn path(&self) -> &Path {
        &self.path
    }

    fn begin(&self) -> Result<Box<dyn NewCheckpoint>, Error> {
        Ok(Box::new(self.staging()?))
    }

    fn make_safe(&self, complete: &Complete<'_>) -> Result<(), Error> {
        self.until_then.make_safe(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{IMG_VERSION_1_1, InventoryEntry};
    use crate::names;
    use crate::store::Directory;
    use crate::writer::ImageWriter;

    fn write(group: &NewGroup, name: &str) {
        let writer = ImageWriter::of(group.member(name).begin().unwrap());
        let inventory =
            InventoryEntry { img_version: IMG_VERSION_1_1, ..InventoryEntry::default() };
        writer.write_one(&names::inventory(), &inventory).unwrap();
        writer.commit().unwrap();
    }

    fn names_in(place: &Path) -> Vec<String> {
        let entries = fs::read_dir(place).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn all_appear_at_once_or_none_does() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("both");
        let group = NewGroup::create(&directory, WriteOptions::default()).unwrap();
        write(&group, "1");
        drop(group);
        assert!(names_in(root.path()).is_empty(), "{:?}", names_in(root.path()));

        fs::create_dir(&directory).unwrap();
        let group = NewGroup::create(&directory, WriteOptions::default()).unwrap();
        write(&group, "1");
        // Again, as of a try that failed.
        write(&group, "1");
        write(&group, "2");
        assert!(names_in(&directory).is_empty());
        assert_eq!(group.member("2").path(), root.path().canonicalize().unwrap().join("both/2"));
        group.appear().unwrap();
        drop(group);
        assert_eq!(names_in(root.path()), ["both"]);
        for name in ["1", "2"] {
            crate::images::Images::open(&directory.join(name)).unwrap();
        }
        assert!(Directory::open(&directory.join("3")).is_err());
    }

    #[test]
    fn nothing_else_is_there() {
        let root = tempfile::tempdir().unwrap();
        let create =
            |name: &str| NewGroup::create(&root.path().join(name), WriteOptions::default());
        let group = create("both").unwrap();
        write(&group, "1");
        fs::create_dir_all(root.path().join("both/other")).unwrap();
        assert!(matches!(group.appear(), Err(Error::NotEmpty { .. })));
        drop(group);
        assert_eq!(names_in(root.path()), ["both"]);
        assert!(matches!(create("both"), Err(Error::NotEmpty { .. })));
        fs::write(root.path().join("both/other/inventory.img"), "").unwrap();
        assert!(matches!(create("both"), Err(Error::Above { .. })));
        assert!(matches!(create("both/other/more"), Err(Error::Inside { .. })));
        assert!(matches!(create("both/other"), Err(Error::Exists { .. })));
    }
}
