//! What the images call the tasks of a tree: mapped once, in the plan.
//!
//! The images name a task by its number in the pid namespace of the tree's root. The status of a thread lists its
//! numbers in all pid namespaces from ours to its own (`NSpid`), so that of the root tells how far its
//! namespace is below ours, and which of the others' numbers are those of the images. In our own
//! pid namespace both numbers of a task are equal, and those of processes outside the tree, too. In another, whoever
//! is outside of that has no number; the number of a group or session whose leader has ended is told by its members
//! (`NSpgid`, `NSsid`).
//!
//! When the tree stands still, what has come since is added. Encoders ask [`Numbers::image`] and know no other
//! way from the one kind of number to the other.

use collector::{Inventory, Process};
use ids::{Clash, HostPid, ImagePid, ImagePids, PidMap};
use kernel::procfs::{Dir, ProcFile, Status};
use support::Unsupported;
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
}

impl Numbers {
    /// Those of a root, which has these numbers in the pid namespaces from ours to its own, and of tasks with theirs.
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

    /// Adds what threads that live do not tell: zombies, and leaders of groups and sessions who are gone. Of a tree in our own
    /// pid namespace nothing is looked at.
    pub(crate) fn complete(&mut self, inventory: &Inventory) -> Result<(), Clash> {
        let inside = self.depth > 0;
        for process in inventory.processes.values().filter(|_| inside) {
            let wanted = [Some(process.pid), process.pgid, process.sid];
            if wanted.into_iter().flatten().all(|pid| self.pids.image(pid).is_some()) {
                continue;
            }
            // One that has gone meanwhile will not be in the images.
            let Ok(status) = Dir::open(process.pid).and_then(|dir| Status::read(&dir)) else {
                continue;
            };
            self.add(process.pid, &status.ns_pid)?;
            for (leader, levels) in [(process.pgid, &status.ns_pgid), (process.sid, &status.ns_sid)]
            {
                // A level at which it is not seen is 0.
                let levels: Option<Vec<ImagePid>> = levels.iter().copied().collect();
                if let (Some(leader), Some(levels)) = (leader, levels) {
                    self.add(leader, &levels)?;
                }
            }
        }
        Ok(())
    }

    /// Processes whose session or group has no number in the images, but for a terminal's job (`shell_job`), which comes
    /// into those of whoever restores it.
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
