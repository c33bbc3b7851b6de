//! Numbers for the kernel objects that tasks use: equal numbers, same object.

use std::collections::BTreeMap;

use collector::{Inventory, Process};
use ids::HostPid;
use images::messages::TaskKobjIdsEntry;

use crate::namespaces::Namespaces;
use crate::numbers::Numbers;
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

/// The number of the process that a table is known by.
fn of_owner(numbers: &BTreeMap<HostPid, u32>, owner: Option<HostPid>, own: u32) -> u32 {
    owner.and_then(|owner| numbers.get(&owner).copied()).unwrap_or(own)
}

/// The dumper's own (`InventoryEntry.root_ids`): what a restore compares the tasks' with.
pub(crate) fn own() -> TaskKobjIdsEntry {
    with_tables(OWN, Namespaces::own())
}

/// Those of every process but zombies. What processes share has one number.
pub(crate) fn number(
    inventory: &Inventory,
    namespaces: &Namespaces,
    numbers_of_pids: &Numbers,
) -> BTreeMap<HostPid, TaskKobjIdsEntry> {
    let living =
        || inventory.processes.values().filter(|process| !is_zombie(process)).zip(OWN + 1..);
    let numbers: BTreeMap<HostPid, u32> =
        living().map(|(process, number)| (process.pid, number)).collect();
    let known = namespaces.numbers();
    let for_children = |pid| {
        let other = numbers_of_pids.for_children(pid)?;
        other.map_or(Some(0), |id| known.get(&("pid", id)).copied())
    };
    let ids = |(process, number): (&Process, u32)| {
        let ids = TaskKobjIdsEntry {
            vm_id: of_owner(&numbers, process.tables.memory, number),
            sighand_id: of_owner(&numbers, process.tables.signal_handlers, number),
            files_id: of_owner(&numbers, process.tables.files, number),
            fs_id: of_owner(&numbers, process.tables.file_system, number),
            pid_for_children_ns_id: for_children(process.pid),
            ..with_tables(number, namespaces.of(process))
        };
        (process.pid, ids)
    };
    living().map(ids).collect()
}
