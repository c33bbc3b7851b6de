//! What a restore needs beside what the tree had: where this machine would not leave room for it, the
//! tree is not dumped, as it could not come back.

use std::collections::BTreeSet;

use api::Obstacle;
use collector::Inventory;
use nix::sys::resource::{Resource, getrlimit};

/// Mappings that a restore has beside those of the process: the restorer's code and stacks, the
/// waiting vDSO, and what changing the protection of a mapping's middle takes for a moment.
const MAPPINGS: usize = 16;

/// Descriptors that a restore needs for itself: pipes, images, shared memory.
const FILES: u64 = 64;

/// What does not leave room for a restore.
pub(crate) fn find(root: i32, inventory: &Inventory) -> Vec<Obstacle> {
    let most = most_mappings();
    let processes = inventory.processes.values();
    let mut found: Vec<Obstacle> = processes
        .clone()
        .filter_map(|process| mappings(process.pid, process.mappings.len(), most))
        .collect();
    let all = || processes.clone().flat_map(|process| &process.files);
    let count = all().map(|file| file.description).collect::<BTreeSet<_>>().len();
    let highest = all().map(|file| file.fd).max();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    found.extend(highest.and_then(|highest| files(root, count, highest, hard)));
    found
}

/// The most mappings that a process may have.
fn most_mappings() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(usize::MAX)
}

fn mappings(pid: i32, count: usize, most: usize) -> Option<Obstacle> {
    let needed = count.saturating_add(MAPPINGS);
    (needed > most).then(|| {
        let reason =
            format!("vm.max_map_count ({most}) does not leave room for {MAPPINGS} more, which the restore needs");
        let remedy = format!("sysctl -w vm.max_map_count={needed}");
        Obstacle::of(pid, format!("{count} mappings"), reason, remedy)
    })
}

/// A restore opens all files of a tree in one process, beyond the highest number that any of its
/// tasks has.
fn files(root: i32, count: usize, highest: i32, most: u64) -> Option<Obstacle> {
    let needed = u64::from(highest.unsigned_abs()) + 1 + count as u64 + FILES;
    (needed > most).then(|| {
        let object = format!("{count} open files of the tree, numbered up to {highest}");
        let reason =
            format!("the restore needs {needed} descriptors, and the hard limit here is {most}");
        let remedy = format!("as root, ulimit -n {needed}, and dump and restore from that shell");
        Obstacle::of(root, object, reason, remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_mappings_as_there_may_be_leave_the_restore_no_room() {
        assert_eq!(mappings(7, 84, 100), None);
        let found = mappings(7, 84, 99).unwrap();
        assert_eq!(found.remedy, "sysctl -w vm.max_map_count=100");
    }

    #[test]
    fn a_tree_whose_files_do_not_fit_beside_their_numbers_could_not_come_back() {
        assert_eq!(files(7, 10, 9, 84), None);
        let found = files(7, 10, 9, 83).unwrap();
        assert!(found.remedy.contains("ulimit -n 84"), "{}", found.remedy);
    }
}
