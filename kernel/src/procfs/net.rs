//! `/proc/PID/net`: which kind of socket an inode is.

use std::collections::HashMap;

use super::parse::{dec, hex, lines, split_once, words};
use super::{Dir, Error, Malformed};

/// A kind of socket, by the table that it is listed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP, with its state (`TCP_*`: 1 connected, 7 closed, 10 listening, …).
    Tcp(u8),
    /// UDP.
    Udp,
    /// UDP-Lite.
    UdpLite,
    /// Raw IP.
    Raw,
    /// The unprivileged ping socket.
    Icmp,
    /// Unix.
    Unix,
    /// Netlink.
    Netlink,
    /// Packet.
    Packet,
}

/// The files, what they list, and in which columns the inode and the state are.
const TABLES: [(&str, SocketKind, usize, Option<usize>); 13] = [
    ("net/tcp", SocketKind::Tcp(0), 9, Some(3)),
    ("net/tcp6", SocketKind::Tcp(0), 9, Some(3)),
    ("net/udp", SocketKind::Udp, 9, None),
    ("net/udp6", SocketKind::Udp, 9, None),
    ("net/udplite", SocketKind::UdpLite, 9, None),
    ("net/udplite6", SocketKind::UdpLite, 9, None),
    ("net/raw", SocketKind::Raw, 9, None),
    ("net/raw6", SocketKind::Raw, 9, None),
    ("net/icmp", SocketKind::Icmp, 9, None),
    ("net/icmp6", SocketKind::Icmp, 9, None),
    ("net/unix", SocketKind::Unix, 6, None),
    ("net/netlink", SocketKind::Netlink, 9, None),
    ("net/packet", SocketKind::Packet, 8, None),
];

/// The sockets of a network namespace by their inodes. Sockets of families without such a table
/// (Bluetooth, vsock, …), and TCP sockets neither bound nor connected, are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets(HashMap<u64, SocketKind>);

impl Sockets {
    /// Reads the tables of the network namespace that a task is in.
    ///
    /// # Errors
    /// If one that is there cannot be read or understood.
    pub fn read(dir: &Dir) -> Result<Self, Error> {
        let mut sockets = Self::default();
        let mut text = Vec::new();
        for (name, kind, inode, state) in TABLES {
            match dir.read(name, &mut text) {
                Ok(()) => sockets
                    .take(&text, kind, inode, state)
                    .map_err(|source| dir.malformed(name, source))?,
                // The kernel was built without that kind.
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sockets)
    }

    /// The kind of the socket with this inode.
    #[must_use]
    pub fn get(&self, inode: u64) -> Option<SocketKind> {
        self.0.get(&inode).copied()
    }

    fn take(
        &mut self,
        text: &[u8],
        kind: SocketKind,
        inode: usize,
        state: Option<usize>,
    ) -> Result<(), Malformed> {
        for line in lines(text).skip(1) {
            let number = words(line).nth(inode).and_then(dec).ok_or(Malformed("inode"))?;
            let kind = match state {
                Some(column) => SocketKind::Tcp(
                    words(line)
                        .nth(column)
                        .and_then(hex)
                        .and_then(|state| u8::try_from(state).ok())
                        .ok_or(Malformed("state"))?,
                ),
                None => kind,
            };
            // Connections that no process has accepted yet, or that have ended, have inode 0.
            if number != 0 {
                self.0.insert(number, kind);
            }
        }
        Ok(())
    }
}

/// Whom a datagram socket sends to by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address, in words as they lie in memory: one for IPv4, four for IPv6.
    pub address: Vec<u32>,
    /// The port, in the order of this machine.
    pub port: u16,
}

