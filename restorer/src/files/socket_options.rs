//! The options of sockets, put back.

use std::io;
use std::os::fd::OwnedFd;

use images::messages::{
    FilePermsEntry, IpOptsEntry, IpOptsRawEntry, SkOptEntry, SkOptsEntry, TcpOptsEntry,
};
use kernel::socket_names::set_interface;
use kernel::sockets::{option, set_option, set_option_bytes};
use kernel::{socket_filter, socket_names};
use libc::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use super::Error;

/// The level of raw sockets.
const SOL_RAW: i32 = 255;

const SO_BUF_LOCK: i32 = 72;

/// Sets options of one socket, and says which one failed.
struct Setter<'a> {
    socket: &'a OwnedFd,
    what: &'a str,
}

impl Setter<'_> {
    fn failed(&self, name: &str) -> impl FnOnce(io::Error) -> Error {
        let operation = format!("set {name} of {}", self.what);
        move |source| Error::Kernel { operation, source }
    }

    fn set(&self, level: i32, option: i32, name: &str, value: Option<u32>) -> Result<(), Error> {
        match value {
            Some(value) => set_option(self.socket, level, option, value).map_err(self.failed(name)),
            None => Ok(()),
        }
    }

    /// A switch that is off in a new socket.
    fn on(&self, level: i32, option: i32, name: &str, value: Option<bool>) -> Result<(), Error> {
        self.set(level, option, name, value.filter(|on| *on).map(u32::from))
    }

    /// A buffer size: the kernel doubles what it is given.
    fn buffer(&self, force: i32, plain: i32, name: &str, size: u32) -> Result<(), Error> {
        let half = size / 2;
        set_option(self.socket, SOL_SOCKET, force, half)
            .or_else(|_| set_option(self.socket, SOL_SOCKET, plain, half))
            .map_err(self.failed(name))
    }

    fn time(&self, option: i32, name: &str, seconds: u64, micros: u64) -> Result<(), Error> {
        if (seconds, micros) == (0, 0) {
            return Ok(());
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seconds.to_ne_bytes());
        bytes[8..].copy_from_slice(&micros.to_ne_bytes());
        set_option_bytes(self.socket, SOL_SOCKET, option, &bytes).map_err(self.failed(name))
    }
}

/// Room for what is queued: more than any queue was.
pub(super) fn make_room(socket: &OwnedFd, bytes: usize, what: &str) -> Result<(), Error> {
    let setter = Setter { socket, what };
    setter.buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, "SO_SNDBUF", room(bytes))
}

/// Room for what is put where it would have been received.
pub(super) fn make_room_to_receive(
    socket: &OwnedFd,
    bytes: usize,
    what: &str,
) -> Result<(), Error> {
    let setter = Setter { socket, what };
    setter.buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, "SO_RCVBUF", room(bytes))
}

fn room(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX / 4).saturating_mul(4).clamp(1 << 20, 1 << 30)
}

/// Room for what is to wait in a socket: more than it was.
pub(super) fn room_to_receive(socket: &OwnedFd, bytes: usize, what: &str) -> Result<(), Error> {
    let setter = Setter { socket, what };
    // A packet takes more room than its bytes.
    let size = u32::try_from(bytes).unwrap_or(u32::MAX / 8).saturating_mul(8).max(1 << 21);
    setter.buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, "SO_RCVBUF", size.min(1 << 30))
}

/// What counts when a socket is bound.
pub(super) fn before_bind(
    socket: &OwnedFd,
    options: &SkOptsEntry,
    what: &str,
) -> Result<(), Error> {
    let setter = Setter { socket, what };
    setter.on(SOL_SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT", options.so_reuseport)?;
    match options.so_bound_dev.as_deref() {
        Some(device) if !device.is_empty() => {
            set_option_bytes(socket, SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())
                .map_err(setter.failed("SO_BINDTODEVICE"))
        }
        _ => Ok(()),
    }
}

/// The sizes of a socket's buffers when nobody has set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffers {
    send: u32,
    receive: u32,
}

impl Buffers {
    /// Those of a new socket.
    pub(super) fn of(socket: &OwnedFd) -> io::Result<Self> {
        let size = |name| option(socket, SOL_SOCKET, name);
        Ok(Self { send: size(libc::SO_SNDBUF)?, receive: size(libc::SO_RCVBUF)? })
    }

    /// Those of the images, where they say that nobody had set them.
    fn wanted(options: &SkOptsEntry) -> Option<Self> {
        let free = options.so_buf_lock == Some(0);
        free.then_some(Self { send: options.so_sndbuf, receive: options.so_rcvbuf })
    }
}

