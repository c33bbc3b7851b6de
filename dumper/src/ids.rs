//! Numbers for the kernel objects that tasks use: equal numbers, same object.

use std::collections::BTreeMap;

use collector::Inventory;
use images::messages::TaskKobjIdsEntry;

use crate::processes::is_zombie;

/// Number of the dumper's own objects, which no task shares.
const OWN: u32 = 1;

/// The namespaces, numbered in the order in which CRIU meets them. A tree that is dumped lives in
/// the dumper's namespaces, so that all tasks, and the dumper, have the same.
fn in_own_namespaces(objects: u32) -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        vm_id: objects,
        files_id: objects,
        fs_id: objects,
        sighand_id: objects,
        pid_ns_id: Some(1),
        net_ns_id: Some(2),
        ipc_ns_id: Some(3),
        uts_ns_id: Some(4),
        time_ns_id: Some(5),
        mnt_ns_id: Some(6),
        user_ns_id: Some(7),
        cgroup_ns_id: Some(8),
    }
}

/// The dumper's own (`InventoryEntry.root_ids`): what a restore compares the tasks' with.
pub(crate) fn own() -> TaskKobjIdsEntry {
    in_own_namespaces(OWN)
}

/// Those of every process but zombies. No two processes share anything: a tree in which they do
/// was refused.
pub(crate) fn number(inventory: &Inventory) -> BTreeMap<i32, TaskKobjIdsEntry> {
    inventory
        .processes
        .values()
        .filter(|process| !is_zombie(process))
        .zip(OWN + 1..)
        .map(|(process, number)| (process.pid, in_own_namespaces(number)))
        .collect()
}
