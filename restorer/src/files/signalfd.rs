//! signalfd: the signals that it takes.

use std::os::fd::OwnedFd;

use images::messages::{FileEntry, SignalfdEntry, fd_type};
use kernel::signalfd;

use support::Refusal;

use super::Error;
use super::file_kind::{FileKind, missing};
use super::opening::{Opening, flagged};
use super::user::User;

/// A signalfd.
#[derive(Debug)]
pub(super) struct Signalfd;

impl FileKind for Signalfd {
    fn r#type(&self) -> u32 {
        fd_type::SIGNALFD
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = file.sgfd.as_ref().ok_or_else(|| missing(file))?;
            opening.add(file.id, make(entry)?)?;
        }
        Ok(())
    }
}

fn make(entry: &SignalfdEntry) -> Result<OwnedFd, Error> {
    let what = format!("signalfd {}", entry.id);
    let fd = signalfd::create(entry.sigmask)
        .map_err(|source| Error::Kernel { operation: format!("make {what}"), source })?;
    flagged(fd, entry.flags, &what)
}
