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
        // null, zero, full, random, urandom; kmsg; autofs.
        let known =
            matches!((libc::major(device), libc::minor(device)), (1, 3 | 5 | 7..=9) | (10, 235));
        known || device == KERNEL_LOG
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let is_read = file.flags.cast_signed() & libc::O_ACCMODE != libc::O_WRONLY;
        if is_read && survey.find(process.pid, file)?.stat_of_then.st_rdev == KERNEL_LOG {
            return Err(Problem::Refused(support::files::KERNEL_LOG_READ));
        }
        survey.path_file(process.pid, file, entry)
    }
}

/// `/dev/kmsg`.
const KERNEL_LOG: u64 = libc::makedev(1, 11);

/// A device that is carried by no kind.
pub(super) fn unknown(device: u64) -> Problem {
    Problem::Refused(support::files::unknown_device(libc::major(device), libc::minor(device)))
}
