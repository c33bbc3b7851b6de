//! Which mounts only the first task can make, of the tree or of a pid namespace below that of its root ([`super::late`]). Pure.

use std::collections::BTreeSet;

use super::plan::{Index, Mount, Plan, Source};

/// Which mounts are left to the first task, which may have a pid namespace of its own.
pub(super) fn which(plan: &Plan, own_pids: bool) -> BTreeSet<Index> {
    let mut late = BTreeSet::new();
    for &index in plan.orders.values().flatten() {
        let mount = &plan.mounts[index];
        let is_below = mount.on.as_ref().is_some_and(|(on, _)| late.contains(on));
        if is_below
            || (own_pids || shown(plan, mount).is_some()) && knows_pids(plan, mount)
            || is_terminal(plan, mount)
        {
            late.insert(index);
        }
    }
    late
}

/// For a mount of a `proc` that shows a pid namespace below the one of the tree's root: the number of that namespace.
pub(super) fn shown(plan: &Plan, mount: &Mount) -> Option<u32> {
    match &mount.source {
        Source::New(kind) if kind == "proc" => mount.entry.pid_ns_id,
        Source::Part(giver, _) => match &plan.mounts[*giver].source {
            Source::New(kind) if kind == "proc" => plan.mounts[*giver].entry.pid_ns_id,
            _ => None,
        },
        _ => None,
    }
}

/// Whether a mount can be made before there is any task.
pub(super) fn is_made_early(plan: &Plan, late: &BTreeSet<Index>, index: Index) -> bool {
    let mount = &plan.mounts[index];
    !late.contains(&index) || !knows_pids(plan, mount) && !is_terminal(plan, mount)
}

/// Whether a mount is one of a terminal of a `devpts` that is new.
pub(super) fn is_terminal(plan: &Plan, mount: &Mount) -> bool {
    let Source::Part(giver, below) = &mount.source else { return false };
    let is_number = |name: &str| name.parse::<u32>().is_ok();
    matches!(&plan.mounts[*giver].source, Source::New(kind) if kind == "devpts")
        && below.to_str().is_some_and(is_number)
}

/// The mounts upon which late ones are placed.
pub(super) fn awaited(plan: &Plan, late: &BTreeSet<Index>) -> BTreeSet<Index> {
    late.iter().filter_map(|index| plan.mounts[*index].on.as_ref().map(|(on, _)| *on)).collect()
}

/// Whether a mount is one of a file system that belongs to the pid namespace of who makes it, or of a part of that.
pub(super) fn knows_pids(plan: &Plan, mount: &Mount) -> bool {
    let giver = match &mount.source {
        Source::Part(giver, _) => &plan.mounts[*giver].source,
        own => own,
    };
    matches!(giver, Source::New(kind) if kind == "proc" || kind == "autofs")
}
