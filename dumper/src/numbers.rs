//! What the images call the tasks of a tree: mapped once, in the plan.
//!
//! The images name a task by its number in the pid namespace of the tree's root. The status of a thread lists its
//! numbers in all pid namespaces from ours to its own (`NSpid`), so that of the root tells how far its
//! namespace is below ours, and which of the others' numbers are those of the images. In our own
//! pid namespace both numbers of a task are equal, and those of processes outside the tree, too. In another, whoever
//! is outside of that has no number; the number of a group or session whose leader has ended is told by its members
//! (`NSpgid`, `NSsid`).
//!
//! Of tasks in pid namespaces below that of the root all numbers from there down are kept, and what their groups and sessions
//! are called in their own namespaces, which may be nothing.
//!
//! When the tree stands still, what has come since is added. Encoders ask [`Numbers::image`] and know no other
//! way from the one kind of number to the other.

use std::collections::{BTreeMap, BTreeSet};

use collector::settings::has_pid_settings;
use collector::{Inventory, Process};
use ids::{Clash, HostPid, ImagePid, ImagePids, PidMap};
use images::messages::NestedPidsEntry;
use kernel::procfs::{Dir, ProcFile, Status};
use support::Unsupported;
use support::pids::{Member, Nested};
use support::tree::of_foreign_session;

use crate::processes::is_zombie;

/// A task that the images have no number for.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("find the number of process {0} in the images: its pid namespace is not of the tree")]
pub struct Unnumbered(HostPid);

/// The numbers of a tree's tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    pids: PidMap,
    /// How many pid namespaces that of the root is below ours.
    depth: usize,
    /// Processes in pid namespaces below that of the root.
    nested: BTreeMap<HostPid, Below>,
    /// The parent of each of their namespaces; `None` if that is the namespace of the root.
    around: BTreeMap<u64, Option<u64>>,
    /// Processes whose children are born into another namespace than their own: its number, or `None` if the next child makes it.
    for_children: BTreeMap<HostPid, Option<u64>>,
}

/// What is known of a process in a pid namespace below that of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Below {
    /// The kernel's number of the namespace.
    namespace: u64,
    /// The leader of its group.
    leader: Option<HostPid>,
    /// What its group and its session are called from the first namespace below the root's down to its own.
    group: Vec<Option<ImagePid>>,
    session: Vec<Option<ImagePid>>,
}

impl Numbers {
    /// The numbers of `tasks`, each with those that it has in the pid namespaces from ours down to its own; `root` has these.
    pub(crate) fn of<'a>(
        root: &[ImagePid],
        tasks: impl IntoIterator<Item = (HostPid, &'a [ImagePid])>,
    ) -> Result<Self, Clash> {
        let mut numbers = Self { depth: root.len().saturating_sub(1), ..Self::default() };
        tasks.into_iter().try_for_each(|(task, levels)| numbers.add(task, levels))?;
        Ok(numbers)
    }

    /// Adds a task that has these numbers in the pid namespaces from ours to its own.
    pub(crate) fn add(&mut self, task: HostPid, levels: &[ImagePid]) -> Result<(), Clash> {
        let levels = ImagePids::from_outermost(levels.iter().copied().skip(self.depth));
        // A kernel without pid namespaces lists none.
        match levels.or_else(|| self.of_ours(task).map(ImagePids::single)) {
            Some(levels) if self.pids.levels(task) != Some(&levels) => {
                self.pids.insert(task, levels)
            }
            _ => Ok(()),
        }
    }

    /// Adds what threads that live do not tell: zombies, leaders of groups and sessions who are gone, and what processes in
    /// pid namespaces below that of the root call theirs. Of a tree in our own pid namespace without others nothing is looked at.
    pub(crate) fn complete(&mut self, inventory: &Inventory) -> Result<(), Clash> {
        let inside = self.depth > 0;
        let mut namespaces = inventory.processes.values().filter_map(|it| it.namespaces.get("pid"));
        let first = namespaces.next();
        let several = namespaces.any(|other| Some(other) != first);
        self.nested.clear();
        self.for_children = inventory.processes.values().filter_map(for_children).collect();
        for process in inventory.processes.values().filter(|_| inside || several) {
            let wanted = [Some(process.pid), process.pgid, process.sid];
            let is_known = |pid: HostPid| self.pids.image(pid).is_some();
            if !several && wanted.into_iter().flatten().all(is_known) {
                continue;
            }
            // One that has gone meanwhile will not be in the images.
            let Ok(dir) = Dir::open(process.pid) else { continue };
            let Ok(status) = Status::read(&dir) else { continue };
            self.add(process.pid, &status.ns_pid)?;
            for (leader, levels) in [(process.pgid, &status.ns_pgid), (process.sid, &status.ns_sid)]
            {
                // From a level on at which it is not seen there are zeros.
                let seen: Vec<ImagePid> = levels.iter().map_while(|level| *level).collect();
                if let Some(leader) = leader.filter(|it| inside && self.pids.image(*it).is_none()) {
                    self.add(leader, &seen)?;
                }
            }
            if status.ns_pid.len() > self.depth + 1 {
                let Some(namespace) = namespace_of(&dir) else { continue };
                let below = |levels: &[Option<ImagePid>]| {
                    levels.iter().skip(self.depth + 1).copied().collect()
                };
                let (group, session) = (below(&status.ns_pgid), below(&status.ns_sid));
                let leader = process.pgid;
                self.nested.insert(process.pid, Below { namespace, leader, group, session });
            }
        }
        // The parent of a namespace's first process is in the namespace around it, also if it has adopted that process.
        let is_first =
            |pid: &HostPid| self.pids.levels(*pid).is_some_and(|it| it.innermost().get() == 1);
        let firsts = self.nested.iter().filter(|(pid, _)| is_first(pid));
        let around = firsts.map(|(pid, below)| {
            let parent = inventory.processes.get(pid).and_then(|first| first.ppid);
            (below.namespace, parent.and_then(|it| Some(self.nested.get(&it)?.namespace)))
        });
        self.around = around.collect();
        Ok(())
    }

