//! TCP connections that wait at the listening sockets of the tree: nobody has accepted them yet.
//!
//! There is no descriptor by which such a connection could be read, and it may not be accepted: the tree would miss it, should it go on. So the
//! collector's programs read it in the kernel. As of other connections, those from sockets of the tree concern nobody else;
//! of others it has to be said that they are carried, and when the tree is to end the network is locked for them. The kernel
//! goes on to put into them what comes: so what is in them is read last, when all that the peers in the tree have been told of has been read.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use collector::{Collector, OpenFile, Peculiar, Unaccepted, WaitingConnection};
use ids::HostPid;
use images::messages::{TcpStreamEntry, WaitingEntry};
use kernel::netfilter::Ends;
use kernel::tcp;
use support::{Refusal, Unsupported};

use super::beside::Part;
use super::connections::{Connections, canonical};
use super::held::HeldFiles;
use super::listeners::Listeners;
use super::problem::Problem;
use super::survey::Survey;
use super::{Captured, Error, FileReference, Plan, PlanContext};

/// The most bytes that the connections at one socket may have received: they become one message of the images.
const MOST: u64 = 32 << 20;

/// How often a queue that moves is read.
const TRIES: usize = 16;

/// A listening socket at which connections wait.
#[derive(Debug)]
pub(super) struct Listener {
    pid: HostPid,
    inode: u64,
    /// What it is called when it is refused.
    object: String,
    /// The number of its entry.
    id: u32,
    /// The network namespace that it is in, if that is not the dumper's.
    network: Option<(u64, Arc<OwnedFd>)>,
    /// What waits there has come since the tree was told to stop.
    came_later: bool,
    /// It has a filter, by which the connections would be judged again.
    filtered: bool,
    /// How many wait.
    count: u32,
    /// They, as far as the kernel tells.
    connections: Option<Vec<WaitingConnection>>,
    /// Which of them are carried.
    carried: HashSet<Ends>,
}

/// Those that were met.
#[derive(Debug, Default)]
pub(super) struct Met(Vec<Listener>);

impl Part for Met {}

/// A connection that waits and is carried.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    /// Its address and that of its peer.
    pub(crate) ends: Ends,
    /// Nobody in the tree has the other end.
    pub(crate) outside: bool,
    /// The network namespace that it is in, if that is not the dumper's.
    pub(crate) network: Option<(u64, Arc<OwnedFd>)>,
}

impl Survey<'_> {
    /// Notes a listening socket at which `count` connections wait.
    pub(super) fn meet_listener(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
        (id, filtered): (u32, bool),
        (count, came_later): (u32, bool),
    ) {
        let place = FileReference::Descriptor(file.fd);
        let network = self.held.networks.of(file.inode).map(|(id, it)| (id, Arc::clone(it)));
        self.out.beside.of::<Met>().0.push(Listener {
            pid,
            inode: file.inode,
            object: format!("{place} ({})", file.target.to_string_lossy()),
            id,
            network,
            came_later,
            filtered,
            count,
            connections: None,
            carried: HashSet::new(),
        });
    }
}

fn ends(one: &WaitingConnection) -> Ends {
    (canonical(one.local), canonical(one.peer))
}

impl Listener {
    /// Where else its addresses mean somebody else, as of a connection.
    fn place(&self, one: &WaitingConnection) -> Option<u64> {
        let is_loopback = canonical(one.local).ip().is_loopback();
        self.network.as_ref().filter(|_| is_loopback).map(|(id, _)| *id)
    }

    /// Reads what waits there; `None` where that is not told.
    fn read(
        &self,
        held: &HeldFiles,
        collector: &mut Collector,
    ) -> Result<Option<Vec<WaitingConnection>>, Problem> {
        let Some(socket) = held.held_socket(self.inode) else { return Ok(None) };
        for _ in 0..TRIES {
            let told =
                collector.waiting(socket.as_fd(), MOST).map_err(|error| Problem::Kernel {
                    operation: "read the connections that wait at",
                    source: std::io::Error::other(error),
                })?;
            match told {
                None => return Ok(None),
                Some(Unaccepted::All(all)) => return Ok(Some(all)),
                Some(Unaccepted::More) => {
                    return Err(Problem::Refused(support::sockets::WAITING_TOO_LARGE));
                }
                Some(Unaccepted::Moves) => {}
            }
        }
        Err(Problem::Refused(support::sockets::MOVES))
    }