/// The peers of raw and ping sockets of a task's network namespace by inode and family (`AF_INET`, `AF_INET6`), of those
/// that have one. No call tells of one with port 0, which is what they usually have.
///
/// The kernel keeps the ping sockets of both families in the same buckets, and lists those behind the first of a
/// family without a look at theirs: a table tells of sockets of the other family too, and their addresses are
/// nonsense there. So what a table says holds for its own family only.
///
/// # Errors
/// If one of the tables is there and cannot be read or understood.
pub fn datagram_peers(dir: &Dir) -> Result<HashMap<(u64, i32), Peer>, Error> {
    const TABLES: [(&str, i32); 4] = [
        ("net/raw", libc::AF_INET),
        ("net/raw6", libc::AF_INET6),
        ("net/icmp", libc::AF_INET),
        ("net/icmp6", libc::AF_INET6),
    ];
    let mut found = HashMap::new();
    let mut text = Vec::new();
    for (name, family) in TABLES {
        match dir.read(name, &mut text) {
            Ok(()) => {
                for line in lines(&text).skip(1) {
                    let peer = peer(line).map_err(|source| dir.malformed(name, source))?;
                    found.extend(peer.map(|(inode, peer)| ((inode, family), peer)));
                }
            }
            // The kernel was built without.
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// How many UDP and UDP-Lite sockets of a task's network namespace have a port.
///
/// # Errors
/// If one of the tables is there and cannot be read or understood.
pub fn udp_sockets_at(dir: &Dir, port: u16) -> Result<usize, Error> {
    let mut count = 0;
    let mut text = Vec::new();
    for name in ["net/udp", "net/udp6", "net/udplite", "net/udplite6"] {
        match dir.read(name, &mut text) {
            Ok(()) => {
                let ports = lines(&text).skip(1).map(|line| {
                    let (_, port) = split_once(words(line).nth(1)?, b':')?;
                    hex(port)
                });
                let ports = ports.collect::<Option<Vec<_>>>();
                let ports = ports.ok_or_else(|| dir.malformed(name, Malformed("address")))?;
                count += ports.into_iter().filter(|other| *other == u64::from(port)).count();
            }
            // The kernel was built without.
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn peer(line: &[u8]) -> Result<Option<(u64, Peer)>, Malformed> {
    const ESTABLISHED: u64 = 1;
    let column = |nth: usize| words(line).nth(nth).ok_or(Malformed("line"));
    let inode = dec(column(9)?).ok_or(Malformed("inode"))?;
    let state = hex(column(3)?).ok_or(Malformed("state"))?;
    let (address, port) = split_once(column(2)?, b':').ok_or(Malformed("address"))?;
    let words = address.chunks(8).map(|word| hex(word).and_then(|word| u32::try_from(word).ok()));
    let address = words.collect::<Option<_>>().ok_or(Malformed("address"))?;
    let port = hex(port).and_then(|port| u16::try_from(port).ok()).ok_or(Malformed("port"))?;
    Ok((state == ESTABLISHED && inode != 0).then_some((inode, Peer { address, port })))
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;

    #[test]
    fn peers_are_read() {
        let line = b"  1: 0100007F:0001 0200007F:0000 01 00000000:00000000 00:00000000 00000000     0        0 54022 2 0000 0";
        let peer_of = Peer { address: vec![0x0200_007f], port: 0 };
        assert_eq!(peer(line).unwrap(), Some((54022, peer_of)));
        let line = b" 58: 00000000000000000000000000000000:003A 00000000000000000000000001000000:0007 01 00000000:00000000 00:00000000 00000000 0 0 9 2 0 0";
        let peer_of = Peer { address: vec![0, 0, 0, 0x0100_0000], port: 7 };
        assert_eq!(peer(line).unwrap(), Some((9, peer_of)));
        assert_eq!(peer(b"1: 0100007F:0001 00000000:0000 07 0 0 0 0 0 9 2").unwrap(), None);
        for bad in ["1: 0:1 zz:0 01 0 0 0 0 0 9 2", "1: 0:1 0:0", "1: 0:1 0000007F 01 0 0 0 0 0 9"]
        {
            assert!(peer(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_are_read() {
        let mut sockets = Sockets::default();
        let text = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:9E0F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 54022 1 0 100 0 0 10 0\n";
        sockets.take(text, SocketKind::Tcp(0), 9, Some(3)).unwrap();
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n000: 00000003 00000000 00000000 0001 03 193830\n000: 00000003 00000000 00000000 0001 03 193831 /a b\n";
        sockets.take(text, SocketKind::Unix, 6, None).unwrap();
        assert_eq!(sockets.get(54022), Some(SocketKind::Tcp(10)));
        assert_eq!(sockets.get(193_831), Some(SocketKind::Unix));
        assert_eq!(sockets.get(1), None);
        assert!(sockets.take(b"\nx\n\ny", SocketKind::Udp, 9, None).is_err());
    }

    #[test]
    fn sockets_of_a_port_are_counted() {
        let own = Dir::open(HostPid::own()).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(udp_sockets_at(&own, port).unwrap(), 1);
        let _other = std::net::UdpSocket::bind(("127.0.0.2", port)).unwrap();
        assert_eq!(udp_sockets_at(&own, port).unwrap(), 2);
    }

    #[test]
    fn an_own_listener_is_listed() {
        use std::os::fd::AsFd;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(listener.as_fd()).unwrap().st_ino;
        let own = Dir::open(HostPid::own()).unwrap();
        assert_eq!(Sockets::read(&own).unwrap().get(inode), Some(SocketKind::Tcp(10)));
    }
}
