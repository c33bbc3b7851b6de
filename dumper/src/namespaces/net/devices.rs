//! Network devices: what the kernel says of them, as the images have it.

use std::collections::BTreeMap;
use std::io;

use images::id_map::{IdMap, NOBODY};
use images::messages::{MacvlanLinkEntry, NetDeviceEntry, SysctlEntry, TunLinkEntry, device};
use images::network_devices::{LENGTHS, MORE};
use kernel::rtnetlink::{Attribute, Message};
use kernel::tun;
use support::networks::Place;
use support::{Refusal, Unsupported};

use super::settings;
use super::strange::strange;

/// Bytes of `struct ifinfomsg`.
pub(super) const LINK: usize = 16;

// include/uapi/linux/if_link.h
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LOWER: u16 = 5;
const MASTER: u16 = 10;
const QUEUE: u16 = 13;
const INFORMATION: u16 = 18;
const LOWER_NAMESPACE: u16 = 37;
const PROGRAM: u16 = 43;
const BY_FAMILY: u16 = 26;
const PROPERTIES: u16 = 52;
const ALIAS: u16 = 20;
const OTHER_NAME: u16 = 53;
const KIND: u16 = 1;
const DATA: u16 = 2;
const PORT_KIND: u16 = 4;
const PORT: u16 = 5;

const LOOPBACK: u16 = 772;

/// Devices that come with a namespace where their modules are loaded, and can be neither made nor removed.
const FALLBACKS: [&str; 9] =
    ["tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"];

/// A device.
struct Device<'m> {
    message: &'m Message,
    number: u32,
    flags: u32,
    name: &'m str,
    /// The kernel's name for its kind; empty for the loopback device and for hardware.
    kind: String,
    data: Vec<Attribute>,
    /// What is said of it as a port of a bridge.
    port: Vec<Attribute>,
}

impl<'m> Device<'m> {
    fn of(message: &'m Message) -> Option<Self> {
        let fixed = &message.fixed;
        let number = |at: usize| Some(u32::from_ne_bytes(fixed.get(at..at + 4)?.try_into().ok()?));
        let information = match message.attribute(INFORMATION) {
            Some(information) => information.inner()?,
            None => Vec::new(),
        };
        let find = |kind| information.iter().find(|attribute| attribute.kind == kind);
        let is_loopback = u16::from_ne_bytes([fixed[2], fixed[3]]) == LOOPBACK;
        let kind =
            if is_loopback { "loopback" } else { find(KIND).map_or(Some(""), Attribute::text)? };
        let is_port = find(PORT_KIND).and_then(Attribute::text) == Some("bridge");
        let port = find(PORT).filter(|_| is_port);
        Some(Self {
            message,
            number: number(4)?,
            flags: number(8)?,
            name: message.attribute(NAME)?.text()?,
            kind: kind.to_owned(),
            data: find(DATA).map_or(Some(Vec::new()), Attribute::inner)?,
            port: port.map_or(Some(Vec::new()), Attribute::inner)?,
        })
    }

    fn is_fallback(&self) -> bool {
        FALLBACKS.contains(&self.name)
    }

    /// Whether it is a bridge that passes on those VLANs only that its ports are of.
    fn filters_vlans(&self) -> bool {
        const FILTERS: u16 = 7;
        let filters = self.data.iter().find(|attribute| attribute.kind == FILTERS);
        filters.is_some_and(|filters| filters.value.first() != Some(&0))
    }

    /// What else can be set of it, as attributes, if there is any.
    fn more(&self) -> Option<Vec<u8>> {
        let usual = |it: &Attribute| Some((it.kind, it.number()?));
        let length = |it: &Attribute| LENGTHS.iter().find(|(kind, _)| *kind == it.kind);
        let is_unusual = |it: &Attribute| length(it).is_some_and(|it_is| usual(it) != Some(*it_is));
        // Some set others.
        let unusual = self.message.attributes.iter().any(is_unusual);
        let settable = |it: &&Attribute| MORE.contains(&it.kind) || unusual && length(it).is_some();
        let mut more: Vec<Attribute> =
            self.message.attributes.iter().filter(settable).cloned().collect();
        // Of a text the kernel wants no end.
        let alias = more.iter_mut().find(|it| it.kind == ALIAS);
        if let Some(alias) = alias
            && alias.value.last() == Some(&0)
        {
            alias.value.pop();
        }
        more.extend(self.token());
        together(&more)
    }

