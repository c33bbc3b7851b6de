//! TCP sockets that wait for others, and sockets without connections ([`datagrams`](super::datagrams)).

use std::os::fd::BorrowedFd;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{
    FileEntry, FownEntry, InetSkEntry, SHUTDOWN_NONE, SK_CLOSE, SK_ESTABLISHED, SK_LISTEN, fd_type,
};
use kernel::procfs::Peer;
use kernel::sockets::{Address, local_address, option, option_bytes, peer_address};
use libc::{IPPROTO_TCP, SOCK_STREAM, SOL_IPV6, SOL_TCP};

use super::datagrams;
use super::file_cache::Keeping;
use super::file_kind::FileKind;
use super::held::with_socket;
use super::problem::{Doing, Problem};
use super::socket_options;
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
        let (neighbours, diagnosed) = (&mut survey.neighbours, &mut survey.diagnosed);
        let mut others = Others {
            shutdown: &mut || neighbours.udp_shutdown(file.inode as u32),
            peer: &mut || diagnosed.peer(file.inode),
        };
        let frozen = survey.frozen;
        let mut socket = with_socket(survey.held, pid, file, |socket| {
            self::entry(socket, common.family, file.inode, (strict, frozen), &mut others)
        })?;
        if is_raw && survey.frozen {
            let shutdown = socket.shutdown();
            let waits = |socket: BorrowedFd<'_>| datagrams::waits(socket, shutdown);
            survey.out.left_behind += usize::from(with_socket(survey.held, pid, file, waits)?);
        }
        let groups = &mut survey.neighbours.groups;
        socket.groups = with_socket(survey.held, pid, file, |socket| groups.of(socket))?;
        socket.opts.others = common.others;
        let isk = InetSkEntry { id, flags: file.flags, fown, ..socket };
        Ok(FileEntry { r#type: fd_type::INETSK, isk: Some(Box::new(isk)), ..entry })
    }

    /// A mark covers all that its protocol keeps of it.
    fn holds(
        &self,
        _survey: &mut Survey<'_>,
        _pid: HostPid,
        _file: &OpenFile,
        _keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        Ok(true)
    }

    fn is_steady(&self, _entry: &FileEntry, _size: Option<u64>) -> bool {
        true
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
        source: std::io::Error::from(std::io::ErrorKind::InvalidData),
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

/// What `TCP_INFO` says of a socket's state, and of a listener: connections that wait, and how
/// many may.
fn tcp_state(socket: BorrowedFd<'_>) -> Result<(u32, u32, u32), Problem> {
    let mut info = [0; 32];
    option_bytes(socket, SOL_TCP, libc::TCP_INFO, &mut info).doing("get TCP state of")?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok((u32::from(info[0]), word(24), word(28)))
}

/// What others than the socket tell of it.
struct Others<'a> {
    /// How far a UDP socket has been shut down.
    shutdown: &'a mut dyn FnMut() -> Result<u32, Problem>,
    /// Whom a raw or ping socket is connected to.
    peer: &'a mut dyn FnMut() -> Result<Option<Peer>, Problem>,
}

/// The entry of an internet socket; `strict` says whether what changes by the moment counts, `frozen` whether
/// nothing changes.
fn entry(
    socket: BorrowedFd<'_>,
    (family, kind, protocol): (i32, i32, i32),
    inode: u64,
    (strict, frozen): (bool, bool),
    others: &mut Others<'_>,
) -> Result<InetSkEntry, Problem> {
    let v6 = family == libc::AF_INET6;
    let datagrams = datagrams::Kind::of(kind, protocol);
    let address = local_address(socket).doing("get the address of")?;
    let local = name(&address, v6)?;
    let mut peer = peer_address(socket).ok().map(|address| name(&address, v6)).transpose()?;
    if matches!(datagrams, Some(datagrams::Kind::Ping | datagrams::Kind::Raw)) {
        peer = (others.peer)()?.map(|peer| Name {
            port: peer.port.into(),
            words: peer.address,
            scope: 0,
            flow: 0,
        });
    }
    let ((state, backlog), shutdown) = match (datagrams, protocol) {
        // Of one that is neither connected nor listens it is not known.
        (None, IPPROTO_TCP) if kind == SOCK_STREAM => (tcp(socket, strict)?, SHUTDOWN_NONE),
        (Some(kind), _) => {
            let shutdown = kind.shutdown(socket, &mut others.shutdown)?;
            kind.is_empty(socket, shutdown, (strict, frozen))?;
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
        Some(datagrams::Kind::Udp) if frozen => datagrams::queue(socket, shutdown, &opts)?,
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
    if local.scope == 0 || local.port == 0 {
        return Ok(None);
    }
    match device {
        Some(device) => Ok(Some(device.to_owned())),
        None => Err(Problem::Refused(support::sockets::LINK_LOCAL)),
    }
}

fn tcp(socket: BorrowedFd<'_>, frozen: bool) -> Result<(u32, u32), Problem> {
    match tcp_state(socket)? {
        (SK_LISTEN, waiting, _) if waiting > 0 && frozen => {
            Err(Problem::Refused(support::sockets::waiting_connections(waiting)))
        }
        (SK_LISTEN, _, backlog) => Ok((SK_LISTEN, backlog)),
        (SK_CLOSE, _, _) => Ok((SK_CLOSE, 0)),
        _ => Err(Problem::Refused(support::sockets::ESTABLISHED)),
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
        entry(socket.as_fd(), family, 9, (true, true), &mut others)
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
        let _client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        assert!(matches!(of(&socket), Err(Problem::Refused { .. })));
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
    fn a_connection_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(matches!(of(&client), Err(Problem::Refused { .. })));
    }
}
