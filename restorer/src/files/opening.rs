//! What has been opened so far.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use ids::{HostPid, ImagePid};
use images::messages::FileEntry;
use kernel::descriptors::set_status_flags;

use super::Error;
use super::beside::Beside;
use super::connections::Connections;
use super::keep::Keep;
use super::keepers::{AtHand, Keepers, Room};
use super::opener::Opener;
use super::window::Window;

/// What has been opened so far, and what it is opened by.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) files: &'a BTreeMap<u32, Box<FileEntry>>,
    pub(super) beside: Beside,
    pub(super) opener: Opener,
    /// The root joins the caller's terminal.
    pub(super) shell_job: bool,
    /// The caller takes the masters of terminals outside the tree.
    pub(super) gives_masters: bool,
    /// The masters that it takes.
    pub(super) orphans: Vec<OwnedFd>,
    /// Unix sockets are connected again to processes outside the tree.
    pub(super) external_unix: bool,
    /// What becomes of TCP connections.
    pub(super) connections: Connections,
    /// The processes that will be there.
    pub(super) members: &'a BTreeSet<ImagePid>,
    pub(super) keep: Keep,
    pub(super) opened: BTreeMap<u32, OwnedFd>,
    /// Where not all can be open at once.
    pub(super) room: Option<Room>,
    pub(super) keepers: Keepers,
    /// Free numbers, for processes that are made for a file.
    pub(super) numbers: Vec<HostPid>,
    /// What is opened when the tree is there, with what keeps its number until then.
    pub(super) later: BTreeMap<u32, Window>,
}

impl Opening<'_> {
    /// Takes an open file description of the images.
    pub(super) fn add(&mut self, id: u32, fd: OwnedFd) -> Result<(), Error> {
        let failed =
            |source: io::Error| Error::Kernel { operation: format!("keep file {id}"), source };
        self.opened.insert(id, self.keep.keep(fd).map_err(failed)?);
        self.have_room_for(1, "file")
    }

    /// A file that has been opened.
    pub(super) fn at_hand(&self, id: u32) -> Result<AtHand<'_>, Error> {
        match self.opened.get(&id) {
            Some(file) => Ok(AtHand::Ours(file.as_fd())),
            None => self.keepers.fetch(id).map(AtHand::Fetched),
        }
    }

    /// Leaves a file to be opened when the processes of the tree are there; its kind does so
    /// ([`FileKind::open_later`](super::file_kind::FileKind::open_later)).
    pub(super) fn later(&mut self, id: u32) -> Result<(), Error> {
        let failed =
            |source: io::Error| Error::Kernel { operation: format!("keep file {id}"), source };
        self.later.insert(id, Window::new().and_then(|it| it.keep(self.keep)).map_err(failed)?);
        Ok(())
    }

    /// Hands over what is open where there would not be room for `files` more, which are called `what`.
    pub(super) fn have_room_for(&mut self, files: usize, what: &str) -> Result<(), Error> {
        let Some(Room { base, batch }) = self.room else { return Ok(()) };
        if files > batch {
            let object = format!("{files} {what}");
            return Err(Error::refused_of_none(support::host::files_at_once(batch), object));
        }
        match self.opened.len() + files > batch {
            true => self.keepers.take(&mut self.opened, base),
            false => Ok(()),
        }
    }
}

/// Sets the flags of a new file that its entry has, but for the one that comes with the owner.
pub(super) fn flagged(fd: OwnedFd, flags: u32, what: &str) -> Result<OwnedFd, Error> {
    const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();
    set_status_flags(&fd, flags & !O_ASYNC)
        .map_err(|source| Error::Kernel { operation: format!("set flags of {what}"), source })?;
    Ok(fd)
}
