//! The end of a tree that is ended: whoever restores it next finds its numbers and its memory free.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use collector::Inventory;
use ids::HostPid;
use kernel::pidfd::{End, PidFd};
use kernel::procfs::{Dir, ProcFile, Stat};

/// How long tasks may take to end: giving back much memory takes a while.
const TO_END: Duration = Duration::from_secs(60);
/// How long a parent outside the tree may take to wait for its child, which frees the number.
const TO_REAP: Duration = Duration::from_secs(1);
/// The same of a parent that has us as a descendant: as a rule it waits for us first, and a shell
/// at once for both.
const TO_REAP_OF_OURS: Duration = Duration::from_millis(20);

/// The processes of the tree, by what cannot come to mean others: number and time of birth. Each is
/// opened only while it is waited for, as a tree may have more processes than we may have open files.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    processes: Vec<Process>,
    /// The first ones of pid namespaces further down. Such a one ends when all in its namespace have been waited for, also those
    /// that had entered it and whose parents have ended with the tree.
    firsts: BTreeSet<HostPid>,
}

/// A process by its number and the time of its birth, in clock ticks after the machine started.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: HostPid,
    start_time: u64,
}

impl Process {
    /// Waits until it has ended and, if `reaped`, its parent has waited for it.
    fn await_end(self, reaped: bool, deadline: Instant) -> io::Result<End> {
        let opened = match PidFd::open(self.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(End::Gone),
            opened => opened?,
        };
        // If it has its number now, it had it when that was opened.
        match Dir::open(self.pid).and_then(|dir| Stat::read(&dir)) {
            Ok(stat) if stat.start_time == self.start_time => opened.await_end(reaped, deadline),
            Ok(_) => Ok(End::Gone),
            Err(error) if error.is_gone() => Ok(End::Gone),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Ending {
    /// The processes of an inventory.
    pub(crate) fn of(inventory: &Inventory, firsts: BTreeSet<HostPid>) -> Self {
        let of = |process: &collector::Process| {
            let leader = process.threads.get(&process.pid)?;
            Some(Process { pid: process.pid, start_time: leader.start_time })
        };
        Self { processes: inventory.processes.values().filter_map(of).collect(), firsts }
    }

    /// Waits until all have ended, no memory of theirs is left, and their numbers are free; in the
    /// end, what is not so.
    pub(crate) fn wait(self) -> Vec<String> {
        let mut left = Vec::new();
        let mut unreaped = Vec::new();
        let deadline = Instant::now() + TO_END;
        let (firsts, others): (Vec<_>, Vec<_>) =
            self.processes.into_iter().partition(|process| self.firsts.contains(&process.pid));
        for process in others.into_iter().chain(firsts) {
            let pid = process.pid;
            // Others outside have to wait for somebody before this one ends.
            let waits = self.firsts.contains(&pid) && !unreaped.is_empty();
            let deadline = if waits { Instant::now() + TO_REAP } else { deadline };
            match process.await_end(false, deadline) {
                Ok(End::Gone) => {}
                Ok(End::Unreaped) => unreaped.push(process),
                Ok(End::Alive) if waits => unreaped.push(process),
                Ok(End::Alive) => {
                    left.push(format!("process {pid} has been killed, and ends still"));
                }
                Err(error) => left.push(format!(
                    "process {pid} has been killed, and may be ending still: wait for it: {error}"
                )),
            }
        }
        let ours = ancestors();
        let started = Instant::now();
        let mut zombies: BTreeMap<Option<HostPid>, Vec<HostPid>> = BTreeMap::new();
        for process in unreaped {
            let ancestor = parent(process.pid).is_none_or(|parent| ours.contains(&parent));
            let patience = if ancestor { TO_REAP_OF_OURS } else { TO_REAP };
            match process.await_end(true, started + patience) {
                Ok(End::Gone) => {}
                _ => {
                    let parent = parent(process.pid);
                    zombies.entry(parent).or_default().push(process.pid);
                }
            }
        }
        left.extend(zombies.into_iter().map(|(parent, children)| say(parent, &children)));
        left
    }
}

fn stat(pid: HostPid) -> Option<Stat> {
    Dir::open(pid).and_then(|dir| Stat::read(&dir)).ok()
}

fn parent(pid: HostPid) -> Option<HostPid> {
    stat(pid)?.ppid
}

/// Our parent, its parent, and so on.
fn ancestors() -> Vec<HostPid> {
    let first = Some(HostPid::own());
    std::iter::successors(first, |&pid| parent(pid)).skip(1).collect()
}

fn say(parent: Option<HostPid>, children: &[HostPid]) -> String {
    /// Numbers that are worth reading.
    const SHOWN: usize = 3;
    let parent = match (parent, parent.and_then(stat)) {
        (Some(parent), Some(stat)) => format!("process {parent} ({})", stat.comm.to_string_lossy()),
        (Some(parent), None) => format!("process {parent}"),
        (None, _) => "outside of this pid namespace".to_owned(),
    };
    let numbers: Vec<_> = children.iter().take(SHOWN).map(HostPid::to_string).collect();
    let more = match children.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "process {}{more} has ended, but the parent, {parent}, has not waited for it: it \
         cannot be restored before that",
        numbers.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    fn ending(pids: &[HostPid]) -> Ending {
        let of = |&pid: &HostPid| Process { pid, start_time: stat(pid).unwrap().start_time };
        Ending { processes: pids.iter().map(of).collect(), firsts: BTreeSet::new() }
    }

    #[test]
    fn a_zombie_is_named_with_its_parent_and_what_is_reaped_is_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = HostPid::from(&child);
        let tree = ending(&[pid]);
        child.kill().unwrap();
        let left = tree.wait();
        assert!(left[0].contains(&pid.to_string()), "{left:?}");
        let tree = ending(&[pid]);
        child.wait().unwrap();
        assert_eq!(tree.wait(), Vec::<String>::new());
    }
    #[test]
    fn a_tree_of_more_processes_than_there_may_be_open_files_is_waited_for() {
        let mut children: Vec<_> =
            (0..40).map(|_| Command::new("sleep").arg("1000").spawn().unwrap()).collect();
        let pids: Vec<HostPid> = children.iter().map(HostPid::from).collect();
        let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
        setrlimit(Resource::RLIMIT_NOFILE, 20, hard).unwrap();
        let tree = ending(&pids);
        children.iter_mut().for_each(|child| child.kill().unwrap());
        let left = tree.wait();
        // None has been waited for by its parent, this process; and none is passed over.
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].contains(" and 37 more has ended"), "{left:?}");
        children.iter_mut().for_each(|child| drop(child.wait()));
    }
}
