//! TCP connections: all are put together in silence, before any goes on.
//!
//! A connection that is being put together is in repair mode: it says nothing to its peer, and should the
//! restore fail it ends without a word. It leaves that mode when the tree is about to run
//! ([`Repaired::end`]). The order matters where both ends are in the tree: both have to be there before
//! either sends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use images::checkpoint::PayloadReader;
use images::messages::{InetSkEntry, SHUTDOWN_READ, SkOptsEntry, TcpStreamEntry};
use images::{Checkpoint, names};
use kernel::descriptors::set_status_flags;
use kernel::pidfd::PidFd;
use kernel::sockets::{self, Address};
use kernel::tcp::{self, Failure, Stream, Window};

use super::beside::{Beside, Part};
use super::makers::Makers;
use super::networks::Networks;
use super::{Error, OpenFiles, inet_common, socket_options};

/// What becomes of TCP connections that the images have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// They go on.
    #[default]
    Restored,
    /// They come back closed.
    Closed,
    /// Each is refused that is not over.
    Refused,
}

/// What is in connections, by the number in the name of the image.
#[derive(Debug, Default)]
struct Streams(BTreeMap<u32, Stream>);

impl Part for Streams {}

/// Reads what is in connections. Those that were dumped as closed have no image.
pub(super) fn load(checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
    for (&number, contents) in &checkpoint.streams {
        let image = names::tcp_stream(number);
        let mut reader = PayloadReader::open(&checkpoint.images, &image)?;
        let received = reader.read(contents.received)?;
        let sent = reader.read(contents.sent)?;
        let stream = stream(&contents.entry, received, sent)
            .ok_or_else(|| Error::image(image.name(), "its numbers are none"))?;
        beside.of::<Streams>().0.insert(number, stream);
    }
    Ok(())
}

/// How a connection has ended, if nobody has been told of that.
fn failure(entry: &InetSkEntry, state: u8, what: &str) -> Result<Option<Failure>, Error> {
    let Some(told) = &entry.failure else { return Ok(None) };
    let failure = Failure { error: told.error.cast_signed(), ended: told.ended };
    let is_reset =
        matches!((failure.error, failure.ended), (libc::ECONNRESET, _) | (libc::EPIPE, true));
    match state == tcp::CLOSE && is_reset {
        true => Ok(Some(failure)),
        false => Err(Error::image(what, "no connection ends so")),
    }
}

/// Whether a connection can be in a state.
const fn is_of_connections(state: u8) -> bool {
    matches!(
        state,
        tcp::ESTABLISHED
            | tcp::SYN_SENT
            | tcp::FIN_WAIT1
            | tcp::FIN_WAIT2
            | tcp::CLOSE
            | tcp::CLOSE_WAIT
            | tcp::LAST_ACK
            | tcp::CLOSING
    )
}

/// What the images say of a connection but for its state, which is in another.
fn stream(message: &TcpStreamEntry, received: Vec<u8>, sent: Vec<u8>) -> Option<Stream> {
    const TIMESTAMPS: u32 = 1;
    let window = || {
        Some(Window {
            sent_update: message.snd_wl1?,
            sent: message.snd_wnd?,
            largest: message.max_window?,
            received: message.rcv_wnd?,
            received_update: message.rcv_wup?,
        })
    };
    let unsent = message.unsq_len.unwrap_or(0);
    let scale = |scale: u32| u8::try_from(scale).ok().filter(|scale| *scale <= 14);
    let has_clock = message.opt_mask & TIMESTAMPS != 0;
    let timestamp = message.timestamp.filter(|_| has_clock);
    (unsent <= message.outq_len && timestamp.is_some() == has_clock).then_some(())?;
    Some(Stream {
        state: 0,
        options: u8::try_from(message.opt_mask & 0xff).ok()?,
        sent_scale: scale(message.snd_wscale)?,
        received_scale: scale(message.rcv_wscale.unwrap_or(0))?,
        segment: message.mss_clamp,
        timestamp,
        received_seq: message.inq_seq,
        received,
        sent_seq: message.outq_seq,
        sent,
        unsent,
        window: window(),
        failure: None,
    })
}

