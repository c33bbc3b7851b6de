//! What tasks are called in pid namespaces below that of the tree's root. Pure.
//!
//! The images name everything by its number in the namespace of the root. Of a process further down they also have its numbers
//! from there to its own namespace, and what its group and session are called there. A task that works in such a
//! namespace knows nobody by another number than [`Levels::local`] tells.

use std::collections::{BTreeMap, BTreeSet};

use ids::{ImagePid, ImagePids};
use images::messages::NestedPidsEntry;

/// Why numbers in pid namespaces cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("process {pid}: {what}")]
pub(crate) struct Wrong {
    pub(crate) pid: ImagePid,
    pub(crate) what: &'static str,
}

/// A process of the images.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) pid: ImagePid,
    pub(crate) parent: Option<ImagePid>,
    pub(crate) group: Option<ImagePid>,
    pub(crate) session: Option<ImagePid>,
    /// The wait status of one that has ended.
    pub(crate) ended: Option<i32>,
    pub(crate) nested: Option<&'a NestedPidsEntry>,
    /// The numbers of its threads.
    pub(crate) threads: Vec<ImagePids>,
    /// The number of the namespace that its children are born into, if it is not its own: 0 if the next child makes a new one.
    pub(crate) for_children: Option<u32>,
}

/// The numbers of a tree's tasks in namespaces below that of its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Of processes, threads, groups and sessions that are seen further down.
    numbers: BTreeMap<ImagePid, ImagePids>,
    /// The namespace of each of these, unless that has ended with its first process.
    namespaces: BTreeMap<ImagePid, u32>,
    spaces: BTreeMap<u32, Space>,
    /// Processes whose children are born into another namespace: its number, or `None` if the next child makes it.
    for_children: BTreeMap<ImagePid, Option<u32>>,
    /// Members of groups that they do not see.
    strangers: BTreeSet<ImagePid>,
}

/// A pid namespace of the tree by its number, or `None` for that of the root.
pub(crate) type PidSpace = Option<u32>;

/// A pid namespace below that of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Its first process.
    pub(crate) first: ImagePid,
    /// The one around it, if that is not the root's.
    pub(crate) around: Option<u32>,
    depth: usize,
}

