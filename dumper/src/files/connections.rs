//! TCP connections: which the tree has, who has their other ends, and what is in them.
//!
//! A look meets them one by one, and judges them when it has met all: a connection with both ends in the tree
//! concerns nobody else. What is in them is read when the target stands still, each at one moment
//! ([`tcp::read`]). The kernel goes on to move what is on its way between two of them: so of two ends the one
//! that receives is read again until it has all that the one that sends will not send again.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use collector::sharing::Failure;
use collector::{Collector, OpenFile};
use ids::HostPid;
use images::messages::{FailureEntry, InetSkEntry, TcpStreamEntry};
use images::{ImageWriter, names};
use kernel::netfilter::Ends;
use kernel::queues::has_urgent_byte;
use kernel::sockets::has_error;
use kernel::tcp::{self, Stream};
use support::{Refusal, Unsupported};

use super::beside::Part;
use super::file_reference::FileReference;
use super::problem::Problem;
use super::survey::{AT_ONCE, Survey};
use super::{Captured, Error, Plan, PlanContext};
use crate::threads::share;

/// What becomes of TCP connections. Those that are over are carried in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// Those with both ends in the tree are carried; any other is refused.
    #[default]
    Inside,
    /// All are carried. While the tree is away, the network drops what comes for those with an end
    /// outside.
    All,
    /// Each is refused.
    Refused,
    /// None is carried: they are closed in the restored tree.
    Closed,
}

/// A TCP connection of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Who has it.
    pub(crate) pid: HostPid,
    /// As which descriptor.
    pub(crate) fd: i32,
    pub(crate) inode: u64,
    /// Its `SO_REUSEADDR`.
    pub(crate) reuse: bool,
    /// Its address and that of its peer.
    pub(crate) ends: Ends,
    /// Nobody in the tree has the other end.
    pub(crate) outside: bool,
    /// The network namespace that it is in, with the kernel's id, if that is not the dumper's.
    pub(crate) network: Option<(u64, Arc<OwnedFd>)>,
    /// The link text.
    target: OsString,
    /// The number of its entry.
    id: u32,
    state: u8,
    /// It has ended with an error that nobody has been told of.
    failed: bool,
}

/// What is met, and what is in it.
#[derive(Debug, Default)]
pub(super) struct Met {
    list: Vec<Connection>,
    /// By the number in the name of the image.
    streams: Vec<(u32, Stream)>,
}

impl Part for Met {}

/// An address as both ends know it.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Connection {
    /// Whether it is over.
    const fn is_over(&self) -> bool {
        self.state == tcp::CLOSE
    }

    /// Whether both sides are closed, and only the answer to that is missing.
    const fn is_ending(&self) -> bool {
        matches!(self.state, tcp::LAST_ACK | tcp::CLOSING)
    }

    /// Where else its addresses mean somebody else: on the loopback device of another namespace.
    fn place(&self) -> Option<u64> {
        let is_loopback = self.ends.0.ip().is_loopback();
        self.network.as_ref().filter(|_| is_loopback).map(|(id, _)| *id)
    }

    fn refused(&self, refusal: Refusal) -> Error {
        let place = FileReference::Descriptor(self.fd);
        let object = format!("{place} ({})", self.target.to_string_lossy());
        Error::Refused(vec![refusal.of(self.pid, object)])
    }
}

impl Survey<'_> {
    /// Notes a connection.
    pub(super) fn meet(&mut self, pid: HostPid, file: &OpenFile, entry: &InetSkEntry) {
        let (Some(local), Some(peer)) = (entry.local(), entry.peer()) else { return };
        self.out.beside.of::<Met>().list.push(Connection {
            pid,
            fd: file.fd,
            inode: file.inode,
            reuse: entry.opts.reuseaddr(),
            ends: (canonical(local), canonical(peer)),
            outside: false,
            network: self.held.networks.of(file.inode).map(|(id, it)| (id, Arc::clone(it))),
            target: file.target.clone(),
            id: entry.id,
            // A state of TCP is a small number.
            state: entry.state as u8,
            failed: entry.failure.is_some(),
        });
    }
}