/// A connection that is being put together.
struct Opened<'e> {
    entry: &'e InetSkEntry,
    stream: Stream,
    ends: (SocketAddr, SocketAddr),
    what: String,
    socket: OwnedFd,
}

impl Opened<'_> {
    fn failed(&self) -> impl Fn(tcp::Error) -> Error + use<> {
        failed(&self.what)
    }

    /// What is done when both ends are there.
    fn complete(&self) -> Result<(), Error> {
        let Self { entry, stream, ends: (local, peer), what, socket } = self;
        if let Some(options) = &entry.tcp_opts {
            // Before the rest is sent, which depends on them.
            socket_options::tcp(socket, options, what)?;
        }
        stream.send_rest(socket.as_fd()).map_err(self.failed())?;
        let plain = |end: &SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        stream.close_sides(socket.as_fd(), plain(local), plain(peer)).map_err(self.failed())?;
        socket_options::filter(socket, &entry.opts, what)?;
        // In repair mode this option says something else; it is set when that ends.
        let opts = SkOptsEntry { reuseaddr: None, ..entry.opts.clone() };
        inet_common::finish_options(socket, entry, &opts, what)?;
        set_status_flags(socket, entry.flags & !libc::O_ASYNC.cast_unsigned()).map_err(
            |source| Error::Kernel { operation: format!("set flags of {what}"), source },
        )?;
        // Its own doing: what the peer has closed follows from the state.
        if entry.shutdown == Some(SHUTDOWN_READ) {
            sockets::shutdown(socket, libc::SHUT_RD).map_err(|source| Error::Kernel {
                operation: format!("shut down the receiving of {what}"),
                source,
            })?;
        }
        if stream.state == tcp::CLOSE {
            tcp::end_repair(socket, entry.opts.reuseaddr()).map_err(|source| Error::Kernel {
                operation: format!("end the repair of {what}"),
                source,
            })?;
        }
        Ok(())
    }
}

fn failed(what: &str) -> impl Fn(tcp::Error) -> Error + use<> {
    let what = what.to_owned();
    move |error| Error::Kernel {
        operation: format!("{} of {what}", error.step),
        source: error.source,
    }
}

/// Opens connections, all of them. They stay in repair mode, but for those that are over.
pub(super) fn open(
    (mode, networks, makers): (Connections, &Networks, &Makers),
    beside: &mut Beside,
    entries: Vec<&InetSkEntry>,
) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let mut streams = std::mem::take(&mut beside.of::<Streams>().0);
    let mut done = Vec::with_capacity(entries.len());
    let is_over = |entry: &&InetSkEntry| entry.state == u32::from(tcp::CLOSE);
    // Those that are over first: another may have the same addresses by now.
    let (over, alive): (Vec<&InetSkEntry>, Vec<&InetSkEntry>) =
        entries.into_iter().partition(is_over);
    for group in [over, alive] {
        let mut opened = Vec::new();
        for entry in group {
            let (Some(local), Some(peer)) = (entry.local(), entry.peer()) else {
                return Err(Error::image(format!("socket {}", entry.id), "its address is none"));
            };
            let what = format!("TCP connection {} ({local} to {peer})", entry.id);
            inet_common::check(entry, &what)?;
            if mode == Connections::Closed {
                let socket = networks.within(entry.ns_id, || closed(makers, entry, &what))?;
                done.push((entry.id, socket));
                continue;
            }
            if mode == Connections::Refused && !is_over(&entry) {
                return Err(Error::refused(entry.id, support::images::ESTABLISHED, what));
            }
            let Some(stream) = streams.remove(&entry.ino) else {
                let image = names::tcp_stream(entry.ino);
                return Err(Error::image(what, format!("{} is missing", image.name())));
            };
            let state = u8::try_from(entry.state).ok().filter(|state| is_of_connections(*state));
            let state =
                state.ok_or_else(|| Error::image(&what, "no connection is in its state"))?;
            let stream = Stream { state, failure: failure(entry, state, &what)?, ..stream };
            let connect = || connect(makers, entry, &stream, (local, peer), &what);
            let socket = networks.within(entry.ns_id, connect)?;
            opened.push(Opened { entry, stream, ends: (local, peer), what, socket });
        }
        for one in &opened {
            networks.within(one.entry.ns_id, || one.complete())?;
        }
        done.extend(opened.into_iter().map(|opened| (opened.entry.id, opened.socket)));
    }
    Ok(done)
}

