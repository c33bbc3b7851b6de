//! What few programs set of sockets and epolls, and what these keep.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags};

use crate::stage::{Findings, Outcome, Stage};

/// Level, number and value.
type Setting = (i32, i32, u32);

const OF_ALL: &[Setting] = &[
    (libc::SOL_SOCKET, 1, 1),  // SO_DEBUG
    (libc::SOL_SOCKET, 44, 1), // SO_LOCK_FILTER
    (libc::SOL_SOCKET, 49, 1), // SO_INCOMING_CPU
];
const OF_TCP: &[Setting] = &[
    (libc::SOL_SOCKET, 74, 0),   // SO_TXREHASH
    (libc::SOL_TCP, 10, 70_000), // TCP_WINDOW_CLAMP
    (libc::SOL_TCP, 44, 5_000),  // TCP_RTO_MAX_MS
    (libc::SOL_TCP, 45, 50_000), // TCP_RTO_MIN_US
    (libc::SOL_TCP, 46, 20_000), // TCP_DELACK_MAX_US
];
/// Of a socket of IPv6, for its packets of IPv4 but for the last.
const OF_IPV6: &[Setting] = &[
    (libc::SOL_IP, libc::IP_TOS, 0x10),
    (libc::SOL_IP, libc::IP_TTL, 33),
    (libc::SOL_IP, libc::IP_PKTINFO, 1),
    (libc::SOL_IPV6, 30, 1), // IPV6_ROUTER_ALERT_ISOLATE
];

fn get(socket: &impl AsRawFd, (level, name, _): Setting) -> Option<u32> {
    let (mut answer, mut bytes) = (0_u32, 4);
    // SAFETY: the kernel writes a number of four bytes, and the length.
    let done = unsafe {
        let place = (&raw mut answer).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, place, &raw mut bytes)
    };
    (done == 0).then_some(answer)
}

/// A socket with all that this kernel lets one set.
struct Rare<S> {
    socket: S,
    before: Vec<(Setting, Option<u32>)>,
}

impl<S: AsRawFd> Rare<S> {
    fn new(socket: S, lists: &[&[Setting]]) -> Self {
        let settings = lists.iter().copied().flatten().copied();
        let set = |setting: Setting| {
            let (level, name, value) = setting;
            // SAFETY: the kernel reads a number of four bytes.
            unsafe {
                libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4);
            }
            (setting, get(&socket, setting))
        };
        let before = settings.map(set).collect();
        Self { socket, before }
    }

    fn verify(&self, found: &mut Findings) {
        let after = self.before.iter().map(|(setting, _)| (*setting, get(&self.socket, *setting)));
        found.same("options", &self.before, &after.collect());
    }
}

/// How an epoll polls network cards, as far as this kernel lets one say so.
fn polling(epoll: &Epoll, set: bool) -> Option<[u8; 8]> {
    // include/uapi/linux/eventpoll.h
    const EPIOCSPARAMS: libc::Ioctl = 0x4008_8a01;
    const EPIOCGPARAMS: libc::Ioctl = 0x8008_8a02_u32 as libc::Ioctl;
    // 50 microseconds, at most 16 packets, preferred.
    let mut parameters = [50, 0, 0, 0, 16, 0, 1, 0];
    let fd = epoll.0.as_raw_fd();
    // SAFETY: the kernel reads or writes a `struct epoll_params` of 8 bytes.
    let done = unsafe {
        if set {
            libc::ioctl(fd, EPIOCSPARAMS, parameters.as_mut_ptr());
        }
        libc::ioctl(fd, EPIOCGPARAMS, parameters.as_mut_ptr())
    };
    (done == 0).then_some(parameters)
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let tcp = Rare::new(tcp, &[OF_ALL, OF_TCP]);
    let udp = Rare::new(UdpSocket::bind("127.0.0.1:0").expect("bind"), &[OF_ALL]);
    let both = UdpSocket::bind("[::]:0").ok().map(|both| Rare::new(both, &[OF_ALL, OF_IPV6]));
    // Its connection has chosen its address: it goes on to be for IPv4 as well.
    let chosen = UdpSocket::bind("[::]:0").ok().filter(|chosen| chosen.connect("[::1]:9").is_ok());
    let only = |chosen: &UdpSocket| get(chosen, (libc::SOL_IPV6, libc::IPV6_V6ONLY, 0));
    let only_before = chosen.as_ref().map(only);
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let polling_before = polling(&epoll, true);

    stage.ready_then_wait();

    let mut found = Findings::default();
    tcp.verify(&mut found);
    udp.verify(&mut found);
    if let Some(both) = &both {
        both.verify(&mut found);
    }
    found.same("for IPv6 only", &only_before, &chosen.as_ref().map(only));
    found.same("polling", &polling_before, &polling(&epoll, false));
    found.outcome()
}

