//! Pid namespaces below that of a tree's root: which are carried.
//!
//! A process is born into its pid namespace and never leaves it; what a process chooses (unshare, setns) is the namespace of
//! its children. The first process of one is its init: orphans in it become its children, and all in it end with it. So a
//! namespace is carried with its init, and its members are made by whoever is their parent, when that init is there.

use std::collections::{BTreeMap, BTreeSet};

use ids::HostPid;

use crate::unsupported::{Refusal, Unsupported};

/// A process of a tree, as far as pid namespaces are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its number.
    pub pid: HostPid,
    /// Its parent; the root has none.
    pub parent: Option<HostPid>,
    /// Its process group.
    pub group: Option<HostPid>,
    /// Where it is, if that is below the namespace of the root.
    pub nested: Option<Nested>,
    /// The wait status of one that has ended.
    pub ended: Option<i32>,
    /// The namespace of its children, if that is another one than its own; none in that for one that its next child makes.
    pub for_children: Option<Option<u64>>,
    /// How many threads it has.
    pub threads: usize,
}

/// A place in a pid namespace below that of the root.
#[derive(Clone, Copy, Debug)]
pub struct Nested {
    /// The kernel's number of the namespace.
    pub namespace: u64,
    /// The number that the process has in it.
    pub number: i32,
    /// Whether its process group has a number in it.
    pub sees_group: bool,
}

const FIRST_OUTSIDE: Refusal = Refusal::fixed(
    "it has entered a pid namespace whose first process is no part of the tree (setns)",
    "dump a tree that holds that process as well, or end this one",
);

const WITHOUT_FIRST: Refusal = Refusal::fixed(
    "the first process of that namespace has ended or is no part of the tree, so that nobody can be born into it",
    "end this process, or have it go back to its own one (setns with CLONE_NEWPID)",
);

const CHILDREN_OF_THREADS: Refusal = Refusal::fixed(
    "children of its threads would be born into another one, in which no thread can be made again",
    "have one process without threads make that namespace (unshare --pid --fork)",
);

const INIT_BY_SIGNAL: Refusal = Refusal::fixed(
    "it was the first process of a pid namespace and has ended by a fault, and its parent has not waited for it",
    "have its parent wait for it",
);

/// A pid namespace that the dump left to the outside, and that nobody has given.
#[must_use]
pub fn external(name: &str) -> Refusal {
    let name = crate::unsupported::word(name);
    Refusal::new(
        "it was left to the outside by the dump, and none is given for it",
        format!(
            "give --external pid[{name}]:/proc/PID/ns/pid, or, to `criu restore`, --inherit-fd fd[N]:{name}, with the pid namespace open as N"
        ),
    )
}

/// What somebody has set of one, of which a process is in it.
#[must_use]
pub fn settings(pid: HostPid) -> Refusal {
    Refusal::new(
        "it has settings of its own (kernel.pid_max, vm.memfd_noexec), which cannot be carried yet",
        format!(
            "have it be as a new one before the dump, and set it again after the restore: nsenter --target {pid} --pid sysctl -w \
             vm.memfd_noexec=0 (or as strict as the namespace around it); and kernel.pid_max=4194304, where it is less there"
        ),
    )
}

/// What is given for one is none.
pub const NO_NAMESPACE: Refusal = Refusal::fixed(
    "what is given for it is no pid namespace",
    "give the file /proc/PID/ns/pid of a process in it",
);

/// A process group that is led from outside of the pid namespace of one of its members, which was born into it.
pub const GROUP_OUTSIDE: Refusal = Refusal::fixed(
    "its leader is outside of the pid namespace of this process, whose parent is in another group by now, or in that of a \
     process beside it",
    "have it found a group of its own (setpgid, or setsid) before the dump",
);

/// What stands in the way of a dump of these.
#[must_use]
pub fn unsupported(members: &[Member]) -> Vec<Unsupported> {
    let firsts: BTreeSet<u64> = members
        .iter()
        .filter_map(|member| member.nested.filter(|it| it.number == 1 && member.ended.is_none()))
        .map(|nested| nested.namespace)
        .collect();
    let by_pid: BTreeMap<HostPid, &Member> =
        members.iter().map(|member| (member.pid, member)).collect();
    let mut found = Vec::new();
    for member in members {
        let mut add = |refusal: Refusal, object: &str| found.push(refusal.of(member.pid, object));
        if let Some(nested) = member.nested {
            if member.ended.is_some() && nested.number == 1 {
                if member.ended.is_some_and(|status| !can_end_as(status)) {
                    add(INIT_BY_SIGNAL, "the process");
                }
            } else if !firsts.contains(&nested.namespace) {
                add(FIRST_OUTSIDE, "pid namespace");
            }
            if !nested.sees_group && !inherits_group(member, &by_pid) {
                add(GROUP_OUTSIDE, "process group");
            }
        }
        match member.for_children {
            Some(_) if member.threads > 1 => add(CHILDREN_OF_THREADS, "pid namespace for children"),
            Some(Some(namespace)) if !firsts.contains(&namespace) => {
                add(WITHOUT_FIRST, "pid namespace for children");
            }
            _ => {}
        }
    }
    found
}

