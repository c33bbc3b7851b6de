//! What a restore needs beside what the tree had: where this machine would not leave room for it, the
//! tree is not dumped, as it could not come back.

use api::Obstacle;
use collector::Inventory;
use kernel::procfs::{Dir, ProcFile, Status};
use nix::sys::resource::{Resource, getrlimit};

/// Mappings that a restore has beside those of the process: the restorer's code and stacks, the
/// waiting vDSO, and what changing the protection of a mapping's middle takes for a moment.
const MAPPINGS: usize = 16;

/// Descriptors that a restore needs beside those of the process, at its end: the way to those that
/// are missing still, and the one that is just put into place.
const FILES: u64 = 2;

/// What does not leave room for a restore.
pub(crate) fn find(inventory: &Inventory) -> Vec<Obstacle> {
    let (most_mappings, most_files) = (most_mappings(), most_files());
    let mut found = Vec::new();
    for process in inventory.processes.values() {
        let highest = process.files.last().map_or(0, |file| file.fd);
        found.extend(mappings(process.pid, process.mappings.len(), most_mappings));
        found.extend(files(process.pid, process.files.len(), highest, most_files));
    }
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

/// The most open files that a restore here may give a process: what we may have, or may take.
fn most_files() -> u64 {
    const CAP_SYS_RESOURCE: u64 = 24;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    let status = Dir::open(std::process::id().cast_signed()).and_then(|dir| Status::read(&dir));
    if status.is_ok_and(|status| status.cap_effective & 1 << CAP_SYS_RESOURCE != 0) {
        let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
        return text.trim().parse().unwrap_or(hard).max(hard);
    }
    hard
}

fn files(pid: i32, count: usize, highest: i32, most: u64) -> Option<Obstacle> {
    let needed = (count as u64 + FILES).max(u64::from(highest.unsigned_abs()) + 1);
    (count > 0 && needed > most).then(|| {
        let object = format!("{count} open files, numbered up to {highest}");
        let reason = format!(
            "the hard limit of open files ({most}) does not leave room for them and {FILES} more, \
             which the restore needs"
        );
        let remedy = format!("as root, ulimit -n {needed}, and dump and restore from that shell");
        Obstacle::of(pid, object, reason, remedy)
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
    fn a_table_that_is_full_leaves_the_restore_no_room() {
        assert_eq!(files(7, 98, 99, 100), None);
        assert!(files(7, 99, 98, 100).is_some());
        assert!(files(7, 3, 100, 100).is_some());
    }
}
