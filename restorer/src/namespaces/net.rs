//! Network namespaces: made, and filled with settings, devices, addresses, routes, rules and firewalls.
//!
//! All is done by this thread from inside of the namespace, so that it goes with the namespace if the restore
//! fails. Firewalls come last, when the files are open: what a restore sends to the sockets of the tree (datagrams, the ends
//! of connections) is nothing that a firewall is to judge. Until then nothing else comes in ([`firewall::hold`]). Messages from images are checked attribute by attribute ([`messages`]): they may concern nothing else.

mod devices;
mod failed;
mod messages;
mod programs;
mod settings;
mod tracked;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use images::Checkpoint;
use images::messages::{NetDeviceEntry, NetnsEntry, device};
use images::names::{self, NetworkImage};
use kernel::firewall::{self, Family};
use kernel::namespaces::{new_network, own, within_network};
use kernel::netfilter::{Lock, Method};
use kernel::rtnetlink::{Attribute, Message, Rtnetlink};

use super::{Kind, Made, Making};
use crate::error::Error;
use failed::failed;

/// The kind.
pub(super) const KIND: Kind = Kind { name: NAME, load };

/// Its name in `/proc/PID/ns`.
pub(super) const NAME: &str = "net";

/// What a restore is told of network namespaces.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Descriptors by the names that the caller gives them: among them namespaces that stand for those that were not dumped.
    pub inherited: BTreeMap<String, Arc<OwnedFd>>,
    /// They come back empty.
    pub empty: bool,
    /// The restoring process has joined the one that takes the place of all; this is where it was before, and where what
    /// a dump has locked is.
    pub joined: Option<Arc<OwnedFd>>,
    /// The time namespace that takes the place of all ([`crate::Joined::time`]).
    pub time: Option<Arc<OwnedFd>>,
    /// What stands for the other ends of devices, by what images call these: `veth[eth0]`, `macvlan[eth0]`.
    pub devices: BTreeMap<String, String>,
    /// Settings that this kernel does not have, or does not take, are left out.
    pub weak_settings: bool,
}

/// What a network namespace is to be like.
#[derive(Debug)]
struct Network {
    /// There is an image of it.
    is_there: bool,
    entry: NetnsEntry,
    is_empty: bool,
    devices: Vec<NetDeviceEntry>,
    messages: BTreeMap<NetworkImage, Vec<Message>>,
    texts: BTreeMap<NetworkImage, Vec<u8>>,
    /// Packets can come from elsewhere.
    can_receive: bool,
    /// What drops packets until its sockets are there, if any can come.
    lock: Option<Lock>,
}

