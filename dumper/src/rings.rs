//! io_urings: what the kernel keeps of them, and what is in flight.
//!
//! As with asynchronous I/O ([`crate::aio`]) what is in flight is in nothing that could be carried: a tree that stands
//! still is waited for ([`crate::settle`]), and what waits for something to happen is refused. The kind of file
//! ([`crate::files`]) reads the rings themselves.

use std::collections::BTreeMap;

use collector::sharing::{Hold, Unaccounted};
use collector::{Collector, Inventory, Mapping, OpenFile, Process, RegisteredFile, Requests, Ring};
use ids::HostPid;
use images::MappingKind;
use kernel::io_uring::{place, setup};
use kernel::procfs::{Detail, Dir, FdInfo};
use support::mappings::object_of;
use support::rings::{MAPPED_IN_PARTS, REGISTERED_RINGS, UNKNOWN, in_flight};
use support::{Refusal, Unsupported};

use crate::aio::Tree;
use crate::error::Error;
use crate::files::Rings;
use crate::processes::is_zombie;

/// Finds the rings of a tree, and what stands in their way.
pub(crate) fn look(
    collector: &mut Collector,
    inventory: &Inventory,
    tree: Tree,
) -> Result<(Rings, Vec<Unsupported>), Error> {
    let (mut rings, mut found) = (Rings::new(), Vec::new());
    for process in inventory.processes.values().filter(|process| has_rings(process)) {
        let pid = process.pid;
        let failed = |source| Error::Inventory { pid, source };
        let known = collector.rings(process).map_err(failed)?;
        let requests = collector.requests(pid).map_err(failed)?;
        // The kind of file says of each ring why it is not carried, as that it is not known.
        let (Some(known), Some(requests)) = (known, requests) else { continue };
        rings.extend(known.into_iter().map(|ring| ((pid, ring.fd), ring)));
        found.extend(requests.iter().filter_map(|thread| {
            let refusal = of_thread(thread, tree)?;
            Some(refusal.of(pid, format!("io_urings of thread {}", thread.tid)))
        }));
        found.extend(
            mappings(process)
                .filter(|mapping| !is_whole(mapping))
                .map(|mapping| MAPPED_IN_PARTS.of(pid, object_of(mapping))),
        );
    }
    Ok((rings, found))
}

fn of_thread(thread: &Requests, tree: Tree) -> Option<Refusal> {
    match thread.in_flight {
        _ if thread.registered > 0 => Some(REGISTERED_RINGS),
        None => Some(UNKNOWN),
        Some(requests) if requests > 0 && tree == Tree::StandsStill => Some(in_flight(requests)),
        Some(_) => None,
    }
}

/// The threads of a process that have requests in flight, with how many; none where the kernel does not tell.
pub(crate) fn busy(
    collector: &mut Collector,
    process: &Process,
) -> Result<Vec<(HostPid, u32)>, Error> {
    if !has_rings(process) {
        return Ok(Vec::new());
    }
    let pid = process.pid;
    let threads = collector.requests(pid).map_err(|source| Error::Inventory { pid, source })?;
    let busy = threads.unwrap_or_default().into_iter().filter_map(|thread| {
        Some((thread.tid, thread.in_flight.filter(|requests| *requests > 0)?))
    });
    Ok(busy.collect())
}

/// A ring that this thread alone completes, in the call by which it takes its completions, and nowhere else; if there are several, another
/// one each time.
pub(crate) fn completed_by(
    collector: &mut Collector,
    process: &Process,
    tid: HostPid,
    time: usize,
) -> Result<Option<i32>, Error> {
    let pid = process.pid;
    let rings = collector.rings(process).map_err(|source| Error::Inventory { pid, source })?;
    let rings: Vec<i32> = rings
        .unwrap_or_default()
        .iter()
        .filter(|ring| ring.flags & setup::DEFER_TASKRUN != 0 && ring.submitter == Some(tid))
        .map(|ring| ring.fd)
        .collect();
    // Not every time: it may have another ring that completes on any way out of the kernel.
    Ok(rings.get(time % (rings.len() + 1)).copied())
}

/// Whether a process has io_urings, by descriptors or mappings.
pub(crate) fn has_rings(process: &Process) -> bool {
    let has = process.files.iter().any(OpenFile::is_ring) || mappings(process).next().is_some();
    has && !is_zombie(process)
}

fn mappings(process: &Process) -> impl Iterator<Item = &Mapping> {
    process.mappings.iter().filter(|mapping| mapping.kind == MappingKind::IoUringRing)
}

/// Whether all references to something that no process accounts for are those of these rings: each place in which it is a registered
/// file has one, and each ring that tells an eventfd of its completions one to what that counts with.
pub(crate) fn hold(rings: &Rings, inventory: &Inventory, thing: &Unaccounted) -> bool {
    // A ring may be open in several places.
    let rings = rings.iter().filter_map(|(&(pid, fd), ring)| {
        Some((file(inventory, pid, fd)?.description, (pid, ring)))
    });
    let rings: BTreeMap<u64, (HostPid, &Ring)> = rings.collect();
    let places = |pid, hold| {
        let Hold::Descriptor(fd) = hold else { return 0 };
        let Some(wanted) = file(inventory, pid, fd) else { return 0 };
        let registered = rings.values().flat_map(|(pid, ring)| {
            ring.files.iter().filter_map(|place| match place.file {
                RegisteredFile::Descriptor(fd) => file(inventory, *pid, fd),
                _ => None,
            })
        });
        registered.filter(|file| file.description == wanted.description).count() as u64
    };
    let is_told = || {
        let Hold::Descriptor(fd) = thing.shared.hold else { return 0 };
        let info = Dir::open(thing.shared.pid).and_then(|dir| FdInfo::read(&dir, fd));
        let Ok(Detail::Eventfd { id: Some(number), .. }) = info.map(|info| info.detail) else {
            return 0;
        };
        rings.values().filter(|(_, ring)| ring.eventfd == Some(number)).count() as u64
    };
    thing.others == 0
        && thing.descriptions.iter().all(|&(pid, hold, more)| more <= places(pid, hold))
        && (thing.contexts == 0 || thing.contexts <= is_told())
}

fn file(inventory: &Inventory, pid: HostPid, fd: i32) -> Option<&OpenFile> {
    let files = &inventory.processes.get(&pid)?.files;
    files.iter().find(|file| file.fd == fd)
}

/// Whether a mapping begins where a part of a ring does.
fn is_whole(mapping: &Mapping) -> bool {
    [place::QUEUES, place::COMPLETIONS, place::SUBMISSIONS].contains(&mapping.offset)
}
