//! What the images say of open terminals, as the ways to open them need it.

use std::os::fd::OwnedFd;

use ids::ImagePid;
use images::messages::{RegFileEntry, TtyFileEntry, TtyInfoEntry};

use super::super::Error;
use super::super::opening::Opening;

/// A terminal that controls a session of the tree.
#[derive(Debug)]
pub(super) struct Controlling {
    /// For its leader, whatever else is open of the terminal.
    pub(super) fd: OwnedFd,
    /// The process group in the foreground.
    pub(super) group: u32,
}

/// An open file of the images.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'a> {
    pub(super) id: u32,
    pub(super) entry: &'a TtyFileEntry,
    /// By what it was opened.
    pub(super) path: Option<&'a RegFileEntry>,
}

impl File<'_> {
    pub(super) fn what(&self) -> String {
        format!("terminal of file {}", self.id)
    }

    pub(super) fn path(&self) -> Result<&RegFileEntry, Error> {
        self.path.ok_or_else(|| Error::image(self.what(), "its path is not in the images"))
    }
}

/// Whether a terminal controlled a session whose leader will be there.
pub(super) fn is_led(opening: &Opening<'_>, info: &TtyInfoEntry) -> bool {
    ImagePid::try_from(info.sid).is_ok_and(|leader| opening.members.contains(&leader))
}

/// The number of a pseudo-terminal.
pub(super) fn number(info: &TtyInfoEntry) -> Result<u32, Error> {
    let none = || Error::image(format!("terminal {}", info.id), "it has no number");
    info.pty.map(|pty| pty.index).ok_or_else(none)
}
