//! TCP sockets that wait for others or are connected ([`super::connections`]), and sockets without connections
//! ([`datagrams`](super::datagrams)).

use std::io;
use std::os::fd::BorrowedFd;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::ImageWriter;
use images::messages::{
    FileEntry, FownEntry, InetSkEntry, SHUTDOWN_NONE, SHUTDOWN_READ, SK_CLOSE, SK_ESTABLISHED,
    SK_LISTEN, SkOptEntry, fd_type,
};
use kernel::procfs::Peer;
use kernel::sockets::{Address, local_address, option, peer_address, peer_name};
use kernel::tcp;
use libc::{IPPROTO_TCP, SOCK_STREAM, SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Captured;
use super::connections;
use super::datagrams;
use super::file_cache::Keeping;
use super::file_kind::FileKind;
use super::held::with_socket;
use super::listeners::Listeners;
use super::problem::{Doing, Problem};
use super::socket_options;
use super::sockets::name_interfaces;
use super::survey::Survey;

/// An internet socket.
#[derive(Debug)]
pub(super) struct InetSocket;

impl FileKind for InetSocket {
    fn types(&self) -> &'static [u32] {
        &[fd_type::INETSK]
    }

    fn families(&self) -> &'static [i32] {
        &[libc::AF_INET, libc::AF_INET6]
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let (pid, id) = (process.pid, entry.id);
        let fown = survey.owner(pid, file)?;
        let common = survey.common(pid, file)?;
        let strict = survey.is_strict();
        let is_raw = common.family.1 == libc::SOCK_RAW;
        if is_raw && survey.context.for_user {
            return Err(Problem::Refused(support::sockets::OF_ROOT));
        }
        let skip_in_flight = survey.context.skip_in_flight;
        let (neighbours, diagnosed) = (&mut survey.neighbours, &mut survey.diagnosed);
        let mut others = Others {
            shutdown: &mut || neighbours.udp_shutdown(file.inode as u32),
            peer: &mut || diagnosed.peer(file.inode, common.family.0),
        };
        let frozen = survey.frozen;
        let listeners = survey.held.beside.of::<Listeners>();
        let came_later = frozen && listeners.was_quiet(file.inode);
        let mut socket = with_socket(survey.held, pid, file, |socket| {
            let counts = Counts { now: strict, frozen, uncorked: file.uncorked };
            self::entry(socket, common.family, file.inode, counts, &mut others)
        })?;
        if socket.state == SK_LISTEN && !frozen {
            survey.held.beside.of::<Listeners>().meet(file.inode);
        }
        if socket.state == SK_LISTEN && !skip_in_flight {
            let state = with_socket(survey.held, pid, file, |socket| {
                tcp::state(socket).doing("get TCP state of")
            });
            let waiting = state?.1;
            if waiting > 0 {
                // What is in them is not told by the mark of the socket.
                survey.to_keep = false;
                let filtered = !socket.opts.so_filter.is_empty();
                survey.meet_listener(pid, file, (id, filtered), (waiting, came_later));
            }
        }
        if is_raw && survey.frozen {
            let shutdown = socket.shutdown();
            let waits = |socket: BorrowedFd<'_>| datagrams::waits(socket, shutdown);
            survey.out.left_behind += usize::from(with_socket(survey.held, pid, file, waits)?);
        }
        // Sockets of connections cannot be members of groups.
        if common.family.1 != SOCK_STREAM {
            let groups = survey.neighbours.groups();
            socket.groups = with_socket(survey.held, pid, file, |socket| groups.of(socket))?;
        }
        socket.opts.others = common.others;
        socket.failure = common.failure.map(|it| connections::failure(&socket, it)).transpose()?;
        let isk = InetSkEntry { id, flags: file.flags, fown, ..socket };
        let mut isk = isk;
        if isk.is_connection() {
            isk.opts.others.retain(|option| !changes_by_itself(option));
        }
        name_interfaces(&mut isk.opts.others)?;
        if isk.is_connection() {
            survey.meet(pid, file, &isk);
        }
        Ok(FileEntry { r#type: fd_type::INETSK, isk: Some(Box::new(isk)), ..entry })
    }

    /// A mark covers all that its protocol keeps of it, but not what is in a connection.
    fn holds(
        &self,
        survey: &mut Survey<'_>,
        pid: HostPid,
        file: &OpenFile,
        keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        let entry = survey.cache.files.get(keeping.entries.start);
        let connection = entry.and_then(|entry| entry.isk.as_deref());
        if let Some(connection) = connection.filter(|entry| entry.is_connection()).cloned() {
            survey.meet(pid, file, &connection);
        }
        Ok(true)
    }

    fn is_steady(&self, entry: &FileEntry, _size: Option<u64>) -> bool {
        entry.isk.as_ref().is_some_and(|socket| !socket.is_connection())
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        captured.encode_connections(writer)
    }

    fn update(&self, entry: &mut FileEntry, keeping: &Keeping) {
        if let Some(socket) = &mut entry.isk {
            socket.flags = keeping.flags;
        }
    }
}

/// A port and an address in the words that the images have.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    port: u32,
    words: Vec<u32>,
    /// The network interface that a link-local address belongs to.
    scope: u32,
    /// The flow label and traffic class of IPv6.
    flow: u32,
}