    /// The lower half of the addresses of IPv6 that it gets by itself, if somebody has chosen it (`ip token`).
    fn token(&self) -> Option<Attribute> {
        const TOKEN: u16 = 7;
        let v6 = of_ipv6(self.message)?;
        let token =
            v6.into_iter().find(|it| it.kind == TOKEN && it.value.iter().any(|it| *it != 0))?;
        Some(Attribute::of(BY_FAMILY, &[Attribute::of(libc::AF_INET6 as u16, &[token])]))
    }

    /// What can be set of it as a port, as attributes.
    fn port(&self) -> Option<Vec<u8>> {
        let settable = |it: &&Attribute| images::network_devices::OF_PORTS.contains(&it.kind);
        together(&self.port.iter().filter(settable).cloned().collect::<Vec<_>>())
    }

    /// Its other names.
    fn names(&self) -> Vec<String> {
        let inner =
            self.message.attribute(PROPERTIES).and_then(Attribute::inner).unwrap_or_default();
        let names = inner.iter().filter(|it| it.kind == OTHER_NAME).filter_map(Attribute::text);
        names.map(str::to_owned).collect()
    }

    fn attribute(&self, kind: u16) -> Option<u32> {
        self.message.attribute(kind).and_then(Attribute::number)
    }
}

/// The addresses of devices on their links.
pub(super) fn addresses(messages: &[Message]) -> Vec<Vec<u8>> {
    let addresses = messages.iter().filter_map(|message| message.attribute(ADDRESS));
    addresses.map(|address| address.value.clone()).collect()
}

/// Whether the loopback device is up.
pub(super) fn is_loopback_up(messages: &[Message]) -> bool {
    const UP: u32 = 1;
    let mut devices = messages.iter().filter_map(Device::of);
    devices.any(|device| device.kind == "loopback" && device.flags & UP != 0)
}

/// The name of a device.
pub(super) fn name(messages: &[Message], number: u32) -> Option<String> {
    let mut devices = messages.iter().filter_map(Device::of);
    devices.find(|device| device.number == number).map(|device| device.name.to_owned())
}

/// What of devices is not carried; `attached` says how many files of the tree are attached to a program's device.
pub(super) fn unsupported(
    messages: &[Message],
    place: Place,
    attached: &dyn Fn(&str) -> usize,
) -> Vec<Unsupported> {
    let mut found = Vec::new();
    for device in messages.iter().filter_map(Device::of).filter(|device| !device.is_fallback()) {
        let object = format!("network device {}", device.name);
        if images::network_devices::kind(&device.kind).is_none() {
            let refusal = support::networks::device(place, &device.kind, device.name);
            found.push(refusal.of(place.task, object));
        } else if let Some(programs) = device.message.attribute(PROGRAM).and_then(Attribute::inner)
            && has_program(&programs)
        {
            found.push(support::networks::program(place, device.name).of(place.task, object));
        } else if device.kind == "bridge" && device.filters_vlans() {
            found.push(support::networks::vlan_filter(place, device.name).of(place.task, object));
        } else if device.kind == "tun"
            && let Some(refusal) = of_program(&device, place, attached(device.name))
        {
            found.push(refusal.of(place.task, object));
        }
    }
    found
}