impl Levels {
    /// Of processes, parents before their children.
    pub(crate) fn of(processes: &[Member<'_>]) -> Result<Self, Wrong> {
        let mut levels = Self::default();
        for process in processes {
            levels.add(process)?;
        }
        levels.check_namespaces(processes)?;
        for process in processes {
            levels.check_children(process)?;
        }
        for process in processes {
            let Some(entry) = process.nested else { continue };
            levels.add_leader(process, process.group, &entry.groups)?;
            levels.add_leader(process, process.session, &entry.sessions)?;
            if entry.groups.last() == Some(&0) {
                levels.strangers.insert(process.pid);
            }
        }
        levels.check_numbers()?;
        Ok(levels)
    }

    fn add(&mut self, process: &Member<'_>) -> Result<(), Wrong> {
        let Some(entry) = process.nested else { return Ok(()) };
        let pid = process.pid;
        let own = numbers(pid, &entry.pids).ok_or_else(|| wrong(pid, "its numbers cannot be"))?;
        if own.depth() == 0
            || [&entry.groups, &entry.sessions].iter().any(|it| it.len() != own.depth())
        {
            return Err(wrong(pid, "numbers in its pid namespaces are missing"));
        }
        let is_first = own.innermost().get() == 1;
        if is_first && process.ended.is_some_and(|status| !support::pids::can_end_as(status)) {
            return Err(wrong(pid, "the first process of a pid namespace does not end so"));
        }
        let Some(namespace) = entry.namespace else {
            if process.ended.is_none() || !is_first {
                return Err(wrong(pid, "its pid namespace is not in the images"));
            }
            self.numbers.insert(pid, own);
            return Ok(());
        };
        if is_first && process.ended.is_none() {
            let around = process.parent.and_then(|parent| self.namespaces.get(&parent).copied());
            let space = Space { first: pid, around, depth: own.depth() };
            if self.spaces.insert(namespace, space).is_some() {
                return Err(wrong(pid, "its pid namespace has two first processes"));
            }
        }
        for thread in &process.threads {
            if thread.depth() != own.depth() {
                let tid = thread.outermost();
                return Err(wrong(tid, "numbers in its pid namespaces are missing"));
            }
            self.numbers.insert(thread.outermost(), thread.clone());
            self.namespaces.insert(thread.outermost(), namespace);
        }
        self.numbers.insert(pid, own);
        self.namespaces.insert(pid, namespace);
        Ok(())
    }

    /// Everybody is in a namespace that is there, below that of the parent or the same.
    fn check_namespaces(&self, processes: &[Member<'_>]) -> Result<(), Wrong> {
        for space in self.spaces.values() {
            let around = space.around.map_or(Some(0), |it| Some(self.spaces.get(&it)?.depth));
            if around != Some(space.depth - 1) {
                return Err(wrong(space.first, "its parent is in no namespace around its own"));
            }
        }
        for process in processes {
            let (pid, of_parent) = (process.pid, process.parent.and_then(|it| self.namespace(it)));
            let depth = self.depth(pid);
            match self.namespace(pid) {
                Some(own) => {
                    let known = self.spaces.get(&own).is_some_and(|space| space.depth == depth);
                    let is_below = of_parent.is_none_or(|it| self.around(own).any(|own| own == it));
                    if !known || !is_below {
                        return Err(wrong(
                            pid,
                            "its pid namespace is not below that of its parent",
                        ));
                    }
                }
                None if depth > 0 => {
                    let above =
                        of_parent.map_or(0, |it| self.spaces.get(&it).map_or(0, |it| it.depth));
                    if depth != above + 1 {
                        return Err(wrong(
                            pid,
                            "its pid namespace is not below that of its parent",
                        ));
                    }
                }
                None if of_parent.is_some() => {
                    return Err(wrong(
                        pid,
                        "its numbers in its pid namespace are not in the images",
                    ));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn check_children(&mut self, process: &Member<'_>) -> Result<(), Wrong> {
        let Some(other) = process.for_children else { return Ok(()) };
        let pid = process.pid;
        let other = Some(other).filter(|number| *number != 0);
        let own = self.namespace(pid);
        let is_below = |other| own.is_none_or(|own| self.around(other).any(|it| it == own));
        if other.is_some_and(|other| !self.spaces.contains_key(&other) || !is_below(other)) {
            return Err(wrong(pid, "its children are born into a pid namespace that is not there"));
        }
        if process.threads.len() > 1 {
            return Err(wrong(
                pid,
                "no thread is made where children are born into another namespace",
            ));
        }
        self.for_children.insert(pid, other);
        Ok(())
    }

    /// Takes what a group or session is called in the namespaces of a member, if its leader is gone.
    fn add_leader(
        &mut self,
        member: &Member<'_>,
        leader: Option<ImagePid>,
        called: &[u32],
    ) -> Result<(), Wrong> {
        let Some(leader) = leader else { return Ok(()) };
        let seen: Vec<u32> = called.iter().copied().take_while(|number| *number != 0).collect();
        if seen.is_empty() {
            return Ok(());
        }
        let own =
            numbers(leader, &seen).ok_or_else(|| wrong(member.pid, "its numbers cannot be"))?;
        let Some(namespace) = self.namespace(member.pid) else { return Ok(()) };
        let at = self.around(namespace).nth(self.depth(member.pid) - own.depth());
        match (self.numbers.get(&leader), at) {
            // Its own numbers, or what those see who are further down.
            (Some(known), _) if known.depth() >= own.depth() => {}
            (_, Some(namespace)) => {
                self.numbers.insert(leader, own);
                self.namespaces.insert(leader, namespace);
            }
            _ => {}
        }
        Ok(())
    }

    /// Nobody has the number of another one in the same namespace.
    fn check_numbers(&self) -> Result<(), Wrong> {
        let mut taken = BTreeSet::new();
        for (pid, own) in &self.numbers {
            let Some(namespace) = self.namespace(*pid) else { continue };
            for (nth, space) in self.around(namespace).enumerate() {
                let number = own.at(own.depth() - nth);
                if !taken.insert((space, number)) {
                    return Err(wrong(*pid, "another one has its number in its pid namespace"));
                }
            }
        }
        Ok(())
    }

    /// The namespace of a task below that of the root.
    pub(crate) fn namespace(&self, pid: ImagePid) -> Option<u32> {
        self.namespaces.get(&pid).copied()
    }

    /// A namespace and those around it, but for the root's.
    pub(crate) fn around(&self, namespace: u32) -> impl Iterator<Item = u32> + '_ {
        let up = std::iter::successors(Some(namespace), |it| self.spaces.get(it)?.around);
        up.take(self.spaces.len() + 1)
    }

    /// Whether a namespace is another one or below it; none is that of the root.
    pub(crate) fn is_below(&self, namespace: Option<u32>, other: Option<u32>) -> bool {
        other.is_none_or(|other| {
            namespace.is_some_and(|namespace| self.around(namespace).any(|it| it == other))
        })
    }

    /// How far the namespace of a task is below that of the root.
    pub(crate) fn depth(&self, pid: ImagePid) -> usize {
        self.numbers.get(&pid).map_or(0, ImagePids::depth)
    }

    /// All numbers of a task.
    pub(crate) fn all(&self, pid: ImagePid) -> ImagePids {
        self.numbers.get(&pid).cloned().unwrap_or_else(|| ImagePids::single(pid))
    }

    /// All numbers that are given out below the namespace of the root.
    pub(crate) fn inner(&self) -> impl Iterator<Item = ImagePid> + '_ {
        let all = self.numbers.values();
        all.flat_map(|own| (1..=own.depth()).filter_map(|depth| own.at(depth)))
    }

    /// Whether a process is the first one of a namespace below that of the root.
    pub(crate) fn is_first(&self, pid: ImagePid) -> bool {
        self.numbers.get(&pid).is_some_and(|own| own.depth() > 0 && own.innermost().get() == 1)
    }

    /// A namespace, by its number.
    pub(crate) fn space(&self, namespace: u32) -> Option<&Space> {
        self.spaces.get(&namespace)
    }

    /// The numbers of all namespaces.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.spaces.keys().copied()
    }

    /// The pid namespace that the children of a process are born into, if it is not the process's own: `Some(None)` if its next child
    /// makes a new one.
    pub(crate) fn for_children(&self, pid: ImagePid) -> Option<Option<u32>> {
        self.for_children.get(&pid).copied()
    }

    /// Whether a process is in a group that it does not see.
    pub(crate) fn is_stranger(&self, pid: ImagePid) -> bool {
        self.strangers.contains(&pid)
    }

    /// What a process calls a task, a group or a session; `None` of one that it does not see.
    pub(crate) fn local(&self, process: ImagePid, pid: ImagePid) -> Option<ImagePid> {
        let depth = self.depth(process);
        let Some(own) = self.namespace(process) else {
            return (depth == 0 || pid == process).then(|| self.all(pid).at(depth)).flatten();
        };
        let other = self.namespace(pid)?;
        self.around(other).any(|it| it == own).then(|| self.all(pid).at(depth)).flatten()
    }
}

/// The numbers of a task from the root's namespace down.
pub(crate) fn numbers(pid: ImagePid, below: &[u32]) -> Option<ImagePids> {
    /// As many as namespaces of the kernel's can be nested.
    const DEEPEST: usize = 32;
    let below: Option<Vec<ImagePid>> =
        below.iter().map(|number| ImagePid::try_from(*number).ok()).collect();
    let below = below.filter(|below| below.len() <= DEEPEST)?;
    ImagePids::from_outermost([pid].into_iter().chain(below))
}

/// All numbers of a thread, which the images have where it is in a namespace below that of the root.
pub(crate) fn of_thread(
    tid: ImagePid,
    entry: Option<&NestedPidsEntry>,
) -> Result<ImagePids, Wrong> {
    let below = entry.map_or(&[][..], |entry| &entry.pids);
    numbers(tid, below).ok_or_else(|| wrong(tid, "its numbers cannot be"))
}

const fn wrong(pid: ImagePid, what: &'static str) -> Wrong {
    Wrong { pid, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: u32) -> ImagePid {
        ImagePid::try_from(number).unwrap()
    }

    /// Processes, their parents, what they are called further down, their groups there, and their namespaces.
    type Told = (u32, u32, Vec<u32>, (u32, Vec<u32>), Option<u32>);

    fn of(told: &[Told]) -> Result<Levels, Wrong> {
        let entry = |(_, _, pids, (_, groups), namespace): &Told| NestedPidsEntry {
            pids: pids.clone(),
            groups: groups.clone(),
            sessions: vec![0; pids.len()],
            namespace: *namespace,
        };
        let entries: Vec<_> = told.iter().map(entry).collect();
        let member = |(told, entry): (&Told, _)| Member {
            pid: image(told.0),
            parent: ImagePid::try_from(told.1).ok(),
            group: Some(image(told.3.0)),
            session: Some(image(100)),
            ended: None,
            nested: Some(entry).filter(|_| !told.2.is_empty()),
            threads: Vec::new(),
            for_children: None,
        };
        Levels::of(&told.iter().zip(&entries).map(member).collect::<Vec<_>>())
    }

    fn tree() -> Vec<Told> {
        vec![
            (100, 0, vec![], (100, vec![]), None),
            (101, 100, vec![1], (100, vec![0]), Some(9)),
            (102, 101, vec![7], (100, vec![0]), Some(9)),
            (103, 102, vec![8, 1], (100, vec![0, 0]), Some(10)),
            // It has entered the inner one.
            (104, 100, vec![9, 5], (100, vec![0, 0]), Some(10)),
        ]
    }

    #[test]
    fn each_is_called_as_it_is_seen() {
        let levels = of(&tree()).unwrap();
        let local = |process, pid| levels.local(image(process), image(pid)).map(ImagePid::get);
        assert_eq!(
            (local(100, 103), local(101, 103), local(103, 103)),
            (Some(103), Some(8), Some(1))
        );
        assert_eq!((local(103, 102), local(101, 100), local(102, 104)), (None, None, Some(9)));
        assert_eq!(levels.depth(image(104)), 2);
        assert!(levels.is_first(image(103)) && !levels.is_first(image(104)));
        assert!(levels.is_below(Some(10), Some(9)) && !levels.is_below(Some(9), Some(10)));
        assert!(levels.is_stranger(image(102)) && !levels.is_stranger(image(100)));
    }

    #[test]
    fn who_is_gone_is_called_as_by_those_who_see_him() {
        let mut tree = tree();
        tree[3].3 = (50, vec![33, 0]);
        let levels = of(&tree).unwrap();
        assert_eq!(levels.local(image(101), image(50)), Some(image(33)));
        assert_eq!(levels.namespace(image(50)), Some(9));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let wrong = |change: fn(&mut Vec<Told>)| {
            let mut tree = tree();
            change(&mut tree);
            of(&tree).is_err()
        };
        // Two first ones; none; a number twice; none of its own; too deep; a namespace beside that of the parent.
        assert!(wrong(|tree| tree[2].2 = vec![1]));
        assert!(wrong(|tree| drop(tree.remove(1))));
        assert!(wrong(|tree| tree[4].2 = vec![8, 5]));
        assert!(wrong(|tree| tree[2].2 = vec![]));
        assert!(wrong(|tree| (tree[2].2, tree[2].3.1) = (vec![7; 40], vec![0; 40])));
        assert!(wrong(|tree| tree[3].1 = 100));
        assert!(wrong(|tree| tree[2].4 = None));
        assert!(wrong(|tree| tree[2].2 = vec![0]));
    }
}
