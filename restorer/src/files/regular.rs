//! What is found by its path: regular files, directories, harmless devices, handles.

use std::os::fd::OwnedFd;

use images::messages::{FileEntry, RegFileEntry, fd_type};

use super::Error;
use super::approve::Purpose;
use super::beside::Beside;
use super::content::Needs;
use super::file_kind::{FileKind, missing};
use super::opener::Opener;
use super::opening::Opening;

/// A file that is found by its path.
#[derive(Debug)]
pub(super) struct Regular;

impl FileKind for Regular {
    fn r#type(&self) -> u32 {
        fd_type::REG
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let entries = files.iter().map(|file| file.reg.as_ref().ok_or_else(|| missing(file)));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        // What may have changed comes before what has an effect: a device, or a ghost that is made.
        let (plain, others): (Vec<&RegFileEntry>, Vec<&RegFileEntry>) =
            entries.into_iter().partition(|entry| opening.opener.is_plain(entry));
        for entry in plain.into_iter().chain(others) {
            let opened = opening.opener.open(entry).map_err(|error| {
                let all = opening.files.values().filter_map(|file| file.reg.as_ref());
                opening.opener.with_all_changed(error, all)
            })?;
            opening.add(entry.id, opened)?;
        }
        Ok(())
    }

    fn map(
        &self,
        opener: &mut Opener,
        _beside: &mut Beside,
        file: &FileEntry,
        with: u32,
        needs: Needs,
    ) -> Result<OwnedFd, Error> {
        let entry = file.reg.as_ref().ok_or_else(|| missing(file))?;
        opener.open_contents(entry, Purpose::Map(with), with, needs)
    }
}
