//! Messages of netlink from images: what may be in them, and how they are sent.

use std::io;

use images::names::NetworkImage;
use kernel::rtnetlink::{Attribute, Message, Rtnetlink};

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;
const NEW_NEIGHBOUR: u16 = 28;
const NEW_LABEL: u16 = 72;
const DELETE_LABEL: u16 = 73;
const GET_LABEL: u16 = 74;

/// Bytes of `struct ifaddrmsg`.
const ADDRESS: usize = 8;
/// Bytes of `struct rtmsg`, and of `struct fib_rule_hdr`.
const ROUTE: usize = 12;
/// Bytes of `struct ndmsg`, and of `struct ifaddrlblmsg`.
const NEIGHBOUR: usize = 12;
const LABEL: usize = 12;

// include/uapi/linux/if_addr.h, rtnetlink.h and fib_rules.h. What refers to other namespaces is not among them, nor
// what refers to objects that are not carried.
const OF_ADDRESSES: &[u16] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11];
const OF_ROUTES: &[u16] =
    &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 16, 18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 29];
const OF_RULES: &[u16] =
    &[1, 2, 3, 4, 6, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28];

// include/uapi/linux/neighbour.h and if_addrlabel.h.
const OF_NEIGHBOURS: &[u16] = &[1, 2, 5, 6, 7, 12, 14, 15];
const OF_LABELS: &[u16] = &[1, 2];

/// Reads the messages of an image, behind its number.
pub(super) fn read(kind: NetworkImage, bytes: &[u8]) -> Result<Vec<Message>, String> {
    let (number, fixed, allowed) = match kind {
        NetworkImage::Addresses => (NEW_ADDRESS, ADDRESS, OF_ADDRESSES),
        NetworkImage::Rules | NetworkImage::Rules6 => (NEW_RULE, ROUTE, OF_RULES),
        NetworkImage::Neighbours => (NEW_NEIGHBOUR, NEIGHBOUR, OF_NEIGHBOURS),
        NetworkImage::Labels => (NEW_LABEL, LABEL, OF_LABELS),
        _ => (NEW_ROUTE, ROUTE, OF_ROUTES),
    };
    let magic = kind.magic().map(u32::to_ne_bytes);
    let magic = magic.as_ref().map_or(&[][..], |magic| magic);
    let Some(rest) = bytes.strip_prefix(magic) else {
        return Err("it does not begin as such images do".to_owned());
    };
    let messages = Message::read_all(rest, fixed).ok_or("its messages are none")?;
    for message in &messages {
        if message.kind != number {
            return Err(format!("it has a message of kind {}", message.kind));
        }
        if let Some(other) = message.attributes.iter().find(|it| !allowed.contains(&it.kind)) {
            return Err(format!("a message has attribute {}, which is not known", other.kind));
        }
    }
    Ok(if number == NEW_ROUTE { messages.into_iter().map(told).collect() } else { messages })
}

/// A route without what the kernel alone says of it: that its device has no carrier, or does the work by itself. It takes no
/// route of which that is said.
fn told(mut route: Message) -> Message {
    /// `RTNH_F_DEAD`, `RTNH_F_OFFLOAD`, `RTNH_F_LINKDOWN`, `RTNH_F_TRAP`.
    const SAID: u8 = 0x1 | 0x8 | 0x10 | 0x40;
    const MULTIPATH: u16 = 9;
    /// Bytes of `struct rtnexthop`: its length, flags, hops and device.
    const HOP: usize = 8;
    // `rtm_flags`, whose lowest byte these are in.
    let lowest = if cfg!(target_endian = "little") { 8 } else { 11 };
    route.fixed[lowest] &= !SAID;
    for hops in route.attributes.iter_mut().filter(|attribute| attribute.kind == MULTIPATH) {
        let mut at = 0;
        while let Some(hop) = hops.value.get_mut(at..at + HOP) {
            hop[2] &= !SAID;
            let length = usize::from(u16::from_ne_bytes([hop[0], hop[1]]));
            at += length.max(HOP).next_multiple_of(4);
        }
    }
    route
}

/// An address as it was found to be nobody else's: it is not looked for again, so that sockets can have it at once.
pub(super) fn verified(address: &Message) -> Message {
    const FLAGS: u16 = 8;
    const TENTATIVE: u32 = 0x40;
    const NO_DETECTION: u32 = 0x2;
    const V6: u8 = libc::AF_INET6 as u8;
    let mut address = address.clone();
    if address.fixed[0] != V6 {
        return address;
    }
    let flags = address.attribute(FLAGS).and_then(Attribute::number);
    let flags = flags.unwrap_or_else(|| address.fixed[2].into());
    if flags & TENTATIVE == 0 {
        address.attributes.retain(|attribute| attribute.kind != FLAGS);
        let flags = flags | NO_DETECTION;
        address.attributes.push(Attribute::new(FLAGS, flags.to_ne_bytes()));
        address.fixed[2] = flags.to_ne_bytes()[0];
    }
    address
}

/// Adds what a message describes, if it is not there; whether it was not.
pub(super) fn add(door: &Rtnetlink, message: &Message) -> io::Result<bool> {
    const CREATE: u16 = 0x400;
    match door.request(&Message { flags: CREATE, ..message.clone() }) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Gives an address that is there what a message says of it.
pub(super) fn replace(door: &Rtnetlink, address: &Message) -> io::Result<()> {
    const REPLACE: u16 = 0x100;
    door.request(&Message { flags: REPLACE, ..address.clone() })
}

/// The addresses of this namespace.
pub(super) fn addresses(door: &Rtnetlink) -> io::Result<Vec<Message>> {
    list(door, GET_ADDRESS, libc::AF_UNSPEC, ADDRESS)
}

fn list(door: &Rtnetlink, kind: u16, family: i32, length: usize) -> io::Result<Vec<Message>> {
    let mut fixed = vec![0; length];
    fixed[0] = family as u8;
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "a list is not understood");
    Message::read_all(&door.list(kind, &fixed)?, length).ok_or_else(strange)
}

