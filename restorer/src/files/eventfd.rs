//! eventfd: its counter.

use std::os::fd::OwnedFd;

use images::messages::{EventfdFileEntry, FileEntry, fd_type};
use nix::sys::eventfd::{EfdFlags, EventFd};

use support::Refusal;

use super::Error;
use super::file_kind::{FileKind, missing};
use super::opening::{Opening, flagged};
use super::user::User;

/// See the dumper: the bit of the access mode that an eventfd does not use.
const SEMAPHORE: u32 = libc::EFD_SEMAPHORE.cast_unsigned();

/// An eventfd.
#[derive(Debug)]
pub(super) struct Eventfd;

impl FileKind for Eventfd {
    fn r#type(&self) -> u32 {
        fd_type::EVENTFD
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = file.efd.as_ref().ok_or_else(|| missing(file))?;
            opening.add(file.id, make(entry)?)?;
        }
        Ok(())
    }
}

fn make(entry: &EventfdFileEntry) -> Result<OwnedFd, Error> {
    let what = format!("eventfd {}", entry.id);
    let mut flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    if entry.flags & SEMAPHORE != 0 {
        flags |= EfdFlags::EFD_SEMAPHORE;
    }
    let fd =
        EventFd::from_flags(flags).map_err(|errno| Error::kernel(format!("make {what}"), errno))?;
    if entry.counter > 0 {
        fd.write(entry.counter)
            .map_err(|errno| Error::kernel(format!("set counter of {what}"), errno))?;
    }
    flagged(fd.into(), entry.flags & !SEMAPHORE, &what)
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;
    use kernel::procfs::{Detail, Dir, FdInfo};
    use std::os::fd::AsRawFd;

    #[test]
    fn counters_and_semaphores() {
        let entry = EventfdFileEntry { flags: 3, counter: 1 << 40, ..EventfdFileEntry::default() };
        let fd = make(&entry).unwrap();
        let dir = Dir::open(HostPid::own()).unwrap();
        let info = FdInfo::read(&dir, fd.as_raw_fd()).unwrap();
        let Detail::Eventfd { count, semaphore, .. } = info.detail else { panic!("no eventfd") };
        assert_eq!((count, semaphore), (1 << 40, Some(true)));
    }
}
