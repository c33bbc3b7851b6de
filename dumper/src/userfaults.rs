//! Memory whose faults a process serves itself (userfaultfd(2)): which userfaultfd serves which.
//!
//! A page that is not there in such memory is another thing than one of zeros: the program is asked for it. So all pages are copied
//! that are there, also those of zeros ([`crate::memory`]), and nothing else is read. It is never copied ahead: who reads a page that is
//! not there would wait for the program.

use std::collections::{BTreeMap, BTreeSet};

use collector::{Collector, Inventory, OpenFile, Process, VmFlags};
use ids::HostPid;
use images::MappingKind;
use kernel::pagemap::{PageRun, push};
use support::Unsupported;
use support::mappings::object_of;
use support::userfaults as refusals;

use crate::error::Error;
use crate::processes::is_zombie;
use crate::served_memory::{Userfault, Userfaults};

/// Finds the userfaultfds of a tree, and what stands in their way.
pub(crate) fn look(
    collector: &mut Collector,
    inventory: &Inventory,
) -> Result<(Userfaults, Vec<Unsupported>), Error> {
    let (mut found, mut refused) = (Userfaults::new(), Vec::new());
    let mut holders: BTreeMap<u64, BTreeSet<HostPid>> = BTreeMap::new();
    let mut objects = Vec::new();
    for process in inventory.processes.values().filter(|process| concerns(process)) {
        let pid = process.pid;
        let known = collector.userfaults(process);
        let Some(known) = known.map_err(|source| Error::Inventory { pid, source })? else {
            refused.extend(all_of(process).map(|object| refusals::UNSEEN.of(pid, object)));
            continue;
        };
        let contexts: BTreeMap<u64, u64> = known.served.iter().copied().collect();
        let mut served: BTreeMap<u64, Vec<PageRun>> = BTreeMap::new();
        for mapping in process.mappings.iter().filter(|mapping| is_served(mapping.flags)) {
            let by = contexts.get(&mapping.start).copied();
            let by = by.filter(|by| known.files.iter().any(|file| file.context == *by));
            let is_carried = mapping.kind == MappingKind::Anonymous
                && !mapping.flags.contains(VmFlags::LOCKED)
                && !mapping.flags.contains(VmFlags::HUGE_TLB);
            match by {
                None => refused.push(refusals::BY_ANOTHER.of(pid, object_of(mapping))),
                Some(_) if !is_carried => {
                    refused.push(refusals::OTHER_MEMORY.of(pid, object_of(mapping)));
                }
                Some(by) => push(served.entry(by).or_default(), mapping.start, mapping.end),
            }
        }
        for file in &known.files {
            holders.entry(file.context).or_default().insert(pid);
            let has_all = !inventory.processes.values().any(|other| {
                other.pid != pid && other.tables.files.is_some_and(|table| table == pid)
            });
            let refusal = match file.features.and_then(refusals::of_features) {
                _ if !file.is_own => Some(refusals::OF_ANOTHER),
                _ if !has_all || process.tables.files.is_some_and(|table| table != pid) => {
                    Some(refusals::SHARED)
                }
                refusal => refusal,
            };
            refused.extend(refusal.map(|refusal| refusal.of(pid, object(file.fd))));
            objects.push((file.context, pid, file.fd));
            let userfault = Userfault {
                features: file.features,
                user_mode_only: file.user_mode_only,
                served: served.get(&file.context).cloned().unwrap_or_default(),
            };
            found.insert((pid, file.fd), userfault);
        }
    }
    let shared = objects.into_iter().filter(|(context, ..)| holders[context].len() > 1);
    refused.extend(shared.map(|(_, pid, fd)| refusals::SHARED.of(pid, object(fd))));
    Ok((found, refused))
}

/// Whether the faults of a mapping are served, when pages are missing.
pub(crate) fn is_served(flags: VmFlags) -> bool {
    flags.contains(VmFlags::UFFD_MISSING)
}

fn concerns(process: &Process) -> bool {
    let has_file = process.files.iter().any(OpenFile::is_userfaultfd);
    !is_zombie(process)
        && (has_file || process.mappings.iter().any(|mapping| is_served(mapping.flags)))
}

/// What to call all of it.
fn all_of(process: &Process) -> impl Iterator<Item = String> {
    let files = process.files.iter().filter(|file| file.is_userfaultfd());
    let served = process.mappings.iter().filter(|mapping| is_served(mapping.flags));
    files.map(|file| object(file.fd)).chain(served.map(object_of))
}

fn object(fd: i32) -> String {
    format!("descriptor {fd} (anon_inode:[userfaultfd])")
}
