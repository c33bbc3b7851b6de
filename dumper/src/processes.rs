//! What processes are, at a glance.

use std::collections::BTreeMap;

use collector::{Inventory, Process, ProcessState};
use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Stat, Status};

/// The processes that have another's memory as well, each with the one that it counts as (`CLONE_VM`; a child of vfork, until it
/// executes a program): the first of those whose parents have other memory. Images have memory once, as that one's.
pub(crate) fn lenders(inventory: &Inventory) -> BTreeMap<HostPid, HostPid> {
    let processes = &inventory.processes;
    let shares =
        |process: &Process| process.tables.memory.is_some_and(|first| first != process.pid);
    if !processes.values().any(shares) {
        return BTreeMap::new();
    }
    let mut memories: BTreeMap<HostPid, Vec<&Process>> = BTreeMap::new();
    for process in processes.values() {
        if let Some(memory) = process.tables.memory {
            memories.entry(memory).or_default().push(process);
        }
    }
    let mut lenders = BTreeMap::new();
    for sharers in memories.values().filter(|sharers| sharers.len() > 1) {
        let is_inside = |pid: Option<HostPid>| sharers.iter().any(|it| Some(it.pid) == pid);
        let first = sharers.iter().find(|it| !is_inside(it.ppid)).or(sharers.first());
        let others = sharers.iter().filter(|it| Some(it.pid) != first.map(|first| first.pid));
        lenders.extend(others.filter_map(|it| Some((it.pid, first?.pid))));
    }
    lenders
}

/// The process that has the mappings of a process' memory, itself as a rule.
pub(crate) fn lender<'i>(
    inventory: &'i Inventory,
    lenders: &BTreeMap<HostPid, HostPid>,
    process: &'i Process,
) -> &'i Process {
    let lender = lenders.get(&process.pid).and_then(|lender| inventory.processes.get(lender));
    lender.unwrap_or(process)
}

/// Has the mappings of each memory at one process alone.
pub(crate) fn count_memory_once(inventory: &mut Inventory) {
    for pid in lenders(inventory).keys() {
        if let Some(process) = inventory.processes.get_mut(pid) {
            process.mappings.clear();
        }
    }
}

/// Whether mappings are missing: a process had another's memory when they were taken, and has one of its own, or lends it, now.
pub(crate) fn lacks_mappings(inventory: &Inventory) -> bool {
    let lenders = lenders(inventory);
    let mut own = inventory.processes.values().filter(|it| !lenders.contains_key(&it.pid));
    own.any(|process| process.mappings.is_empty() && !is_zombie(process))
}

/// Whether it has ended and waits to be collected.
pub(crate) fn is_zombie(process: &Process) -> bool {
    matches!(process.state, ProcessState::Zombie { .. })
}

/// Whether a process is gone, or a zombie.
pub(crate) fn has_ended(pid: HostPid) -> bool {
    Dir::open(pid).and_then(|dir| Stat::read(&dir)).map_or(true, |stat| stat.is_dead())
}

/// Whether the system calls of a process's leader are filtered, or nobody may say.
pub(crate) fn is_filtered(pid: HostPid) -> bool {
    Dir::open(pid).and_then(|dir| Status::read(&dir)).map_or(true, |status| status.seccomp != 0)
}

/// Whether no memory of the process can be both written and executed (`PR_SET_MDWE`), as a parasite
/// is. One that would have to be asked is refused in the plan.
pub(crate) fn denies_parasites(process: &Process) -> bool {
    process.in_process.as_ref().is_some_and(|known| known.settings.deny_write_execute != 0)
}
