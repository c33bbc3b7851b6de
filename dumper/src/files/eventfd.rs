//! eventfd: all of it is in `/proc/PID/fdinfo`.

use collector::{OpenFile, Process};
use images::messages::{EventfdFileEntry, FileEntry, FownEntry, fd_type};
use kernel::procfs::{Detail, FdInfo};

use super::file_kind::FileKind;
use super::problem::{Problem, unexpected};
use super::survey::Survey;

/// `EFD_SEMAPHORE` in the flags of an eventfd's entry.
///
/// CRIU's entry has no place for it. An eventfd is always open for reading and writing (2), so
/// the other bit of the access mode is free to say it; CRIU passes over it.
const SEMAPHORE: u32 = libc::EFD_SEMAPHORE.cast_unsigned();

/// An eventfd.
#[derive(Debug)]
pub(super) struct Eventfd;

impl FileKind for Eventfd {
    fn types(&self) -> &'static [u32] {
        &[fd_type::EVENTFD]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.target == "anon_inode:[eventfd]"
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
        let efd = self::entry(&info, entry.id, file.flags, fown)?;
        Ok(FileEntry { r#type: fd_type::EVENTFD, efd: Some(efd), ..entry })
    }
}

/// The entry of an eventfd.
fn entry(info: &FdInfo, id: u32, flags: u32, fown: FownEntry) -> Result<EventfdFileEntry, Problem> {
    let Detail::Eventfd { count, semaphore, .. } = info.detail else {
        return Err(unexpected("an eventfd"));
    };
    let flags = if semaphore == Some(true) { flags | SEMAPHORE } else { flags };
    Ok(EventfdFileEntry { id, flags, fown, counter: count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_from_the_kernels_text() {
        let text =
            b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1038\neventfd-count:                5\n\
            eventfd-id: 3\neventfd-semaphore: 1\n";
        let info = FdInfo::parse(text).unwrap();
        let entry = entry(&info, 7, 2, FownEntry::default()).unwrap();
        assert_eq!((entry.counter, entry.flags, entry.id), (5, 3, 7));
        let other = FdInfo::parse(b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1\n").unwrap();
        assert!(super::entry(&other, 7, 2, FownEntry::default()).is_err());
    }
}
