//! Unix sockets of a tree that are connected to processes outside of it: syslog, the journal, D-Bus.
//!
//! A restore connects them again by the name of the other end, if both the dump and the restore are told
//! that they may. An end that nobody can connect to (of a pair, or a client's) needs another socket, which
//! the restore is handed in its place. A socket outside has an entry of its own in `files.img`, as CRIU writes
//! it, which no descriptor refers to.

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
    /// Of these sockets also those that nobody could connect again: the restore will be handed others.
    pub is_handed: bool,
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
        let takes_datagrams = kind == SOCK_DGRAM;
        let allowed = &self.context.external_unix;
        let is_named = allowed.sockets.contains(&entry.ino);
        let is_handed = is_named && allowed.is_handed;
        let may = is_named || allowed.datagrams && takes_datagrams;
        // What has been found of its other end in the plan still stands, and the frozen target waits for no list.
        if may && self.frozen && self.cache.outside.contains_key(&entry.peer) {
            return Ok(());
        }
        let is_client =
            may && !takes_datagrams && !name.is_empty() && !self.neighbours.listens(&name)?;
        if !is_handed && (!may || name.is_empty() || is_client) {
            let end =
                OtherEnd { name: &name, takes_datagrams, is_client, socket: entry.ino.into() };
            return Err(Problem::Refused(connected_outside(end)));
        }
        if !is_handed && !matches!(name.first(), Some(0 | b'/')) {
            return Err(Problem::Refused(relative_outside(&name)));
        }
        // The name of a client leads nowhere; that of a listener which has gone may do so again.
        let name = if is_client && !entry.name.is_empty() { Vec::new() } else { name };
        self.cache.outside.insert(entry.peer, (kind, name));
        Ok(())
    }

    /// Gives the sockets outside their entries.
    pub(super) fn number_outside(&mut self) {
        for (ino, (kind, name)) in std::mem::take(&mut self.cache.outside) {
            let id = self.new_id();
            if !matches!(name.first(), Some(0 | b'/')) {
                let files = self.out.files.iter().chain(&self.cache.files);
                let own = unix_sockets::connected_to(ino, files);
                self.out.warnings.extend(own.into_iter().map(|own| {
                    format!(
                        "Unix socket {own} is connected to one outside of the tree that nobody can connect it to \
                         again: hand the restore another one (criu restore --inherit-fd fd[N]:socket:[{own}])"
                    )
                }));
            }
            self.out.outside.push(unix_sockets::outside(id, ino, kind, name));
        }
    }
}