/// Owner and mode of a socket or pipe.
pub(super) fn inode(
    file: &OwnedFd,
    wanted: Option<&FilePermsEntry>,
    what: &str,
) -> Result<(), Error> {
    let Some(wanted) = wanted else { return Ok(()) };
    let failed = |errno| Error::kernel(format!("set owner and mode of {what}"), errno);
    let (user, group) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
    fchown(file, Some(user), Some(group)).map_err(failed)?;
    fchmod(file, Mode::from_bits_truncate(wanted.mode & 0o7777)).map_err(failed)
}

/// The options that sockets of every family have. `untouched` says how large the socket's buffers
/// are when nothing was done to them yet.
pub(super) fn all(
    socket: &OwnedFd,
    options: &SkOptsEntry,
    untouched: Option<Buffers>,
    what: &str,
) -> Result<(), Error> {
    inode(socket, options.inode.as_ref(), what)?;
    let setter = Setter { socket, what };
    if untouched.is_none() || Buffers::wanted(options) != untouched {
        setter.buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, "SO_SNDBUF", options.so_sndbuf)?;
        setter.buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, "SO_RCVBUF", options.so_rcvbuf)?;
        setter.set(SOL_SOCKET, SO_BUF_LOCK, "SO_BUF_LOCK", options.so_buf_lock)?;
    }
    let base = |option, name, value| setter.set(SOL_SOCKET, option, name, value);
    let on = |option, name, value| setter.on(SOL_SOCKET, option, name, value);
    base(libc::SO_PRIORITY, "SO_PRIORITY", options.so_priority.filter(|it| *it != 0))?;
    base(libc::SO_RCVLOWAT, "SO_RCVLOWAT", options.so_rcvlowat.filter(|it| *it != 1))?;
    base(libc::SO_MARK, "SO_MARK", options.so_mark.filter(|it| *it != 0))?;
    on(libc::SO_PASSCRED, "SO_PASSCRED", options.so_passcred)?;
    on(libc::SO_PASSSEC, "SO_PASSSEC", options.so_passsec)?;
    on(libc::SO_DONTROUTE, "SO_DONTROUTE", options.so_dontroute)?;
    on(libc::SO_NO_CHECK, "SO_NO_CHECK", options.so_no_check)?;
    on(libc::SO_BROADCAST, "SO_BROADCAST", options.so_broadcast)?;
    on(libc::SO_KEEPALIVE, "SO_KEEPALIVE", options.so_keepalive)?;
    base(libc::SO_OOBINLINE, "SO_OOBINLINE", options.so_oobinline.filter(|it| *it != 0))?;
    on(libc::SO_REUSEADDR, "SO_REUSEADDR", options.reuseaddr)?;
    if let Some(seconds) = options.so_linger {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[4..].copy_from_slice(&seconds.to_ne_bytes());
        set_option_bytes(socket, SOL_SOCKET, libc::SO_LINGER, &bytes)
            .map_err(setter.failed("SO_LINGER"))?;
    }
    setter.set(SOL_TCP, libc::TCP_KEEPCNT, "TCP_KEEPCNT", options.tcp_keepcnt)?;
    setter.set(SOL_TCP, libc::TCP_KEEPIDLE, "TCP_KEEPIDLE", options.tcp_keepidle)?;
    setter.set(SOL_TCP, libc::TCP_KEEPINTVL, "TCP_KEEPINTVL", options.tcp_keepintvl)?;
    let (seconds, micros) = (options.so_snd_tmo_sec, options.so_snd_tmo_usec);
    setter.time(libc::SO_SNDTIMEO, "SO_SNDTIMEO", seconds, micros)?;
    let (seconds, micros) = (options.so_rcv_tmo_sec, options.so_rcv_tmo_usec);
    setter.time(libc::SO_RCVTIMEO, "SO_RCVTIMEO", seconds, micros)
}

/// The options that CRIU has no place for. Some count when a socket is bound, and none minds
/// being set before.
pub(super) fn others(socket: &OwnedFd, options: &SkOptsEntry, what: &str) -> Result<(), Error> {
    let setter = Setter { socket, what };
    for option in options.others.iter().filter(|option| !is_lock(option)) {
        let (level, number) = (option.level.cast_signed(), option.name.cast_signed());
        let Some(known) = socket_names::find(level, number) else {
            let reason = format!("option {number} of level {level} is not known");
            return Err(Error::image(what, reason));
        };
        let mut value = option.value.clone();
        if let Some(interface) = &option.interface {
            let found = nix::net::if_::if_nametoindex(interface.as_str()).map_err(|errno| {
                Error::kernel(
                    format!("find interface {interface} of {} of {what}", known.name),
                    errno,
                )
            })?;
            if !set_interface((level, number), &mut value, found) {
                let reason = format!("{} names an interface", known.name);
                return Err(Error::image(what, reason));
            }
        }
        let level = level_to_set((level, number));
        set_option_bytes(socket, level, number, &value).map_err(setter.failed(known.name))?;
    }
    Ok(())
}

