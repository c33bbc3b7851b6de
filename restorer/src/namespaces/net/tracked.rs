//! Connections that the firewall of a namespace tracks: what it lets through is told by them, and whose addresses it has
//! translated.
//!
//! The kernel tells of a translation by the two directions of a connection alone, and is told of it by itself. Of a connection of TCP it
//! does not tell which numbers it has seen, so that it is told not to judge by those.

use std::io;

use kernel::rtnetlink::{Attribute, Message, Rtnetlink};

use super::failed::failed;
use crate::error::Error;

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 1 << 8;
/// Bytes of `struct nfgenmsg`.
const GENERAL: usize = 4;

// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL: u16 = 4;
const TRANSLATED_SOURCE: u16 = 6;
const TRANSLATED_DESTINATION: u16 = 13;
const MASTER: u16 = 14;

/// What a connection is made with: both directions, status, protocol, helper, timeout, mark, the connection that it was expected by,
/// changes of numbers, zone, labels, proxy. The rest is the kernel's own: counters, ids, times.
const TOLD: [u16; 13] = [ORIGINAL, REPLY, STATUS, PROTOCOL, 5, 7, 8, MASTER, 15, 16, 18, 22, 24];

/// `IPS_EXPECTED`, which the kernel sets with [`MASTER`].
const EXPECTED: u32 = 1;
/// `IPS_SRC_NAT`.
const HAS_SOURCE: u32 = 1 << 4;
/// `IPS_DST_NAT`.
const HAS_DESTINATION: u32 = 1 << 5;
/// `IPS_DYING`.
const DYING: u32 = 1 << 9;

/// Reads the messages of an image.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Message>, String> {
    let messages = Message::read_all(bytes, GENERAL).ok_or("its messages are none")?;
    match messages.iter().find(|message| message.kind != NEW) {
        Some(other) => Err(format!("it has a message of kind {}", other.kind)),
        None => Ok(messages),
    }
}

