//! Room: what a dump and a restore need of the settings of a machine.
//!
//! A dump asks for what a restore will need beside what the tree had: a tree that could not come back here
//! is not dumped. A restore asks before it makes a process.

use crate::unsupported::{Refusal, Unsupported};

/// Mappings that a restore has beside those of the process: the restorer's code and stacks, the
/// waiting vDSO, and what changing the protection of a mapping's middle takes for a moment.
const MAPPINGS: u64 = 16;

/// Descriptors that a restore needs for itself: pipes, images, shared memory, and what its caller
/// left open.
const FILES: usize = 128;

/// Those that it needs for each process: its program, its directories, its pages.
const FILES_OF_PROCESS: usize = 4;

/// A process with `count` mappings, of which it may have `most` (`vm.max_map_count`).
#[must_use]
pub fn of_mappings(pid: impl Into<i32>, count: u64, most: u64) -> Option<Unsupported> {
    let needed = count.saturating_add(MAPPINGS);
    (needed > most).then(|| {
        let reason = format!(
            "vm.max_map_count ({most}) does not leave room for {MAPPINGS} more, which the restore needs"
        );
        let remedy = format!("sysctl -w vm.max_map_count={needed}");
        Refusal::new(reason, remedy).of(pid, format!("{count} mappings"))
    })
}

/// What of the files of a tree has to be open at the same time in one process of the restore.
///
/// The restore opens them in batches where its limit does not allow all at once. The numbers that the
/// tasks have must be below the limit; sockets, which are made together, and what is open for the
/// restore itself must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The highest number that a task has.
    pub highest: usize,
    /// Open sockets of one family at most.
    pub sockets: usize,
    /// What the restore needs for itself in every process.
    own: usize,
}

impl OpenFiles {
    /// Those of a tree of so many processes, which map so many files.
    #[must_use]
    pub const fn new(highest: usize, sockets: usize, mapped: usize, processes: usize) -> Self {
        Self { highest, sockets, own: FILES + mapped + FILES_OF_PROCESS * processes }
    }

    /// Of a tree, of which a process may have `most` files open (the hard limit).
    #[must_use]
    pub fn check(self, root: impl Into<i32>, most: u64) -> Option<Unsupported> {
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
            Refusal::new(reason, remedy).of(root, object)
        })
    }
}

/// A tree of more processes than a dump may have open files; `hard` is the limit.
#[must_use]
pub fn of_processes(root: impl Into<i32>, processes: usize, hard: u64) -> Unsupported {
    // A process's memory and files take some, too.
    let needed = processes.saturating_mul(4).saturating_add(1024);
    let reason = format!(
        "a dump needs a descriptor of each, and the hard limit of open files here is {hard}"
    );
    let remedy = format!("as root, ulimit -n {needed}, and dump from that shell");
    Refusal::new(reason, remedy).of(root, format!("{processes} processes"))
}

/// A restore that makes `needed` tasks on a machine that has `now` and may have `most`.
#[must_use]
pub fn of_tasks(root: impl Into<i32>, needed: u64, now: u64, most: u64) -> Option<Unsupported> {
    let all = now.saturating_add(needed);
    (all > most).then(|| {
        let reason =
            format!("there are {now} on this machine already, and kernel.threads-max is {most}");
        let remedy = format!("sysctl -w kernel.threads-max={all}");
        Refusal::new(reason, remedy).of(root, format!("{needed} tasks"))
    })
}

/// The same in a control group (`pids.current` and `pids.max`), by the name of its directory.
#[must_use]
pub fn of_group(
    root: impl Into<i32>,
    group: &str,
    needed: u64,
    now: u64,
    most: u64,
) -> Option<Unsupported> {
    let all = now.saturating_add(needed);
    // One task alone goes into a group whatever its limit is.
    (needed > 1 && all > most).then(|| {
        let reason = format!("there are {now} in {group} already, and its pids.max is {most}");
        let remedy = format!("echo {all} > {group}/pids.max");
        Refusal::new(reason, remedy).of(root, format!("{needed} tasks"))
    })
}

/// Memory that the tree may write to, on a machine that counts what it promises and may still promise
/// `left` bytes.
#[must_use]
pub fn of_memory(root: impl Into<i32>, needed: u64, left: u64) -> Option<Unsupported> {
    (needed > left).then(|| {
        let reason = format!(
            "it is {needed} bytes, and vm.overcommit_memory is 2 here: {left} bytes may still be \
             promised (CommitLimit less Committed_AS)"
        );
        let remedy = "sysctl -w vm.overcommit_memory=0, or raise vm.overcommit_ratio, or end what has \
                      memory";
        Refusal::new(reason, remedy).of(root, "memory that the tree may write to")
    })
}

/// A tree whose memory is copied before it is encrypted, which takes `needed` bytes of a machine that has `left` for that.
#[must_use]
pub fn of_encryption(root: impl Into<i32>, needed: u64, left: u64) -> Option<Unsupported> {
    (needed > left).then(|| {
        let reason = format!(
            "a copy of up to {needed} bytes is encrypted when it no longer stands still, and of what is available (MemAvailable) {left} bytes \
             may be had for that"
        );
        let remedy = "end what has memory, or dump without --recipients into a directory on an encrypted file system";
        Refusal::new(reason, remedy).of(root, "memory that is to be encrypted")
    })
}