impl Captured {
    /// Finds out which connections have both ends in the tree, and refuses those that are not to be carried; and, apart from these, those
    /// that wait to be accepted.
    pub(super) fn judge_connections(
        &mut self,
        context: &PlanContext,
    ) -> (Vec<Unsupported>, Vec<Unsupported>) {
        let asked = context.connections;
        let waiting: Vec<_> = self.waiting().collect();
        let mut refusals = Vec::new();
        let list = &mut self.beside.of::<Met>().list;
        let (over, alive): (Vec<_>, Vec<_>) =
            list.iter().partition(|connection| connection.is_over());
        let own = HostPid::own();
        let of =
            |list: Vec<&Connection>| list.into_iter().map(|it| (it.place(), it.ends)).collect();
        let (over, mut held): (HashSet<_>, HashSet<_>) = (of(over), of(alive));
        let refused_of_waiting = self.judge_waiting(context, &held);
        held.extend(waiting);
        let list = &mut self.beside.of::<Met>().list;
        for connection in list {
            let (local, peer) = connection.ends;
            let other = (connection.place(), (peer, local));
            // Of one with both sides closed the other end may be over before it is.
            let is_told = connection.is_ending() && over.contains(&other);
            connection.outside = !connection.is_over() && !held.contains(&other) && !is_told;
            let refusal = match asked {
                // The dumper itself has what is on its way: no task has it yet, to let it go on.
                _ if connection.pid == own && asked != Connections::Closed => {
                    support::sockets::CONNECTION_ON_ITS_WAY
                }
                Connections::Refused if !connection.is_over() => support::sockets::ESTABLISHED,
                Connections::Inside if connection.outside => support::sockets::connected_to(peer),
                _ => continue,
            };
            let place = FileReference::Descriptor(connection.fd);
            let object = format!("{place} ({})", connection.target.to_string_lossy());
            refusals.push(refusal.of(connection.pid, object));
        }
        (refusals, refused_of_waiting)
    }
}

/// How a socket's connection has ended, if that is what a restore can bring about: by a reset.
pub(super) fn failure(entry: &InetSkEntry, failure: Failure) -> Result<FailureEntry, Problem> {
    let error = i32::from(failure.error);
    let is_reset = error == libc::ECONNRESET || error == libc::EPIPE && failure.ended;
    match entry.is_connection() && entry.state == u32::from(tcp::CLOSE) && is_reset {
        true => Ok(FailureEntry { error: failure.error.into(), ended: failure.ended }),
        false => Err(Problem::Refused(support::sockets::ERROR_WAITS)),
    }
}