    fn failed(&self, problem: Problem) -> Result<Unsupported, Error> {
        match problem {
            Problem::Refused(refusal) => Ok(refusal.of(self.pid, &self.object)),
            Problem::Kernel { operation, source } => Err(Error::Kernel {
                operation: format!("{operation} {} of process {}", self.object, self.pid),
                source,
            }),
            _ => Err(Error::TooLate),
        }
    }

    /// What becomes of a connection: whether it is carried, or left out, or refused.
    fn judge(
        &self,
        asked: Connections,
        one: &WaitingConnection,
        outside: bool,
    ) -> Result<bool, Refusal> {
        match asked {
            Connections::Closed => return Ok(false),
            // One that comes later could have come after the tree was stopped.
            _ if outside && self.came_later => return Ok(false),
            Connections::Inside if outside => {
                return Err(support::sockets::waiting_from(canonical(one.peer)));
            }
            Connections::Refused => return Err(support::sockets::waiting_connections(self.count)),
            Connections::Inside | Connections::All => {}
        }
        peculiar(one, self.filtered).map_or(Ok(true), Err)
    }
}

/// Why a connection that waits cannot be carried.
fn peculiar(one: &WaitingConnection, filtered: bool) -> Option<Refusal> {
    // What the kernel takes (`bpf_sk_assign_tcp_reqsk`).
    let smallest = if one.local.ip().to_canonical().is_ipv4() { 536 } else { 1220 };
    let is_link_local = |end: SocketAddr| match end.ip() {
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    let why = match one.peculiar {
        Some(Peculiar::Protocol) => "it is of MPTCP, or of TCP Fast Open and not confirmed yet",
        Some(Peculiar::FirstPacket) => "its first packet has been kept (TCP_SAVE_SYN)",
        Some(Peculiar::Urgent) => "an urgent byte is in it",
        Some(Peculiar::Signed) => "it is signed",
        Some(Peculiar::Written) => "something has been written to it already",
        None if one.received.is_none() => "the kernel does not tell what is in it",
        None if one.segment < smallest => "its segments are too small to be agreed on again",
        None if is_link_local(one.local) => "it has a link-local address",
        None if filtered => "the socket has a filter",
        None => match (one.state, one.error) {
            (tcp::ESTABLISHED | tcp::CLOSE_WAIT, 0) => return None,
            (tcp::CLOSE, libc::ECONNRESET | libc::EPIPE) => return None,
            _ => "it has ended, and not by a reset of its peer",
        },
    };
    Some(support::sockets::waiting_peculiar(canonical(one.peer), why))
}

fn entry(one: &WaitingConnection) -> WaitingEntry {
    const SCALES: u8 = 4;
    const TIMESTAMPS: u8 = 1;
    let words = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => vec![u32::from_ne_bytes(ip.octets())],
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let words = octets.chunks_exact(4).map(|word| word.first_chunk().copied());
            words.map(|word| u32::from_ne_bytes(word.unwrap_or([0; 4]))).collect()
        }
    };
    let received = one.received.clone().unwrap_or_default();
    let stream = TcpStreamEntry {
        inq_len: received.len() as u32,
        inq_seq: one.received_seq,
        outq_len: 0,
        outq_seq: one.sent_seq,
        opt_mask: one.options.into(),
        snd_wscale: one.sent_scale.into(),
        mss_clamp: one.segment.into(),
        rcv_wscale: (one.options & SCALES != 0).then_some(one.received_scale.into()),
        timestamp: (one.options & TIMESTAMPS != 0).then_some(one.clock),
        snd_wnd: Some(one.window),
        ..TcpStreamEntry::default()
    };
    WaitingEntry {
        local: words(one.local),
        peer: words(one.peer),
        peer_port: one.peer.port().into(),
        stream,
        peer_clock: one.peer_clock,
        ended: one.ended,
        reset: one.state == tcp::CLOSE,
        received,
    }
}

/// Reads what waits at the listening sockets that were met; also returns what stands in the way.
pub(super) fn read(
    captured: &mut Captured,
    held: &HeldFiles,
    collector: &mut Collector,
) -> Result<Vec<Unsupported>, Error> {
    let mut refused = Vec::new();
    for listener in &mut captured.beside.of::<Met>().0 {
        match listener.read(held, collector) {
            Ok(told) => listener.connections = told,
            Err(problem) => refused.push(listener.failed(problem)?),
        }
    }
    Ok(refused)
}