/// Requests that asynchronous I/O contexts were made for, where there is room for `left`.
#[must_use]
pub fn of_aio(root: impl Into<i32>, needed: u64, left: u64) -> Option<Unsupported> {
    (needed > left).then(|| {
        let reason = format!("fs.aio-max-nr leaves room for {left} on this machine");
        let remedy = format!(
            "sysctl -w fs.aio-max-nr=$(($(sysctl -n fs.aio-max-nr) + {})), or end what has such contexts",
            needed - left
        );
        Refusal::new(reason, remedy)
            .of(root, format!("{needed} requests of asynchronous I/O contexts"))
    })
}

/// So many huge pages of a size, of which `left` can be had; `None` if this machine has not that size.
#[must_use]
pub fn of_huge_pages(
    root: impl Into<i32>,
    (needed, bytes): (u64, u64),
    left: Option<u64>,
    directory: &str,
) -> Option<Unsupported> {
    let object = format!("{needed} huge pages of {bytes} bytes");
    let Some(left) = left else {
        let remedy =
            "restore on a machine with such pages, or have the program use others, and dump again";
        return Some(Refusal::new("this machine has none of that size", remedy).of(root, object));
    };
    let lacking = needed.checked_sub(left).filter(|lacking| *lacking > 0)?;
    let reason = format!("{left} are free on this machine");
    Some(Refusal::new(reason, set_aside(lacking, directory)).of(root, object))
}

/// The same of a tree that is to be dumped, of which the restored processes have more of their own than these have: what
/// a child has of its parent until one of them writes to it is two pages then. There may be `most` on this machine.
#[must_use]
pub fn of_huge_pages_of_each(
    root: impl Into<i32>,
    (needed, bytes): (u64, u64),
    most: u64,
    directory: &str,
) -> Option<Unsupported> {
    let lacking = needed.checked_sub(most).filter(|lacking| *lacking > 0)?;
    let reason = format!(
        "a restore gives each process its own of private memory, and there are {most} of them on this machine"
    );
    let remedy = set_aside(lacking, directory);
    let object = format!("{needed} huge pages of {bytes} bytes");
    Some(Refusal::new(reason, remedy).of(root, object))
}

/// What has more huge pages of the size that `directory` is for.
fn set_aside(pages: u64, directory: &str) -> String {
    let file = format!("{directory}/nr_hugepages");
    format!("have {pages} more set aside: echo $(($(cat {file}) + {pages})) > {file}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_said_with_the_setting_that_makes_room() {
        assert_eq!(of_tasks(7, 10, 90, 100), None);
        assert_eq!(of_tasks(7, 11, 90, 100).unwrap().remedy, "sysctl -w kernel.threads-max=101");
        assert_eq!(of_mappings(7, 84, 100), None);
        assert_eq!(of_mappings(7, 85, 100).unwrap().remedy, "sysctl -w vm.max_map_count=101");
        assert_eq!(of_memory(7, 4096, 4096), None);
        assert!(of_memory(7, 4097, 4096).unwrap().reason.contains("4096 bytes may still"));
        assert_eq!(of_encryption(7, 4096, 4096), None);
        assert!(of_encryption(7, 4097, 4096).unwrap().reason.contains("4097 bytes"));
        assert_eq!(of_group(7, "/g", 3, 7, 10), None);
        assert_eq!(of_group(7, "/g", 4, 7, 10).unwrap().remedy, "echo 11 > /g/pids.max");
        assert_eq!(of_group(7, "/g", 1, 10, 10), None);
        let huge = |left| of_huge_pages(7, (3, 2 << 20), left, "/d");
        assert_eq!(huge(Some(3)), None);
        assert!(
            huge(Some(1)).unwrap().remedy.contains("echo $(($(cat /d/nr_hugepages) + 2)) > /d/nr_")
        );
        assert!(huge(None).unwrap().reason.contains("none of that size"));
        assert_eq!(of_aio(7, 5, 5), None);
        assert!(of_aio(7, 7, 5).unwrap().remedy.contains("aio-max-nr) + 2))"));
        let of_each = |most| of_huge_pages_of_each(7, (3, 2 << 20), most, "/d");
        assert_eq!(of_each(3), None);
        assert!(
            of_each(2).unwrap().remedy.contains("echo $(($(cat /d/nr_hugepages) + 1)) > /d/nr_")
        );
    }

    #[test]
    fn a_tree_that_needs_more_files_at_a_time_than_the_limit_allows_could_not_come_back() {
        let files = OpenFiles { highest: 199, sockets: 0, own: 140 };
        assert_eq!(files.check(7, 200), None);
        let found = files.check(7, 199).unwrap();
        assert!(found.remedy.contains("ulimit -n 200"), "{}", found.remedy);
        let sockets = OpenFiles { sockets: 50, ..files };
        assert_eq!(sockets.check(7, 240), None);
        assert!(sockets.check(7, 239).is_some());
    }
}
