//! What a restore needs beside what the tree had: where this machine would not leave room for it, the
//! tree is not dumped, as it could not come back.

use std::collections::BTreeSet;

use collector::Inventory;
use nix::sys::resource::{Resource, getrlimit};
use support::Unsupported;

/// Mappings that a restore has beside those of the process: the restorer's code and stacks, the
/// waiting vDSO, and what changing the protection of a mapping's middle takes for a moment.
const MAPPINGS: usize = 16;

/// Descriptors that a restore needs for itself: pipes, images, shared memory, and what its caller
/// left open.
const FILES: usize = 128;

/// Those that it needs for each process: its program, its directories, its pages.
const FILES_OF_PROCESS: usize = 4;

/// What does not leave room for a restore.
pub(crate) fn find(root: i32, inventory: &Inventory) -> Vec<Unsupported> {
    let most = most_mappings();
    let processes = inventory.processes.values();
    let mut found: Vec<Unsupported> = processes
        .clone()
        .filter_map(|process| mappings(process.pid, process.mappings.len(), most))
        .collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    found.extend(Files::of(inventory).check(root, hard));
    found
}

/// The most mappings that a process may have.
fn most_mappings() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(usize::MAX)
}

fn mappings(pid: i32, count: usize, most: usize) -> Option<Unsupported> {
    let needed = count.saturating_add(MAPPINGS);
    (needed > most).then(|| {
        let reason =
            format!("vm.max_map_count ({most}) does not leave room for {MAPPINGS} more, which the restore needs");
        let remedy = format!("sysctl -w vm.max_map_count={needed}");
        Unsupported::of(pid, format!("{count} mappings"), reason, remedy)
    })
}

/// What of the files of a tree has to be open at the same time in one process of the restore.
///
/// The restore opens them in batches where its limit does not allow all at once. The numbers that the
/// tasks have must be below the limit; sockets, which are made together, and what is open for the
/// restore itself must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Files {
    /// The highest number that a task has.
    highest: usize,
    /// Open sockets of one family at most.
    sockets: usize,
    /// What the restore needs for itself in every process.
    own: usize,
}

impl Files {
    fn of(inventory: &Inventory) -> Self {
        let processes = || inventory.processes.values();
        let files = || processes().flat_map(|process| &process.files);
        let sockets = files().filter(|file| file.mode & libc::S_IFMT == libc::S_IFSOCK);
        let mappings = processes().flat_map(|process| &process.mappings);
        let mapped: BTreeSet<(u64, u64)> =
            mappings.map(|mapping| (mapping.device, mapping.inode)).collect();
        Self {
            highest: files().map(|file| file.fd.unsigned_abs() as usize).max().unwrap_or(0),
            sockets: sockets.map(|file| file.description).collect::<BTreeSet<_>>().len(),
            own: FILES + mapped.len() + FILES_OF_PROCESS * processes().count(),
        }
    }

    fn check(self, root: i32, most: u64) -> Option<Unsupported> {
        // A socket may be made with the other end of its pair.
        let needed = (self.highest + 1).max(self.own + 2 * self.sockets);
        (needed as u64 > most).then(|| {
            let Self { highest, sockets, own } = self;
            let object = format!("open files of the tree, numbered up to {highest}");
            let reason = format!(
                "the restore needs up to {needed} descriptors in one process ({own} for itself, and \
                 {sockets} sockets are made together), and the hard limit here is {most}"
            );
            let remedy =
                format!("as root, ulimit -n {needed}, and dump and restore from that shell");
            Unsupported::of(root, object, reason, remedy)
        })
    }
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
    fn a_tree_that_needs_more_files_at_a_time_than_the_limit_allows_could_not_come_back() {
        let files = Files { highest: 199, sockets: 0, own: 140 };
        assert_eq!(files.check(7, 200), None);
        let found = files.check(7, 199).unwrap();
        assert!(found.remedy.contains("ulimit -n 200"), "{}", found.remedy);
        let sockets = Files { sockets: 50, ..files };
        assert_eq!(sockets.check(7, 240), None);
        assert!(sockets.check(7, 239).is_some());
    }
}