/// `sockaddr_in` or `sockaddr_in6`, behind the family.
fn name(address: &Address, v6: bool) -> Result<Name, Problem> {
    let data = address.data();
    let short = || Problem::Kernel {
        operation: "understand the address of",
        source: io::Error::from(io::ErrorKind::InvalidData),
    };
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
    };
    let port = data.get(..2).ok_or_else(short)?;
    let port = u32::from(u16::from_be_bytes([port[0], port[1]]));
    // IPv4: the address follows the port; IPv6: flow label, address, scope.
    let places: &[usize] = if v6 { &[6, 10, 14, 18] } else { &[2] };
    let words = places.iter().map(|&at| word(at)).collect::<Option<_>>().ok_or_else(short)?;
    let (scope, flow) = match v6 {
        true => (word(22).ok_or_else(short)?, word(2).ok_or_else(short)?),
        false => (0, 0),
    };
    Ok(Name { port, words, scope, flow })
}

/// Which states of a socket that pass by themselves a look refuses.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// It refuses what waits in a socket now and would be lost.
    now: bool,
    /// The target stands still, so that nothing passes any more.
    frozen: bool,
    /// It is known that no datagram waits in it for its end.
    uncorked: bool,
}

/// What others than the socket tell of it.
struct Others<'a> {
    /// How far a UDP socket has been shut down.
    shutdown: &'a mut dyn FnMut() -> Result<u32, Problem>,
    /// Whom a raw or ping socket is connected to.
    peer: &'a mut dyn FnMut() -> Result<Option<Peer>, Problem>,
}

/// Whether the kernel changes an option of a connection by itself.
fn changes_by_itself(option: &SkOptEntry) -> bool {
    let names = [
        (SOL_TCP, libc::TCP_MAXSEG),
        (SOL_SOCKET, libc::SO_INCOMING_CPU),
        // Of one that was accepted, from its first packet; of a stream they cannot be set.
        (SOL_IP, libc::IP_MULTICAST_IF),
        (SOL_IP, libc::IP_MULTICAST_TTL),
        (SOL_IPV6, libc::IPV6_MULTICAST_IF),
        (SOL_IPV6, libc::IPV6_MULTICAST_HOPS),
    ];
    names.contains(&(option.level.cast_signed(), option.name.cast_signed()))
}

