//! Character devices that are the same whenever they are opened.

use collector::{OpenFile, Process};
use images::messages::FileEntry;

use super::file_kind::FileKind;
use super::problem::Problem;
use super::survey::Survey;

/// A device that is found by its path as any file is.
#[derive(Debug)]
pub(super) struct Device;

impl FileKind for Device {
    fn types(&self) -> &'static [u32] {
        // They have the entries of regular files.
        &[]
    }

    fn is_device(&self, device: u64) -> bool {
        // null, zero, full, random, urandom.
        matches!((libc::major(device), libc::minor(device)), (1, 3 | 5 | 7..=9))
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        survey.path_file(process.pid, file, entry)
    }
}

/// A device that is carried by no kind.
pub(super) fn unknown(device: u64) -> Problem {
    Problem::Refused(support::files::unknown_device(libc::major(device), libc::minor(device)))
}
