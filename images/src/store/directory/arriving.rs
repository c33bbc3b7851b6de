//! Images that come into a directory beside what is there already: what a page server is sent.

use std::fs;
use std::fs::File;
use std::path::Path;

use super::staging::{self, Staging};
use crate::error::Error;
use crate::store::WriteOptions;

/// Images that nobody sees yet. Dropping them leaves nothing.
#[derive(Debug)]
pub(crate) struct Arriving {
    staging: Staging,
}

impl Arriving {
    pub(crate) fn begin(directory: &Path, sync: bool) -> Result<Self, Error> {
        let options =
            WriteOptions { overwrite: true, in_place: true, sync, ..WriteOptions::default() };
        Ok(Self { staging: Staging::create(directory, options)? })
    }

    pub(crate) fn create(&self, name: &str) -> Result<File, Error> {
        self.staging.create_file(name)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        fs::remove_file(self.staging.path().join(name)).map_err(Error::io("remove", name))
    }

    /// A number, from `first` on, by which no file goes, neither here nor among those that were there.
    pub(crate) fn free_number(&self, first: u32, name: impl Fn(u32) -> String) -> u32 {
        let mut number = first;
        let taken = |name: &str| {
            [self.staging.path(), self.staging.place()]
                .iter()
                .any(|place| place.join(name).symlink_metadata().is_ok())
        };
        while taken(&name(number)) {
            number = number.wrapping_add(1).max(1);
        }
        number
    }

    /// Puts these, which are all that was created, in place, in this order; what is there of the same names is replaced. A checkpoint that
    /// was there before is none any more: its pages may be among them.
    pub(crate) fn appear(self, names: &[String]) -> Result<(), Error> {
        self.staging.sync_some(names)?;
        self.staging.replace_old()?;
        for (index, name) in names.iter().enumerate() {
            let (from, to) = (self.staging.path().join(name), self.staging.place().join(name));
            if let Err(error) = fs::rename(from, to) {
                for name in &names[..index] {
                    if let Err(error) = staging::remove_if_there(&self.staging.place().join(name)) {
                        tracing::warn!(%error, "pages of a dump that has failed stay");
                    }
                }
                return Err(Error::io("move", name)(error));
            }
        }
        self.staging.sync_target()
    }
}
