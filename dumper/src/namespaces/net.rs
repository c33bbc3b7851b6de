//! Network namespaces: their settings, devices, addresses, routes, rules and firewalls.
//!
//! All of it but the settings is read while the target runs ([`Plans`]), by this thread from inside of the namespace.
//! The kernel tells of every change since ([`Watch`]): if it tells of none, that is how it was at the freeze. What it tells no changes
//! of is in [`untold`].

mod devices;
mod settings;
mod strange;
mod untold;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use collector::Process;
use ids::HostPid;
use images::messages::{NamedSysctl, NetDeviceEntry, NetnsEntry, NetnsId};
use images::names::NetworkImage;
use images::{ImageWriter, names};
use kernel::firewall::{self, Family};
use kernel::namespaces::within_network;
use kernel::rtnetlink::{Attribute, Message, Rtnetlink, Watch};
use support::Unsupported;
use support::networks::Place;

use super::{Described, Namespace};
use crate::error::Error;
use crate::files::Attached;
use crate::options::DumpOptions;
use strange::strange;
use untold::Untold;

/// Bytes of `struct rtmsg`, and of `struct fib_rule_hdr`.
const ROUTE: usize = 12;
/// Bytes of `struct ifaddrmsg`.
const ADDRESS: usize = 8;

/// What is known of the network namespaces of a tree while that runs.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    /// By the kernel's ids.
    planned: BTreeMap<u64, Planned>,
    /// Those that a restore is told what stands for, by the kernel's ids.
    external: BTreeMap<u64, String>,
    /// They come back empty.
    empty: bool,
    /// The files of the tree that are attached to devices of programs.
    attached: Attached,
}

#[derive(Debug)]
struct Planned {
    namespace: Arc<OwnedFd>,
    /// What is told of changes, and what was found; nothing of one that is not part of the checkpoint.
    found: Option<(Watch, State)>,
}

/// What a namespace says of itself, but for its settings.
#[derive(Clone, Debug, Default)]
struct State {
    devices: Vec<Message>,
    /// Those of the devices, by their numbers.
    settings: BTreeMap<u32, devices::Settings>,
    raw: BTreeMap<NetworkImage, Vec<u8>>,
}

impl Plans {
    /// Looks into these namespaces, with devices of programs to which files of the tree are `attached`.
    pub(crate) fn begin(
        namespaces: &BTreeMap<u64, Arc<OwnedFd>>,
        attached: &Attached,
        options: &DumpOptions,
    ) -> Result<Self, Error> {
        let mut plans = Self {
            planned: BTreeMap::new(),
            external: options.external_networks.clone(),
            empty: options.empty_networks,
            attached: attached.clone(),
        };
        for (&id, namespace) in namespaces {
            let found = match plans.is_inside(id) {
                true => {
                    let look = || Ok((Watch::begin()?, State::read()?));
                    Some(
                        within_network(&**namespace, look)
                            .flatten()
                            .map_err(failed(options.pid))?,
                    )
                }
                false => None,
            };
            let namespace = Arc::clone(namespace);
            plans.planned.insert(id, Planned { namespace, found });
        }
        Ok(plans)
    }

    /// Whether what a namespace holds is part of the checkpoint.
    fn is_inside(&self, id: u64) -> bool {
        !self.empty && !self.external.contains_key(&id)
    }

    /// The namespaces, by the kernel's ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.planned.keys().copied()
    }

    /// How many files of the tree are attached to a program's device of a namespace.
    fn attached(&self, id: u64) -> impl Fn(&str) -> usize {
        move |name| self.attached.get(&(id, name.to_owned())).map_or(0, BTreeSet::len)
    }

    /// What stands in the way of carrying them.
    pub(crate) fn unsupported(
        &self,
        root: HostPid,
        processes: &BTreeMap<HostPid, Process>,
    ) -> Result<Vec<Unsupported>, Error> {
        let mut found = Vec::new();
        for (&id, planned) in &self.planned {
            let Some((_, state)) = &planned.found else { continue };
            let is_inside = |process: &&Process| process.namespaces.get("net") == Some(&id);
            let member = processes.values().find(is_inside).map(|process| process.pid);
            let place = Place { task: member.unwrap_or(root), is_inside: member.is_some(), id };
            let more = || {
                let mut more = state.unsupported(place, &self.attached(id))?;
                more.extend(untold::unsupported(&state.devices, place)?);
                Ok(more)
            };
            let more = within_network(&*planned.namespace, more).flatten();
            found.extend(more.map_err(failed(root))?);
        }
        Ok(found)
    }
}

fn failed(pid: HostPid) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Process {
        operation: "read a network namespace of the tree of",
        pid,
        source,
    }
}

