//! Connections that nobody has accepted yet, put into the queue of a listening socket again.
//!
//! No call does that, and none takes such a connection out without it being accepted. But the kernel lets a BPF program answer for it where
//! it would look at a SYN cookie: for a segment that confirms a connection the program says what had been agreed on
//! (`bpf_sk_assign_tcp_reqsk`, Linux 6.9), and the kernel makes the connection from the segment's addresses and numbers, and queues it.
//! So that segment is sent from here in the peer's name, over the loopback device of the network namespace, and behind it what the peer had
//! sent. What the new connection answers (it confirms what has come) is dropped on that device: the peer may be a socket that is not
//! there yet.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::SOL_SOCKET;

use super::rebuild::inject;
use super::segment::{self, ACK, FIN, PUSH, RST};
use super::{Error, OPTION_SACK, OPTION_TIMESTAMPS, OPTION_WINDOW_SCALE, failed};
use crate::bpf::{ArrayMap, Called, Code, MapSpec, ProgramSpec, STACK, program_load, traffic_link};
use crate::btf::{Btf, Named, VMLINUX};
use crate::sock_diag::tcp_socket;
use crate::sockets::{option, set_option};

/// It marks its packets when there is congestion (`TCPI_OPT_ECN`).
const OPTION_ECN: u8 = 8;
/// Its timestamps count microseconds (`TCPI_OPT_USEC_TS`).
const OPTION_MICROSECONDS: u8 = 64;

/// The kernel's function.
const FUNCTION: &str = "bpf_sk_assign_tcp_reqsk";

/// Why the kernel lacks the means.
pub const LACKS: &str =
    "this kernel has no bpf_sk_assign_tcp_reqsk (Linux 6.9 with CONFIG_SYN_COOKIES)";

/// A connection that waits to be accepted. It has never sent anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The number after all data that was received.
    pub received_seq: u32,
    /// What was received.
    pub received: Vec<u8>,
    /// The number of the first byte that it will send.
    pub sent_seq: u32,
    /// `TCPI_OPT_*`.
    pub options: u8,
    /// Scale of the peer's window.
    pub sent_scale: u8,
    /// Scale of its own window.
    pub received_scale: u8,
    /// Largest segment.
    pub segment: u16,
    /// How much the peer takes.
    pub window: u32,
    /// The clock of its timestamps.
    pub clock: u32,
    /// The newest timestamp of its peer.
    pub peer_clock: u32,
    /// The peer has closed its side.
    pub ended: bool,
    /// The peer has reset it.
    pub reset: bool,
}

impl Waiting {
    /// `struct bpf_tcp_req_attrs`.
    fn attributes(&self) -> [u8; ATTRIBUTES] {
        let has = |option| u8::from(self.options & option != 0);
        let mut bytes = [0; ATTRIBUTES];
        bytes[..4].copy_from_slice(&self.peer_clock.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.clock.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.segment.to_ne_bytes());
        bytes[10..17].copy_from_slice(&[
            self.received_scale,
            self.sent_scale,
            has(OPTION_ECN),
            has(OPTION_WINDOW_SCALE),
            has(OPTION_SACK),
            has(OPTION_TIMESTAMPS),
            has(OPTION_MICROSECONDS),
        ]);
        bytes
    }
}

const ATTRIBUTES: usize = 20;
/// Where the addresses and ports begin of what the connection sends, in the order in which a packet has them.
const ENDS: usize = 24;
/// Bytes of those of IPv4 and IPv6.
const ENDS_OF_4: usize = 12;
const ENDS_OF_6: usize = 36;
const VALUE: usize = ENDS + ENDS_OF_6;

/// Bytes of data in a segment: with its headers and what the kernel keeps of it, as much as the kernel gives out in one piece.
const PIECE: usize = 7 << 10;
/// The smallest that is tried, where the loopback device takes no larger packets.
const SMALLEST: usize = 512;

/// What fills the queues of listening sockets of the network namespace that it was made in.
#[derive(Debug)]
pub struct Filler {
    listener: ArrayMap,
    agreed: ArrayMap,
    /// The priority of the segments that the program answers for.
    cookie: u32,
    _cookies: Cookies,
    _link: OwnedFd,
}

