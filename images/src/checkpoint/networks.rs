//! Network namespaces: what is in their images.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::images::Images;
use crate::messages::{FileEntry, NetDeviceEntry, NetnsEntry};
use crate::names::{self, NetworkImage};

use super::processes::Process;

/// No firewall and no routing table comes near this.
const LONGEST: u64 = 64 << 20;

/// What the images say of a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Whether there is an image of it. CRIU writes none if it was told that it comes back empty (`--empty-ns net`, as
    /// runc does), and a restore has to be told so as well.
    pub is_there: bool,
    /// Its settings; `None` where it comes back empty.
    pub entry: Option<NetnsEntry>,
    /// Its devices, in the order of the image.
    pub devices: Vec<NetDeviceEntry>,
    /// Its addresses, routes, rules and firewalls, each as its image holds it. What is empty is not there.
    pub raw: BTreeMap<NetworkImage, Vec<u8>>,
}

/// Those that the processes and their sockets are in, beside the dumper's.
pub(super) fn load<'f>(
    images: &Images,
    processes: &[Process],
    files: impl Iterator<Item = &'f FileEntry>,
) -> Result<BTreeMap<u32, Network>, Error> {
    let own = images.inventory().root_ids.as_ref().and_then(|ids| ids.net_ns_id);
    let bodies = processes.iter().filter_map(|process| process.body.as_ref());
    let of_tasks = bodies.filter_map(|body| body.ids.net_ns_id);
    let numbers: BTreeSet<u32> = of_tasks.chain(files.filter_map(FileEntry::network)).collect();
    let others = numbers.into_iter().filter(|number| own.is_some() && own != Some(*number));
    others.map(|number| Ok((number, load_one(images, number)?))).collect()
}

fn load_one(images: &Images, number: u32) -> Result<Network, Error> {
    let image = names::netns(number);
    let Some(reader) = images.reader(&image)? else { return Ok(Network::default()) };
    let mut entries = reader.entries()?.into_iter();
    let network = Network {
        is_there: true,
        entry: entries.next(),
        devices: images.read_all(&names::netdev(number))?,
        raw: BTreeMap::new(),
    };
    if entries.next().is_some() {
        return Err(Error::invalid(image.name(), "it has more than one entry"));
    }
    let raw = NetworkImage::ALL
        .into_iter()
        .map(|kind| Ok((kind, images.read_raw(&names::of_network(kind, number), LONGEST)?)));
    let raw: Vec<_> = raw.collect::<Result<_, Error>>()?;
    let raw = raw.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    Ok(Network { raw, ..network })
}
