//! The options that sockets of every family have, and those of IP and TCP.

use std::os::fd::BorrowedFd;

use images::messages::{FilePermsEntry, IpOptsEntry, SkOptsEntry, TcpOptsEntry};
use kernel::socket_filter;
use kernel::sockets::{option, option_bytes};
use libc::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};

use super::problem::{Doing, Problem};

/// `SO_BUF_LOCK`: which buffer sizes the program has set itself.
const SO_BUF_LOCK: i32 = 72;

fn number(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<u32, Problem> {
    option(socket, level, name).doing("get socket option of")
}

fn boolean(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<Option<bool>, Problem> {
    number(socket, level, name).map(|value| Some(value != 0))
}

/// Two 64-bit numbers: seconds and microseconds.
fn time(socket: BorrowedFd<'_>, name: i32) -> Result<(u64, u64), Problem> {
    let mut bytes = [0; 16];
    option_bytes(socket, SOL_SOCKET, name, &mut bytes).doing("get socket time-out of")?;
    let [seconds, micros] = [&bytes[..8], &bytes[8..]]
        .map(|half| half.iter().rev().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte)));
    Ok((seconds, micros))
}

fn bound_device(socket: BorrowedFd<'_>) -> Result<Option<String>, Problem> {
    let mut name = [0; libc::IFNAMSIZ];
    let length = option_bytes(socket, SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name)
        .doing("get bound device of")?;
    let name = name[..length].split(|&byte| byte == 0).next().unwrap_or_default();
    Ok((!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()))
}

/// `SO_LINGER`: seconds when it is on.
fn linger(socket: BorrowedFd<'_>) -> Result<Option<u32>, Problem> {
    let mut bytes = [0; 8];
    option_bytes(socket, SOL_SOCKET, libc::SO_LINGER, &mut bytes).doing("get linger of")?;
    let on = bytes[..4] != [0; 4];
    Ok(on.then(|| u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])))
}

/// The program by which a socket chooses what it receives.
fn filter(socket: BorrowedFd<'_>) -> Result<Vec<u64>, Problem> {
    match socket_filter::filter(socket) {
        // Of an eBPF program the kernel tells only that it is there.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            Err(Problem::Refused(support::sockets::EBPF_FILTER))
        }
        found => found.doing("get filter of"),
    }
}

/// The options that sockets of every family have; those that tell of senders, which a few families have, if
/// `told` says so.
pub(super) fn options(socket: BorrowedFd<'_>, told: bool) -> Result<SkOptsEntry, Problem> {
    let so_filter = filter(socket)?;
    let (so_snd_tmo_sec, so_snd_tmo_usec) = time(socket, libc::SO_SNDTIMEO)?;
    let (so_rcv_tmo_sec, so_rcv_tmo_usec) = time(socket, libc::SO_RCVTIMEO)?;
    let base = |name| number(socket, SOL_SOCKET, name);
    let flag = |name| boolean(socket, SOL_SOCKET, name);
    Ok(SkOptsEntry {
        so_sndbuf: base(libc::SO_SNDBUF)?,
        so_rcvbuf: base(libc::SO_RCVBUF)?,
        so_snd_tmo_sec,
        so_snd_tmo_usec,
        so_rcv_tmo_sec,
        so_rcv_tmo_usec,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_priority: Some(base(libc::SO_PRIORITY)?),
        so_rcvlowat: Some(base(libc::SO_RCVLOWAT)?),
        so_mark: Some(base(libc::SO_MARK)?).filter(|mark| *mark != 0),
        so_passcred: if told { flag(libc::SO_PASSCRED)? } else { None },
        so_passsec: if told { flag(libc::SO_PASSSEC)? } else { None },
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_no_check: flag(libc::SO_NO_CHECK)?,
        so_bound_dev: bound_device(socket)?,
        so_filter,
        so_reuseport: flag(libc::SO_REUSEPORT)?,
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        tcp_keepcnt: None,
        tcp_keepidle: None,
        tcp_keepintvl: None,
        so_oobinline: Some(base(libc::SO_OOBINLINE)?),
        so_linger: linger(socket)?,
        // Kernels before 5.15 do not tell; their buffers are then taken as set by the program.
        so_buf_lock: option(socket, SOL_SOCKET, SO_BUF_LOCK).ok(),
        others: Vec::new(),
        inode: inode(socket, 0o777)?,
    })
}

/// Owner and mode of a socket or pipe, unless it is as root makes it.
pub(super) fn inode(file: BorrowedFd<'_>, usual: u32) -> Result<Option<FilePermsEntry>, Problem> {
    let stat = nix::sys::stat::fstat(file).doing("stat")?;
    let is_usual = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (0, 0, usual);
    let found = FilePermsEntry { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid };
    Ok((!is_usual).then_some(found))
}

/// The options of IP.
pub(super) fn ip(socket: BorrowedFd<'_>, v6: bool) -> Result<IpOptsEntry, Problem> {
    let set =
        |level, name| number(socket, level, name).map(|value| Some(value != 0).filter(|on| *on));
    let value = |name| number(socket, SOL_IP, name).map(|value| Some(value).filter(|it| *it != 0));
    if v6 {
        return Ok(IpOptsEntry {
            freebind: set(SOL_IPV6, libc::IPV6_FREEBIND)?,
            raw: None,
            pktinfo: set(SOL_IPV6, libc::IPV6_RECVPKTINFO)?,
            tos: None,
            ttl: None,
        });
    }
    Ok(IpOptsEntry {
        freebind: set(SOL_IP, libc::IP_FREEBIND)?,
        raw: None,
        pktinfo: set(SOL_IP, libc::IP_PKTINFO)?,
        tos: value(libc::IP_TOS)?,
        ttl: value(libc::IP_TTL)?,
    })
}

/// The options of TCP.
pub(super) fn tcp(socket: BorrowedFd<'_>) -> Result<TcpOptsEntry, Problem> {
    let value = |name| number(socket, SOL_TCP, name);
    if value(libc::TCP_REPAIR)? != 0 {
        return Err(Problem::Refused(support::sockets::REPAIRED));
    }
    let set = |name| value(name).map(|value| Some(value != 0).filter(|on| *on));
    Ok(TcpOptsEntry {
        cork: set(libc::TCP_CORK)?,
        nodelay: set(libc::TCP_NODELAY)?,
        keepcnt: Some(value(libc::TCP_KEEPCNT)?),
        keepidle: Some(value(libc::TCP_KEEPIDLE)?),
        keepintvl: Some(value(libc::TCP_KEEPINTVL)?),
    })
}

/// Domain, type and protocol.
pub(super) fn family(socket: BorrowedFd<'_>) -> Result<(i32, i32, i32), Problem> {
    let get = |name| number(socket, SOL_SOCKET, name).map(u32::cast_signed);
    Ok((get(libc::SO_DOMAIN)?, get(libc::SO_TYPE)?, get(libc::SO_PROTOCOL)?))
}