/// The level at which an option is set. That of ICMPv6 sockets for checksums is set at that of raw sockets alone.
fn level_to_set((level, number): (i32, i32)) -> i32 {
    const IPV6_CHECKSUM: (i32, i32) = (SOL_IPV6, 7);
    if (level, number) == IPV6_CHECKSUM { SOL_RAW } else { level }
}

/// Whether an option forbids to change the filter (`SO_LOCK_FILTER`).
fn is_lock(option: &SkOptEntry) -> bool {
    const SO_LOCK_FILTER: i32 = 44;
    (option.level.cast_signed(), option.name.cast_signed()) == (SOL_SOCKET, SO_LOCK_FILTER)
}

/// The program by which a socket chooses what it receives: set before anything can come that it would not
/// have taken, and after what is put back into its queue.
pub(super) fn filter(socket: &OwnedFd, options: &SkOptsEntry, what: &str) -> Result<(), Error> {
    let setter = Setter { socket, what };
    if !options.so_filter.is_empty() {
        socket_filter::attach(socket, &options.so_filter)
            .map_err(setter.failed("SO_ATTACH_FILTER"))?;
    }
    let mut locks = options.others.iter().filter(|option| is_lock(option));
    locks.try_for_each(|lock| {
        let (level, number) = (lock.level.cast_signed(), lock.name.cast_signed());
        set_option_bytes(socket, level, number, &lock.value)
            .map_err(setter.failed("SO_LOCK_FILTER"))
    })
}

/// The options of IP.
pub(super) fn ip(
    socket: &OwnedFd,
    options: &IpOptsEntry,
    v6: bool,
    what: &str,
) -> Result<(), Error> {
    let setter = Setter { socket, what };
    if v6 {
        setter.on(SOL_IPV6, libc::IPV6_FREEBIND, "IPV6_FREEBIND", options.freebind)?;
        return setter.on(SOL_IPV6, libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO", options.pktinfo);
    }
    setter.on(SOL_IP, libc::IP_FREEBIND, "IP_FREEBIND", options.freebind)?;
    setter.on(SOL_IP, libc::IP_PKTINFO, "IP_PKTINFO", options.pktinfo)?;
    setter.set(SOL_IP, libc::IP_TOS, "IP_TOS", options.tos)?;
    setter.set(SOL_IP, libc::IP_TTL, "IP_TTL", options.ttl)
}

/// Lets a socket bind to addresses that are not there, or no more.
pub(super) fn free_bind(socket: &OwnedFd, family: i32, on: bool) -> io::Result<()> {
    match family {
        libc::AF_INET6 => set_option(socket, SOL_IPV6, libc::IPV6_FREEBIND, on.into()),
        _ => set_option(socket, SOL_IP, libc::IP_FREEBIND, on.into()),
    }
}

/// The options of a raw socket of a protocol, of IPv6 or not.
pub(super) fn raw(
    socket: &OwnedFd,
    options: &IpOptsRawEntry,
    (v6, protocol): (bool, i32),
    what: &str,
) -> Result<(), Error> {
    const SOL_ICMPV6: i32 = 58;
    const ICMP_FILTER: i32 = 1;
    const IPV6_HDRINCL: i32 = 36;
    const IP_NODEFRAG: i32 = 22;
    let setter = Setter { socket, what };
    let included = options.hdrincl.map(u32::from);
    match v6 {
        true => setter.set(SOL_IPV6, IPV6_HDRINCL, "IPV6_HDRINCL", included)?,
        false => setter.set(SOL_IP, libc::IP_HDRINCL, "IP_HDRINCL", included)?,
    }
    setter.on(SOL_IP, IP_NODEFRAG, "IP_NODEFRAG", options.nodefrag)?;
    let level = match (v6, protocol) {
        (false, libc::IPPROTO_ICMP) => SOL_RAW,
        (true, libc::IPPROTO_ICMPV6) => SOL_ICMPV6,
        _ => return Ok(()),
    };
    let filter: Vec<u8> = options.icmpv_filter.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match filter.is_empty() {
        true => Ok(()),
        false => set_option_bytes(socket, level, ICMP_FILTER, &filter)
            .map_err(setter.failed("the ICMP filter")),
    }
}

/// The options of TCP.
pub(super) fn tcp(socket: &OwnedFd, options: &TcpOptsEntry, what: &str) -> Result<(), Error> {
    let setter = Setter { socket, what };
    setter.on(SOL_TCP, libc::TCP_CORK, "TCP_CORK", options.cork)?;
    setter.on(SOL_TCP, libc::TCP_NODELAY, "TCP_NODELAY", options.nodelay)?;
    setter.set(SOL_TCP, libc::TCP_KEEPCNT, "TCP_KEEPCNT", options.keepcnt)?;
    setter.set(SOL_TCP, libc::TCP_KEEPIDLE, "TCP_KEEPIDLE", options.keepidle)?;
    setter.set(SOL_TCP, libc::TCP_KEEPINTVL, "TCP_KEEPINTVL", options.keepintvl)
}
