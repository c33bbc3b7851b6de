//! Whether all of a tree stands still, which the [freezer](freezer::stop) has stopped by the kernel's
//! lists of children.

use collector::Inventory;
use freezer::{Frozen, StopError};

use crate::processes::is_zombie;

/// Stops what runs on by an inventory taken since then; whether there was any, so that another
/// inventory is needed. Processes whose parents have ended, and which are the children of others now,
/// run on.
pub(crate) fn stop_rest(frozen: &mut Frozen, inventory: &Inventory) -> Result<bool, StopError> {
    let missed: Vec<(i32, i32)> = inventory
        .processes
        .values()
        .filter(|process| !is_zombie(process))
        .flat_map(|process| process.threads.values().map(|thread| (process.pid, thread)))
        .filter(|(_, thread)| !matches!(thread.state, 'Z' | 'X'))
        .map(|(pid, thread)| (pid, thread.tid))
        .filter(|(pid, tid)| !frozen.has(*pid, *tid))
        .collect();
    if missed.is_empty() {
        frozen.keep_only(|pid| inventory.processes.contains_key(&pid));
        return Ok(false);
    }
    frozen.stop_missed(&missed)?;
    Ok(true)
}
