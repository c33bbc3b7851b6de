//! TCP connections that wait to be accepted: they are put into the queues of their listening sockets again
//! ([`kernel::tcp::Filler`]).
//!
//! That is done when all sockets are bound and before any connection is put together: who connected from the tree may go on to send as soon
//! as it is there. The listening sockets have their options by then, as connections take them over from them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use images::messages::{InetSkEntry, SK_LISTEN, WaitingEntry};
use kernel::sockets;
use kernel::tcp::{self, Filler, Waiting};

use super::connections::Connections;
use super::inet_common::{finish, is_tcp};
use super::networks::Networks;
use super::{Error, socket_options};

/// The most connections that wait at a socket.
const MOST: usize = 1 << 16;

/// Refuses what cannot be.
pub(super) fn check(entry: &InetSkEntry, what: &str) -> Result<(), Error> {
    let is_listener = entry.state == SK_LISTEN && is_tcp(entry);
    let is_one = entry.waiting.is_empty() || is_listener && entry.waiting.len() <= MOST;
    match is_one && entry.waiting.iter().all(|one| waiting(one, entry.src_port).is_some()) {
        true => Ok(()),
        false => Err(Error::image(what, "connections wait at it, which cannot be")),
    }
}

type Ends = (SocketAddr, SocketAddr);

/// What the images say of one; `None` if it can be none.
fn waiting(entry: &WaitingEntry, port: u32) -> Option<(Ends, Waiting)> {
    let stream = &entry.stream;
    let scale = |scale: u32| u8::try_from(scale).ok().filter(|scale| *scale <= 14);
    let ends @ (local, peer) = entry.ends(port)?;
    let is_plain = local.ip().to_canonical().is_ipv4() == peer.ip().to_canonical().is_ipv4();
    let waiting = Waiting {
        received_seq: stream.inq_seq,
        received: entry.received.clone(),
        sent_seq: stream.outq_seq,
        options: u8::try_from(stream.opt_mask).ok()?,
        sent_scale: scale(stream.snd_wscale)?,
        received_scale: scale(stream.rcv_wscale.unwrap_or(0))?,
        segment: u16::try_from(stream.mss_clamp).ok()?,
        window: stream.snd_wnd.unwrap_or(0),
        clock: stream.timestamp.unwrap_or(0),
        peer_clock: entry.peer_clock,
        ended: entry.ended,
        reset: entry.reset,
    };
    (is_plain && stream.inq_len as usize == entry.received.len()).then_some((ends, waiting))
}

/// Puts those back that wait at these sockets.
pub(super) fn put_back(
    mode: Connections,
    networks: &Networks,
    listeners: &[(&InetSkEntry, OwnedFd)],
) -> Result<(), Error> {
    let mut places: BTreeMap<Option<u32>, Vec<(&InetSkEntry, &OwnedFd)>> = BTreeMap::new();
    if mode == Connections::Closed {
        return Ok(());
    }
    for (entry, socket) in listeners.iter().filter(|(entry, _)| !entry.waiting.is_empty()) {
        if mode == Connections::Refused {
            let what = format!("socket {}", entry.id);
            return Err(Error::refused(entry.id, support::images::ESTABLISHED, what));
        }
        places.entry(entry.ns_id).or_default().push((entry, socket));
    }
    for (place, listeners) in places {
        networks.within(place, || fill(&listeners))?;
    }
    Ok(())
}

/// The same of sockets of the network namespace that this thread is in.
fn fill(listeners: &[(&InetSkEntry, &OwnedFd)]) -> Result<(), Error> {
    let Some((first, _)) = listeners.first() else { return Ok(()) };
    let filler = Filler::new().map_err(|error| match error.source.kind() {
        ErrorKind::Unsupported => {
            Error::refused(first.id, support::images::NO_QUEUES, format!("socket {}", first.id))
        }
        _ => failed(first, "connections that wait")(error),
    })?;
    for (entry, socket) in listeners {
        finish(socket, entry)?;
        let what = format!("socket {}", entry.id);
        let listen = |backlog: u32| {
            sockets::listen(socket, backlog)
                .map_err(|source| Error::Kernel { operation: format!("listen on {what}"), source })
        };
        let count = entry.waiting.len() as u32;
        if count > entry.backlog {
            listen(count)?;
        }
        // It is set to what it was with the other options.
        let largest = entry.waiting.iter().map(|one| one.received.len()).max().unwrap_or(0);
        if largest > entry.opts.so_rcvbuf as usize / 4 {
            socket_options::room_to_receive(socket, largest, &what)?;
        }
        let device = match entry.opts.so_bound_dev.as_deref() {
            Some(device) if !device.is_empty() => nix::net::if_::if_nametoindex(device)
                .map_err(|errno| Error::kernel(format!("find the device of {what}"), errno))?,
            _ => 0,
        };
        for one in &entry.waiting {
            let (ends, waiting) = waiting(one, entry.src_port)
                .ok_or_else(|| Error::image(&what, "connections wait at it, which cannot be"))?;
            filler
                .put((socket.as_fd(), device), ends, &waiting)
                .map_err(failed(entry, &format!("the connection from {}", ends.1)))?;
        }
        if count > entry.backlog {
            listen(entry.backlog)?;
        }
    }
    Ok(())
}

fn failed(entry: &InetSkEntry, whom: &str) -> impl Fn(tcp::Error) -> Error + use<> {
    let what = format!("{whom} at socket {}", entry.id);
    move |error| Error::Kernel {
        operation: format!("{} ({what})", error.step),
        source: error.source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::messages::TcpStreamEntry;

    #[test]
    fn what_cannot_wait_is_refused() {
        let one = WaitingEntry {
            local: vec![1],
            peer: vec![2],
            peer_port: 3,
            stream: TcpStreamEntry { mss_clamp: 1460, ..TcpStreamEntry::default() },
            ..WaitingEntry::default()
        };
        let entry = InetSkEntry {
            r#type: libc::SOCK_STREAM.cast_unsigned(),
            proto: libc::IPPROTO_TCP.cast_unsigned(),
            state: SK_LISTEN,
            src_port: 80,
            waiting: vec![one.clone()],
            ..InetSkEntry::default()
        };
        check(&entry, "it").unwrap();
        let stream = |stream| WaitingEntry { stream, ..one.clone() };
        for wrong in [
            WaitingEntry { peer: vec![1, 2], ..one.clone() },
            WaitingEntry { peer: vec![1, 2, 3, 4], ..one.clone() },
            WaitingEntry { peer_port: 1 << 16, ..one.clone() },
            WaitingEntry { received: vec![1], ..one.clone() },
            stream(TcpStreamEntry { snd_wscale: 15, ..one.stream }),
            stream(TcpStreamEntry { mss_clamp: 1 << 16, ..one.stream }),
        ] {
            check(&InetSkEntry { waiting: vec![wrong], ..entry.clone() }, "it").unwrap_err();
        }
        check(&InetSkEntry { state: 7, ..entry }, "it").unwrap_err();
    }
}
