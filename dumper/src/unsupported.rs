//! What cannot be carried, found before anything is stopped (and looked for again once it is): by the
//! rules of `support`, and by what the processes' programs and threads show.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use arch::regs::Abi;
use collector::{Inventory, Process};
use ids::HostPid;
use kernel::cgroup::{Cgroup, Hierarchies, Version};
use kernel::process::exists;
use kernel::procfs::{Dir, Namespaces};
use support::Unsupported;
use support::settings::{of_mixed_code, of_policy_without_bpf, of_registers};
use support::tree::{Surroundings, of_tree};

use crate::error::Error;
use crate::inject::Original;
use crate::mounts::Views;
use crate::options::DumpOptions;
use crate::processes::is_zombie;
use crate::tracers;

/// All that stands in the way, by `inventory` and what [the state of tasks](crate::task_state) tells. (Facts that are read
/// later are looked at when they are.)
pub(crate) fn find(
    root: HostPid,
    inventory: &Inventory,
    of_tasks: Vec<Unsupported>,
    around: &Surroundings,
) -> Vec<Unsupported> {
    let tree: Vec<&Process> = inventory.processes.values().collect();
    let around = Surroundings { leaders: leaders_outside(inventory), ..around.clone() };
    let mut found = of_tree(root, &tree, &around);
    found.extend(of_tasks);
    let told = |process: &&&Process| process.in_process.is_none() && !is_zombie(process);
    let untold: Vec<&Process> =
        tree.iter().filter(told).filter(|process| !process.kernel_thread).copied().collect();
    if !untold.is_empty() {
        found.extend(untold.iter().filter_map(|process| of_policies(process)));
    }
    found.extend(tracers::of_outsiders(inventory));
    found
}

/// Leaders of sessions of the tree that are not in it, and live.
fn leaders_outside(inventory: &Inventory) -> BTreeSet<HostPid> {
    let sessions: BTreeSet<HostPid> =
        inventory.processes.values().filter_map(|process| process.sid).collect();
    let is_inside = |leader: &HostPid| inventory.processes.contains_key(leader);
    sessions.into_iter().filter(|leader| !is_inside(leader) && exists(*leader)).collect()
}