/// The entry of an internet socket.
fn entry(
    socket: BorrowedFd<'_>,
    (family, kind, protocol): (i32, i32, i32),
    inode: u64,
    counts: Counts,
    others: &mut Others<'_>,
) -> Result<InetSkEntry, Problem> {
    let v6 = family == libc::AF_INET6;
    let datagrams = datagrams::Kind::of(kind, protocol);
    let address = local_address(socket).doing("get the address of")?;
    let local = name(&address, v6)?;
    // A connection that is over, or asked for, has one all the same.
    let peer = if kind == SOCK_STREAM { peer_name(socket) } else { peer_address(socket) };
    let mut peer = peer.ok().map(|address| name(&address, v6)).transpose()?;
    if matches!(datagrams, Some(datagrams::Kind::Ping | datagrams::Kind::Raw)) {
        peer = (others.peer)()?.map(|peer| Name {
            port: peer.port.into(),
            words: peer.address,
            scope: 0,
            flow: 0,
        });
    }
    let ((state, backlog), shutdown) = match (datagrams, protocol) {
        (None, IPPROTO_TCP) if kind == SOCK_STREAM => {
            // Before the state, which tells of what the peer closes meanwhile.
            let ended =
                kernel::sockets::shut_down(socket).doing("look whether it is shut down, of")?;
            let state = tcp(socket)?;
            let shutdown = match (state, &peer) {
                ((SK_CLOSE, _), None) => unconnected_shutdown(socket).doing("poll")?,
                ((state, _), _) if is_open_to_peer(state) => u32::from(ended) & SHUTDOWN_READ,
                _ => SHUTDOWN_NONE,
            };
            (state, shutdown)
        }
        (Some(kind), _) => {
            let shutdown = kind.shutdown(socket, &mut others.shutdown)?;
            kind.is_empty(socket, shutdown, (counts.now, counts.frozen, counts.uncorked))?;
            let connected = peer.is_some();
            ((if connected { SK_ESTABLISHED } else { SK_CLOSE }, 0), shutdown)
        }
        _ => {
            return Err(Problem::Refused(support::sockets::unknown_internet_socket(
                kind, protocol,
            )));
        }
    };
    let none = || Name { port: 0, words: vec![0; local.words.len()], scope: 0, flow: 0 };
    let peer = peer.unwrap_or_else(none);
    if peer.flow != 0 {
        return Err(Problem::Refused(support::sockets::FLOW_LABEL));
    }
    let mut ip_opts = socket_options::ip(socket, v6)?;
    if datagrams == Some(datagrams::Kind::Raw) {
        ip_opts.raw = Some(datagrams::raw_options(socket, v6, protocol)?);
    }
    let is_nowhere = ip_opts.freebind.is_none() && datagrams::is_nowhere(&address)?;
    let opts = socket_options::options(socket, false)?;
    let waiting = match datagrams {
        Some(datagrams::Kind::Udp) if counts.frozen => datagrams::queue(socket, shutdown, &opts)?,
        _ => Vec::new(),
    };
    Ok(InetSkEntry {
        id: 0,
        ino: inode as u32,
        family: family.cast_unsigned(),
        r#type: kind.cast_unsigned(),
        proto: protocol.cast_unsigned(),
        state,
        src_port: local.port,
        dst_port: peer.port,
        flags: 0,
        backlog,
        ifname: interface(&local, opts.so_bound_dev.as_deref())?,
        src_addr: local.words,
        dst_addr: peer.words,
        fown: FownEntry::default(),
        opts,
        v6only: v6_only(socket, v6)?,
        ip_opts: Some(ip_opts),
        ns_id: None,
        shutdown: Some(shutdown).filter(|state| *state != SHUTDOWN_NONE),
        tcp_opts: if kind == SOCK_STREAM { Some(socket_options::tcp(socket)?) } else { None },
        groups: Vec::new(),
        nowhere: is_nowhere.then_some(true),
        datagrams: waiting,
        failure: None,
        waiting: Vec::new(),
    })
}

