//! Numbers for the kernel objects that tasks use: equal numbers, same object.

use std::collections::BTreeMap;

use collector::Inventory;
use ids::HostPid;
use images::messages::TaskKobjIdsEntry;

use crate::namespaces::Namespaces;
use crate::processes::is_zombie;

/// Number of the dumper's own objects, which no task shares.
const OWN: u32 = 1;

fn with_tables(number: u32, namespaces: TaskKobjIdsEntry) -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        vm_id: number,
        files_id: number,
        fs_id: number,
        sighand_id: number,
        ..namespaces
    }
}

/// The dumper's own (`InventoryEntry.root_ids`): what a restore compares the tasks' with.
pub(crate) fn own() -> TaskKobjIdsEntry {
    with_tables(OWN, Namespaces::own())
}

/// Those of every process but zombies. No two processes share a table: a tree in which they do was
/// refused.
pub(crate) fn number(
    inventory: &Inventory,
    namespaces: &Namespaces,
) -> BTreeMap<HostPid, TaskKobjIdsEntry> {
    inventory
        .processes
        .values()
        .filter(|process| !is_zombie(process))
        .zip(OWN + 1..)
        .map(|(process, number)| (process.pid, with_tables(number, namespaces.of(process))))
        .collect()
}
