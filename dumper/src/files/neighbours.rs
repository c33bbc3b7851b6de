//! The sockets around those of a tree: whom each is connected to, and who waits to be accepted.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;

use images::messages::{SHUTDOWN_BOTH, SK_ESTABLISHED};
use kernel::sock_diag::{UnixLookup, UnixSocket};
use kernel::sockets::peer_address;
use libc::SOCK_DGRAM;

use super::multicast::Groups;
use super::networks::All;
use super::problem::{Doing, Problem};

/// The Unix sockets of the network namespaces, and which of them the tree holds.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    held: HashSet<u32>,
    /// Those that are on their way to the tree in messages.
    in_flight: HashSet<u32>,
    /// Known once they have been asked for: that takes a while.
    pub(super) known: Option<Known>,
    /// Those that were asked for one by one.
    single: HashMap<u32, UnixSocket>,
    lookups: Vec<UnixLookup>,
    /// The namespaces in which there are sockets of the tree.
    pub(super) networks: All,
    /// The one from inside of which a socket is being looked at, by the kernel's id; `None` for our own.
    pub(super) place: Option<u64>,
    /// UDP sockets that have been shut down, and how far.
    shut_down: Option<HashMap<u32, u8>>,
    /// Multicast groups, by namespace.
    groups: HashMap<Option<u64>, Groups>,
}

/// How many are asked for one by one before all are: the kernel looks through all of them for each.
const SINGLE: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Known {
    sockets: HashMap<u32, UnixSocket>,
    /// The listening socket that each connection waits at.
    waits_at: HashMap<u32, u32>,
}

impl Known {
    fn of(sockets: Vec<UnixSocket>) -> Self {
        let waits_at = sockets
            .iter()
            .flat_map(|socket| socket.waiting.iter().map(|client| (*client, socket.inode)))
            .collect();
        let sockets = sockets.into_iter().map(|socket| (socket.inode, socket)).collect();
        Self { sockets, waits_at }
    }
}

impl Neighbours {
    /// Those of a tree that holds the sockets with these inodes.
    pub(super) fn new(held: HashSet<u32>, in_flight: HashSet<u32>) -> Self {
        Self { held, in_flight, ..Self::default() }
    }

    /// The sockets that the tree holds.
    pub(super) fn into_held(self) -> HashSet<u32> {
        self.held
    }

    /// Whether the tree holds the socket with this inode, or it is on its way there.
    pub(super) fn holds(&self, inode: u32) -> bool {
        self.held.contains(&inode) || self.in_flight.contains(&inode)
    }

    /// Asks for all of them, if that has not been done.
    pub(super) fn load(&mut self) -> Result<(), Problem> {
        if self.known.is_none() {
            let sockets = self.networks.each(kernel::sock_diag::unix_sockets);
            let sockets = sockets.doing("list the Unix sockets beside")?;
            self.known = Some(Known::of(sockets.concat()));
        }
        Ok(())
    }

    /// Asks for what is to be known of one socket: itself and its peer, as long as few are asked
    /// for, and as it is not one that waits at another.
    pub(super) fn load_one(&mut self, inode: u32) -> Result<(), Problem> {
        if self.known.is_some() || self.single.len() >= SINGLE {
            return self.load();
        }
        let Some(socket) = self.look_up(inode)? else { return Ok(()) };
        let (peer, state, kind) = (socket.peer, socket.state, socket.kind);
        self.single.insert(inode, socket);
        match peer {
            Some(peer) => {
                let peer = self.look_up(peer)?;
                self.single.extend(peer.map(|peer| (peer.inode, peer)));
                Ok(())
            }
            None if i32::from(kind) != SOCK_DGRAM && u32::from(state) == SK_ESTABLISHED => {
                self.load()
            }
            None => Ok(()),
        }
    }

    /// Whether a Unix socket outside or inside of the tree listens by a name.
    pub(super) fn listens(&self, name: &[u8]) -> Result<bool, Problem> {
        let listed = self.networks.each(kernel::sock_diag::unix_listeners);
        let listed = listed.doing("list the listening sockets beside")?;
        let end = |name: &[u8]| name.strip_suffix(&[0]).map_or(name.len(), <[u8]>::len);
        let is_it = |listener: &Vec<u8>| listener[..end(listener)] == name[..end(name)];
        Ok(listed.iter().flatten().any(is_it))
    }