/// Whether two messages are of one address.
pub(super) fn same_address(one: &Message, other: &Message) -> bool {
    const PEER: u16 = 1;
    const LOCAL: u16 = 2;
    // Family and length of the prefix; the device.
    let place = |it: &Message| (it.fixed[..2].to_vec(), it.fixed[4..8].to_vec());
    let value = |it: &Message, kind| it.attribute(kind).map(|it| it.value.clone());
    let local = |it: &Message| value(it, LOCAL).or_else(|| value(it, PEER));
    place(one) == place(other) && local(one) == local(other)
}

/// Removes an address.
pub(super) fn remove_address(door: &Rtnetlink, address: &Message) -> io::Result<()> {
    let message = Message { kind: DELETE_ADDRESS, flags: 0, ..address.clone() };
    match door.request(&message) {
        // It went with another one.
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        done => done,
    }
}

/// Whether a route leads through another machine, to which there must be one.
pub(super) fn has_gateway(route: &Message) -> bool {
    const GATEWAY: u16 = 5;
    const MULTIPATH: u16 = 9;
    const VIA: u16 = 18;
    [GATEWAY, MULTIPATH, VIA].iter().any(|kind| route.attribute(*kind).is_some())
}

/// Has this namespace these labels of addresses and no others. (Those that it is born with can be removed.)
pub(super) fn set_labels(door: &Rtnetlink, wanted: &[Message]) -> io::Result<()> {
    let label = |it: &Message| (it.fixed[..8].to_vec(), it.attributes.clone());
    let found = list(door, GET_LABEL, libc::AF_INET6, LABEL)?;
    let is_among = |one: &Message, all: &[Message]| all.iter().any(|it| label(it) == label(one));
    for other in found.iter().filter(|it| !is_among(it, wanted)) {
        door.request(&Message { kind: DELETE_LABEL, flags: 0, ..other.clone() })?;
    }
    for missing in wanted.iter().filter(|it| !is_among(it, &found)) {
        add(door, missing)?;
    }
    Ok(())
}

/// Removes all rules of a family.
pub(super) fn remove_rules(door: &Rtnetlink, family: i32) -> io::Result<()> {
    for rule in list(door, GET_RULE, family, ROUTE)? {
        door.request(&Message { kind: DELETE_RULE, flags: 0, ..rule })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(kind: NetworkImage, messages: &[Message]) -> Vec<u8> {
        let magic = kind.magic().unwrap().to_ne_bytes().to_vec();
        messages.iter().fold(magic, |bytes, message| [bytes, message.bytes()].concat())
    }

    fn message(kind: u16, fixed: usize, attributes: &[u16]) -> Message {
        let attributes = attributes.iter().map(|kind| Attribute::new(*kind, [0; 4])).collect();
        Message { kind, flags: 0, fixed: vec![0; fixed], attributes }
    }

    #[test]
    fn what_the_kernel_says_of_a_route_is_not_sent_back() {
        let mut route = message(NEW_ROUTE, ROUTE, &[]);
        // Linkdown and onlink; a hop that is dead, and one that is on the link.
        route.fixed[8] = 0x14;
        route.attributes.push(Attribute::new(9, [8, 0, 1, 0, 2, 0, 0, 0, 8, 0, 4, 0, 3, 0, 0, 0]));
        let found = read(NetworkImage::Routes, &image(NetworkImage::Routes, &[route])).unwrap();
        assert_eq!(found[0].fixed[8], 0x4);
        assert_eq!(found[0].attributes[0].value, [8, 0, 0, 0, 2, 0, 0, 0, 8, 0, 4, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn only_what_stays_in_the_namespace_is_taken() {
        let kind = NetworkImage::Addresses;
        let good = [message(NEW_ADDRESS, ADDRESS, &[1, 2])];
        assert_eq!(read(kind, &image(kind, &good)).unwrap(), good);
        for bad in [
            // IFA_TARGET_NETNSID.
            image(kind, &[message(NEW_ADDRESS, ADDRESS, &[1, 10])]),
            // RTM_NEWLINK.
            image(kind, &[message(16, ADDRESS, &[])]),
            image(NetworkImage::Rules, &[]),
            image(kind, &good)[..20].to_vec(),
            vec![1, 2],
        ] {
            assert!(read(kind, &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_told_apart_by_device_and_length() {
        let one = message(NEW_ADDRESS, ADDRESS, &[2]);
        let mut other = one.clone();
        assert!(same_address(&one, &other));
        other.fixed[4] = 7;
        assert!(!same_address(&one, &other));
    }

    #[test]
    fn a_tentative_address_is_looked_for_again() {
        let of = |flags: u32| {
            let mut address = message(NEW_ADDRESS, ADDRESS, &[1]);
            address.fixed[0] = libc::AF_INET6 as u8;
            address.attributes.push(Attribute::new(8, flags.to_ne_bytes()));
            verified(&address).attribute(8).unwrap().number().unwrap()
        };
        assert_eq!((of(0x80), of(0x40)), (0x82, 0x40));
    }
}
