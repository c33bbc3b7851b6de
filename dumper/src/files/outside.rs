//! Unix sockets of a tree that are connected to processes outside of it: syslog, the journal, D-Bus.
//!
//! A restore connects them again by the name of the other end, if both the dump and the restore are told
//! that they may. A socket outside has an entry of its own in `files.img`, as CRIU writes it, which no
//! descriptor refers to.

use std::collections::BTreeSet;

use collector::OpenFile;
use ids::HostPid;
use images::messages::UnixSkEntry;
use kernel::sockets::peer_address;
use libc::SOCK_DGRAM;
use support::sockets::{OtherEnd, connected_outside, relative_outside};

use super::held::with_socket;
use super::problem::Problem;
use super::survey::Survey;
use super::unix_sockets;

/// Which Unix sockets may be connected to processes outside the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalUnix {
    /// All that send datagrams to a name.
    pub datagrams: bool,
    /// These sockets of the tree, by inode, of any type: a stream is connected anew.
    pub sockets: BTreeSet<u32>,
}

impl Survey<'_> {
    /// Whether the other end of a socket is held by nobody in the tree.
    pub(super) fn is_outside(&self, peer: u32) -> bool {
        peer != 0 && !self.neighbours.holds(peer)
    }

    /// Notes the other end of a socket which is outside of the tree, if it may be there.
    pub(super) fn note_outside(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
        entry: &UnixSkEntry,
    ) -> Result<(), Problem> {
        // What is on its way in a message of a running target cannot always be seen.
        if !self.frozen && self.in_flight.is_partial {
            return Ok(());
        }
        let name = with_socket(self.held, pid, file, |socket| Ok(peer_address(socket).ok()))?;
        let name = name.map_or_else(Vec::new, |name| name.data().to_vec());
        let kind = entry.r#type.cast_signed();
        let allowed = &self.context.external_unix;
        let may = allowed.sockets.contains(&entry.ino) || allowed.datagrams && kind == SOCK_DGRAM;
        if !may || name.is_empty() {
            let (takes_datagrams, socket) = (kind == SOCK_DGRAM, entry.ino.into());
            let end = OtherEnd { name: &name, takes_datagrams, socket };
            return Err(Problem::Refused(connected_outside(end)));
        }
        if !matches!(name.first(), Some(0 | b'/')) {
            return Err(Problem::Refused(relative_outside(&name)));
        }
        self.cache.outside.insert(entry.peer, (kind, name));
        Ok(())
    }

    /// Gives the sockets outside their entries.
    pub(super) fn number_outside(&mut self) {
        for (ino, (kind, name)) in std::mem::take(&mut self.cache.outside) {
            let id = self.new_id();
            self.out.outside.push(unix_sockets::outside(id, ino, kind, name));
        }
    }
}