fn v6_only(socket: BorrowedFd<'_>, v6: bool) -> Result<Option<bool>, Problem> {
    if !v6 {
        return Ok(None);
    }
    let value = option(socket, SOL_IPV6, libc::IPV6_V6ONLY).doing("get socket option of")?;
    Ok(Some(value != 0))
}

/// A link-local address needs its interface to be bound again; only a bound device names it.
fn interface(local: &Name, device: Option<&str>) -> Result<Option<String>, Problem> {
    if local.scope == 0 {
        return Ok(None);
    }
    match device {
        Some(device) => Ok(Some(device.to_owned())),
        None => Err(Problem::Refused(support::sockets::LINK_LOCAL)),
    }
}

/// How far a TCP socket has been shut down that is not connected: one whose connection was given up by a restore
/// says the end of the stream, and not that there is none. That nothing can be sent is so with any of them, and nobody
/// tells more.
fn unconnected_shutdown(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut asked = [PollFd::new(socket, PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO)?;
    let told = asked[0].revents().unwrap_or(PollFlags::empty());
    Ok(if told.contains(PollFlags::POLLIN) { SHUTDOWN_READ } else { SHUTDOWN_NONE })
}

/// Whether it is not the peer that has ended what can be received in this state: if anybody has, it is the socket (`SHUT_RD`).
fn is_open_to_peer(state: u32) -> bool {
    [tcp::ESTABLISHED, tcp::FIN_WAIT1, tcp::FIN_WAIT2].map(u32::from).contains(&state)
}

/// State and backlog of a TCP socket.
fn tcp(socket: BorrowedFd<'_>) -> Result<(u32, u32), Problem> {
    let (state, _, backlog) = tcp::state(socket).doing("get TCP state of")?;
    match state {
        tcp::LISTEN => Ok((SK_LISTEN, backlog)),
        tcp::CLOSE => Ok((SK_CLOSE, 0)),
        tcp::ESTABLISHED
        | tcp::SYN_SENT
        | tcp::FIN_WAIT1
        | tcp::FIN_WAIT2
        | tcp::CLOSE_WAIT
        | tcp::LAST_ACK
        | tcp::CLOSING => {
            connections::check(socket)?;
            Ok((state.into(), 0))
        }
        _ => Err(Problem::Refused(support::sockets::passing_state(state))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    fn of(socket: impl AsFd) -> Result<InetSkEntry, Problem> {
        let family = socket_options::family(socket.as_fd()).unwrap();
        let mut others = Others { shutdown: &mut || Ok(SHUTDOWN_NONE), peer: &mut || Ok(None) };
        let counts = Counts { now: true, frozen: true, uncorked: false };
        entry(socket.as_fd(), family, 9, counts, &mut others)
    }

    #[test]
    fn a_listener() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let entry = of(&socket).unwrap();
        assert_eq!(entry.state, SK_LISTEN);
        assert_eq!(entry.src_port, u32::from(socket.local_addr().unwrap().port()));
        assert_eq!(entry.src_addr, [u32::from_ne_bytes([127, 0, 0, 1])]);
        assert_eq!(entry.opts.reuseaddr, Some(true));
        assert!(entry.backlog > 0);
    }

    #[test]
    fn udp_aimed_at_somebody() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        assert_eq!(of(&socket).unwrap().state, SK_CLOSE);
        socket.connect(socket.local_addr().unwrap()).unwrap();
        let entry = of(&socket).unwrap();
        assert_eq!((entry.state, entry.dst_port), (SK_ESTABLISHED, entry.src_port));
        assert_eq!(entry.dst_addr.len(), 4);
        socket.send(b"x").unwrap();
        assert_eq!(of(&socket).unwrap().datagrams.len(), 1);
    }

    #[test]
    fn a_connection_has_both_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!of(&listener).unwrap().is_connection());
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let entry = of(&client).unwrap();
        assert!(entry.is_connection());
        assert_eq!(entry.local().unwrap(), client.local_addr().unwrap());
        assert_eq!(entry.peer().unwrap(), client.peer_addr().unwrap());
    }
}
