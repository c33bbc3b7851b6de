//! What is found by its path: regular files, directories, harmless devices, handles.

use std::os::fd::OwnedFd;

use images::messages::{FdinfoEntry, FileEntry, RegFileEntry, fd_type};

use support::Refusal;

use super::approve::Purpose;
use super::beside::Beside;
use super::content::Needs;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opener::Opener;
use super::opening::Opening;
use super::proc_files;
use super::user::User;
use super::{Error, InstallTask, OpenFiles};
use crate::pids::Pids;
use crate::places::Roots;

/// A file that is found by its path.
#[derive(Debug)]
pub(super) struct Regular;

impl FileKind for Regular {
    fn r#type(&self) -> u32 {
        fd_type::REG
    }

    fn check(&self, file: &FileEntry, images: &FileImages) -> Result<(), Error> {
        proc_files::check(file, images)
    }

    fn is_later(&self, file: &FileEntry, roots: &Roots) -> bool {
        let is_later =
            |entry: &RegFileEntry| proc_files::is_of_process(entry) || roots.is_late(entry.mnt_id);
        file.reg.as_ref().is_some_and(is_later)
    }

    fn open_later(
        &self,
        files: &OpenFiles,
        file: &FileEntry,
        _pids: &Pids,
    ) -> Result<OwnedFd, Error> {
        files.open_of_process(file.reg.as_ref().ok_or_else(|| missing(file))?)
    }

    fn own(
        &self,
        files: &OpenFiles,
        _entry: &FdinfoEntry,
        file: &FileEntry,
        task: &InstallTask,
    ) -> Result<(), Error> {
        match &file.reg {
            Some(entry) => files.own_of_process(entry, task),
            None => Ok(()),
        }
    }

    fn name(&self, file: &FileEntry, _beside: &Beside) -> Option<Vec<u8>> {
        let entry = file.reg.as_ref()?;
        let path = entry.name.strip_prefix(b"/").filter(|_| entry.ext != Some(true));
        Some(path.unwrap_or(&entry.name).to_vec())
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let roots = opening.opener.approver.roots();
        let is_later = |file: &&&FileEntry| self.is_later(file, &roots);
        let (later, now): (Vec<&FileEntry>, Vec<&FileEntry>) = files.iter().partition(is_later);
        later.into_iter().try_for_each(|file| opening.later(file.id))?;
        let entries = now.into_iter().map(|file| file.reg.as_ref().ok_or_else(|| missing(file)));
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
            opening.opener.opened(entry.id);
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
