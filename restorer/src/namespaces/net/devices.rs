//! Network devices: made in the order in which they need each other, and set as they were.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

use images::messages::{NetDeviceEntry, device};
use images::network_devices;
use kernel::multicast::join_on_link;
use kernel::namespaces::within_network;
use kernel::rtnetlink::{Attribute, Message, Rtnetlink};

use super::failed::failed;
use super::{Place, programs, settings};
use crate::error::Error;

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

// include/uapi/linux/if_link.h
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LOWER: u16 = 5;
const MASTER: u16 = 10;
const QUEUE: u16 = 13;
const INFORMATION: u16 = 18;
const NAMESPACE: u16 = 28;
const NEW_NUMBER: u16 = 49;
const KIND: u16 = 1;
const DATA: u16 = 2;
const PORT_KIND: u16 = 4;
const PORT: u16 = 5;
const BY_FAMILY: u16 = 26;

/// Bytes that any kind of device has to say of itself, and many more.
const MOST_DATA: usize = 4096;

/// Bytes of `struct ifinfomsg`.
const LINK: usize = 16;

/// `IFF_UP`.
const UP: u32 = 1;
/// The flags that are set from outside: up, debug, no trailers, no ARP, promiscuous, all multicast, multicast,
/// port and media selection, dynamic.
const SETTABLE: u32 = UP | 0x4 | 0x20 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x2000 | 0x4000 | 0x8000;

/// Checks what the images say of a device.
pub(super) fn check(entry: &NetDeviceEntry) -> Result<(), &'static str> {
    const LONGEST: usize = 15;
    let name = &entry.name;
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if name.is_empty() || name.len() > LONGEST || name == "." || name == ".." {
        return Err("no device can be called so");
    }
    if !name.chars().all(is_plain) || ["all", "default"].contains(&&**name) {
        return Err("no device can be called so");
    }
    if i32::try_from(entry.ifindex).map_or(true, |number| number < 1) {
        return Err("no device can have its number");
    }
    if entry.address.as_ref().is_some_and(|address| address.len() > 32) {
        return Err("its address is too long");
    }
    for data in [&entry.data, &entry.more, &entry.port].into_iter().flatten() {
        let all = Attribute::read_all(data).filter(|_| data.len() <= MOST_DATA);
        let all = all.ok_or("what is said of it or its kind is too long, or broken")?;
        let kinds: BTreeSet<u16> = all.iter().map(|attribute| attribute.kind).collect();
        if kinds.len() != all.len() {
            return Err("something is said of it or its kind twice");
        }
    }
    let is_loopback = entry.r#type == device::LOOPBACK;
    if is_loopback != (name == "lo") {
        return Err("it is not of its kind");
    }
    Ok(())
}