impl State {
    /// Reads that of the namespace that this thread is in.
    fn read() -> io::Result<Self> {
        const GET_ADDRESS: u16 = 22;
        const GET_ROUTE: u16 = 26;
        const GET_RULE: u16 = 34;
        const V4: u8 = libc::AF_INET as u8;
        const V6: u8 = libc::AF_INET6 as u8;
        let door = Rtnetlink::open()?;
        let fixed = |family: u8, length: usize| {
            let mut fixed = vec![0; length];
            fixed[0] = family;
            fixed
        };
        let devices = links(&door)?;
        let settings = devices::settings(&devices)?;
        let mut raw = BTreeMap::new();
        raw.insert(NetworkImage::Addresses, door.list(GET_ADDRESS, &fixed(0, ADDRESS))?);
        for (kind, family) in [(NetworkImage::Routes, V4), (NetworkImage::Routes6, V6)] {
            raw.insert(kind, routes(&door.list(GET_ROUTE, &fixed(family, ROUTE))?)?);
        }
        for (kind, family) in [(NetworkImage::Rules, V4), (NetworkImage::Rules6, V6)] {
            raw.insert(kind, door.list(GET_RULE, &fixed(family, ROUTE))?);
        }
        raw.insert(NetworkImage::Nftables, firewall::nftables()?);
        raw.insert(NetworkImage::Iptables, firewall::legacy_tables(Family::V4)?);
        raw.insert(NetworkImage::Ip6tables, firewall::legacy_tables(Family::V6)?);
        raw.retain(|_, bytes| !bytes.is_empty());
        Ok(Self { devices, settings, raw })
    }

    /// Whether there are tables of which nobody tells when they change.
    fn has_silent_parts(&self) -> bool {
        let silent = [NetworkImage::Iptables, NetworkImage::Ip6tables];
        silent.iter().any(|kind| self.raw.contains_key(kind))
            || firewall::has_legacy_tables(Family::V4)
            || firewall::has_legacy_tables(Family::V6)
    }

    fn unsupported(
        &self,
        place: Place,
        attached: &dyn Fn(&str) -> usize,
    ) -> io::Result<Vec<Unsupported>> {
        let mut found = devices::unsupported(&self.devices, place, attached);
        if let Some(text) = self.raw.get(&NetworkImage::Nftables)
            && firewall::has_foreign_parts(text)
        {
            found.push(support::networks::FOREIGN_RULES.of(place.task, "nftables"));
        }
        Ok(found)
    }
}

/// The devices of the namespace that this thread is in.
fn links(door: &Rtnetlink) -> io::Result<Vec<Message>> {
    const GET_LINK: u16 = 18;
    let list = door.list(GET_LINK, &[0; devices::LINK])?;
    Message::read_all(&list, devices::LINK).ok_or_else(strange)
}

/// Those routes that do not come by themselves with an address: but for the kernel's own local ones.
fn routes(list: &[u8]) -> io::Result<Vec<u8>> {
    const CLONED: u32 = 0x200;
    const LOCAL_TABLE: u8 = 255;
    const KERNEL: u8 = 2;
    let mut kept = Vec::new();
    for route in Message::read_all(list, ROUTE).ok_or_else(strange)? {
        let flags = route.fixed.get(8..12).and_then(|flags| flags.try_into().ok());
        let is_cloned = flags.is_some_and(|flags| u32::from_ne_bytes(flags) & CLONED != 0);
        let is_the_kernels = route.fixed[4] == LOCAL_TABLE && route.fixed[5] == KERNEL;
        if !is_cloned && !is_the_kernels {
            kept.extend(route.bytes());
        }
    }
    Ok(kept)
}

/// A network namespace, as the images have it.
#[derive(Debug, Default)]
struct Network {
    entry: NetnsEntry,
    devices: Vec<NetDeviceEntry>,
    raw: BTreeMap<NetworkImage, Vec<u8>>,
    /// Where what nobody tells changes of is read later: the namespace, and its devices.
    later: Option<(Arc<OwnedFd>, Vec<Message>, Place)>,
}

/// Reads a namespace of a target that stands still.
pub(super) fn read(namespace: &Namespace<'_>) -> Result<Box<dyn Described>, Error> {
    let plans = namespace.networks;
    let network = match plans.external.get(&namespace.id) {
        Some(key) => Network {
            entry: NetnsEntry { ext_key: Some(key.clone()), ..NetnsEntry::default() },
            ..Network::default()
        },
        None if plans.empty => Network {
            entry: NetnsEntry {
                loopback_up: has_loopback(namespace).map_err(failed(namespace.member))?,
                ..NetnsEntry::default()
            },
            ..Network::default()
        },
        None => {
            let (network, found) = read_inside(namespace).map_err(failed(namespace.member))?;
            if !found.is_empty() {
                return Err(Error::Refused { root: namespace.member, found });
            }
            network
        }
    };
    Ok(Box::new(network))
}

/// Its descriptor.
fn descriptor(namespace: &Namespace<'_>) -> io::Result<Arc<OwnedFd>> {
    match namespace.networks.planned.get(&namespace.id) {
        Some(planned) => Ok(Arc::clone(&planned.namespace)),
        // It was made after the plan.
        None => kernel::namespaces::of_process(namespace.member, "net").map(Arc::new),
    }
}