fn set(socket: &impl AsRawFd, (level, name, value): Setting) {
    // SAFETY: the kernel reads a number of four bytes.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    assert_eq!(done, 0, "option {name} of level {level}: {}", std::io::Error::last_os_error());
}

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 83, 8, 1);

/// The number of the loopback interface.
fn loopback() -> u32 {
    nix::net::if_::if_nametoindex("lo").expect("the loopback interface")
}

/// Whether what is sent to a group comes back by the loopback interface.
fn sends(sender: &UdpSocket, receiver: &UdpSocket, group: std::net::IpAddr) -> bool {
    receiver.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
    let port = receiver.local_addr().expect("an address").port();
    let mut bytes = [0; 8];
    sender.send_to(b"all", (group, port)).is_ok()
        && receiver.recv(&mut bytes).is_ok_and(|count| &bytes[..count] == b"all")
}

/// Interfaces that are given by their numbers alone: to send multicast by, and to send all by.
fn by_number() -> [UdpSocket; 2] {
    let four = UdpSocket::bind("0.0.0.0:0").expect("bind");
    // struct ip_mreqn
    let mut request = [0_u8; 12];
    request[8..].copy_from_slice(&loopback().to_ne_bytes());
    set_bytes(&four, libc::SOL_IP, libc::IP_MULTICAST_IF, &request);
    let six = UdpSocket::bind("[::]:0").expect("bind");
    // struct in6_pktinfo
    let mut source = [0_u8; 20];
    source[16..].copy_from_slice(&loopback().to_ne_bytes());
    set_bytes(&six, libc::SOL_IPV6, libc::IPV6_PKTINFO, &source);
    [four, six]
}

/// By the loopback interface no multicast of IPv6 goes: what the other one has, is seen in the images.
fn send_by_number(found: &mut Findings, [four, _]: &[UdpSocket; 2]) {
    let receiver = UdpSocket::bind("0.0.0.0:0").expect("bind");
    receiver.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST).expect("join");
    found.must("multicast goes by its interface", sends(four, &receiver, GROUP.into()));
}

fn set_bytes(socket: &impl AsRawFd, level: i32, name: i32, bytes: &[u8]) {
    let (fd, length) = (socket.as_raw_fd(), bytes.len() as libc::socklen_t);
    // SAFETY: the kernel reads as many bytes as it is told.
    let done = unsafe { libc::setsockopt(fd, level, name, bytes.as_ptr().cast(), length) };
    assert_eq!(done, 0, "option {name} of level {level}: {}", std::io::Error::last_os_error());
}

/// Options that no call reads back: how large the packets are that a socket sends, how many packets it polls
/// for at once, and the address that it sends from.
pub(crate) fn hidden(stage: &Stage) -> Outcome {
    const LARGE: [u8; 4000] = [7; 4000];
    let sender = UdpSocket::bind("[::]:0").expect("bind");
    set(&sender, (libc::SOL_IPV6, libc::IPV6_MTU, 1400));
    set(&sender, (libc::SOL_SOCKET, 70, 6)); // SO_BUSY_POLL_BUDGET
    // struct in6_pktinfo
    let mut source = [0_u8; 20];
    source[15] = 1;
    set_bytes(&sender, libc::SOL_IPV6, libc::IPV6_PKTINFO, &source);
    let by_number = by_number();
    stage.ready_then_wait();
    let mut found = Findings::default();
    send_by_number(&mut found, &by_number);
    let receiver = UdpSocket::bind("[::1]:0").expect("bind");
    let there = receiver.local_addr().expect("an address");
    found.same("whole", &Some(1000), &sender.send_to(&LARGE[..1000], there).ok());
    set(&sender, (libc::SOL_IPV6, 62, 1)); // IPV6_DONTFRAG
    let refused = sender.send_to(&LARGE, there).err().and_then(|error| error.raw_os_error());
    found.same("larger than one packet", &Some(libc::EMSGSIZE), &refused);
    found.outcome()
}

/// A lease of a flow label.
pub(crate) fn flow_lease(stage: &Stage) -> Outcome {
    use crate::stage::check;
    let socket = UdpSocket::bind("[::1]:0").expect("bind");
    // struct in6_flowlabel_req: destination, label, action (get), share (exclusive), flags (create),
    // expires, linger, padding.
    let mut request = [0_u8; 32];
    request[15] = 1;
    request[16..20].copy_from_slice(&0x0001_2345_u32.to_be_bytes());
    request[21] = 1;
    request[22] = 1;
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel reads the 32 bytes.
    let made = unsafe {
        let bytes = request.as_mut_ptr().cast();
        libc::setsockopt(fd, libc::SOL_IPV6, 32, bytes, 32) // IPV6_FLOWLABEL_MGR
    };
    check(made).expect("IPV6_FLOWLABEL_MGR");
    stage.ready_then_wait();
    drop(socket);
    Ok(())
}
