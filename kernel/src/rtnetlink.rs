//! rtnetlink(7): devices, addresses, routes and rules of the calling thread's network namespace, as messages.
//!
//! A door is in the namespace in which it was opened, wherever the thread goes afterwards. Messages are passed on as
//! bytes, because the images hold them so; [`Message`] is their one form that is checked.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{Socket, SocketAddr};

use crate::sock_diag::{half, word};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The list changed while it was being sent.
const INTERRUPTED: u16 = 0x10;
/// An attribute holds others.
const NESTED: u16 = 0x8000;

/// Bytes of the longest value of an attribute.
const LONGEST: usize = u16::MAX as usize - 4;

/// A message: its kind and flags, the fixed part, and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `RTM_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The fixed part.
    pub fixed: Vec<u8>,
    /// The attributes, in their order.
    pub attributes: Vec<Attribute>,
}

/// An attribute of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its number, without flags.
    pub kind: u16,
    /// Its value.
    pub value: Vec<u8>,
}

impl Attribute {
    /// One with this value.
    #[must_use]
    pub fn new(kind: u16, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: value.into() }
    }

    /// One that holds others.
    #[must_use]
    pub fn of(kind: u16, inner: &[Self]) -> Self {
        let mut value = Vec::new();
        inner.iter().for_each(|attribute| attribute.write(&mut value));
        Self { kind: kind | NESTED, value }
    }

    /// The attributes that it holds; `None` if it holds anything else.
    #[must_use]
    pub fn inner(&self) -> Option<Vec<Self>> {
        Self::read_all(&self.value)
    }

    /// The value as a number of 32 bits.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        word(&self.value, 0)
    }

    /// The value as a text, which ends in 0.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).ok()
    }

    /// Reads attributes that fill `bytes`.
    #[must_use]
    pub fn read_all(mut bytes: &[u8]) -> Option<Vec<Self>> {
        const HEADER: usize = 4;
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = usize::from(half(bytes, 0)?);
            let kind = half(bytes, 2)? & 0x3fff;
            found.push(Self { kind, value: bytes.get(HEADER..length)?.to_vec() });
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(found)
    }

    /// Adds its bytes to those of others. Of a value that is longer than its length can tell the rest is left out:
    /// it would be read as attributes of its own.
    pub fn write(&self, to: &mut Vec<u8>) {
        let value = &self.value[..self.value.len().min(LONGEST)];
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        to.extend_from_slice(&length.to_ne_bytes());
        to.extend_from_slice(&self.kind.to_ne_bytes());
        to.extend_from_slice(value);
        to.resize(to.len().next_multiple_of(4), 0);
    }
}

impl Message {
    /// The first attribute of a kind.
    #[must_use]
    pub fn attribute(&self, kind: u16) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.kind == kind)
    }

    /// Reads messages with a fixed part of `fixed` bytes, one after another; `None` if they are none.
    #[must_use]
    pub fn read_all(mut bytes: &[u8], fixed: usize) -> Option<Vec<Self>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = word(bytes, 0)? as usize;
            let message = bytes.get(..length)?;
            found.push(Self {
                kind: half(message, 4)?,
                flags: half(message, 6)?,
                fixed: message.get(HEADER..HEADER + fixed)?.to_vec(),
                attributes: Attribute::read_all(message.get(HEADER + fixed..)?)?,
            });
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(found)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(&self.fixed);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.attributes.iter().for_each(|attribute| attribute.write(&mut bytes));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_ne_bytes());
        bytes
    }
}

/// A way to talk to the kernel about a network namespace.
#[derive(Debug)]
pub struct Rtnetlink(Socket);

impl Rtnetlink {
    /// One into the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel has no support for it.
    pub fn open() -> io::Result<Self> {
        Self::of(NETLINK_ROUTE)
    }

    /// One to netfilter.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_netfilter() -> io::Result<Self> {
        Self::of(NETLINK_NETFILTER)
    }

    /// One to the kernel's IPsec.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_ipsec() -> io::Result<Self> {
        Self::of(NETLINK_XFRM)
    }

    fn of(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The bytes of all messages of a list that is asked for by `kind` and a fixed part.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub fn list(&self, kind: u16, fixed: &[u8]) -> io::Result<Vec<u8>> {
        const TRIES: u32 = 16;
        for _ in 0..TRIES {
            if let Some(list) = self.list_once(kind, fixed)? {
                return Ok(list);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the list changes all the time"))
    }

    fn list_once(&self, kind: u16, fixed: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.ask(kind, NLM_F_REQUEST | NLM_F_DUMP, fixed, &[])?;
        let (mut list, mut is_whole) = (Vec::new(), true);
        loop {
            let answer = self.receive()?;
            for message in messages(&answer) {
                let message = message?;
                is_whole &= half(message, 6).unwrap_or(0) & INTERRUPTED == 0;
                match half(message, 4).unwrap_or(0) {
                    DONE => return Ok(is_whole.then_some(list)),
                    ERROR => return Err(error(message).unwrap_or_else(malformed)),
                    _ => {
                        list.extend_from_slice(message);
                        list.resize(list.len().next_multiple_of(4), 0);
                    }
                }
            }
        }
    }

    /// Has the kernel do something.
    ///
    /// # Errors
    /// What it answers.
    pub fn request(&self, message: &Message) -> io::Result<()> {
        let flags = message.flags | NLM_F_REQUEST | NLM_F_ACK;
        self.ask(message.kind, flags, &message.fixed, &message.attributes)?;
        let answer = self.receive()?;
        let first = messages(&answer).next().unwrap_or_else(|| Err(malformed()))?;
        match half(first, 4) {
            Some(ERROR) => error(first).map_or(Ok(()), Err),
            _ => Err(malformed()),
        }
    }

    /// Asks for one message.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn get(&self, message: &Message) -> io::Result<Vec<u8>> {
        self.ask(message.kind, NLM_F_REQUEST, &message.fixed, &message.attributes)?;
        let answer = self.receive()?;
        let first = messages(&answer).next().unwrap_or_else(|| Err(malformed()))?;
        match half(first, 4) {
            Some(ERROR) => Err(error(first).unwrap_or_else(malformed)),
            _ => Ok(first.to_vec()),
        }
    }

    fn ask(&self, kind: u16, flags: u16, fixed: &[u8], with: &[Attribute]) -> io::Result<()> {
        let message = Message { kind, flags, fixed: fixed.to_vec(), attributes: with.to_vec() };
        let bytes = message.bytes();
        let sent = self.0.send(&bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(malformed()) }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0_u8; 256 << 10];
        let size = self.0.recv(&mut &mut buffer[..], 0)?;
        buffer.truncate(size);
        Ok(buffer)
    }
}