fn load(checkpoint: &Checkpoint, number: u32) -> Result<Box<dyn Making>, Error> {
    let image = names::netns(number);
    let missing = || images::Error::Missing { name: image.name().into() };
    let network = checkpoint.networks.get(&number).ok_or_else(missing)?;
    let (mut messages, mut texts) = (BTreeMap::new(), BTreeMap::new());
    for (&kind, bytes) in &network.raw {
        let name = names::of_network(kind, number);
        match kind.magic() {
            None if kind == NetworkImage::Tracked => {
                let read = tracked::read(bytes);
                messages.insert(kind, read.map_err(|reason| Error::image(name, reason))?);
            }
            None if kind.is_text() => drop(texts.insert(kind, bytes.clone())),
            _ => {
                let read = messages::read(kind, bytes);
                messages.insert(kind, read.map_err(|reason| Error::image(name, reason))?);
            }
        }
    }
    for device in &network.devices {
        devices::check(device).map_err(|reason| {
            Error::image(
                names::netdev(number).name(),
                format!("device {:?}: {reason}", device.name),
            )
        })?;
    }
    let can_receive = network.devices.iter().any(|it| it.r#type != device::LOOPBACK);
    Ok(Box::new(Network {
        is_there: network.is_there,
        entry: network.entry.clone().unwrap_or_default(),
        is_empty: network.entry.is_none(),
        devices: network.devices.clone(),
        messages,
        texts,
        can_receive,
        lock: can_receive.then(|| lock(checkpoint, number)).flatten(),
    }))
}

/// The lock of the connections that are in a namespace.
fn lock(read: &Checkpoint, number: u32) -> Option<Lock> {
    let inventory = read.images.inventory();
    let method = inventory.network_lock_method.and_then(Method::of_number);
    let method = method.filter(|method| *method != Method::Skip).or_else(Method::here)?;
    let bodies = read.files.entries.values().filter_map(|file| file.body());
    let of_it = bodies.filter(|body| body.network() == Some(number));
    let ends: Vec<(SocketAddr, SocketAddr)> = of_it.flat_map(|body| body.connections()).collect();
    let of_root = || read.processes.first().map(|process| process.pid.to_string());
    let id = inventory.dump_criu_run_id.clone().or_else(of_root)?;
    if ends.is_empty() { None } else { Lock::new(method, &id, ends) }
}

impl Making for Network {
    fn is_new(&self, given: &Given) -> bool {
        given.joined.is_none() && self.entry.ext_key.is_none()
    }

    fn make(&self, number: u32, given: &Given) -> Result<OwnedFd, Error> {
        if given.joined.is_some() {
            return own(NAME).map_err(Error::kernel("open the own network namespace"));
        }
        if !self.is_there && !given.empty {
            return Err(images::Error::Missing { name: names::netns(number).name().into() }.into());
        }
        let Some(key) = &self.entry.ext_key else {
            let what = format!("make network namespace {number}");
            return new_network().map_err(Error::kernel(what));
        };
        let Some(inherited) = given.inherited.get(key) else {
            let refusal = support::networks::external(key);
            return Err(Error::refused(refusal.of(0, format!("network namespace {number}"))));
        };
        let failed = || Error::kernel(format!("use the network namespace {key}"));
        // That it is one is found out before anything is made.
        within_network(&**inherited, || ()).map_err(failed())?;
        inherited.try_clone().map_err(failed())
    }

    fn fill(&self, number: u32, made: &Made<'_>, given: &Given) -> Result<(), Error> {
        if !self.is_filled(given) {
            return match self.is_new(given) && self.entry.loopback_up == Some(true) {
                true => self.with_loopback(number, made),
                false => Ok(()),
            };
        }
        let outside = own(NAME).map_err(Error::kernel("open the own network namespace"))?;
        let networks = made.of_kind(NAME);
        let place = Place { number, outside: &outside, networks: &networks, given };
        let namespace = networks.get(&number).copied();
        let namespace =
            namespace.ok_or_else(|| Error::image(names::netns(number).name(), "it is not made"))?;
        within_network(namespace, || self.fill_here(&place))
            .map_err(Error::kernel("enter a network namespace"))?
    }

    fn complete(&self, namespace: &OwnedFd, given: &Given) -> Result<(), Error> {
        if !self.is_filled(given) {
            return Ok(());
        }
        let is_late = !self.texts.is_empty() && !self.loads_early();
        let load = || {
            if is_late {
                self.firewalls()?;
            }
            devices::set_again(&self.devices, given.weak_settings)?;
            // Some are there when the firewall is.
            settings::others(&self.entry)?;
            settings::tell_of_others(&self.entry);
            // The firewall is what has them tracked.
            tracked::restore(self.of(NetworkImage::Tracked))?;
            match is_late && self.can_receive {
                true => firewall::release().map_err(failed("let packets in")),
                false => Ok(()),
            }
        };
        within_network(namespace, load).map_err(Error::kernel("enter a network namespace"))?
    }
}

/// Where a namespace is filled.
struct Place<'a> {
    number: u32,
    /// That of the restoring process.
    outside: &'a OwnedFd,
    /// All that have been made, by number.
    networks: &'a BTreeMap<u32, &'a OwnedFd>,
    given: &'a Given,
}

impl Network {
    /// Whether it is filled with what the images have.
    fn is_filled(&self, given: &Given) -> bool {
        let is_given = self.entry.ext_key.is_some() || given.joined.is_some();
        !is_given && !self.is_empty && !given.empty
    }

    /// Brings the loopback device up in one that is empty else.
    fn with_loopback(&self, number: u32, made: &Made<'_>) -> Result<(), Error> {
        let networks = made.of_kind(NAME);
        let Some(namespace) = networks.get(&number) else { return Ok(()) };
        let bring_up = || devices::bring_up_loopback(&Rtnetlink::open()?);
        within_network(namespace, bring_up)
            .flatten()
            .map_err(failed("bring up the loopback device"))
    }

    /// Whether the firewalls have to be there before packets can come, as nothing else holds these back.
    fn loads_early(&self) -> bool {
        self.can_receive && !firewall::can_hold()
    }

    fn firewalls(&self) -> Result<(), Error> {
        for (kind, text) in &self.texts {
            let (what, loaded) = match kind {
                NetworkImage::Iptables => {
                    ("iptables", firewall::load_legacy_tables(Family::V4, text))
                }
                NetworkImage::Ip6tables => {
                    ("ip6tables", firewall::load_legacy_tables(Family::V6, text))
                }
                _ => ("nftables", firewall::load_nftables(text)),
            };
            loaded.map_err(failed(format!("load the tables of {what}")))?;
        }
        Ok(())
    }