impl Filler {
    /// Makes ready in the network namespace of this thread, which has to be in it whenever this is used, and when it is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where the kernel lacks the means; without the right to.
    pub fn new() -> Result<Self, Error> {
        let make = |errno: nix::errno::Errno| failed("make a map for connections that wait")(errno);
        // BPF_MAP_TYPE_*
        const ARRAY: u32 = 2;
        const SOCKETS: u32 = 15;
        let map = |kind, bytes: usize| {
            let value_bytes = bytes as u32;
            let spec =
                MapSpec { name: "waiting", kind, key_bytes: 4, value_bytes, entries: 1, flags: 0 };
            ArrayMap::new(&spec).map_err(make)
        };
        let function = function().map_err(failed("look for the kernel's function for them"))?;
        let (listener, agreed) = (map(SOCKETS, 4)?, map(ARRAY, VALUE)?);
        let cookie = cookie().map_err(failed("choose a number for them"))?;
        let instructions = program(&listener, &agreed, function, cookie);
        let load = failed::<io::Error>("load the program for connections that wait");
        let instructions = instructions.ok_or_else(|| load(io::ErrorKind::InvalidData.into()))?;
        let spec = ProgramSpec {
            name: "waiting",
            called: Called::Received,
            target: 0,
            instructions: &instructions,
            license: c"Dual MIT/GPL",
        };
        let program = program_load(&spec, &mut []).map_err(|errno| load(errno.into()))?;
        let link = failed::<nix::errno::Errno>("put a program at the loopback device");
        let interface = nix::net::if_::if_nametoindex("lo").map_err(&link)?;
        let cookies = Cookies::allow().map_err(failed("allow SYN cookies"))?;
        use std::os::fd::AsFd;
        let link = traffic_link(program.as_fd(), interface).map_err(link)?;
        Ok(Self { listener, agreed, cookie, _cookies: cookies, _link: link })
    }

    /// Puts a connection between `local` and `peer` behind those that wait at a listening socket, which is bound to the device
    /// with the number `device`, if that is not 0. Mapped addresses are those of IPv4.
    ///
    /// # Errors
    /// When it does not arrive there, with all that it had received; without the right to.
    pub fn put(
        &self,
        (listener, device): (BorrowedFd<'_>, u32),
        (local, peer): (SocketAddr, SocketAddr),
        waiting: &Waiting,
    ) -> Result<(), Error> {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let ends @ (local, peer) = (plain(local), plain(peer));
        let say = failed::<nix::errno::Errno>("say what was agreed on");
        let fd = listener.as_raw_fd().to_ne_bytes();
        self.listener.set(0, &fd).map_err(failed("have a program know the socket"))?;
        let mut value = [0; VALUE];
        value[..ATTRIBUTES].copy_from_slice(&waiting.attributes());
        let answered = segment::ends(local, peer);
        value[ENDS..][..answered.len()].copy_from_slice(&answered);
        self.agreed.set(0, &value).map_err(say)?;
        let _alone = Alone::make(listener).map_err(failed("take it out of its group"))?;
        let window = (waiting.window >> waiting.sent_scale.min(14)).min(u16::MAX.into()) as u16;
        let send = |number, flags, data: &[u8], priority| {
            let numbers = (number, if flags == RST { 0 } else { waiting.sent_seq });
            let packet = segment::packet(peer, local, numbers, flags, window, data);
            inject(&packet, local, priority)
        };
        let put = failed::<io::Error>("put a connection into its queue");
        let first = waiting.received_seq.wrapping_sub(waiting.received.len() as u32);
        let mut number = first;
        send(number, ACK, &[], self.cookie).map_err(&put)?;
        await_there(ends, device, 0, QUEUED).map_err(&put)?;
        let fill = failed::<io::Error>("send what it had received");
        let (mut left, mut most) = (&waiting.received[..], PIECE);
        while !left.is_empty() {
            let piece = &left[..left.len().min(most)];
            match send(number, ACK | PUSH, piece, 0) {
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) && most > SMALLEST => {
                    most /= 2;
                }
                sent => {
                    sent.map_err(&fill)?;
                    number = number.wrapping_add(piece.len() as u32);
                    left = &left[piece.len()..];
                }
            }
        }
        if waiting.ended {
            send(number, ACK | FIN, &[], 0).map_err(&fill)?;
            number = number.wrapping_add(1);
        }
        let bytes = waiting.received.len() as u32 + u32::from(waiting.ended);
        await_there(ends, device, bytes, RECEIVED).map_err(&fill)?;
        if bytes > 0 {
            // Before all that counts: the kernel says at once how far it is, and not in a moment, when nothing drops that any more.
            send(first.wrapping_sub(2), ACK, &[0], 0).map_err(&fill)?;
        }
        if waiting.reset {
            let reset = failed::<io::Error>("reset it");
            send(number, RST, &[], 0).map_err(&reset)?;
            await_gone(ends, device).map_err(&reset)?;
        }
        Ok(())
    }
}

const QUEUED: &str = "it did not arrive in the queue: the queue is full, the firewall of this machine drops what it sends to itself, or what \
                      the connection agreed on (timestamps, SACK, window scaling) is switched off here by now";
const RECEIVED: &str =
    "a segment from this machine to itself did not arrive: its firewall drops it";

const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

type Ends = (SocketAddr, SocketAddr);

/// Waits until `is_so`, which is at once but for a machine that is very busy.
fn wait(is_so: impl Fn() -> io::Result<bool>, why: &str) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() >= until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Waits until a connection has so many bytes to be read.
fn await_there((local, peer): Ends, device: u32, bytes: u32, why: &str) -> io::Result<()> {
    let is_there = || {
        let found = tcp_socket(local, peer, device)?;
        Ok(found.is_some_and(|(_, received)| received == bytes))
    };
    wait(is_there, why)
}