/// A NUMA policy of a mapping or a thread, of which `/proc` does not tell enough to carry it.
fn of_policies(process: &Process) -> Option<Unsupported> {
    let has_one = process.threads.keys().any(|tid| {
        let read = || {
            let mut file =
                std::fs::File::open(format!("/proc/{}/task/{tid}/numa_maps", process.pid))?;
            let mut text = Vec::new();
            // The kernel looks at every page for it. The mappings are told once; a thread's own policy shows
            // with the first of them already.
            let limit = if *tid == process.pid { u64::MAX } else { 4096 };
            Read::take(&mut file, limit).read_to_end(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        read().is_ok_and(|text| has_policy(&text))
    });
    has_one.then(|| of_policy_without_bpf(process.pid))
}

/// Whether `/proc/PID/numa_maps` has a mapping with a policy, be it that of its thread. The text may
/// end within a line, which is left out.
fn has_policy(text: &[u8]) -> bool {
    let lines = text.iter().rposition(|&byte| byte == b'\n').map_or(&[][..], |end| &text[..end]);
    lines
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(u8::is_ascii_whitespace).nth(1))
        .any(|policy| policy != b"default")
}

/// Control groups of the first version that are frozen: their tasks do not stop for a tracer either.
/// (Those of the second version do.) The one that is to stop the tree may be so.
pub(crate) fn of_cgroups(options: &DumpOptions, inventory: &Inventory) -> Vec<Unsupported> {
    let by = options.freeze_cgroup.as_deref();
    let mut found: Vec<Unsupported> =
        by.and_then(|by| of_freeze_group(options.pid, by)).into_iter().collect();
    let Ok(hierarchies) = Hierarchies::find() else { return found };
    if hierarchies.freezer().is_none() {
        return found;
    }
    let number = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let by = by.and_then(number);
    let frozen = |&pid: &HostPid| {
        let cgroup = hierarchies.frozen(Version::V1, pid).ok().flatten()?;
        if by.is_some() && by == number(cgroup.directory()) {
            return None;
        }
        let object = format!("cgroup {}", cgroup.directory().display());
        Some(support::cgroups::frozen(&cgroup.thaw_command()).of(pid, object))
    };
    found.extend(inventory.processes.keys().filter_map(frozen));
    found
}

/// Why a control group cannot stop the tree.
fn of_freeze_group(root: HostPid, directory: &Path) -> Option<Unsupported> {
    let object = format!("control group {}", directory.display());
    let members = Cgroup::of_directory(directory).and_then(|cgroup| cgroup.members());
    let refusal = match members.map(|members| members.processes) {
        Err(_) => support::cgroups::NOT_FREEZABLE,
        Ok(members) if members.contains(&HostPid::own()) => support::cgroups::WOULD_STOP_US,
        Ok(members) if !members.contains(&root) => support::cgroups::TREE_NOT_IN_IT,
        Ok(_) => return None,
    };
    Some(refusal.of(root, object))
}

/// Whether somebody keeps the tree from running, so that no code can be run in it.
pub(crate) fn is_paused(root: HostPid) -> bool {
    let Ok(hierarchies) = Hierarchies::find() else { return false };
    let frozen = |version| hierarchies.frozen(version, root).is_ok_and(|group| group.is_some());
    frozen(Version::V2) || frozen(Version::V1)
}

/// What has changed of mounts since they were looked at: their tables, or who is in which namespace.
pub(crate) fn of_mounts(
    root: HostPid,
    inventory: &Inventory,
    views: &Views,
    around: &Surroundings,
) -> Result<Vec<Unsupported>, Error> {
    let own = around.namespaces.get("mnt");
    let alive = inventory.processes.values().filter(|process| !is_zombie(process));
    let mut others = alive
        .filter_map(|process| Some((process.pid, process.namespaces.get("mnt")?)))
        .filter(|(_, id)| Some(*id) != own);
    if let Some((pid, _)) = others.find(|(_, id)| views.get(**id).is_none()) {
        return Ok(vec![support::mounts::CHANGED.of(pid, "the mount namespace")]);
    }
    let same = views.are_the_same(inventory);
    match same.map_err(crate::mounts::Error::of("read the table of mounts"))? {
        true => Ok(Vec::new()),
        false => Ok(vec![support::mounts::CHANGED.of(root, "the mount namespace")]),
    }
}

/// Fails if there are any.
pub(crate) fn refuse(root: HostPid, found: Vec<Unsupported>) -> Result<(), Error> {
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused { root, found }),
    }
}

/// What is around a dump: this process and its namespaces.
pub(crate) fn surroundings(options: &DumpOptions) -> Result<Surroundings, Error> {
    let own = HostPid::own();
    let namespaces = Namespaces::read(&Dir::open(own)?)?.0;
    let DumpOptions { shell_job, allow_uprobes, .. } = *options;
    let own = Some(own);
    Ok(Surroundings { own, namespaces, shell_job, allow_uprobes, ..Surroundings::default() })
}

/// What only a stopped thread shows: code of another kind than its program (`abi`), and state of the processor that the images have no
/// field for.
pub(crate) fn of_thread(
    pid: HostPid,
    (tid, abi): (HostPid, Abi),
    original: &Original,
) -> Result<(), Error> {
    let registers = &original.registers;
    if registers.abi() != abi || abi == Abi::Compat && !registers.is_plain_compat() {
        return refuse(pid, vec![of_mixed_code(pid, tid)]);
    }
    let foreign = arch::fpu::foreign_components(&original.extended);
    let names: Vec<_> = arch::fpu::names(foreign).collect();
    let found = (foreign != 0).then(|| of_registers(pid, tid, &names));
    refuse(pid, found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_in_numa_maps() {
        let plain = b"7f00 default file=/lib/x mapped=3 N0=3\n7f10 default stack anon=2\n";
        assert!(!has_policy(plain));
        assert!(has_policy(b"7f00 default\n7f10 bind:0 anon=2 N0=2\n"));
        assert!(!has_policy(b"\n"));
        assert!(!has_policy(b""));
        assert!(!has_policy(b"7f00 default\n7f10 defau"));
    }
}
