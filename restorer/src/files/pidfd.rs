//! pidfds. Those of living processes are opened when the tree is there; for one that has ended, a
//! process is made that ends in the same way.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use ids::{HostPid, ImagePid};
use images::messages::{FileEntry, PidfdEntry, fd_type};
use kernel::pidfd::open_with;
use kernel::process::{Fork, exit_now, fork_as_any, wait_status};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use support::Refusal;

use super::Error;
use super::OpenFiles;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};
use super::user::User;
use crate::dead;
use crate::pids::Pids;
use crate::places::Roots;

/// The process has been waited for.
const ENDED: i32 = -1;
/// Flags that pidfd_open(2) takes: `PIDFD_NONBLOCK` and `PIDFD_THREAD`.
const OPEN: u32 = (libc::O_NONBLOCK | libc::O_EXCL).cast_unsigned();

/// A pidfd.
#[derive(Debug)]
pub(super) struct Pidfd;

impl FileKind for Pidfd {
    fn r#type(&self) -> u32 {
        fd_type::PIDFD
    }

    fn check(&self, file: &FileEntry, images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        if let Some(status) = entry.exit_status.filter(|status| !dead::can_be(*status)) {
            let reason = format!("nothing ends with the status {status:#x}");
            return Err(Error::image(format!("pidfd {}", file.id), reason));
        }
        match entry.nspid == ENDED
            || ImagePid::new(entry.nspid).is_some_and(|pid| images.pids.contains(&pid))
        {
            true => Ok(()),
            false => {
                let reason = format!("it is of process {}, which is not there", entry.nspid);
                Err(Error::image(format!("pidfd {}", file.id), reason))
            }
        }
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let mut ended: BTreeMap<u32, Vec<&PidfdEntry>> = BTreeMap::new();
        for file in files {
            let entry = entry(file)?;
            match entry.nspid {
                ENDED => ended.entry(entry.ino).or_default().push(entry),
                _ => opening.later(file.id)?,
            }
        }
        for entries in ended.into_values() {
            opening.have_room_for(entries.len(), "pidfds")?;
            for (entry, fd) in entries.iter().zip(of_ended(&entries, &mut opening.numbers)?) {
                opening.add(entry.id, with_flags(fd, entry)?)?;
            }
        }
        Ok(())
    }

    fn is_later(&self, file: &FileEntry, _roots: &Roots) -> bool {
        file.pidfd.as_ref().is_some_and(|entry| entry.nspid != ENDED)
    }

    fn open_later(
        &self,
        _files: &OpenFiles,
        file: &FileEntry,
        pids: &Pids,
    ) -> Result<OwnedFd, Error> {
        let entry = entry(file)?;
        let process = ImagePid::new(entry.nspid).and_then(|pid| pids.host(pid).ok());
        let process = process.ok_or_else(|| missing(file))?;
        let opened = open_with(process, entry.flags & OPEN).map_err(|source| Error::Kernel {
            operation: format!("open process {} for pidfd {}", entry.nspid, file.id),
            source,
        })?;
        with_flags(opened, entry)
    }
}

/// Sets the flags that pidfd_open(2) does not take.
fn with_flags(fd: OwnedFd, entry: &PidfdEntry) -> Result<OwnedFd, Error> {
    match entry.flags & !OPEN {
        0 => Ok(fd),
        _ => {
            flagged(fd, entry.flags & !libc::O_EXCL.cast_unsigned(), &format!("pidfd {}", entry.id))
        }
    }
}

fn entry(file: &FileEntry) -> Result<&PidfdEntry, Error> {
    file.pidfd.as_ref().ok_or_else(|| missing(file))
}

/// The pidfds of one process that has ended, one for each of `entries`.
fn of_ended(entries: &[&PidfdEntry], numbers: &mut Vec<HostPid>) -> Result<Vec<OwnedFd>, Error> {
    let Some(first) = entries.first() else { return Ok(Vec::new()) };
    let failed = |source| Error::Kernel {
        operation: format!("make a process that has ended for pidfd {}", first.id),
        source,
    };
    let status = first.exit_status.unwrap_or(0);
    match fork_as_any(std::iter::from_fn(|| numbers.pop())).map_err(failed)? {
        Some((_, Fork::Child)) => {
            // It ends at once; if we end before, so that nobody waits for it, all the more.
            if set_pdeathsig(Signal::SIGKILL).is_ok() {
                dead::end_as(status);
            }
            exit_now(libc::WEXITSTATUS(status))
        }
        Some((number, Fork::Parent)) => {
            // While it has not been waited for its number is its own.
            let opened = entries.iter().map(|entry| open_with(number, entry.flags & OPEN));
            let opened = opened.collect::<Result<Vec<_>, _>>();
            wait_status(number).map_err(failed)?;
            numbers.push(number);
            opened.map_err(failed)
        }
        None => Err(failed(ErrorKind::AlreadyExists.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_has_ended_is_told_as_it_was() {
        let mut numbers: Vec<HostPid> = (1..30_000)
            .rev()
            .filter_map(HostPid::new)
            .filter(|id| !kernel::process::exists(*id))
            .skip(50)
            .take(20)
            .collect();
        let nonblocking = libc::O_NONBLOCK.cast_unsigned();
        for status in [0, 3 << 8, libc::SIGKILL] {
            let entry = PidfdEntry { exit_status: Some(status), ..PidfdEntry::default() };
            let other = PidfdEntry { flags: nonblocking, ..entry };
            let opened = of_ended(&[&entry, &other], &mut numbers).unwrap();
            assert_eq!(opened.len(), 2);
            // Linux 6.15 and later.
            if let Some(told) = kernel::pidfd::exit_status(opened[0].as_fd()) {
                assert_eq!(told, status);
            }
        }
    }
}
