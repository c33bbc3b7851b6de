//! Datagrams that waited in sockets, put back.
//!
//! Each is sent over the loopback interface, with its sender's address, while its socket is bound and not
//! connected yet, and awaited before the next: others may have sent to the same address meanwhile.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use images::messages::InetSkEntry;
use kernel::datagrams::{Courier, peek};
use kernel::sockets::{option, set_option};
use libc::{SO_PEEK_OFF, SOL_SOCKET};

use super::Error;
use super::socket_options;

/// How long one is awaited: it comes at once, unless a firewall or another socket of that address takes it.
const PATIENCE: Duration = Duration::from_secs(2);

/// An address from the words of the images.
pub(super) fn address(words: &[u32], port: u32) -> Option<SocketAddr> {
    let port = u16::try_from(port).ok()?;
    let ip: IpAddr = match *words {
        [word] => Ipv4Addr::from(word.to_ne_bytes()).into(),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Puts back what waited in the socket of an entry, which is bound to `here`.
pub(super) fn put_back(
    socket: &OwnedFd,
    entry: &InetSkEntry,
    here: SocketAddr,
    what: &str,
) -> Result<(), Error> {
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    let bytes = entry.datagrams.iter().map(|it| it.bytes.len()).sum();
    socket_options::room_to_receive(socket, bytes, what)?;
    let before = option(socket, SOL_SOCKET, SO_PEEK_OFF).map_err(failed("get peek offset of"))?;
    set_option(socket, SOL_SOCKET, SO_PEEK_OFF, 0).map_err(failed("set peek offset of"))?;
    let mut courier = Courier::default();
    let protocol =
        u8::try_from(entry.proto).map_err(|_| Error::image(what, "its protocol is none"))?;
    for waiting in &entry.datagrams {
        let sender = address(&waiting.address, waiting.port)
            .ok_or_else(|| Error::image(what, "a datagram in it has a sender that is none"))?;
        let to = SocketAddr::new(target(here.ip(), sender.ip()), here.port());
        courier
            .deliver(protocol, sender, to, &waiting.bytes)
            .and_then(|()| arrives(socket, &waiting.bytes))
            .map_err(failed(&format!("put a datagram from {sender} back into")))?;
    }
    set_option(socket, SOL_SOCKET, SO_PEEK_OFF, before).map_err(failed("restore peek offset of"))
}

/// Where to send to reach a socket that is bound to an address.
fn target(here: IpAddr, sender: IpAddr) -> IpAddr {
    match (here.to_canonical().is_unspecified(), sender.to_canonical()) {
        (false, _) => here,
        (true, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
        (true, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Waits until the datagram with these bytes is there.
fn arrives(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match peek(socket)? {
            Some(found) if found.bytes == bytes => return Ok(()),
            // Somebody else's.
            Some(_) => {}
            None if begun.elapsed() > PATIENCE => {
                let reason =
                    "it did not arrive: a firewall drops it, or another socket has the address too";
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_sockets_are_reached() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (here, sender, expected) in [
            ("10.0.0.1", "192.0.2.1", "10.0.0.1"),
            ("0.0.0.0", "192.0.2.1", "127.0.0.1"),
            ("::", "::ffff:192.0.2.1", "127.0.0.1"),
            ("::", "2001:db8::1", "::1"),
            ("::ffff:10.0.0.1", "::ffff:192.0.2.1", "::ffff:10.0.0.1"),
        ] {
            assert_eq!(target(ip(here), ip(sender)), ip(expected));
        }
    }
}