/// Whether the loopback device is up in one that comes back empty: nobody else would bring it up, and programs talk to themselves by it.
fn has_loopback(namespace: &Namespace<'_>) -> io::Result<Option<bool>> {
    let look = || Ok(devices::is_loopback_up(&links(&Rtnetlink::open()?)?));
    let is_up = within_network(&*descriptor(namespace)?, look).flatten()?;
    Ok(is_up.then_some(true))
}

/// Reads what a namespace holds, and what of that cannot be carried: not all of it is told by a watch.
fn read_inside(namespace: &Namespace<'_>) -> io::Result<(Network, Vec<Unsupported>)> {
    let planned = namespace.networks.planned.get(&namespace.id);
    let descriptor = descriptor(namespace)?;
    let found = planned.and_then(|planned| planned.found.as_ref());
    within_network(&*descriptor, || {
        let quiet = found.filter(|(watch, state)| watch.is_quiet() && !state.has_silent_parts());
        let state = match quiet {
            Some((_, state)) => State { devices: links(&Rtnetlink::open()?)?, ..state.clone() },
            None => State::read()?,
        };
        let Namespace { member: task, has_member: is_inside, id, .. } = *namespace;
        let attached = namespace.networks.attached(id);
        let place = Place { task, is_inside, id };
        let unsupported = state.unsupported(place, &attached)?;
        let numbers = known_namespaces(namespace)?;
        let State { devices, settings, mut raw } = state;
        // They change with every packet.
        let tracked = firewall::tracked()?;
        if !tracked.is_empty() {
            raw.insert(NetworkImage::Tracked, tracked);
        }
        let network = Network {
            devices: devices::entries(
                &devices,
                namespace.number,
                &numbers,
                &settings,
                &namespace.users.ids,
            )?,
            entry: NetnsEntry {
                nsids: numbers
                    .iter()
                    .map(|(&netnsid_value, &target_ns_id)| NetnsId { target_ns_id, netnsid_value })
                    .collect(),
                ..settings::of_namespace()?
            },
            raw,
            later: Some((Arc::clone(&descriptor), devices, place)),
        };
        Ok((network, unsupported))
    })
    .flatten()
}

/// The numbers by which this namespace knows others of the tree, with those that they have in the images.
fn known_namespaces(namespace: &Namespace<'_>) -> io::Result<BTreeMap<i32, u32>> {
    const GET_NSID: u16 = 90;
    /// `struct rtgenmsg`, with what fills it up.
    const GENERAL: usize = 4;
    const NSID: u16 = 1;
    const FD: u16 = 3;
    let door = Rtnetlink::open()?;
    let mut found = BTreeMap::new();
    for (id, number) in namespace.numbers_of("net") {
        let Some(planned) = namespace.networks.planned.get(&id) else { continue };
        use std::os::fd::AsRawFd;
        let fd = planned.namespace.as_raw_fd().cast_unsigned().to_ne_bytes();
        let ask = Message {
            kind: GET_NSID,
            flags: 0,
            fixed: vec![0; GENERAL],
            attributes: vec![Attribute::new(FD, fd)],
        };
        let answer = Message::read_all(&door.get(&ask)?, GENERAL).ok_or_else(strange)?;
        let nsid = answer.first().and_then(|answer| answer.attribute(NSID)?.number());
        if let Some(nsid) = nsid.map(u32::cast_signed).filter(|nsid| *nsid >= 0) {
            found.insert(nsid, number);
        }
    }
    Ok(found)
}

impl Described for Network {
    fn read_later(&mut self) -> Result<Vec<String>, Error> {
        let Some((namespace, links, place)) = self.later.take() else { return Ok(Vec::new()) };
        let look = || Ok((Untold::read(&links)?, untold::unsupported(&links, place)?));
        let looked = within_network(&*namespace, look).flatten();
        let (Untold { settings, raw, mut groups }, found) = looked.map_err(failed(place.task))?;
        // What has come since the plan.
        if !found.is_empty() {
            return Err(Error::Refused { root: place.task, found });
        }
        let named = |(name, value)| NamedSysctl { name, value };
        self.entry.others = settings.into_iter().map(named).collect();
        self.raw.extend(raw);
        for device in &mut self.devices {
            device.groups = groups.remove(&device.ifindex).unwrap_or_default();
        }
        Ok(Vec::new())
    }

    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_one(&names::netns(number), &self.entry)?;
        writer.write_all(&names::netdev(number), &self.devices)?;
        for (kind, bytes) in &self.raw {
            let mut output = writer.raw(&names::of_network(*kind, number))?;
            let magic = kind.magic().map(u32::to_ne_bytes);
            let parts = [magic.as_ref().map_or(&[][..], |magic| magic), bytes];
            for part in parts {
                output.write_all(part).map_err(|source| images::Error::Io {
                    operation: "write",
                    name: names::of_network(*kind, number),
                    source,
                })?;
            }
        }
        Ok(())
    }
}