/// Whether the first process of a namespace can end so: by itself, or killed by its parent.
#[must_use]
pub const fn can_end_as(status: i32) -> bool {
    let signal = status & 0x7f;
    signal == 0 || signal == libc::SIGKILL
}

/// Whether a process is born into its group, which it cannot see: by a parent that is in it, or can be by then.
fn inherits_group(member: &Member, members: &BTreeMap<HostPid, &Member>) -> bool {
    let Some(parent) = member.parent.and_then(|parent| members.get(&parent)) else { return false };
    let Some(group) = member.group.filter(|group| parent.group == Some(*group)) else {
        return false;
    };
    if parent.nested.is_some_and(|nested| !nested.sees_group) {
        return true;
    }
    // Its leader is there before the parent's children: the parent itself, or somebody above. One that is gone is stood in for
    // by a child of the one who needs it.
    if members.contains_key(&group) {
        return is_above(group, parent.pid, members);
    }
    let strangers = members.values().filter(|other| {
        other.group == Some(group) && other.nested.is_some_and(|nested| !nested.sees_group)
    });
    let parents = strangers.filter_map(|stranger| members.get(&stranger.parent?));
    let mut seeing = parents.filter(|it| it.nested.is_none_or(|nested| nested.sees_group));
    seeing.all(|other| other.pid == parent.pid)
}

fn is_above(above: HostPid, pid: HostPid, members: &BTreeMap<HostPid, &Member>) -> bool {
    let up = std::iter::successors(Some(pid), |pid| members.get(pid)?.parent);
    up.take(members.len()).any(|pid| pid == above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    fn member(pid: i32, parent: i32, group: i32, nested: Option<(u64, i32, bool)>) -> Member {
        Member {
            pid: host(pid),
            parent: HostPid::new(parent),
            group: HostPid::new(group),
            nested: nested.map(|(namespace, number, sees_group)| Nested {
                namespace,
                number,
                sees_group,
            }),
            ended: None,
            for_children: None,
            threads: 1,
        }
    }

    fn reasons(members: &[Member]) -> Vec<String> {
        unsupported(members).into_iter().map(|found| found.reason).collect()
    }

    #[test]
    fn a_namespace_with_its_first_process_is_carried() {
        let tree = [
            member(100, 0, 100, None),
            member(101, 100, 101, None),
            member(102, 101, 101, Some((9, 1, false))),
            member(103, 102, 101, Some((9, 2, false))),
            member(104, 102, 104, Some((9, 3, true))),
        ];
        assert_eq!(reasons(&tree), Vec::<String>::new());
        assert_eq!(reasons(&[&tree[..2], &tree[3..]].concat()).len(), 3);
        let children = Member { for_children: Some(Some(9)), ..tree[1] };
        assert_eq!(reasons(&[&tree[..1], &[children], &tree[2..]].concat()), Vec::<String>::new());
        let of_nobody = Member { for_children: Some(Some(8)), ..tree[1] };
        assert_eq!(reasons(&[&tree[..1], &[of_nobody], &tree[2..]].concat()).len(), 1);
    }

    #[test]
    fn a_group_is_inherited_from_the_parent() {
        let inside = Some((9, 1, false));
        // Its leader is beside the parent; gone; gone, and wanted by two.
        let beside = [member(100, 0, 100, None), member(101, 100, 101, None)];
        let parent = member(102, 100, 101, None);
        let tree = [&beside[..], &[parent, member(103, 102, 101, inside)]].concat();
        assert_eq!(reasons(&tree), [GROUP_OUTSIDE.reason]);
        let mut gone = vec![tree[0], parent, tree[3]];
        assert_eq!(reasons(&gone), Vec::<String>::new());
        gone.extend([member(104, 100, 101, None), member(105, 104, 101, Some((10, 1, false)))]);
        assert_eq!(reasons(&gone).len(), 2);
    }

    #[test]
    fn the_first_one_ends_by_itself_or_is_killed() {
        assert!(can_end_as(3 << 8) && can_end_as(libc::SIGKILL));
        assert!(!can_end_as(libc::SIGSEGV | 0x80));
    }
}
