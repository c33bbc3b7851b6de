//! Processes that have entered the pid namespace of the tree from outside (`nsenter`, `runc exec`, `docker exec`).
//!
//! They are no descendants of its first process, and so no part of the tree; but the kernel ends them with that, so they
//! would be lost with a dump that ends the tree. One after which the tree runs on leaves them where they are, and says so: a
//! checkpoint is without them, as without whoever else looks after the tree from outside.

use std::collections::BTreeSet;

use collector::Inventory;
use ids::HostPid;
use kernel::namespaces::{id, of_process};
use kernel::procfs::{Dir, ProcFile, Stat, Status, processes};
use kernel::user_namespaces::owner_of;
use support::Unsupported;
use support::tree::{
    Surroundings, external_of_first, external_of_users, of_entered, of_entered_and_ended,
    without_first,
};

use crate::aio::Tree;
use crate::error::Error;
use crate::numbers::Numbers;
use crate::options::{AfterDump, DumpOptions};

/// Those of the machine's processes that were looked at.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// They need not be again.
    seen: BTreeSet<HostPid>,
    /// What is to be said of those that the checkpoint is without.
    pub(crate) left_out: Vec<String>,
}

/// Looks for them at all processes but those that are `known`, and at none where no process of the tree is the first one of a
/// pid namespace: then nobody ends with it.
pub(crate) fn look(
    options: &DumpOptions,
    (inventory, numbers): (&Inventory, &Numbers),
    (around, tree): (&Surroundings, Tree),
    known: &Known,
) -> Result<(Known, Vec<Unsupported>), Error> {
    const NAME: &str = "pid";
    let root = options.pid;
    let mut inside: BTreeSet<u64> = numbers.namespaces().map(|(_, namespace)| namespace).collect();
    let of_root = inventory.processes.get(&root).and_then(|root| root.namespaces.get(NAME));
    let mut found = Vec::new();
    if let Some(of_root) = of_root.filter(|it| around.namespaces.get(NAME) != Some(it)) {
        let status = Dir::open(root).and_then(|dir| Status::read(&dir))?;
        let is_external = options.external_pids.contains_key(of_root);
        let is_first = status.ns_pid.last().is_some_and(|pid| pid.get() == 1);
        match (is_external, is_first) {
            (true, true) => found.push(external_of_first(root)),
            // Whoever is in there stays.
            (true, false) => {
                let owner = of_process(root, NAME).and_then(owner_of).and_then(id).ok();
                if owner.as_ref() != around.namespaces.get("user") {
                    found.push(external_of_users(root));
                }
            }
            (false, true) => drop(inside.insert(*of_root)),
            (false, false) => found.push(without_first(root, *of_root)),
        }
    }
    if inside.is_empty() {
        return Ok((Known::default(), found));
    }
    let inside: BTreeSet<String> = inside.iter().map(|id| format!("{NAME}:[{id}]")).collect();
    let mut others = Known::default();
    for pid in processes()? {
        if inventory.processes.contains_key(&pid) {
            continue;
        }
        if !known.seen.contains(&pid) && is_in(pid, &inside) {
            // One that stands still has all that is below it.
            if tree == Tree::Runs && is_born_in(pid, inventory) {
                continue;
            }
            match Dir::open(pid).and_then(|dir| Stat::read(&dir)) {
                // It only keeps the tree from ending.
                Ok(stat) if stat.is_dead() && options.after != AfterDump::Kill => {}
                Ok(stat) if stat.is_dead() => found.push(of_entered_and_ended(pid, stat.ppid)),
                Ok(stat) if options.after == AfterDump::Resume => {
                    let name = stat.comm.to_string_lossy();
                    others.left_out.push(format!(
                        "process {pid} ({name}) has entered the pid namespace of the tree from outside: the checkpoint is without it"
                    ));
                    others.seen.insert(pid);
                }
                _ => found.push(of_entered(pid)),
            }
        } else {
            others.seen.insert(pid);
        }
    }
    Ok((others, found))
}

/// Whether a process is below one of the tree, and so was born since that was looked at.
fn is_born_in(pid: HostPid, inventory: &Inventory) -> bool {
    /// Deeper are none that have just been born.
    const DEEPEST: usize = 64;
    let parent = |pid: &HostPid| Dir::open(*pid).and_then(|dir| Stat::read(&dir)).ok()?.ppid;
    let up = std::iter::successors(parent(&pid), parent);
    up.take(DEEPEST).any(|above| inventory.processes.contains_key(&above))
}

/// Who is gone is in no namespace, nor is who may not be looked at by root.
fn is_in(pid: HostPid, namespaces: &BTreeSet<String>) -> bool {
    let link = Dir::open(pid).and_then(|dir| dir.link("ns/pid"));
    link.is_ok_and(|link| link.to_str().is_some_and(|link| namespaces.contains(link)))
}
