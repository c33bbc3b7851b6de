//! signalfd: all of it is in `/proc/PID/fdinfo`.

use collector::{OpenFile, Process};
use images::messages::{FileEntry, FownEntry, SignalfdEntry, fd_type};
use kernel::procfs::{Detail, FdInfo};

use super::file_kind::FileKind;
use super::problem::{Problem, unexpected};
use super::survey::Survey;

/// A signalfd.
#[derive(Debug)]
pub(super) struct Signalfd;

impl FileKind for Signalfd {
    fn types(&self) -> &'static [u32] {
        &[fd_type::SIGNALFD]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.target == "anon_inode:[signalfd]"
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fown = survey.owner(process.pid, file)?;
        let info = survey.fdinfo(process.pid, file)?;
        let sgfd = self::entry(&info, entry.id, file.flags, fown)?;
        Ok(FileEntry { r#type: fd_type::SIGNALFD, sgfd: Some(sgfd), ..entry })
    }
}

/// The entry of a signalfd.
fn entry(info: &FdInfo, id: u32, flags: u32, fown: FownEntry) -> Result<SignalfdEntry, Problem> {
    let Detail::Signalfd { mask } = info.detail else { return Err(unexpected("a signalfd")) };
    Ok(SignalfdEntry { id, flags, fown, sigmask: mask })
}
