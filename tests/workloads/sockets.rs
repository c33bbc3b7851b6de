//! Sockets as the kernel has them: numbers and bytes.

use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::stage::check;

fn length<T: ?Sized>(of: &T) -> libc::socklen_t {
    size_of_val(of) as libc::socklen_t
}

/// A socket that waits for half a minute at most, so that a test ends that goes wrong.
pub(crate) fn new(family: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: takes integers.
    let fd = check(unsafe { libc::socket(family, kind, protocol) })
        .unwrap_or_else(|error| panic!("socket {family}, {kind}, {protocol}: {error}"));
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) fn set_bytes(socket: &impl AsFd, level: i32, option: i32, value: &[u8]) -> Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the value, whose length is given.
    check(unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), length(value)) })
        .map(drop)
}

pub(crate) fn set(socket: &impl AsFd, level: i32, option: i32, value: u32) {
    set_bytes(socket, level, option, &value.to_ne_bytes())
        .unwrap_or_else(|error| panic!("option {option} of level {level}: {error}"));
}

pub(crate) fn get_bytes<const LENGTH: usize>(
    socket: &impl AsFd,
    level: i32,
    option: i32,
) -> [u8; LENGTH] {
    let (mut value, mut bytes) = ([0; LENGTH], LENGTH as libc::socklen_t);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most as many bytes as there are.
    let done =
        unsafe { libc::getsockopt(fd, level, option, value.as_mut_ptr().cast(), &raw mut bytes) };
    check(done).unwrap_or_else(|error| panic!("option {option} of level {level}: {error}"));
    value
}

pub(crate) fn get(socket: &impl AsFd, level: i32, option: i32) -> u32 {
    u32::from_ne_bytes(get_bytes(socket, level, option))
}

pub(crate) fn bind(socket: &impl AsFd, address: &[u8]) {
    try_bind(socket, address).expect("bind");
}

pub(crate) fn try_bind(socket: &impl AsFd, address: &[u8]) -> Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the address, whose length is given.
    check(unsafe { libc::bind(fd, address.as_ptr().cast(), length(address)) }).map(drop)
}

pub(crate) fn connect(socket: &impl AsFd, address: &[u8]) {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the address, whose length is given.
    check(unsafe { libc::connect(fd, address.as_ptr().cast(), length(address)) }).expect("connect");
}

type Name =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn named(call: Name, socket: &impl AsFd) -> Result<Vec<u8>> {
    let mut bytes = vec![0_u8; 128];
    let mut room = length(&bytes[..]);
    // SAFETY: the kernel writes at most as many bytes as there are.
    check(unsafe { call(socket.as_fd().as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut room) })?;
    bytes.truncate(room as usize);
    Ok(bytes)
}

/// The address that a socket is bound to, with its family.
pub(crate) fn name(socket: &impl AsFd) -> Vec<u8> {
    named(libc::getsockname, socket).expect("getsockname")
}

/// The address that a socket is connected to.
pub(crate) fn connected_to(socket: &impl AsFd) -> Result<Vec<u8>> {
    named(libc::getpeername, socket)
}

pub(crate) fn send(socket: &impl AsFd, bytes: &[u8]) -> Result<usize> {
    send_with(socket, bytes, 0)
}

pub(crate) fn send_with(socket: &impl AsFd, bytes: &[u8], flags: i32) -> Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the bytes, whose number is given.
    sent(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

pub(crate) fn send_to(socket: &impl AsFd, bytes: &[u8], address: &[u8]) -> Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let to = address.as_ptr().cast();
    // SAFETY: the kernel reads bytes and address, whose lengths are given.
    sent(unsafe { libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, to, length(address)) })
}

/// Waits for a message, for 10 seconds at most.
pub(crate) fn receive(socket: &impl AsFd, bytes: &mut [u8]) -> Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure is passed.
    if check(unsafe { libc::poll(&raw mut asked, 1, 10_000) })? == 0 {
        return Err(Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    // SAFETY: the kernel writes at most as many bytes as there are.
    sent(unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) })
}

/// What waits, at once, and whom it is from.
pub(crate) fn receive_from(socket: &impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<u8>)> {
    let mut sender = vec![0_u8; 128];
    let mut room = length(&sender[..]);
    // SAFETY: the kernel writes at most as many bytes as there are in each.
    let count = sent(unsafe {
        libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
            sender.as_mut_ptr().cast(),
            &raw mut room,
        )
    })?;
    sender.truncate(room as usize);
    Ok((count, sender))
}

/// Whether nothing waits.
pub(crate) fn is_silent(socket: &impl AsFd) -> bool {
    let mut asked =
        libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure is passed, and the call does not wait.
    check(unsafe { libc::poll(&raw mut asked, 1, 0) }).expect("poll") == 0
}

fn sent(bytes: isize) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::last_os_error())
}

/// `sockaddr_in`.
pub(crate) fn ipv4(address: [u8; 4], port: u16) -> Vec<u8> {
    let family = (libc::AF_INET as u16).to_ne_bytes();
    [&family[..], &port.to_be_bytes(), &address, &[0; 8]].concat()
}

/// `sockaddr_in6`.
pub(crate) fn ipv6(address: std::net::Ipv6Addr, port: u16) -> Vec<u8> {
    let family = (libc::AF_INET6 as u16).to_ne_bytes();
    [&family[..], &port.to_be_bytes(), &[0; 4], &address.octets(), &[0; 4]].concat()
}