fn await_gone((local, peer): Ends, device: u32) -> io::Result<()> {
    wait(|| Ok(tcp_socket(local, peer, device)?.is_none()), RECEIVED)
}

/// The number of the kernel's function.
fn function() -> io::Result<u32> {
    let lacks = || io::Error::new(io::ErrorKind::Unsupported, LACKS);
    let bytes = fs::read(VMLINUX).map_err(|_| lacks())?;
    let types = Btf::parse(&bytes, &[(Named::Function, FUNCTION)])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    types.number(Named::Function, FUNCTION).ok_or_else(lacks)
}

/// A number that nobody else gives his packets as their priority.
fn cookie() -> io::Result<u32> {
    let mut bytes = [0; 4];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u32::from_ne_bytes(bytes) | 1 << 31)
}

/// For each packet that the loopback device receives: one of the priority `cookie` confirms a connection to the listener, by what was
/// agreed on; one from that connection is dropped.
fn program(listener: &ArrayMap, agreed: &ArrayMap, function: u32, cookie: u32) -> Option<Vec<u64>> {
    // include/uapi/linux/bpf.h
    const LOOK_UP: u32 = 1;
    const LOAD_BYTES: u32 = 68;
    const RELEASE: u32 = 86;
    const FROM_NETWORK_HEADER: i32 = 1;
    const NEXT: i32 = -1;
    const PASS: i32 = 0;
    const DROP: i32 = 2;
    // Places in `__sk_buff`.
    const PROTOCOL: i16 = 16;
    const PRIORITY: i16 = 32;
    let protocol = |number: i32| u32::from((number as u16).to_be());
    /// On the stack, before its end.
    const KEY: i16 = 4;
    const PACKET: i16 = KEY + ENDS_OF_6 as i16;
    let mut code = Code::default();
    let [next, drop, replies, of_6] = [(); 4].map(|()| code.place());
    let (context, socket, value, answer) = (6, 7, 9, 8);
    code.copy(context, 1).store(STACK, -KEY, 0);
    code.map(1, agreed).on_stack(2, KEY.into()).call(LOOK_UP).go_if_zero(0, next).copy(value, 0);
    code.load(2, context, PRIORITY).go_unless_word(2, cookie, replies);
    code.map(1, listener).on_stack(2, KEY.into()).call(LOOK_UP).go_if_zero(0, drop);
    code.copy(socket, 0);
    code.copy(1, context).copy(2, socket).copy(3, value).set(4, ATTRIBUTES as i32);
    code.call_kernel(function).copy(answer, 0);
    code.copy(1, socket).call(RELEASE);
    code.go_unless_word(answer, 0, drop).end(PASS);
    code.here(replies).load(2, context, PROTOCOL);
    code.go_if_word(2, protocol(libc::ETH_P_IPV6), of_6);
    code.go_unless_word(2, protocol(libc::ETH_P_IP), next);
    let compare = |code: &mut Code, offset, bytes: usize| {
        code.copy(1, context).set(2, offset).on_stack(3, PACKET.into()).set(4, bytes as i32);
        code.set(5, FROM_NETWORK_HEADER).call(LOAD_BYTES).go_unless_word(0, 0, next);
        for at in (0..bytes as i16).step_by(4) {
            code.load(2, STACK, at - PACKET).load(3, value, ENDS as i16 + at);
            code.go_if_differ(2, 3, next);
        }
        code.go(drop);
    };
    compare(&mut code, 12, ENDS_OF_4);
    code.here(of_6);
    compare(&mut code, 8, ENDS_OF_6);
    code.here(drop).end(DROP);
    code.here(next).end(NEXT);
    code.finish()
}

/// The kernel asks for no program where SYN cookies are switched off: they are switched on for as long as this is there.
#[derive(Debug)]
struct Cookies {
    were_off: bool,
}

const COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

impl Cookies {
    fn allow() -> io::Result<Self> {
        let were_off = fs::read(COOKIES)?.trim_ascii() == b"0";
        if were_off {
            fs::write(COOKIES, "1")?;
        }
        Ok(Self { were_off })
    }
}

impl Drop for Cookies {
    fn drop(&mut self) {
        if self.were_off {
            fs::write(COOKIES, "0").unwrap_or_default();
        }
    }
}

/// A listening socket that shares its port with nobody for as long as this is there: the kernel would choose another of those that do.
struct Alone<'a>(Option<BorrowedFd<'a>>);

impl<'a> Alone<'a> {
    fn make(socket: BorrowedFd<'a>) -> io::Result<Self> {
        let shares = option(socket, SOL_SOCKET, libc::SO_REUSEPORT)? != 0;
        if shares {
            set_option(socket, SOL_SOCKET, libc::SO_REUSEPORT, 0)?;
        }
        Ok(Self(shares.then_some(socket)))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.0 {
            // It could be set before.
            set_option(socket, SOL_SOCKET, libc::SO_REUSEPORT, 1).unwrap_or_default();
        }
    }
}

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;
