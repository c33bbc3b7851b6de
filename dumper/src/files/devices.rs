//! Character devices: those that are the same whenever they are opened, and terminals.

use collector::{OpenFile, Process};
use images::messages::FileEntry;

use super::file_kind::FileKind;
use super::problem::Problem;
use super::survey::Survey;
use super::table;

/// A character device.
#[derive(Debug)]
pub(super) struct Device;

impl FileKind for Device {
    fn types(&self) -> &'static [u32] {
        &[]
    }

    fn is(&self, file: &OpenFile) -> bool {
        let handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
        !handle && file.mode & libc::S_IFMT == libc::S_IFCHR
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let device = survey.find(process.pid, file)?.stat()?.st_rdev;
        if let Some(kind) = table::of_device(device) {
            return kind.capture(survey, process, file, entry);
        }
        let (major, minor) = (libc::major(device), libc::minor(device));
        // null, zero, full, random, urandom: opened again they are what they were.
        if matches!((major, minor), (1, 3 | 5 | 7..=9)) {
            return survey.path_file(process.pid, file, entry);
        }
        Err(Problem::refused(
            format!("character device {major}:{minor} is not supported"),
            "close it before the checkpoint",
        ))
    }
}