/// A socket whose connection is not restored.
fn closed(makers: &Makers, entry: &InetSkEntry, what: &str) -> Result<OwnedFd, Error> {
    let (socket, _) = inet_common::create(makers, entry, what)?;
    match sockets::shutdown(&socket, libc::SHUT_RDWR) {
        Err(error) if error.raw_os_error() != Some(libc::ENOTCONN) => {
            return Err(Error::Kernel { operation: format!("shut down {what}"), source: error });
        }
        _ => {}
    }
    inet_common::finish(&socket, entry)?;
    set_status_flags(&socket, entry.flags & !libc::O_ASYNC.cast_unsigned())
        .map_err(|source| Error::Kernel { operation: format!("set flags of {what}"), source })?;
    Ok(socket)
}

/// The socket of a connection, in repair mode, with all that it had sent and received.
fn connect(
    makers: &Makers,
    entry: &InetSkEntry,
    stream: &Stream,
    (local, peer): (SocketAddr, SocketAddr),
    what: &str,
) -> Result<OwnedFd, Error> {
    let bind = |here: SocketAddr| {
        let (socket, scope) = inet_common::create(makers, entry, what)?;
        let name = |end| {
            inet_common::raw(end, scope)
                .map_err(|source| Error::Kernel { operation: format!("name {what}"), source })
        };
        socket_options::make_room(&socket, stream.sent.len(), what)?;
        socket_options::make_room_to_receive(&socket, stream.received.len(), what)?;
        // One that asks for its connection must not wait for the answer.
        set_status_flags(&socket, libc::O_NONBLOCK.cast_unsigned()).map_err(|source| {
            Error::Kernel { operation: format!("set flags of {what}"), source }
        })?;
        let (here, there): (Address, Address) = (name(here)?, name(peer)?);
        stream.connect(socket.as_fd(), &here, &there).map_err(failed(what))?;
        let is_there = sockets::local_address(&socket).ok() == Some(name(local)?);
        Ok::<_, Error>((socket, is_there))
    };
    if let Some(any) = inet_common::chosen_by_connect(entry, local)
        && let Ok((socket, true)) = bind(any)
    {
        return Ok(socket);
    }
    bind(local).map(|(socket, _)| socket)
}

/// A connection that is in repair mode until the tree runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// The descriptor table that has it.
    pub(crate) table: u32,
    fd: i32,
    reuse: bool,
}

impl Repaired {
    /// Lets it go on, when the process `pid` has it in place.
    pub(crate) fn end(&self, pid: &PidFd) -> std::io::Result<()> {
        tcp::end_repair(pid.get(self.fd)?, self.reuse)
    }
}

impl OpenFiles {
    /// The connections that are in repair mode.
    pub(crate) fn repaired(&self) -> Vec<Repaired> {
        if self.connections != Connections::Restored {
            return Vec::new();
        }
        let is_one =
            |entry: &&InetSkEntry| entry.is_connection() && entry.state != u32::from(tcp::CLOSE);
        let entries = self.files.values().filter_map(|file| file.isk.as_deref()).filter(is_one);
        entries
            .filter_map(|entry| {
                let table = *self.holders.get(&entry.id)?;
                let place = self.tables.get(&table)?.iter().find(|place| place.id == entry.id)?;
                let fd = place.fd.cast_signed();
                Some(Repaired { table, fd, reuse: entry.opts.reuseaddr() })
            })
            .collect()
    }
}
