//! Locks of open files that mappings alone keep.
//!
//! A mapping keeps the file that it was made of open when the descriptor has been closed, and with that its locks (flock, OFD,
//! leases), as every Java virtual machine has one. No descriptor shows such a lock: but `/proc/locks` has it. So what is locked
//! there and mapped in the tree is looked for among the descriptors, those of others too; that is rare, and is done in the plan
//! alone.
//!
//! A flock stands in the images beside a mapping of the process that took it: the restore takes it by the descriptor that it
//! maps the file by. All mappings of the file keep it then.
//!
//! For `/proc/locks` the kernel waits for all processors (10 to 20 ms): it is read if there may be locks on what is mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use collector::{Inventory, Mapping, Process};
use ids::HostPid;
use kernel::procfs::{Dir, FdInfo, Lock, LockKind, locks, processes};
use support::Unsupported;
use support::files::LOCK_OF_MAPPING;
use support::mappings::object_of;

/// Those that are carried, by process and the first address of the mapping that keeps each: `F_RDLCK` or `F_WRLCK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept(BTreeMap<(HostPid, u64), Flock>);

/// A flock, with the file that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flock {
    file: (u64, u64),
    access: u32,
}

impl Kept {
    /// What stands in the images beside a mapping, if that is still the one that was looked at.
    pub(crate) fn of(&self, pid: HostPid, mapping: &Mapping) -> Option<u32> {
        let flock = self.0.get(&(pid, mapping.start))?;
        (flock.file == (mapping.device, mapping.inode)).then_some(flock.access)
    }
}

/// Those of the tree: what is carried, and what is not.
pub(crate) fn find(inventory: &Inventory) -> (Kept, Vec<Unsupported>) {
    let (mut kept, mut found) = (Kept::default(), Vec::new());
    let mut mappings = inventory.processes.values().flat_map(|process| &process.mappings);
    if !mappings.any(|mapping| mapping.inode != 0 && mapping.locked != Some(false)) {
        return (kept, found);
    }
    // Without `/proc/locks` nobody can tell.
    let Ok(all) = locks() else { return (kept, found) };
    // A delegation is the file server's, which no descriptor shows.
    let of_files = |lock: &&Lock| {
        matches!(lock.kind, LockKind::Flock | LockKind::OpenFileDescription | LockKind::Lease)
    };
    let is_mapped = |lock: &&Lock| {
        let mut mappings = inventory.processes.values().flat_map(|process| &process.mappings);
        mappings.any(|mapping| is_of(lock, mapping))
    };
    let alone: Vec<&Lock> = all
        .iter()
        .filter(of_files)
        .filter(is_mapped)
        .filter(|lock| !is_held_by_descriptor(inventory, lock))
        .collect();
    for &lock in &alone {
        let others = alone.iter().filter(|other| file_of(other) == file_of(lock));
        match taker(inventory, lock) {
            Some((pid, mapping)) if others.count() == 1 => {
                let access = if lock.write { libc::F_WRLCK } else { libc::F_RDLCK };
                let flock = Flock { file: file_of(lock), access: access.cast_unsigned() };
                kept.0.insert((pid, mapping.start), flock);
            }
            _ => found.extend(refused(inventory, lock)),
        }
    }
    (kept, found)
}

fn file_of(lock: &Lock) -> (u64, u64) {
    (lock.device, lock.inode)
}

fn is_of(lock: &Lock, mapping: &Mapping) -> bool {
    lock.inode != 0 && (mapping.device, mapping.inode) == file_of(lock)
}

/// Who has taken a flock, with its first mapping of the file. One that somebody else has taken may be kept by somebody else.
fn taker<'a>(inventory: &'a Inventory, lock: &Lock) -> Option<(HostPid, &'a Mapping)> {
    if lock.kind != LockKind::Flock || lock.mandatory || lock.read == lock.write {
        return None;
    }
    let process = inventory.processes.get(&lock.pid?)?;
    let mapping = process.mappings.iter().find(|mapping| is_of(lock, mapping))?;
    mapping.kind.is_of_file().then_some((process.pid, mapping))
}

fn refused(inventory: &Inventory, lock: &Lock) -> Option<Unsupported> {
    let mapping = |process: &Process| {
        process.mappings.iter().find(|mapping| is_of(lock, mapping)).map(object_of)
    };
    let taker = lock.pid.and_then(|pid| inventory.processes.get(&pid));
    let mut holders = taker.into_iter().chain(inventory.processes.values());
    holders.find_map(|process| Some(LOCK_OF_MAPPING.of(process.pid, mapping(process)?)))
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