/// Hears of every change of a network namespace's devices, addresses, routes, rules and nftables.
#[derive(Debug)]
pub struct Watch {
    route: Socket,
    netfilter: Option<Socket>,
}

impl Watch {
    /// Of the calling thread's namespace, from now on.
    ///
    /// # Errors
    /// When the kernel has no support for it.
    pub fn begin() -> io::Result<Self> {
        // RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE.
        const CHANGES: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];
        const NFNLGRP_NFTABLES: u32 = 7;
        let listen = |protocol, groups: &[u32]| {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            for group in groups {
                socket.add_membership(*group)?;
            }
            socket.set_non_blocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        Ok(Self {
            route: listen(NETLINK_ROUTE, &CHANGES)?,
            netfilter: listen(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]).ok(),
        })
    }

    /// Whether nothing has changed, but for tables that lock connections for a dump or restore.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        is_quiet(&self.route, |_| false)
            && self.netfilter.as_ref().is_none_or(|socket| is_quiet(socket, is_of_locks))
    }
}

/// Whether all that a socket has heard is `no_matter`.
fn is_quiet(socket: &Socket, no_matter: impl Fn(&Message) -> bool) -> bool {
    /// Bytes of `struct nfgenmsg`. What has another fixed part counts in any case.
    const GENERAL: usize = 4;
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            Ok(size) => match Message::read_all(&buffer[..size], GENERAL) {
                Some(heard) if heard.iter().all(&no_matter) => {}
                _ => return false,
            },
        }
    }
}

/// Whether a message of nftables is of a table by which connections are locked.
fn is_of_locks(message: &Message) -> bool {
    /// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_NEWGEN`: that something has changed, which others tell.
    const NEW_GENERATION: u16 = 10 << 8 | 15;
    /// Of every other message the name of its table.
    const TABLE: u16 = 1;
    let table = message.attribute(TABLE).and_then(Attribute::text);
    message.kind == NEW_GENERATION || table.is_some_and(|name| name.starts_with("CRIU-"))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer of netlink is not understood")
}

/// What an error says; `None` for "done".
fn error(message: &[u8]) -> Option<io::Error> {
    match word(message, HEADER)?.cast_signed() {
        0 => None,
        number => Some(io::Error::from_raw_os_error(number.wrapping_neg())),
    }
}

/// The messages of one datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<&[u8]>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let length = word(bytes, 0)? as usize;
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= HEADER) else {
            bytes = &[];
            return Some(Err(malformed()));
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GET_LINK: u16 = 18;

    #[test]
    fn the_loopback_device_is_listed() {
        const NAME: u16 = 3;
        let door = Rtnetlink::open().unwrap();
        let list = door.list(GET_LINK, &[0; 16]).unwrap();
        let links = Message::read_all(&list, 16).unwrap();
        let names = links.iter().filter_map(|link| link.attribute(NAME)?.text());
        assert!(names.into_iter().any(|name| name == "lo"));
        let one = links.first().unwrap();
        assert_eq!(Message::read_all(&one.bytes(), 16).unwrap().first(), Some(one));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let door = Rtnetlink::open().unwrap();
        let fixed = [&[0; 4][..], &0x7fff_fff0_u32.to_ne_bytes(), &[0; 8]].concat();
        let message = Message { kind: GET_LINK, flags: 0, fixed, attributes: Vec::new() };
        assert_eq!(door.get(&message).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn attributes_hold_others() {
        let inner = [Attribute::new(1, *b"dummy"), Attribute::new(2, 7_u32.to_ne_bytes())];
        let outer = Attribute::of(18, &inner);
        assert_eq!(outer.inner().unwrap(), inner);
        assert_eq!((inner[0].text(), inner[1].number()), (Some("dummy"), Some(7)));
    }

    #[test]
    fn a_long_value_hides_no_attributes() {
        let hidden = Attribute::new(19, 1_u32.to_ne_bytes());
        let mut value = vec![0; LONGEST + 1];
        hidden.write(&mut value);
        let mut bytes = Vec::new();
        Attribute::new(18, value).write(&mut bytes);
        let read = Attribute::read_all(&bytes).unwrap();
        assert_eq!((read.len(), read[0].value.len()), (1, LONGEST));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in Message::read_all(&bytes, 12).unwrap_or_default() {
                prop_assert!(message.bytes().len() >= HEADER + 12);
            }
            let attributes = Attribute::read_all(&bytes).unwrap_or_default();
            prop_assert!(attributes.len() <= bytes.len() / 4);
        }
    }
}
