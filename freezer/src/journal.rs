//! The record of frozen cgroups, for a freezer that was killed: the kernel keeps a cgroup frozen
//! whoever dies, so the next freezer thaws what the last one left.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use kernel::cgroup::{Cgroup, Version};
use serde::{Deserialize, Serialize};

use crate::Error;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Entry {
    /// 1 or 2.
    version: u8,
    directory: PathBuf,
}

impl Entry {
    fn of(cgroup: &Cgroup) -> Self {
        let version = match cgroup.version() {
            Version::V1 => 1,
            Version::V2 => 2,
        };
        Self { version, directory: cgroup.directory().to_owned() }
    }

    fn cgroup(&self) -> Cgroup {
        let version = if self.version == 1 { Version::V1 } else { Version::V2 };
        Cgroup::at(version, self.directory.clone())
    }
}

/// The record, in one file: written before a freeze and after a thaw.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    entries: BTreeSet<Entry>,
}

impl Journal {
    /// Opens the record, thaws every cgroup in it and empties it. Returns the cgroups thawed.
    ///
    /// # Errors
    /// If the file cannot be read or written. A cgroup that is gone needs no thaw.
    pub fn open(path: &Path) -> Result<(Self, Vec<PathBuf>), Error> {
        let failed = |source| Error::Journal { operation: "read", path: path.to_owned(), source };
        let left: BTreeSet<Entry> = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut thawed = Vec::new();
        for entry in left {
            match entry.cgroup().thaw() {
                Ok(()) => thawed.push(entry.directory),
                Err(error) => tracing::warn!(
                    "thaw {}, left frozen by a freezer before: {error}",
                    entry.directory.display()
                ),
            }
        }
        let journal = Self { path: path.to_owned(), entries: BTreeSet::new() };
        journal.write()?;
        Ok((journal, thawed))
    }

    /// Notes that a cgroup is about to be frozen.
    ///
    /// # Errors
    /// If the file cannot be written: then the cgroup must not be frozen.
    pub fn enter(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        let entry = Entry::of(cgroup);
        self.entries.insert(entry.clone());
        self.write().inspect_err(|_| {
            self.entries.remove(&entry);
        })
    }

    /// Notes that a cgroup runs again.
    ///
    /// # Errors
    /// If the file cannot be written; a freezer after us would thaw it once more, which harms
    /// nobody but who froze it meanwhile.
    pub fn leave(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        self.entries.remove(&Entry::of(cgroup));
        self.write()
    }

    fn write(&self) -> Result<(), Error> {
        let failed =
            |source| Error::Journal { operation: "write", path: self.path.clone(), source };
        let text = serde_json::to_vec(&self.entries).map_err(|error| failed(error.into()))?;
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).map_err(failed)?;
        std::fs::rename(&new, &self.path).map_err(failed)
    }
}