    /// How far a UDP socket has been shut down, in the images' numbers.
    pub(super) fn udp_shutdown(&mut self, inode: u32) -> Result<u32, Problem> {
        let shut_down = match &mut self.shut_down {
            Some(shut_down) => shut_down,
            none => {
                let listed = self.networks.each(kernel::sock_diag::udp_shutdowns);
                let listed = listed.doing("list the UDP sockets beside")?;
                none.insert(listed.into_iter().flatten().collect())
            }
        };
        Ok(shut_down.get(&inode).copied().unwrap_or(0).into())
    }

    fn look_up(&mut self, inode: u32) -> Result<Option<UnixSocket>, Problem> {
        let doing = "look up the Unix socket of";
        if self.lookups.is_empty() {
            self.lookups = self.networks.each(UnixLookup::new).doing(doing)?;
        }
        for lookup in &self.lookups {
            if let Some(socket) = lookup.find(inode).doing(doing)? {
                return Ok(Some(socket));
            }
        }
        Ok(None)
    }

    /// The multicast groups of the namespace from inside of which a socket is being looked at.
    pub(super) fn groups(&mut self) -> &mut Groups {
        self.groups.entry(self.place).or_default()
    }

    pub(super) fn socket(&self, inode: u32) -> Option<&UnixSocket> {
        match &self.known {
            Some(known) => known.sockets.get(&inode),
            None => self.single.get(&inode),
        }
    }

    /// The name that messages for a datagram socket can have as their sender's and get again: that of
    /// the socket that it is connected to, if that one is connected to it.
    pub(super) fn sender(&self, socket: BorrowedFd<'_>, inode: u32) -> Vec<u8> {
        let peer = self.socket(inode).and_then(|socket| socket.peer);
        let back = peer.and_then(|peer| self.socket(peer)).and_then(|peer| peer.peer);
        let name = (back == Some(inode)).then(|| peer_address(socket).ok()).flatten();
        name.map_or_else(Vec::new, |name| name.data().to_vec())
    }

    /// Whether a socket is connected, and not accepted yet.
    pub(super) fn is_waiting(&self, inode: u32) -> bool {
        self.waits_at(inode).is_some()
    }

    fn waits_at(&self, inode: u32) -> Option<&u32> {
        self.known.as_ref()?.waits_at.get(&inode)
    }

    /// The inode of the socket that `socket` is to be connected to, 0 for none. `frozen` says
    /// whether what changes by the moment counts.
    pub(super) fn peer(&self, socket: &UnixSocket, frozen: bool) -> Result<u32, Problem> {
        let stream = i32::from(socket.kind) != SOCK_DGRAM;
        match socket.peer {
            Some(peer) if self.holds(peer) => self.reachable(socket, peer),
            // Who asks sees whether that may be.
            Some(peer) => Ok(peer),
            None if stream && u32::from(socket.state) == SK_ESTABLISHED => {
                self.waiting(socket, frozen)
            }
            None => {
                self.accepts_only_ours(socket, frozen)?;
                Ok(0)
            }
        }
    }

    /// A socket that is connected one way only is connected again by its peer's name.
    fn reachable(&self, socket: &UnixSocket, peer: u32) -> Result<u32, Problem> {
        let back = self.socket(peer).and_then(|peer| peer.peer);
        if i32::from(socket.kind) != SOCK_DGRAM && back != Some(socket.inode) {
            return Err(Problem::Refused(support::sockets::ONE_WAY));
        }
        Ok(peer)
    }

    /// A connection that nobody has accepted yet, or whose other end has been closed.
    fn waiting(&self, socket: &UnixSocket, frozen: bool) -> Result<u32, Problem> {
        let Some(listener) = self.waits_at(socket.inode) else {
            let closed = u32::from(socket.shutdown) == SHUTDOWN_BOTH;
            return if closed || !frozen {
                Ok(0)
            } else {
                Err(Problem::Refused(support::sockets::NO_PEER))
            };
        };
        if !self.holds(*listener) {
            return Err(Problem::Refused(support::sockets::WAITS_OUTSIDE));
        }
        if frozen && socket.send_queue > 0 {
            return Err(Problem::Refused(support::sockets::SENT_BEFORE_ACCEPTED));
        }
        Ok(*listener)
    }

    fn accepts_only_ours(&self, socket: &UnixSocket, frozen: bool) -> Result<(), Problem> {
        let strange = socket.waiting.iter().any(|client| !self.holds(*client));
        if frozen && strange {
            return Err(Problem::Refused(support::sockets::STRANGER_WAITS));
        }
        Ok(())
    }
}