/// The kind of a device, and what is said of it as it is made.
fn kind(entry: &NetDeviceEntry) -> Result<(&'static str, Vec<Attribute>), Error> {
    let refuse = || {
        let kind = entry.kind.clone().unwrap_or_else(|| format!("{} (of CRIU's)", entry.r#type));
        let refusal = support::networks::unknown_device(&kind);
        Error::refused(refusal.of(0, format!("network device {}", entry.name)))
    };
    let known = match &entry.kind {
        Some(name) => network_devices::kind(name),
        None => network_devices::of_type(entry.r#type),
    };
    let known = known.filter(|known| known.r#type == entry.r#type).ok_or_else(refuse)?;
    let mut data = match (&entry.data, &entry.macvlan) {
        (Some(data), _) => Attribute::read_all(data).ok_or_else(refuse)?,
        // CRIU's.
        (None, Some(macvlan)) => {
            let flags = macvlan.flags.and_then(|flags| u16::try_from(flags).ok());
            let mode = Attribute::new(1, macvlan.mode.to_ne_bytes());
            let flags = flags.map(|flags| Attribute::new(2, flags.to_ne_bytes()));
            [mode].into_iter().chain(flags).collect()
        }
        (None, None) => Vec::new(),
    };
    data.retain(|attribute| known.data.contains(&attribute.kind));
    Ok((known.name, data))
}

/// Brings the loopback device up, which is the first of each namespace.
pub(super) fn bring_up_loopback(door: &Rtnetlink) -> io::Result<()> {
    const NUMBER: u32 = 1;
    let fixed = fixed(NUMBER, UP, UP);
    door.request(&Message { kind: SET_LINK, flags: 0, fixed, attributes: Vec::new() })
}

/// Makes the devices of a namespace, and sets them.
pub(super) fn make(
    door: &Rtnetlink,
    entries: &[NetDeviceEntry],
    place: &Place<'_>,
) -> Result<(), Error> {
    let numbers: BTreeSet<u32> = entries.iter().map(|entry| entry.ifindex).collect();
    let mut made = BTreeSet::new();
    let mut left: Vec<&NetDeviceEntry> = entries.iter().collect();
    while !left.is_empty() {
        let is_ready = |entry: &&NetDeviceEntry| {
            let needs = entry.master.into_iter().chain(lower(entry, place.number));
            needs.filter(|number| numbers.contains(number)).all(|number| made.contains(&number))
        };
        let (ready, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(is_ready);
        if ready.is_empty() {
            let names: Vec<&str> = rest.iter().map(|entry| &*entry.name).collect();
            return Err(Error::image(
                format!("network devices {}", names.join(", ")),
                "each belongs to another that belongs to it",
            ));
        }
        for entry in ready {
            one(door, entry, place)?;
            made.insert(entry.ifindex);
        }
        left = rest;
    }
    // A port may refer to another one.
    for entry in entries.iter().filter(|entry| entry.port.is_some()) {
        let port = kept(entry.port.as_deref(), network_devices::OF_PORTS);
        let done = set_differences(door, entry, (PORT_KIND, "bridge"), (PORT, &port));
        done.map_err(failed(format!("set the port of network device {}", entry.name)))?;
    }
    Ok(())
}

/// Those attributes of an image that are known.
fn kept(bytes: Option<&[u8]>, known: &[u16]) -> Vec<Attribute> {
    let mut all = bytes.and_then(Attribute::read_all).unwrap_or_default();
    all.retain(|attribute| known.contains(&attribute.kind));
    all
}

/// The device of the same namespace that one is made on top of.
fn lower(entry: &NetDeviceEntry, own: u32) -> Option<u32> {
    let is_pair = entry.r#type == device::VETH;
    let here = entry.peer_nsid == Some(own) && entry.peer_ifindex != Some(entry.ifindex);
    entry.peer_ifindex.filter(|_| here && !is_pair)
}

fn one(door: &Rtnetlink, entry: &NetDeviceEntry, place: &Place<'_>) -> Result<(), Error> {
    let doing = |what: &str| failed(format!("{what} network device {}", entry.name));
    let given = place.given.devices.get(&format!("netdev[{}]", entry.name));
    let (kind, data) = kind(entry)?;
    match entry.r#type {
        device::LOOPBACK => {}
        _ if let Some(name) = given => bring(entry, name, place)?,
        device::VETH => pair(door, entry, place)?,
        device::TUN => {
            let link = entry.tun.as_ref().ok_or_else(|| {
                Error::image(format!("network device {}", entry.name), "nothing is said of it")
            })?;
            programs::make(entry, link)?;
        }
        _ => {
            // A bridge has many settings, of which some kernels have not all: those are set that differ.
            let at_once = if entry.r#type == device::BRIDGE { &[] } else { &data[..] };
            let make = |door: &Rtnetlink, more: Vec<Attribute>| {
                let information = information(kind, at_once);
                let attributes = [vec![information], more].concat();
                door.request(&new(entry, attributes))
            };
            match lower(entry, place.number) {
                Some(number) => {
                    make(door, vec![Attribute::new(LOWER, number.to_ne_bytes())])
                        .map_err(doing("make"))?;
                }
                None if has_lower(kind) => on_outside(entry, kind, place, make)?,
                None => make(door, Vec::new()).map_err(doing("make"))?,
            }
            if entry.r#type == device::BRIDGE {
                set_differences(door, entry, (KIND, kind), (DATA, &data)).map_err(doing("set"))?;
            }
        }
    }
    // Before it comes up.
    let weak = place.given.weak_settings;
    settings::of_device("ipv4", &entry.name, (&entry.conf4, &entry.conf), weak)?;
    settings::of_device("ipv6", &entry.name, (&entry.conf6, &[]), weak)?;
    if let Some(mode) = entry.address_mode {
        settings::address_mode(&entry.name, mode, weak)?;
    }
    let now = get(door, entry).map_err(doing("look at"))?;
    let now = Message::read_all(&now, LINK).unwrap_or_default();
    let is_new = |it: &Attribute| now.first().is_none_or(|now| !now.attributes.contains(it));
    let mut attributes = basics(entry);
    attributes.extend(entry.queue.map(|queue| Attribute::new(QUEUE, queue.to_ne_bytes())));
    attributes.extend(kept(entry.more.as_deref(), network_devices::MORE));
    attributes.retain(is_new);
    if !attributes.is_empty() {
        door.request(&change(entry, 0, attributes)).map_err(doing("set"))?;
    }
    if let Some(master) = entry.master {
        let attributes = vec![Attribute::new(MASTER, master.to_ne_bytes())];
        door.request(&change(entry, 0, attributes)).map_err(doing("attach"))?;
    }
    door.request(&change(entry, SETTABLE, Vec::new())).map_err(doing("bring up"))?;
    if !entry.names.is_empty() {
        door.request(&named(entry)).map_err(doing("give other names to"))?;
    }
    for group in &entry.groups {
        join_on_link(&entry.name, group).map_err(doing("listen to an address by"))?;
    }
    lengths(door, entry);
    token(door, entry);
    Ok(())
}

/// Settings that the kernel sets anew as a device or the other end of it comes up, and somewhat later: the length of packets of IPv6.
pub(super) fn set_again(entries: &[NetDeviceEntry], weak: bool) -> Result<(), Error> {
    entries
        .iter()
        .try_for_each(|entry| settings::of_device("ipv6", &entry.name, (&entry.conf6, &[]), weak))
}

/// Gives a device its other names.
fn named(entry: &NetDeviceEntry) -> Message {
    const NEW_PROPERTIES: u16 = 108;
    const PROPERTIES: u16 = 52;
    const OTHER_NAME: u16 = 53;
    let names: Vec<Attribute> =
        entry.names.iter().map(|name| Attribute::new(OTHER_NAME, text(name))).collect();
    Message {
        kind: NEW_PROPERTIES,
        flags: CREATE | EXCLUSIVE,
        fixed: fixed(entry.ifindex, 0, 0),
        attributes: vec![Attribute::of(PROPERTIES, &names)],
    }
}

/// Sets lengths of packets. A device may take less than another did: it is told then.
fn lengths(door: &Rtnetlink, entry: &NetDeviceEntry) {
    for (kind, _) in network_devices::LENGTHS {
        for length in kept(entry.more.as_deref(), &[*kind]) {
            if let Err(error) = door.request(&change(entry, 0, vec![length])) {
                let name = &entry.name;
                tracing::warn!(%error, "network device {name} does not take a length of packets ({kind})");
            }
        }
    }
}

/// Chooses the lower half of the addresses of IPv6 that a device gets by itself. The kernel takes it only while the device asks and
/// listens to routers, and keeps it when that ends: what it has been set to do comes last ([`set_again`]). If it is not taken that is told.
fn token(door: &Rtnetlink, entry: &NetDeviceEntry) {
    const V6: u16 = libc::AF_INET6 as u16;
    const TOKEN: u16 = 7;
    let inner = |outer: &[Attribute], kind: u16| {
        outer.iter().find(|it| it.kind == kind).and_then(Attribute::inner).unwrap_or_default()
    };
    let of_families = inner(&kept(entry.more.as_deref(), &[BY_FAMILY]), BY_FAMILY);
    let Some(token) = inner(&of_families, V6).into_iter().find(|it| it.kind == TOKEN) else {
        return;
    };
    let choose = || {
        for (setting, value) in [("accept_ra", "2"), ("router_solicitations", "1")] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/{setting}", entry.name), value)?;
        }
        let of_v6 = Attribute::of(V6, &[token]);
        door.request(&change(entry, 0, vec![Attribute::of(BY_FAMILY, &[of_v6])]))
    };
    if let Err(error) = choose() {
        tracing::warn!(%error, "network device {} does not get its token (ip token)", entry.name);
    }
}

/// Sets what is not as it should be of a device that has been made: of its kind, or of the kind of what it is a port of.
fn set_differences(
    door: &Rtnetlink,
    entry: &NetDeviceEntry,
    (of_kind, kind): (u16, &str),
    (of_data, data): (u16, &[Attribute]),
) -> io::Result<()> {
    let found = Message::read_all(&get(door, entry)?, LINK);
    let found = found.as_deref().and_then(|found| found.first()?.attribute(INFORMATION)?.inner());
    let now = found.and_then(|found| found.into_iter().find(|it| it.kind == of_data)?.inner());
    let now = now.unwrap_or_default();
    for attribute in data.iter().filter(|attribute| !now.contains(attribute)) {
        let fixed = fixed(entry.ifindex, 0, 0);
        let said = [
            Attribute::new(of_kind, kind),
            Attribute::of(of_data, std::slice::from_ref(attribute)),
        ];
        let attributes = vec![Attribute::of(INFORMATION, &said)];
        door.request(&Message { kind: NEW_LINK, flags: 0, fixed, attributes })?;
    }
    Ok(())
}

/// Whether devices of a kind are made on top of others.
fn has_lower(kind: &str) -> bool {
    matches!(kind, "macvlan" | "ipvlan" | "vlan")
}

fn fixed(number: u32, flags: u32, mask: u32) -> Vec<u8> {
    let parts = [0_u32, number, flags, mask];
    parts.into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn information(kind: &str, data: &[Attribute]) -> Attribute {
    let mut inner = vec![Attribute::new(KIND, kind)];
    if !data.is_empty() {
        inner.push(Attribute::of(DATA, data));
    }
    Attribute::of(INFORMATION, &inner)
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Length of packets, and address.
fn basics(entry: &NetDeviceEntry) -> Vec<Attribute> {
    let address = entry.address.clone().filter(|_| entry.r#type != device::LOOPBACK);
    let address = address.map(|address| Attribute::new(ADDRESS, address));
    address.into_iter().chain([Attribute::new(MTU, entry.mtu.to_ne_bytes())]).collect()
}

fn new(entry: &NetDeviceEntry, mut attributes: Vec<Attribute>) -> Message {
    attributes.extend(basics(entry));
    attributes.push(Attribute::new(NAME, text(&entry.name)));
    Message {
        kind: NEW_LINK,
        flags: CREATE | EXCLUSIVE,
        fixed: fixed(entry.ifindex, 0, 0),
        attributes,
    }
}

/// A change of a device that is there, of the flags in `mask`.
fn change(entry: &NetDeviceEntry, mask: u32, attributes: Vec<Attribute>) -> Message {
    let fixed = fixed(entry.ifindex, entry.flags & mask, mask);
    Message { kind: SET_LINK, flags: 0, fixed, attributes }
}

/// Brings a device that is outside of the tree in, by the name and number of the one for which it stands.
fn bring(entry: &NetDeviceEntry, name: &str, place: &Place<'_>) -> Result<(), Error> {
    let Some(target) = place.networks.get(&place.number) else { return Ok(()) };
    let brought = within_network(place.outside, || {
        let number = nix::net::if_::if_nametoindex(name)?;
        let attributes = vec![
            Attribute::new(NAMESPACE, target.as_raw_fd().to_ne_bytes()),
            Attribute::new(NEW_NUMBER, entry.ifindex.to_ne_bytes()),
            Attribute::new(NAME, text(&entry.name)),
        ];
        let fixed = fixed(number, 0, 0);
        Rtnetlink::open()?.request(&Message { kind: SET_LINK, flags: 0, fixed, attributes })
    });
    let what = format!("bring in {name} as network device {}", entry.name);
    brought.flatten().map_err(failed(what))
}

/// Makes a device on top of one that is outside of the tree.
fn on_outside(
    entry: &NetDeviceEntry,
    kind: &str,
    place: &Place<'_>,
    make: impl Fn(&Rtnetlink, Vec<Attribute>) -> io::Result<()>,
) -> Result<(), Error> {
    let key = format!("{kind}[{}]", entry.name);
    let Some(lower) = place.given.devices.get(&key) else {
        let refusal = support::networks::lower_device(kind, &entry.name);
        return Err(Error::refused(refusal.of(0, format!("network device {}", entry.name))));
    };
    let Some(target) = place.networks.get(&place.number) else { return Ok(()) };
    let made = within_network(place.outside, || {
        let number = nix::net::if_::if_nametoindex(&**lower)?;
        make(
            &Rtnetlink::open()?,
            vec![
                Attribute::new(LOWER, number.to_ne_bytes()),
                Attribute::new(NAMESPACE, target.as_raw_fd().to_ne_bytes()),
            ],
        )
    });
    made.flatten().map_err(failed(format!("make network device {} on {lower}", entry.name)))
}

/// Makes both ends of a pair, unless the other one has brought this one along.
fn pair(door: &Rtnetlink, entry: &NetDeviceEntry, place: &Place<'_>) -> Result<(), Error> {
    const PEER: u16 = 1;
    let object = || format!("network device {}", entry.name);
    if is_there(door, entry).map_err(failed(format!("look for {}", object())))? {
        return rename(door, entry);
    }
    let outside = place.given.devices.get(&format!("veth[{}]", entry.name));
    let inside = entry.peer_nsid.and_then(|number| place.networks.get(&number));
    let (namespace, number, name, bridge) = match (outside, inside) {
        (Some(name), _) => match name.split_once('@') {
            Some((name, bridge)) => (place.outside, 0, Some(name), Some(bridge)),
            None => (place.outside, 0, Some(&**name), None),
        },
        (None, Some(namespace)) => (*namespace, entry.peer_ifindex.unwrap_or(0), None, None),
        (None, None) => {
            let refusal = support::networks::other_end(&entry.name);
            return Err(Error::refused(refusal.of(0, object())));
        }
    };
    let mut peer = fixed(number, 0, 0);
    debug_assert_eq!(peer.len(), LINK);
    let of_peer = [
        name.map(|name| Attribute::new(NAME, text(name))),
        Some(Attribute::new(NAMESPACE, namespace.as_raw_fd().to_ne_bytes())),
    ];
    of_peer.into_iter().flatten().for_each(|attribute| attribute.write(&mut peer));
    let attributes = vec![information("veth", &[Attribute::new(PEER, peer)])];
    door.request(&new(entry, attributes)).map_err(failed(format!("make {}", object())))?;
    match (name, bridge) {
        (Some(name), bridge) => {
            let attached = within_network(place.outside, || attach(name, bridge));
            attached
                .flatten()
                .map_err(failed(format!("attach {name}, the other end of {}", object())))
        }
        (None, _) => Ok(()),
    }
}

/// What the kernel says of a device.
fn get(door: &Rtnetlink, entry: &NetDeviceEntry) -> io::Result<Vec<u8>> {
    let fixed = fixed(entry.ifindex, 0, 0);
    door.get(&Message { kind: GET_LINK, flags: 0, fixed, attributes: Vec::new() })
}

fn is_there(door: &Rtnetlink, entry: &NetDeviceEntry) -> io::Result<bool> {
    match get(door, entry) {
        Ok(found) if is_veth(&found) => Ok(true),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("another device has its number, {}", entry.ifindex),
        )),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether what the kernel says is of an end of a pair.
fn is_veth(found: &[u8]) -> bool {
    let found = Message::read_all(found, LINK).unwrap_or_default();
    let inner = found.first().and_then(|found| found.attribute(INFORMATION)?.inner());
    inner.is_some_and(|inner| inner.iter().any(|it| it.kind == KIND && it.text() == Some("veth")))
}

/// Gives a device that its other end has brought along its name.
fn rename(door: &Rtnetlink, entry: &NetDeviceEntry) -> Result<(), Error> {
    let attributes = vec![Attribute::new(NAME, text(&entry.name))];
    let renamed = door.request(&change(entry, 0, attributes));
    renamed.map_err(failed(format!("name network device {}", entry.name)))
}

/// Brings a device of this machine up, as a port of a bridge if one is named.
fn attach(name: &str, bridge: Option<&str>) -> io::Result<()> {
    let door = Rtnetlink::open()?;
    let mut attributes = Vec::new();
    if let Some(bridge) = bridge {
        let bridge = nix::net::if_::if_nametoindex(bridge)?;
        attributes.push(Attribute::new(MASTER, bridge.to_ne_bytes()));
    }
    let number = nix::net::if_::if_nametoindex(name)?;
    door.request(&Message { kind: SET_LINK, flags: 0, fixed: fixed(number, UP, UP), attributes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let entry = |name: &str| NetDeviceEntry {
            r#type: device::VETH,
            ifindex: 2,
            name: name.to_owned(),
            ..NetDeviceEntry::default()
        };
        assert_eq!(check(&entry("eth0")), Ok(()));
        for bad in ["", ".", "..", "a/b", "../../kernel", "all", "lo", "0123456789abcdef", "a b"] {
            assert!(check(&entry(bad)).is_err(), "{bad}");
        }
        let data = |attributes: &[Attribute]| NetDeviceEntry {
            data: Some(Attribute::of(0, attributes).value),
            ..entry("eth0")
        };
        let (one, long) = (Attribute::new(1, [5; 4]), Attribute::new(2, [0; MOST_DATA]));
        assert_eq!(check(&data(std::slice::from_ref(&one))), Ok(()));
        assert!(check(&data(&[one.clone(), one])).is_err() && check(&data(&[long])).is_err());
        assert!(check(&NetDeviceEntry { ifindex: 0, ..entry("eth0") }).is_err());
        assert!(check(&NetDeviceEntry { ifindex: u32::MAX, ..entry("eth0") }).is_err());
    }

    #[test]
    fn what_a_device_tells_of_itself_is_not_all_said() {
        let data = Attribute::of(0, &[Attribute::new(1, [5; 4]), Attribute::new(11, [0; 8])]).value;
        let entry = NetDeviceEntry {
            r#type: device::BRIDGE,
            kind: Some("bridge".to_owned()),
            data: Some(data),
            ..NetDeviceEntry::default()
        };
        let (name, data) = kind(&entry).unwrap();
        assert_eq!((name, data.len()), ("bridge", 1));
        let other = NetDeviceEntry { r#type: device::VETH, ..entry };
        assert!(kind(&other).is_err());
    }
}