    /// The kernel's numbers of the pid namespaces of processes below that of the root.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (HostPid, u64)> {
        self.nested.iter().map(|(pid, below)| (*pid, below.namespace))
    }

    /// The first processes of pid namespaces below that of the root.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = HostPid> {
        let is_first =
            |pid: &HostPid| self.pids.levels(*pid).is_some_and(|it| it.innermost().get() == 1);
        self.nested.keys().copied().filter(is_first)
    }

    /// The entry for thread `tid` of process `of`, if that is in a pid namespace below the root's. `namespace` translates the kernel's
    /// number of a namespace into that of the images.
    pub(crate) fn nested(
        &self,
        tid: HostPid,
        of: HostPid,
        namespace: impl Fn(u64) -> Option<u32>,
    ) -> Option<NestedPidsEntry> {
        let below = self.nested.get(&of)?;
        let levels = self.pids.levels(tid)?;
        let pids = (1..=levels.depth()).filter_map(|depth| levels.at(depth));
        let pids = pids.map(ImagePid::unsigned).collect();
        if tid != of {
            return Some(NestedPidsEntry { pids, ..NestedPidsEntry::default() });
        }
        let called = |levels: &[Option<ImagePid>]| {
            levels.iter().map(|level| level.map_or(0, ImagePid::unsigned)).collect()
        };
        Some(NestedPidsEntry {
            pids,
            groups: called(&below.group),
            sessions: called(&below.session),
            namespace: namespace(below.namespace),
        })
    }

    /// The pid namespace that the children of a process are born into, if it is not the process's own: `Some(None)` if its next child
    /// makes a new one.
    pub(crate) fn for_children(&self, pid: HostPid) -> Option<Option<u64>> {
        self.for_children.get(&pid).copied()
    }

    /// Whether a process can see another one, or a group.
    pub(crate) fn sees(&self, process: HostPid, other: HostPid) -> bool {
        let Some(own) = self.nested.get(&process).map(|below| below.namespace) else { return true };
        let mut around = self.nested.get(&other).map(|below| below.namespace);
        // No deeper than namespaces can be.
        for _ in 0..self.around.len() {
            match around {
                Some(namespace) if namespace == own => return true,
                Some(namespace) => around = self.around.get(&namespace).copied().flatten(),
                None => break,
            }
        }
        // The leader of a group may be gone.
        self.nested.values().any(|below| {
            let is_it = below.namespace == own && below.leader == Some(other);
            is_it && below.group.last().is_some_and(Option::is_some)
        })
    }

    /// What stands in the way of a dump of pid namespaces below that of the root.
    pub(crate) fn unsupported(&self, root: HostPid, inventory: &Inventory) -> Vec<Unsupported> {
        if self.nested.is_empty() && self.for_children.is_empty() {
            return Vec::new();
        }
        let of = |process: &Process| Member {
            pid: process.pid,
            parent: process.ppid.filter(|_| process.pid != root),
            group: process.pgid,
            nested: self.nested.get(&process.pid).map(|below| Nested {
                namespace: below.namespace,
                number: self.pids.levels(process.pid).map_or(0, |it| it.innermost().get()),
                sees_group: below.group.last().is_some_and(Option::is_some),
            }),
            ended: match process.state {
                collector::ProcessState::Zombie { exit_status } => Some(exit_status),
                _ => None,
            },
            for_children: self.for_children.get(&process.pid).copied(),
            threads: process.threads.len(),
        };
        support::pids::unsupported(&inventory.processes.values().map(of).collect::<Vec<_>>())
    }

    /// Refuses pid namespaces with settings of their own, but for the dumper's `own` and those that a restore is given.
    pub(crate) fn unsupported_settings(
        inventory: &Inventory,
        own: Option<u64>,
        external: &BTreeMap<u64, String>,
    ) -> Vec<Unsupported> {
        let mut told = BTreeSet::new();
        let has_some = |process: &&Process| {
            let leader = process.threads.get(&process.pid).and_then(|leader| leader.in_task);
            leader.is_some_and(|it| has_pid_settings(&it.settings))
        };
        let all = inventory.processes.values().filter(has_some);
        let is_carried = |id: &u64| Some(*id) != own && !external.contains_key(id);
        let of = |process: &Process| {
            let namespace = process.namespaces.get("pid").filter(|id| is_carried(id))?;
            let refusal = support::pids::settings(process.pid);
            told.insert(*namespace).then(|| refusal.of(process.pid, "pid namespace"))
        };
        all.filter_map(of).collect()
    }

    /// Refuses processes whose session or group has no number in the images. The members of a shell's job (`shell_job`) are spared: they
    /// join the session and group of whoever restores them.
    pub(crate) fn foreign(
        &self,
        root: HostPid,
        inventory: &Inventory,
        shell_job: bool,
    ) -> Vec<Unsupported> {
        let job = inventory.processes.get(&root).and_then(|root| root.sid).filter(|_| shell_job);
        let all = inventory.processes.values().filter(|process| !is_zombie(process));
        let is_foreign = |process: &&Process| {
            let of_job = job.is_some() && process.sid == job;
            let leaders = [process.sid, process.pgid].into_iter().flatten();
            !of_job && leaders.into_iter().any(|leader| self.image(leader).is_none())
        };
        all.filter(is_foreign).map(of_foreign_session).collect()
    }

    /// Whether the tree has a pid namespace of its own.
    pub(crate) const fn are_inside(&self) -> bool {
        self.depth > 0
    }

    /// What the images call a task, a group or a session; `None` if they have no number for it.
    pub(crate) fn image(&self, host: HostPid) -> Option<ImagePid> {
        self.pids.image(host).or_else(|| self.of_ours(host))
    }

    /// As [`Numbers::image`], of a task that must have one.
    pub(crate) fn named(&self, host: HostPid) -> Result<ImagePid, Unnumbered> {
        self.image(host).ok_or(Unnumbered(host))
    }

    /// The same as messages have it, where nobody is 0.
    pub(crate) fn message(&self, host: Option<HostPid>) -> u32 {
        host.and_then(|host| self.image(host)).map_or(0, ImagePid::unsigned)
    }

    /// Of whatever our own pid namespace has a number for, if the root is in that.
    fn of_ours(&self, host: HostPid) -> Option<ImagePid> {
        (self.depth == 0).then(|| host.in_own_namespace())
    }
}