impl Captured {
    /// The places and ends of connections that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Option<u64>, Ends)> {
        let listeners = self.beside.get::<Met>().map_or(&[][..], |met| &met.0);
        listeners.iter().flat_map(|listener| {
            let all = listener.connections.iter().flatten();
            all.map(|one| (listener.place(one), ends(one)))
        })
    }

    /// Decides what becomes of connections that wait: `held` are those that processes of the tree have.
    pub(super) fn judge_waiting(
        &mut self,
        context: &PlanContext,
        held: &HashSet<(Option<u64>, Ends)>,
    ) -> Vec<Unsupported> {
        let mut refused = Vec::new();
        let mut left_out = 0;
        for listener in &mut self.beside.of::<Met>().0 {
            let Some(all) = &listener.connections else {
                match listener.came_later || context.connections == Connections::Closed {
                    true => left_out += listener.count,
                    false => {
                        let refusal = support::sockets::waiting_connections(listener.count);
                        refused.push(refusal.of(listener.pid, &listener.object));
                    }
                }
                continue;
            };
            let mut carried = HashSet::new();
            for one in all {
                let (local, peer) = ends(one);
                let outside = !held.contains(&(listener.place(one), (peer, local)));
                match listener.judge(context.connections, one, outside) {
                    Ok(true) => drop(carried.insert((local, peer))),
                    Ok(false) => left_out += 1,
                    Err(refusal) => refused.push(refusal.of(listener.pid, &listener.object)),
                }
            }
            listener.carried = carried;
        }
        if left_out > 0 {
            self.warnings.push(format!(
                "{left_out} TCP connections that wait to be accepted are not in the images"
            ));
        }
        refused
    }

    /// No moment has to be waited for in which none waits at sockets of which all are carried.
    pub(super) fn settle(&self, held: &mut HeldFiles) {
        let listeners = self.beside.get::<Met>().map_or(&[][..], |met| &met.0);
        for listener in listeners {
            let all = listener.connections.as_ref().map(Vec::len);
            if all == Some(listener.carried.len()) {
                held.beside.of::<Listeners>().forget(listener.inode);
            }
        }
    }

    /// The connections that wait and are carried, for which the network may have to be locked.
    pub(crate) fn queued(&self) -> Vec<Queued> {
        let held: HashSet<Ends> = self.connections().iter().map(|one| one.ends).collect();
        let listeners = self.beside.get::<Met>().map_or(&[][..], |met| &met.0);
        let all = listeners.iter().flat_map(|listener| {
            listener.carried.iter().map(|&(local, peer)| Queued {
                ends: (local, peer),
                outside: !held.contains(&(peer, local)),
                network: listener.network.clone(),
            })
        });
        all.collect()
    }
}

impl Plan {
    /// The TCP connections that waited to be accepted when it was looked at, and are carried.
    pub(crate) fn waiting(&self) -> &[Queued] {
        &self.waiting
    }

    /// Reads what is in the connections that wait at the sockets of a target that stands still, after all others: the images will have
    /// what is carried of them.
    pub(super) fn read_waiting(
        &self,
        captured: &mut Captured,
        collector: &mut Collector,
    ) -> Result<(), Error> {
        let mut found: BTreeMap<u32, Vec<WaitingEntry>> = BTreeMap::new();
        for listener in captured.beside.get::<Met>().map_or(&[][..], |met| &met.0) {
            if listener.carried.is_empty() {
                continue;
            }
            let all = match listener.read(&self.held, collector) {
                Ok(all) => all.unwrap_or_default(),
                Err(problem) => return Err(Error::Refused(vec![listener.failed(problem)?])),
            };
            let carried = all.iter().filter(|one| listener.carried.contains(&ends(one)));
            // An urgent byte or an end may have come meanwhile.
            let refusal = carried.clone().find_map(|one| peculiar(one, listener.filtered));
            let refusal = refusal.or_else(|| {
                (carried.clone().count() != listener.carried.len())
                    .then_some(support::sockets::MOVES)
            });
            if let Some(refusal) = refusal {
                return Err(Error::Refused(vec![refusal.of(listener.pid, &listener.object)]));
            }
            found.insert(listener.id, carried.map(entry).collect());
        }
        for file in captured.files.iter_mut().chain(&mut captured.cached) {
            if let (Some(socket), Some(waiting)) = (&mut file.isk, found.remove(&file.id)) {
                socket.waiting = waiting;
            }
        }
        Ok(())
    }
}
