//! Locks of open files that mappings alone keep.
//!
//! A mapping keeps the file that it was made of open when the descriptor has been closed, and with that its locks (flock, OFD,
//! leases). No call takes such a lock again, and no descriptor shows it: but `/proc/locks` has it. So what is locked there and
//! mapped in the tree is looked for among the descriptors, those of others too; that is rare, and is done in the plan alone.
//!
//! For `/proc/locks` the kernel waits for all processors (10 to 20 ms): it is read if there may be locks on what is mapped.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use collector::{Inventory, Mapping, Process};
use ids::HostPid;
use kernel::procfs::{Dir, FdInfo, Lock, LockKind, locks, processes};
use support::Unsupported;
use support::files::LOCK_OF_MAPPING;
use support::mappings::object_of;

/// Those of the tree.
pub(crate) fn find(inventory: &Inventory) -> Vec<Unsupported> {
    let mut mappings = inventory.processes.values().flat_map(|process| &process.mappings);
    if !mappings.any(|mapping| mapping.inode != 0 && mapping.locked != Some(false)) {
        return Vec::new();
    }
    // Without `/proc/locks` nobody can tell.
    let Ok(all) = locks() else { return Vec::new() };
    let mut found = Vec::new();
    // A delegation is the file server's, which no descriptor shows.
    let of_files = |lock: &&Lock| {
        matches!(lock.kind, LockKind::Flock | LockKind::OpenFileDescription | LockKind::Lease)
    };
    for lock in all.iter().filter(of_files) {
        let is_of = |mapping: &&Mapping| {
            (mapping.device, mapping.inode) == (lock.device, lock.inode) && lock.inode != 0
        };
        let has = |process: &&Process| process.mappings.iter().any(|mapping| is_of(&mapping));
        let mut holders = inventory.processes.values().filter(has).peekable();
        if holders.peek().is_none() || is_held_by_descriptor(inventory, lock) {
            continue;
        }
        let all: Vec<&Process> = holders.collect();
        let taker = all.iter().find(|process| Some(process.pid) == lock.pid);
        let holder = taker.or(all.first());
        let mapping = holder.and_then(|process| process.mappings.iter().find(is_of));
        if let Some((process, mapping)) = holder.zip(mapping) {
            found.push(LOCK_OF_MAPPING.of(process.pid, object_of(mapping)));
        }
    }
    found
}

/// Whether a descriptor leads to who has a lock, be it of the tree or not.
fn is_held_by_descriptor(inventory: &Inventory, lock: &Lock) -> bool {
    let of_tree = inventory.processes.values().flat_map(|process| {
        let files = process.files.iter().filter(|file| file.inode == lock.inode);
        files.map(|file| (process.pid, file.fd))
    });
    let mut seen = BTreeSet::new();
    if of_tree.into_iter().any(|(pid, fd)| seen.insert((pid, fd)) && shows(pid, fd, lock)) {
        return true;
    }
    let others = processes().unwrap_or_default();
    let mut others = others.into_iter().filter(|pid| !inventory.processes.contains_key(pid));
    others.any(|pid| {
        let Ok(dir) = Dir::open(pid) else { return false };
        let is_it = |fd: &i32| {
            let found = std::fs::metadata(format!("/proc/{pid}/fd/{fd}"));
            found.is_ok_and(|found| found.ino() == lock.inode)
        };
        let all = dir.descriptors().unwrap_or_default();
        all.into_iter().filter(is_it).any(|fd| shows(pid, fd, lock))
    })
}

fn shows(pid: HostPid, fd: i32, lock: &Lock) -> bool {
    let info = Dir::open(pid).and_then(|dir| FdInfo::read(&dir, fd));
    info.is_ok_and(|info| info.locks.contains(lock))
}
