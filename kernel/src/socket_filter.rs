//! The classic BPF programs by which sockets choose what they receive (`SO_ATTACH_FILTER`).
//!
//! An instruction is a word, as CRIU's images have it: code, two jumps of a byte each, and a value, from the
//! highest bits down.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::sockets::filter_length;

/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MOST: usize = 4096;

fn word(instruction: &libc::sock_filter) -> u64 {
    u64::from(instruction.code) << 48
        | u64::from(instruction.jt) << 40
        | u64::from(instruction.jf) << 32
        | u64::from(instruction.k)
}

const fn instruction(word: u64) -> libc::sock_filter {
    libc::sock_filter {
        code: (word >> 48) as u16,
        jt: (word >> 40) as u8,
        jf: (word >> 32) as u8,
        k: word as u32,
    }
}

/// The instructions of the socket's filter; none without one.
///
/// # Errors
/// `EACCES` if it is an eBPF program, of which the kernel tells no more than that.
pub fn filter(socket: impl AsFd) -> io::Result<Vec<u64>> {
    let socket = socket.as_fd();
    let mut length = filter_length(socket)?;
    while length != 0 {
        let mut found = vec![instruction(0); length.min(MOST)];
        let mut room = found.len() as libc::socklen_t;
        // SAFETY: the kernel counts instructions here, not bytes: it writes as many as the filter has if
        // `room` says that there is space for them, which the vector has, and their number.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                found.as_mut_ptr().cast(),
                &raw mut room,
            )
        };
        if done == 0 && room as usize <= found.len() {
            return Ok(found[..room as usize].iter().map(word).collect());
        }
        // A running program may have put a longer one in its place meanwhile.
        let now = filter_length(socket)?;
        if now <= length {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        length = now;
    }
    Ok(Vec::new())
}

/// Has a socket filter what it receives.
///
/// # Errors
/// As setsockopt(2): `EINVAL` for what is no program.
pub fn attach(socket: impl AsFd, filter: &[u64]) -> io::Result<()> {
    let length =
        u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut instructions: Vec<libc::sock_filter> =
        filter.iter().map(|word| instruction(*word)).collect();
    let program = libc::sock_fprog { len: length, filter: instructions.as_mut_ptr() };
    // SAFETY: the kernel reads the structure and as many instructions as that says there are; both live
    // until the call returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets in what comes by the loopback interface alone, which has number 1 in every network namespace.
pub const FROM_LOOPBACK: [u64; 4] = {
    /// `SKF_AD_OFF + SKF_AD_IFINDEX`: the number of the interface.
    const INTERFACE: u64 = 0xffff_f008;
    const LOAD: u64 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u64;
    const COMPARE: u64 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u64;
    const RETURN: u64 = (libc::BPF_RET | libc::BPF_K) as u64;
    [LOAD << 48 | INTERFACE, COMPARE << 48 | 1 << 32 | 1, RETURN << 48 | 0xffff_ffff, RETURN << 48]
};

/// Takes the filter of a socket away.
///
/// # Errors
/// As setsockopt(2): `EPERM` if it is locked.
pub fn detach(socket: impl AsFd) -> io::Result<()> {
    crate::sockets::set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// `ret 0xffff`, thrice.
    const ALL: [u64; 3] = [0x0006_0000_0000_ffff; 3];

    #[test]
    fn what_is_attached_is_read() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(filter(&socket).unwrap(), []);
        attach(&socket, &ALL).unwrap();
        assert_eq!(filter(&socket).unwrap(), ALL);
        assert!(attach(&socket, &[u64::MAX]).is_err());
        assert_eq!(filter(&socket).unwrap(), ALL);
        detach(&socket).unwrap();
        assert_eq!(filter(&socket).unwrap(), []);
    }

    #[test]
    fn loopback_passes() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        attach(&socket, &FROM_LOOPBACK).unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(socket.recv(&mut [0; 2]).unwrap(), 1);
        // The same of an interface that there is not.
        let mut other = FROM_LOOPBACK;
        other[1] += 0x00ff_fff0;
        attach(&socket, &other).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert!(socket.recv(&mut [0; 2]).is_err());
    }
}
