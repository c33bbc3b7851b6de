//! Processes that have entered the pid namespace of the tree from outside (`nsenter`, `runc exec`, `docker exec`).
//!
//! They are no descendants of its first process, and so no part of the tree; but the kernel ends them with that. They
//! would be lost with a dump that ends the tree, and missing in every restore.

use std::collections::BTreeSet;

use collector::Inventory;
use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Stat, Status, processes};
use support::Unsupported;
use support::tree::{Surroundings, of_entered, of_entered_and_ended};

use crate::error::Error;
use crate::options::{AfterDump, DumpOptions};

/// Those of the machine's processes that were looked at, so that they need not be again.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeSet<HostPid>);

/// Looks for them at all processes but those that are `known`, and at none where the tree's root is not the first
/// process of a pid namespace of its own: then nobody ends with it.
pub(crate) fn look(
    options: &DumpOptions,
    inventory: &Inventory,
    around: &Surroundings,
    known: &Known,
) -> Result<(Known, Vec<Unsupported>), Error> {
    const NAME: &str = "pid";
    let root = options.pid;
    let inside = inventory.processes.get(&root).and_then(|root| root.namespaces.get(NAME));
    let Some(inside) = inside.filter(|inside| around.namespaces.get(NAME) != Some(inside)) else {
        return Ok(Default::default());
    };
    if Dir::open(root).and_then(|dir| Status::read(&dir))?.ns_pid.last().map(|pid| pid.get())
        != Some(1)
    {
        return Ok(Default::default());
    }
    let inside = format!("{NAME}:[{inside}]");
    let mut others = BTreeSet::new();
    let mut found = Vec::new();
    for pid in processes()? {
        if inventory.processes.contains_key(&pid) {
            continue;
        }
        if !known.0.contains(&pid) && is_in(pid, &inside) {
            match Dir::open(pid).and_then(|dir| Stat::read(&dir)) {
                // It only keeps the tree from ending.
                Ok(stat) if stat.is_dead() && options.after != AfterDump::Kill => {}
                Ok(stat) if stat.is_dead() => found.push(of_entered_and_ended(pid, stat.ppid)),
                _ => found.push(of_entered(pid)),
            }
        } else {
            others.insert(pid);
        }
    }
    Ok((Known(others), found))
}

/// Who is gone is in no namespace, nor is who may not be looked at by root.
fn is_in(pid: HostPid, namespace: &str) -> bool {
    let link = Dir::open(pid).and_then(|dir| dir.link("ns/pid"));
    link.is_ok_and(|link| link.to_str() == Some(namespace))
}