/// What stands in the way of carrying a program's device to which `own` files of the tree are attached.
fn of_program(device: &Device<'_>, place: Place, own: usize) -> Option<Refusal> {
    const ETHERNET: u16 = 1;
    const NONE: u16 = 0xfffe;
    const CARRIER: u16 = 33;
    let said = tun::Device::of(&device.data);
    let carrier = device.message.attribute(CARRIER).and_then(|it| it.value.first());
    let is_used = said.flags & tun::PERSISTENT == 0 || carrier.is_some_and(|it| *it != 0);
    let others = match said.queues {
        Some(queues) => queues as usize > own,
        None => own == 0 && is_used,
    };
    if others {
        return Some(support::networks::program_held_outside(place));
    }
    let link = u16::from_ne_bytes([device.message.fixed[2], device.message.fixed[3]]);
    let usual = if said.flags & tun::TAP != 0 { ETHERNET } else { NONE };
    (link != usual).then(|| support::networks::program_link(place, device.name))
}

/// What a program's device has; of header and buffer what is in the images of the files that are attached to it counts.
fn of_tun(data: &[Attribute], ids: &IdMap) -> io::Result<TunLinkEntry> {
    /// Of a new device: `struct virtio_net_hdr`, and no limit.
    const HEADER: u32 = 10;
    const BUFFER: u32 = i32::MAX.cast_unsigned();
    let said = tun::Device::of(data);
    let id = |id: Option<u32>| id.map_or(-1, u32::cast_signed);
    let mut entry = TunLinkEntry {
        flags: said.flags,
        owner: id(said.owner),
        group: id(said.group),
        vnethdr: HEADER,
        sndbuf: BUFFER,
    };
    ids.enter(&mut entry);
    let is_lost = |said: Option<u32>, now: i32| said.is_some() && now.cast_unsigned() == NOBODY;
    match is_lost(said.owner, entry.owner) || is_lost(said.group, entry.group) {
        // Anybody could attach to it then.
        true => Err(io::Error::other(
            "the owner of a network device (tun) has no number in the user namespace of the tree; before the dump give it to \
             somebody of the namespace (TUNSETOWNER), or remove it (ip link del DEVICE)",
        )),
        false => Ok(entry),
    }
}

/// Whether a program is attached that sees packets first (XDP).
fn has_program(attributes: &[Attribute]) -> bool {
    const ATTACHED: u16 = 2;
    let attached = attributes.iter().find(|attribute| attribute.kind == ATTACHED);
    attached.is_some_and(|attached| attached.value.first().is_some_and(|kind| *kind != 0))
}

/// The settings of a device, of IPv4 and IPv6.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    v4: Vec<SysctlEntry>,
    v6: Vec<SysctlEntry>,
    /// The kernel's own arrays of them, from before they were read: while these are the same, so are they.
    mark: Option<[Vec<u8>; 2]>,
}

/// The settings of all devices of the namespace that this thread is in, by their numbers.
pub(super) fn settings(messages: &[Message]) -> io::Result<BTreeMap<u32, Settings>> {
    let devices = messages.iter().filter_map(Device::of).filter(|device| !device.is_fallback());
    let read = |device: Device<'_>| {
        Ok((
            device.number,
            Settings {
                v4: settings::of_device("ipv4", device.name)?,
                v6: settings::of_device("ipv6", device.name)?,
                mark: mark(device.message),
            },
        ))
    };
    devices.map(read).collect()
}

/// The bytes of attributes, if there are any.
fn together(attributes: &[Attribute]) -> Option<Vec<u8>> {
    (!attributes.is_empty()).then(|| Attribute::of(0, attributes).value)
}

/// What the kernel says of a device's IPv6.
fn of_ipv6(message: &Message) -> Option<Vec<Attribute>> {
    let families = message.attribute(BY_FAMILY)?.inner()?;
    families.iter().find(|it| it.kind == libc::AF_INET6 as u16)?.inner()
}

/// How a device gets addresses of IPv6 by itself.
fn address_mode(message: &Message) -> Option<u32> {
    const MODE: u16 = 8;
    let v6 = of_ipv6(message)?;
    v6.iter().find(|it| it.kind == MODE)?.value.first().map(|mode| u32::from(*mode))
}