    /// In the namespace.
    fn fill_here(&self, place: &Place<'_>) -> Result<(), Error> {
        let door = Rtnetlink::open().map_err(failed("ask for devices"))?;
        if let Some(lock) = &self.lock {
            // The namespace goes with the restoring process.
            lock.set(None).map_err(failed("lock connections"))?;
        }
        if !self.texts.is_empty() {
            match self.loads_early() {
                true => self.firewalls()?,
                false if self.can_receive => {
                    firewall::hold().map_err(failed("hold packets back"))?;
                }
                false => {}
            }
        }
        settings::of_namespace(&self.entry, place.given.weak_settings)?;
        self.name_namespaces(&door, place)?;
        devices::make(&door, &self.devices, place)?;
        if self.entry.loopback_up == Some(true) {
            devices::bring_up_loopback(&door).map_err(failed("bring up the loopback device"))?;
        }
        self.addresses(&door)?;
        self.routes(&door)?;
        self.rules(&door)?;
        self.neighbours(&door)?;
        if let Some(labels) = self.messages.get(&NetworkImage::Labels) {
            messages::set_labels(&door, labels).map_err(failed("label addresses"))?;
        }
        devices::set_again(&self.devices, place.given.weak_settings)?;
        settings::others(&self.entry)
    }

    /// What is there already, because a device has that address, stays.
    fn neighbours(&self, door: &Rtnetlink) -> Result<(), Error> {
        const CREATE_NEW: u16 = 0x600;
        for neighbour in self.of(NetworkImage::Neighbours) {
            match door.request(&Message { flags: CREATE_NEW, ..neighbour.clone() }) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                done => done.map_err(failed("tell of a neighbour"))?,
            }
        }
        Ok(())
    }

    /// Gives other namespaces the numbers by which this one knows them.
    fn name_namespaces(&self, door: &Rtnetlink, place: &Place<'_>) -> Result<(), Error> {
        const NEW_NSID: u16 = 88;
        const NSID: u16 = 1;
        const FD: u16 = 3;
        for id in &self.entry.nsids {
            let Some(other) = place.networks.get(&id.target_ns_id) else { continue };
            let message = Message {
                kind: NEW_NSID,
                flags: 0,
                fixed: vec![0; 4],
                attributes: vec![
                    Attribute::new(NSID, id.netnsid_value.to_ne_bytes()),
                    Attribute::new(FD, other.as_raw_fd().to_ne_bytes()),
                ],
            };
            match door.request(&message) {
                // It has one: the kernel has given it one for a device.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                done => done.map_err(failed("number a namespace"))?,
            }
        }
        Ok(())
    }

    fn of(&self, kind: NetworkImage) -> &[Message] {
        self.messages.get(&kind).map_or(&[], |messages| messages)
    }

    fn addresses(&self, door: &Rtnetlink) -> Result<(), Error> {
        let wanted = self.of(NetworkImage::Addresses);
        for address in wanted {
            let verified = messages::verified(address);
            let is_new = messages::add(door, &verified).map_err(failed("add an address"))?;
            if is_new && verified != *address {
                messages::replace(door, address).map_err(failed("set an address"))?;
            }
        }
        // The kernel gives a device some of its own when that comes up.
        for address in messages::addresses(door).map_err(failed("list the addresses"))? {
            if !wanted.iter().any(|it| messages::same_address(it, &address)) {
                messages::remove_address(door, &address).map_err(failed("remove an address"))?;
            }
        }
        Ok(())
    }

    /// Those that lead to a device come first: the others need them.
    fn routes(&self, door: &Rtnetlink) -> Result<(), Error> {
        for kind in [NetworkImage::Routes, NetworkImage::Routes6] {
            let (through, direct): (Vec<_>, Vec<_>) =
                self.of(kind).iter().partition(|route| messages::has_gateway(route));
            for route in direct.into_iter().chain(through) {
                messages::add(door, route).map_err(failed("add a route"))?;
            }
        }
        Ok(())
    }

    fn rules(&self, door: &Rtnetlink) -> Result<(), Error> {
        for (kind, family) in
            [(NetworkImage::Rules, libc::AF_INET), (NetworkImage::Rules6, libc::AF_INET6)]
        {
            let Some(rules) = self.messages.get(&kind) else { continue };
            messages::remove_rules(door, family).map_err(failed("remove the rules"))?;
            for rule in rules {
                messages::add(door, rule).map_err(failed("add a rule"))?;
            }
        }
        Ok(())
    }
}
