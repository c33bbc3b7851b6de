//! sock_diag(7): what the kernel knows of sockets and no socket call tells.

use std::collections::HashMap;
use std::io;
use std::net;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::nlas::Nla as InetAttribute;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, SocketId, StateFlags as InetStates,
};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse, nlas::Nla};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// `UDIAG_SHOW_*` of sockets: name, peer, connections that wait, queue lengths.
const SHOW: u32 = 0x01 | 0x04 | 0x08 | 0x10;

/// A Unix socket of the network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Inode.
    pub inode: u32,
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET`.
    pub kind: u8,
    /// `TCP_ESTABLISHED`, `TCP_CLOSE`, `TCP_LISTEN`.
    pub state: u8,
    /// Inode of the peer; `None` when there is none, or it waits to be accepted.
    pub peer: Option<u32>,
    /// Inodes of the sockets whose connections wait to be accepted, 0 for one that is closed.
    pub waiting: Vec<u32>,
    /// Bytes to read; of a listening socket the connections that wait.
    pub receive_queue: u32,
    /// Bytes sent and not yet read; of a listening socket how many connections may wait.
    pub send_queue: u32,
    /// Receive side closed (bit 0), send side closed (bit 1).
    pub shutdown: u8,
}

/// Every Unix socket of the caller's network namespace that is known by an inode.
///
/// # Errors
/// When the kernel has no support for it, or answers with what is not understood.
pub fn unix_sockets() -> io::Result<Vec<UnixSocket>> {
    let mut sockets = Vec::new();
    dump(&request(NLM_F_REQUEST | NLM_F_DUMP, 0), |message| sockets.extend(unix(&message)))?;
    Ok(sockets)
}

/// The names of the listening Unix sockets of the caller's network namespace, as the kernel gives them.
///
/// # Errors
/// When the kernel has no support for it, or answers with what is not understood.
pub fn unix_listeners() -> io::Result<Vec<Vec<u8>>> {
    const FAMILY: u8 = libc::AF_UNIX as u8;
    /// Which states are asked for: a bit for each of `TCP_*`.
    const LISTEN: u32 = 1 << 10;
    const SHOW_NAME: u32 = 1;
    const NAME: u16 = 0;
    const FIXED: usize = 16;
    let mut request = vec![FAMILY, 0, 0, 0];
    for word in [LISTEN, 0, SHOW_NAME, u32::MAX, u32::MAX] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    let mut names = Vec::new();
    dump_as(&request, |answer| {
        let attributes = attributes(answer.get(FIXED..).unwrap_or_default());
        names.extend(attributes.filter(|(kind, _)| *kind == NAME).map(|(_, name)| name.to_vec()));
    })?;
    Ok(names)
}

/// Which of the UDP and UDP-Lite sockets of the caller's network namespace have been shut down, by inode:
/// receive side (bit 0), send side (bit 1). Of sockets without a port the kernel does not tell, nor
/// of any where it was built without `INET_UDP_DIAG`.
///
/// # Errors
/// When the kernel answers with what is not understood.
pub fn udp_shutdowns() -> io::Result<HashMap<u32, u8>> {
    let mut found = HashMap::new();
    let families = [libc::AF_INET, libc::AF_INET6];
    let protocols = [libc::IPPROTO_UDP, libc::IPPROTO_UDPLITE];
    for (family, protocol) in
        families.into_iter().flat_map(|family| protocols.map(|protocol| (family, protocol)))
    {
        let request = InetRequest {
            family: family as u8,
            protocol: protocol as u8,
            extensions: ExtensionFlags::empty(),
            states: InetStates::from_bits_retain(u32::MAX),
            socket_id: match family {
                libc::AF_INET => SocketId::new_v4(),
                _ => SocketId::new_v6(),
            },
        };
        let request = SockDiagMessage::InetRequest(request);
        let listed = dump(&packet(NLM_F_REQUEST | NLM_F_DUMP, request), |message| {
            let SockDiagMessage::InetResponse(response) = message else { return };
            let shutdown = response.nlas.iter().find_map(|attribute| match attribute {
                InetAttribute::Shutdown(state) => Some(*state),
                _ => None,
            });
            found.extend(shutdown.map(|state| (response.header.inode, state)));
        });
        match listed {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            listed => listed?,
        }
    }
    found.retain(|_, state| *state != 0);
    Ok(found)
}

/// The state of the TCP connection between two addresses of the caller's network namespace, and its bytes to be read, with one more if
/// the peer has closed its side; `None` if there is none. `device` is the number of the network device that it is bound to, or 0.
///
/// # Errors
/// When the kernel was built without `INET_TCP_DIAG`, or answers with what is not understood.
pub fn tcp_socket(
    local: net::SocketAddr,
    peer: net::SocketAddr,
    device: u32,
) -> io::Result<Option<(u8, u32)>> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket_id = SocketId {
        source_port: local.port(),
        destination_port: peer.port(),
        source_address: local.ip(),
        destination_address: peer.ip(),
        interface_id: device,
        cookie: [0xff; 8],
    };
    let request = SockDiagMessage::InetRequest(InetRequest {
        family: family as u8,
        protocol: libc::IPPROTO_TCP as u8,
        extensions: ExtensionFlags::empty(),
        states: InetStates::from_bits_retain(u32::MAX),
        socket_id,
    });
    let socket = connect()?;
    socket.send(&packet(NLM_F_REQUEST, request), 0)?;
    let mut buffer = vec![0_u8; 16 << 10];
    let size = socket.recv(&mut &mut buffer[..], 0)?;
    let mut found = None;
    let take = |message| {
        // Without a connection the kernel shows who listens.
        if let SockDiagMessage::InetResponse(response) = message
            && response.header.socket_id.destination_port == peer.port()
        {
            found = Some((response.header.state, response.header.recv_queue));
        }
    };
    match each(&buffer[..size], take) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        answer => answer.map(|_| found),
    }
}

/// Asks for many, and hands over each.
fn dump(request: &[u8], mut take: impl FnMut(SockDiagMessage)) -> io::Result<()> {
    let socket = connect()?;
    socket.send(request, 0)?;
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        if each(&buffer[..size], &mut take)? {
            return Ok(());
        }
    }
}

/// Asks for single Unix sockets of the caller's network namespace: quicker than
/// [`unix_sockets`] for a few dozens.
#[derive(Debug)]
pub struct UnixLookup(Socket);

impl UnixLookup {
    /// Connects to the kernel.
    ///
    /// # Errors
    /// When the kernel has no support for it.
    pub fn new() -> io::Result<Self> {
        connect().map(Self)
    }

    /// The socket with an inode; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel answers with what is not understood.
    pub fn find(&self, inode: u32) -> io::Result<Option<UnixSocket>> {
        self.0.send(&request(NLM_F_REQUEST, inode), 0)?;
        let mut buffer = vec![0_u8; 64 << 10];
        let size = self.0.recv(&mut &mut buffer[..], 0)?;
        let mut sockets = Vec::new();
        match each(&buffer[..size], |message| sockets.extend(unix(&message))) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(sockets.pop().filter(|socket| socket.inode == inode)),
        }
    }
}

/// Asks for many sockets of a family by a request of its own, and hands over the answers behind their headers.
///
/// # Errors
/// When the kernel was built without what answers, or answers with what is not understood.
pub(crate) fn dump_as(request: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<()> {
    const HEADER: usize = 16;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    let mut message = u32::try_from(HEADER + request.len()).unwrap_or(0).to_ne_bytes().to_vec();
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.resize(HEADER, 0);
    message.extend_from_slice(request);
    let socket = connect()?;
    socket.send(&message, 0)?;
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        if each_as(&buffer[..size], &mut take)? {
            return Ok(());
        }
    }
}

/// Hands over the messages of one datagram; returns whether the last one was among them.
fn each_as(mut bytes: &[u8], take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    const HEADER: usize = 16;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    while !bytes.is_empty() {
        let length = word(bytes, 0).ok_or_else(malformed)? as usize;
        let kind = half(bytes, 4).ok_or_else(malformed)?;
        let payload = bytes.get(HEADER..length).ok_or_else(malformed)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let number = word(payload, 0).ok_or_else(malformed)?.cast_signed();
                return Err(match number.wrapping_neg() {
                    libc::ENOENT => io::Error::new(
                        io::ErrorKind::Unsupported,
                        "this kernel was built without diagnosis of such sockets",
                    ),
                    number => io::Error::from_raw_os_error(number),
                });
            }
            _ => take(payload),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The word at a place.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The half word at a place.
pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The attributes behind the fixed part of an answer: number and value of each.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER: usize = 4;
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(half(bytes, 0)?), half(bytes, 2)?);
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn request(flags: u16, inode: u32) -> Vec<u8> {
    let request = UnixRequest {
        state_flags: StateFlags::from_bits_retain(u32::MAX),
        inode,
        show_flags: ShowFlags::from_bits_retain(SHOW),
        cookie: [0xff; 8],
    };
    packet(flags, SockDiagMessage::UnixRequest(request))
}

fn packet(flags: u16, request: SockDiagMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut packet = NetlinkMessage::new(header, request.into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    bytes
}

/// Hands over the messages of one datagram; returns whether the last one was among them.
fn each(mut bytes: &[u8], mut take: impl FnMut(SockDiagMessage)) -> io::Result<bool> {
    let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)
            .map_err(|error| malformed(error.to_string()))?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(message) => take(message),
            _ => {}
        }
        let length = (message.header.length as usize).next_multiple_of(4);
        if length == 0 {
            return Err(malformed("message of length 0".to_owned()));
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(false)
}

fn unix(message: &SockDiagMessage) -> Option<UnixSocket> {
    match message {
        SockDiagMessage::UnixResponse(response) => Some(convert(response)),
        _ => None,
    }
}

fn convert(response: &UnixResponse) -> UnixSocket {
    let mut socket = UnixSocket {
        inode: response.header.inode,
        kind: response.header.kind,
        state: response.header.state,
        ..UnixSocket::default()
    };
    for attribute in &response.nlas {
        match attribute {
            Nla::Peer(inode) => socket.peer = Some(*inode).filter(|inode| *inode != 0),
            Nla::PendingConnections(inodes) => socket.waiting.clone_from(inodes),
            Nla::ReceiveQueueLength(receive, send) => {
                socket.receive_queue = *receive;
                socket.send_queue = *send;
            }
            Nla::Shutdown(state) => socket.shutdown = *state,
            _ => {}
        }
    }
    socket
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn inode(fd: impl AsFd) -> u32 {
        u32::try_from(nix::sys::stat::fstat(fd).unwrap().st_ino).unwrap()
    }

    #[test]
    fn udp_sockets_that_are_shut_down() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let sockets = [(); 2].map(|()| net::UdpSocket::bind(address).unwrap());
            for socket in &sockets {
                socket.connect(socket.local_addr().unwrap()).unwrap();
            }
            crate::sockets::shutdown(&sockets[0], libc::SHUT_WR).unwrap();
            let states = udp_shutdowns().unwrap();
            assert_eq!(sockets.each_ref().map(|s| states.get(&inode(s))), [Some(&2), None]);
        }
    }

    #[test]
    fn a_pair_with_bytes_between() {
        let (a, b) = crate::sockets::create_pair(libc::SOCK_STREAM).unwrap();
        nix::unistd::write(&a, b"hello").unwrap();
        crate::sockets::shutdown(&a, libc::SHUT_WR).unwrap();
        let sockets = unix_sockets().unwrap();
        let find = |wanted| sockets.iter().find(|socket| socket.inode == wanted).unwrap();
        let (left, right) = (find(inode(&a)), find(inode(&b)));
        assert_eq!(left.peer, Some(right.inode));
        assert_eq!(right.receive_queue, 5);
        assert_eq!((left.shutdown, right.shutdown), (2, 1));
        let lookup = UnixLookup::new().unwrap();
        assert_eq!(lookup.find(left.inode).unwrap().as_ref(), Some(left));
        assert_eq!(lookup.find(right.inode).unwrap().as_ref(), Some(right));
        assert_eq!(lookup.find(u32::MAX).unwrap(), None);
    }
}