/// Has the namespace of this thread track connections. Those that others were expected by come first.
pub(super) fn restore(messages: &[Message]) -> Result<(), Error> {
    const CREATE: u16 = 0x400;
    if messages.is_empty() {
        return Ok(());
    }
    let door = Rtnetlink::open_netfilter().map_err(failed("ask for tracked connections"))?;
    let is_expected = |message: &&Message| message.attribute(MASTER).is_some();
    let (expected, first): (Vec<_>, Vec<_>) = messages.iter().partition(is_expected);
    for message in first.into_iter().chain(expected) {
        let Some(told) = told(message) else { continue };
        match door.request(&Message { flags: CREATE, ..told }) {
            // Who expected it has gone.
            Err(error) if is_expected(&message) && is_absent(&error) => {}
            done => done.map_err(failed("track a connection"))?,
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// What the kernel is told of a connection; `None` of one that is going.
fn told(message: &Message) -> Option<Message> {
    let status = message.attribute(STATUS).and_then(number).unwrap_or(0);
    if status & DYING != 0 {
        return None;
    }
    let mut told = message.clone();
    told.attributes.retain(|attribute| TOLD.contains(&attribute.kind));
    for attribute in &mut told.attributes {
        match attribute.kind {
            STATUS => attribute.value = (status & !EXPECTED).to_be_bytes().to_vec(),
            PROTOCOL => *attribute = lenient(attribute),
            _ => {}
        }
    }
    let inner = |kind| message.attribute(kind).and_then(Attribute::inner);
    if status & (HAS_SOURCE | HAS_DESTINATION) == 0 {
        return Some(told);
    }
    let (Some(original), Some(reply)) = (inner(ORIGINAL), inner(REPLY)) else { return Some(told) };
    // The kernel makes the other direction of the translations, and of none if that is as it should be already.
    told.attributes.retain(|attribute| attribute.kind != REPLY);
    told.attributes.push(Attribute::of(REPLY, &turned(&original, &reply)));
    let translations =
        [(HAS_SOURCE, TRANSLATED_SOURCE, false), (HAS_DESTINATION, TRANSLATED_DESTINATION, true)];
    for (bit, kind, is_source) in translations {
        if status & bit != 0 {
            let inner = translation(&reply, is_source).unwrap_or_default();
            told.attributes.push(Attribute::of(kind, &inner));
        }
    }
    Some(told)
}

/// The direction back of a connection that nobody translates, by that forth and its `reply`.
fn turned(original: &[Attribute], reply: &[Attribute]) -> Vec<Attribute> {
    /// Identifiers of ICMP, which are the same both ways; the type of a message is not.
    const IDENTIFIERS: [u16; 2] = [4, 7];
    let swapped = |kind, pairs: &[(u16, u16)]| {
        let inner = find(original, kind).unwrap_or_default();
        let turn = |attribute: &Attribute| {
            let other = pairs.iter().find_map(|&(one, other)| match attribute.kind {
                kind if kind == one => Some(other),
                kind if kind == other => Some(one),
                _ => None,
            });
            Attribute::new(other.unwrap_or(attribute.kind), &*attribute.value)
        };
        inner.iter().map(turn).collect::<Vec<_>>()
    };
    let addresses = swapped(ADDRESSES, &[(1, 2), (3, 4)]);
    let mut protocol = swapped(PORTS, &[(2, 3)]);
    for attribute in find(reply, PORTS).unwrap_or_default() {
        let is_same = [1, 2, 3].contains(&attribute.kind) || IDENTIFIERS.contains(&attribute.kind);
        if !is_same && let Some(own) = protocol.iter_mut().find(|own| own.kind == attribute.kind) {
            own.value = attribute.value;
        }
    }
    let rest = original.iter().filter(|it| ![ADDRESSES, PORTS].contains(&it.kind)).cloned();
    [Attribute::of(ADDRESSES, &addresses), Attribute::of(PORTS, &protocol)]
        .into_iter()
        .chain(rest)
        .collect()
}

/// Of a direction, its addresses.
const ADDRESSES: u16 = 1;
/// Of a direction, its protocol with ports.
const PORTS: u16 = 2;

fn find(direction: &[Attribute], kind: u16) -> Option<Vec<Attribute>> {
    direction.iter().find(|attribute| attribute.kind == kind)?.inner()
}

/// Numbers of netfilter are in the order of the network.
fn number(attribute: &Attribute) -> Option<u32> {
    attribute.value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// To which address and port a direction of a connection was translated, by the source or the destination of its reply.
fn translation(reply: &[Attribute], is_source: bool) -> Option<Vec<Attribute>> {
    /// Identifiers of ICMP stand for the ports of who asks.
    const IDENTIFIERS: [u16; 2] = [4, 7];
    let addresses = find(reply, ADDRESSES)?;
    let of = |kind: u16| addresses.iter().find(|attribute| attribute.kind == kind);
    // Source and destination of IPv4, and of IPv6; the least and the greatest address of each.
    let ((v4, v6), port) = if is_source { ((1, 3), 2) } else { ((2, 4), 3) };
    let mut inner = match (of(v4), of(v6)) {
        (Some(address), _) => {
            vec![Attribute::new(1, &*address.value), Attribute::new(2, &*address.value)]
        }
        (None, Some(address)) => {
            vec![Attribute::new(4, &*address.value), Attribute::new(5, &*address.value)]
        }
        (None, None) => return None,
    };
    let ports = find(reply, PORTS).unwrap_or_default();
    let is_it = |it: &&Attribute| it.kind == port || !is_source && IDENTIFIERS.contains(&it.kind);
    if let Some(port) = ports.iter().find(is_it) {
        let both = [Attribute::new(1, &*port.value), Attribute::new(2, &*port.value)];
        inner.push(Attribute::of(3, &both));
    }
    Some(inner)
}

/// What is told of a connection's protocol, and of TCP that its numbers are not to be judged.
fn lenient(protocol: &Attribute) -> Attribute {
    const TCP: u16 = 1;
    /// Flags of both directions, with a mask.
    const FLAGS: [u16; 2] = [4, 5];
    const LIBERAL: u8 = 0x8;
    /// Those that can be set: scale of windows, selective acknowledgement, who closed first, liberal.
    const SET: u8 = 0xf;
    let Some(mut all) = protocol.inner() else { return protocol.clone() };
    for tcp in all.iter_mut().filter(|attribute| attribute.kind == TCP) {
        let Some(mut inner) = tcp.inner() else { continue };
        for flags in inner.iter_mut().filter(|attribute| FLAGS.contains(&attribute.kind)) {
            let now = flags.value.first().copied().unwrap_or(0);
            flags.value = vec![now & SET | LIBERAL, SET];
        }
        *tcp = Attribute::of(TCP, &inner);
    }
    Attribute::of(PROTOCOL, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is read, without flags of attributes.
    fn tracked(status: u32, original: &[Attribute], reply: &[Attribute]) -> Message {
        let message = Message {
            kind: NEW,
            flags: 0,
            fixed: vec![libc::AF_INET as u8, 0, 0, 0],
            attributes: vec![
                Attribute::of(ORIGINAL, original),
                Attribute::of(REPLY, reply),
                Attribute::new(STATUS, status.to_be_bytes()),
                // Its id, which is the kernel's.
                Attribute::new(12, [7; 4]),
            ],
        };
        Message::read_all(&message.bytes(), GENERAL).unwrap().remove(0)
    }

    #[test]
    fn a_translation_is_told_by_its_reply() {
        let direction = |from: [u8; 4], to: [u8; 4], ports: [[u8; 2]; 2]| {
            let addresses = [Attribute::new(1, from), Attribute::new(2, to)];
            let [source, destination] = ports;
            let ports = [
                Attribute::new(1, [17]),
                Attribute::new(2, source),
                Attribute::new(3, destination),
            ];
            [Attribute::of(1, &addresses), Attribute::of(2, &ports)]
        };
        let original = direction([10, 0, 0, 2], [10, 0, 0, 9], [[4, 0], [0, 99]]);
        let reply = direction([10, 0, 0, 1], [10, 0, 0, 2], [[0, 53], [4, 0]]);
        let told = told(&tracked(HAS_DESTINATION | EXPECTED, &original, &reply)).unwrap();
        assert_eq!(told.attribute(12), None);
        assert_eq!(number(told.attribute(STATUS).unwrap()), Some(HAS_DESTINATION));
        let read = Message::read_all(&told.bytes(), GENERAL).unwrap();
        let inner = read[0].attribute(TRANSLATED_DESTINATION).unwrap().inner().unwrap();
        assert_eq!(inner[0], Attribute::new(1, [10, 0, 0, 1]));
        assert_eq!(inner[2].inner().unwrap()[0], Attribute::new(1, [0, 53]));
        assert_eq!(read[0].attribute(TRANSLATED_SOURCE), None);
        let back = direction([10, 0, 0, 9], [10, 0, 0, 2], [[0, 99], [4, 0]]);
        // As it is read from a message, without flags.
        let back = Attribute::of(0, &back).inner().unwrap();
        let turned = read[0].attribute(REPLY).unwrap().inner().unwrap();
        for kind in [ADDRESSES, PORTS] {
            let sorted = |direction: &[Attribute]| {
                let mut inner = find(direction, kind).unwrap();
                inner.sort_by_key(|attribute| attribute.kind);
                inner
            };
            assert_eq!(sorted(&turned), sorted(&back));
        }
    }

    #[test]
    fn what_goes_is_left_out_and_other_messages_are_refused() {
        assert_eq!(told(&tracked(DYING, &[], &[])), None);
        let other = Message { kind: 2, ..tracked(0, &[], &[]) };
        assert!(read(&other.bytes()).is_err() && read(&[1, 2, 3]).is_err());
        assert_eq!(read(&tracked(0, &[], &[]).bytes()).map(|all| all.len()), Ok(1));
    }
}