/// Refuses a connection over which the kernel speaks for the program, or that holds what is no data.
pub(super) fn check(socket: BorrowedFd<'_>) -> Result<(), Problem> {
    if has_urgent_byte(socket).unwrap_or(false) {
        return Err(Problem::Refused(support::sockets::URGENT_TCP));
    }
    const TCP_ULP: i32 = 31;
    let mut name = [0; 16];
    // A kernel without it has no such option.
    let length =
        kernel::sockets::option_bytes(socket, libc::SOL_TCP, TCP_ULP, &mut name).unwrap_or(0);
    let name = name[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    match name.is_empty() {
        true => Ok(()),
        false => {
            let name = String::from_utf8_lossy(name);
            Err(Problem::Refused(support::sockets::upper_protocol(&name)))
        }
    }
}

impl Captured {
    /// The TCP connections of the tree.
    pub(crate) fn connections(&self) -> &[Connection] {
        self.beside.get::<Met>().map_or(&[], |met| &met.list)
    }

    /// Writes what is in connections.
    pub(super) fn encode_connections(&self, writer: &ImageWriter) -> Result<(), images::Error> {
        let streams = self.beside.get::<Met>().map_or(&[][..], |met| &met.streams);
        for (number, stream) in streams {
            let mut sink = writer.image(&names::tcp_stream(*number))?;
            sink.put(&entry(stream))?;
            sink.payload(&stream.received)?;
            sink.payload(&stream.sent)?;
            sink.finish()?;
        }
        Ok(())
    }
}

fn entry(stream: &Stream) -> TcpStreamEntry {
    const SCALES: u8 = 4;
    let window = stream.window;
    TcpStreamEntry {
        inq_len: stream.received.len() as u32,
        inq_seq: stream.received_seq,
        outq_len: stream.sent.len() as u32,
        outq_seq: stream.sent_seq,
        opt_mask: stream.options.into(),
        snd_wscale: stream.sent_scale.into(),
        mss_clamp: stream.segment,
        rcv_wscale: (stream.options & SCALES != 0).then_some(stream.received_scale.into()),
        timestamp: stream.timestamp,
        cork: None,
        nodelay: None,
        unsq_len: Some(stream.unsent),
        snd_wl1: window.map(|window| window.sent_update),
        snd_wnd: window.map(|window| window.sent),
        max_window: window.map(|window| window.largest),
        rcv_wnd: window.map(|window| window.received),
        rcv_wup: window.map(|window| window.received_update),
    }
}

/// How often an end is read again for what its peer has been told.
const TRIES: usize = 16;

impl Plan {
    /// The TCP connections that the tree had when it was looked at.
    pub(crate) fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// Reads what is in the connections of a target that stands still. They are as they were afterwards,
    /// whether this succeeds or not; but if this process is killed meanwhile one of them stays in repair
    /// mode.
    ///
    /// # Errors
    /// As [`Plan::capture`].
    pub(crate) fn read_connections(
        &self,
        captured: &mut Captured,
        threads: usize,
        is_late: &(dyn Fn() -> bool + Sync),
        collector: &mut Collector,
    ) -> Result<(), Error> {
        self.read_streams(captured, threads, is_late)?;
        self.read_waiting(captured, collector)
    }

    fn read_streams(
        &self,
        captured: &mut Captured,
        threads: usize,
        is_late: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), Error> {
        if self.context.connections == Connections::Closed || captured.connections().is_empty() {
            return Ok(());
        }
        let list = captured.connections();
        let sockets: Vec<_> = list.iter().map(|one| self.held.held_socket(one.inode)).collect();
        let list: Vec<_> = list.iter().zip(sockets).collect();
        let mut streams = vec![None; list.len()];
        let work: Vec<_> = list.chunks(AT_ONCE).zip(streams.chunks_mut(AT_ONCE)).collect();
        share(vec![(); threads.min(work.len())], work, |(list, streams), ()| {
            if is_late() {
                return Err(Error::TooLate);
            }
            for (one, stream) in list.iter().zip(streams) {
                *stream = Some(read_one(*one)?);
            }
            Ok(())
        })?;
        let mut streams: Vec<Stream> = streams.into_iter().flatten().collect();
        read_again(&list, &mut streams)?;
        let list = captured.connections();
        let states: HashMap<u32, u32> =
            list.iter().zip(&streams).map(|(one, stream)| (one.id, stream.state.into())).collect();
        for entry in captured.files.iter_mut().chain(&mut captured.cached) {
            if let (Some(socket), Some(state)) = (&mut entry.isk, states.get(&entry.id)) {
                socket.state = *state;
            }
        }
        let met = captured.beside.of::<Met>();
        let numbers = met.list.iter().map(|connection| connection.inode as u32);
        met.streams = numbers.zip(streams).collect();
        Ok(())
    }

    /// The sockets of the connections that were read, none where they are to be closed; nothing else of the target's files is held from then
    /// on.
    pub(crate) fn into_sockets(mut self, captured: &Captured) -> Vec<OwnedFd> {
        let closed = self.context.connections == Connections::Closed;
        let list = captured.connections().iter().filter(|_| !closed);
        list.filter_map(|connection| self.held.take_socket(connection.inode)).collect()
    }
}

/// Reads what is in one, by its socket.
fn read_one((connection, socket): (&Connection, Option<&OwnedFd>)) -> Result<Stream, Error> {
    let failed = |operation: &str| {
        let Connection { pid, fd, .. } = connection;
        format!("{operation} of the TCP connection of process {pid}, descriptor {fd}")
    };
    let Some(socket) = socket else {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(Error::Kernel { operation: failed("find the socket"), source });
    };
    let read = tcp::read(socket.as_fd(), connection.reuse)
        .map_err(|error| Error::Kernel { operation: failed(error.step), source: error.source })?;
    match read {
        // It has ended since, with an error that has yet to be told, or was told of one.
        Some(stream)
            if stream.state == tcp::CLOSE
                && has_error(socket).map_or(true, |fails| fails != connection.failed) =>
        {
            Err(connection.refused(support::sockets::ERROR_WAITS))
        }
        Some(stream) => Ok(stream),
        None if has_urgent_byte(socket).unwrap_or(false) => {
            Err(connection.refused(support::sockets::URGENT_TCP))
        }
        None => Err(connection.refused(support::sockets::MOVES)),
    }
}

/// Reads ends again that have not received what their peers, read later, would not send again.
fn read_again(
    list: &[(&Connection, Option<&OwnedFd>)],
    streams: &mut [Stream],
) -> Result<(), Error> {
    let index: HashMap<(Option<u64>, Ends), usize> = (list.iter().zip(&*streams).enumerate())
        .filter(|(_, (_, stream))| !matches!(stream.state, tcp::CLOSE | tcp::SYN_SENT))
        .map(|(index, ((connection, _), _))| ((connection.place(), connection.ends), index))
        .collect();
    let pairs: Vec<(usize, usize)> = index
        .iter()
        .filter_map(|(&(place, (local, peer)), &sender)| {
            Some((sender, *index.get(&(place, (peer, local)))?))
        })
        .collect();
    for _ in 0..TRIES {
        let is_behind = |&&(sender, receiver): &&(usize, usize)| {
            let confirmed = streams[sender].unconfirmed();
            tcp::is_before(streams[receiver].received_seq, confirmed)
        };
        let behind: Vec<usize> =
            pairs.iter().filter(is_behind).map(|(_, receiver)| *receiver).collect();
        if behind.is_empty() {
            return Ok(());
        }
        for receiver in behind {
            streams[receiver] = read_one(list[receiver])?;
        }
    }
    match list.first() {
        Some((first, _)) => Err(first.refused(support::sockets::MOVES)),
        None => Ok(()),
    }
}