/// The pid namespace of the children of a process, if it is another one than its own. One that nobody has been born into yet
/// is not told by /proc, and the kernel's structures tell it as any other.
fn for_children(process: &Process) -> Option<(HostPid, Option<u64>)> {
    const NAME: &str = "pid_for_children";
    let own = process.namespaces.get("pid").filter(|_| !is_zombie(process))?;
    let told = process.namespaces.get(NAME).copied();
    if told == Some(*own) {
        return None;
    }
    let link = || Dir::open(process.pid).ok()?.link(&format!("ns/{NAME}")).ok();
    Some((process.pid, told.filter(|_| link().is_some())))
}

/// The kernel's number of the pid namespace of a process, which may have ended.
fn namespace_of(dir: &Dir) -> Option<u64> {
    let link = dir.link("ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    fn levels<const N: usize>(numbers: [i32; N]) -> [ImagePid; N] {
        numbers.map(|number| ImagePid::new(number).unwrap())
    }

    #[test]
    fn a_tree_in_our_own_namespace_has_our_numbers() {
        let (root, nested) = (levels([41]), levels([42, 1]));
        let tasks = [(host(41), &root[..]), (host(42), &nested[..])];
        let numbers = Numbers::of(&root, tasks).unwrap();
        assert_eq!(numbers.image(host(42)), ImagePid::new(42));
        assert_eq!(numbers.pids.levels(host(42)).unwrap().innermost(), nested[1]);
        // A group that was founded outside the tree; nobody.
        assert_eq!((numbers.message(HostPid::new(7)), numbers.message(None)), (7, 0));
    }

    #[test]
    fn a_tree_further_down_has_the_numbers_of_its_root() {
        let (root, child) = (levels([4001, 1]), levels([4002, 2]));
        let numbers = Numbers::of(&root, [(host(4001), &root[..]), (host(4002), &child[..])]);
        let mut numbers = numbers.unwrap();
        assert_eq!(numbers.image(host(4002)), ImagePid::new(2));
        assert_eq!((numbers.image(host(7)), numbers.message(HostPid::new(7))), (None, 0));
        // One that has come since, and one that has the number of another.
        numbers.add(host(4003), &levels([4003, 3])).unwrap();
        assert_eq!(numbers.message(HostPid::new(4003)), 3);
        assert!(numbers.add(host(4004), &levels([4004, 3])).is_err());
    }
}
