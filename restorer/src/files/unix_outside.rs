//! Unix sockets that were connected to processes outside of the tree: connected again, by name.
//!
//! The images have an entry for each socket outside, which no descriptor refers to. Who is behind its name
//! now is not known: the tasks are connected to it only where somebody says that they may be, and only if
//! they might connect themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use images::messages::{FileEntry, UNIX_OUTSIDE, UnixSkEntry};
use kernel::paths::of_bytes;
use kernel::sockets::{self, Address};
use support::sockets::unix_name;

use super::actors::act;
use super::approve::Approver;
use super::unix_plan::{failed, what};
use super::{Error, Refused};

/// The sockets outside that the images tell of, by inode.
#[derive(Debug, Default)]
pub(super) struct Outside<'a>(BTreeMap<u32, &'a UnixSkEntry>);

impl<'a> Outside<'a> {
    pub(super) fn of(files: &'a BTreeMap<u32, Box<FileEntry>>) -> Self {
        let sockets = files.values().filter_map(|file| file.usk.as_deref());
        let outside = sockets.filter(|socket| socket.uflags & UNIX_OUTSIDE != 0);
        Self(outside.map(|socket| (socket.ino, socket)).collect())
    }

    /// Their inodes.
    pub(super) fn inodes(&self) -> BTreeSet<u32> {
        self.0.keys().copied().collect()
    }

    /// Refuses those of these entries that lead outside, if they `may` not, or if nobody can connect them again.
    pub(super) fn refuse(&self, entries: &[&UnixSkEntry], may: bool) -> Result<(), Error> {
        let refused = entries.iter().filter_map(|entry| {
            let peer = self.0.get(&entry.peer)?;
            let refusal = match (peer.name.is_empty(), may) {
                (true, _) => support::images::nameless_outside(entry.ino),
                (false, false) => support::images::connected_outside(&peer.name),
                (false, true) => return None,
            };
            Some(Refused::new(entry.id, refusal.of(0, what(entry))))
        });
        let refused: Vec<_> = refused.collect();
        if refused.is_empty() { Ok(()) } else { Err(Error::Refused(refused)) }
    }

    /// Connects the socket of an entry to the name of its peer.
    pub(super) fn connect(
        &self,
        socket: &OwnedFd,
        entry: &UnixSkEntry,
        approver: &Approver,
    ) -> Result<(), Error> {
        let Some(peer) = self.0.get(&entry.peer) else { return Ok(()) };
        let name = peer.name.strip_suffix(&[0]).filter(|_| peer.name.first() != Some(&0));
        let name = name.unwrap_or(&peer.name);
        let family = libc::AF_UNIX as u16;
        let mut handle = None;
        let address = match name.first() {
            None => {
                let refusal = support::images::nameless_outside(entry.ino);
                return Err(Error::refused(entry.id, refusal, what(entry)));
            }
            Some(0) => Address::new(family, name),
            Some(b'/') => {
                let no_path = || Error::image(what(entry), "the name of its peer is no path");
                let path = of_bytes(name).ok_or_else(no_path)?;
                let found = approver.outside(path, entry.id).map_err(|source| {
                    let refusal = support::changed::outside_socket;
                    let refusal = refusal(&unix_name(name), &source.to_string());
                    Error::refused(entry.id, refusal, what(entry))
                })?;
                let found = handle.insert(found);
                Address::new(family, format!("/proc/self/fd/{}", found.as_raw_fd()).as_bytes())
            }
            Some(_) => {
                let refusal = support::sockets::relative_outside(name);
                return Err(Error::refused(entry.id, refusal, what(entry)));
            }
        };
        let address = address.map_err(failed("name the peer of", entry))?;
        act(entry.connector.as_ref(), || sockets::connect(socket, &address)).map_err(|source| {
            let refusal = support::changed::outside_socket(&unix_name(name), &source.to_string());
            Error::refused(entry.id, refusal, what(entry))
        })
    }
}