/// The arrays in which the kernel has the settings of a device, but for texts.
fn mark(message: &Message) -> Option<[Vec<u8>; 2]> {
    const V4: (u16, u16) = (libc::AF_INET as u16, 1);
    const V6: (u16, u16) = (libc::AF_INET6 as u16, 2);
    let families = message.attribute(BY_FAMILY)?.inner()?;
    let array = |(family, array): (u16, u16)| {
        let of = families.iter().find(|attribute| attribute.kind == family)?.inner()?;
        Some(of.into_iter().find(|attribute| attribute.kind == array)?.value)
    };
    Some([array(V4)?, array(V6)?])
}

/// The entries of the devices of the namespace `own`, with the settings that were `read` before, if these hold;
/// `known` are the numbers by which it knows others, and `ids` those of its users.
pub(super) fn entries(
    messages: &[Message],
    own: u32,
    known: &BTreeMap<i32, u32>,
    read: &BTreeMap<u32, Settings>,
    ids: &IdMap,
) -> io::Result<Vec<NetDeviceEntry>> {
    let mut entries = Vec::new();
    for message in messages {
        let device = Device::of(message).ok_or_else(strange)?;
        if !device.is_fallback() {
            entries.push(entry(&device, own, known, (read.get(&device.number), ids))?);
        }
    }
    // Who belongs to another comes after that one.
    entries.sort_by_key(|entry| entry.ifindex);
    Ok(entries)
}

fn entry(
    device: &Device<'_>,
    own: u32,
    known: &BTreeMap<i32, u32>,
    (read, ids): (Option<&Settings>, &IdMap),
) -> io::Result<NetDeviceEntry> {
    const MODE: u16 = 1;
    const FLAGS: u16 = 2;
    let carried = images::network_devices::kind(&device.kind).ok_or_else(strange)?;
    let elsewhere = device.message.attribute(LOWER_NAMESPACE).and_then(Attribute::number);
    let elsewhere = elsewhere.map(u32::cast_signed).filter(|nsid| *nsid >= 0);
    let is_loopback = carried.r#type == device::LOOPBACK;
    let data: Vec<Attribute> =
        device.data.iter().filter(|it| carried.data.contains(&it.kind)).cloned().collect();
    let of = |kind| device.data.iter().find(|attribute| attribute.kind == kind);
    let macvlan = || MacvlanLinkEntry {
        mode: of(MODE).and_then(Attribute::number).unwrap_or_default(),
        flags: of(FLAGS)
            .and_then(|flags| flags.value.first_chunk().copied())
            .map(|flags| u16::from_ne_bytes(flags).into()),
    };
    let now = mark(device.message);
    let kept = read.filter(|read| now.is_some() && read.mark == now);
    let (conf4, conf6) = match kept {
        Some(kept) => {
            let mut conf6 = kept.v6.clone();
            settings::read_texts(device.name, &mut conf6)?;
            (kept.v4.clone(), conf6)
        }
        None => {
            (settings::of_device("ipv4", device.name)?, settings::of_device("ipv6", device.name)?)
        }
    };
    let address = device.message.attribute(ADDRESS).filter(|_| !is_loopback);
    Ok(NetDeviceEntry {
        r#type: carried.r#type,
        ifindex: device.number,
        mtu: device.attribute(MTU).unwrap_or_default(),
        flags: device.flags,
        name: device.name.to_owned(),
        address: address.map(|address| address.value.clone()),
        macvlan: (carried.r#type == device::MACVLAN).then(macvlan),
        tun: match carried.r#type == device::TUN {
            true => Some(of_tun(&device.data, ids)?),
            false => None,
        },
        peer_ifindex: Some(device.attribute(LOWER).unwrap_or(device.number)),
        peer_nsid: match elsewhere {
            None => Some(own),
            Some(nsid) => known.get(&nsid).copied(),
        },
        master: device.attribute(MASTER),
        conf4,
        conf6,
        kind: (!is_loopback).then(|| device.kind.clone()),
        data: together(&data),
        more: device.more(),
        port: device.port(),
        names: device.names(),
        queue: device.attribute(QUEUE),
        address_mode: address_mode(device.message),
        ..NetDeviceEntry::default()
    })
}
