//! Memory that processes of a tree have together (`CLONE_VM`), and signal handlers with it (`CLONE_SIGHAND`): who could be born with them again.
//!
//! Nobody can enter another's memory, one is born into it. So a restore has each process made by one that has the memory already:
//!
//! | a process of those who share | is made by |
//! |---|---|
//! | whose parent is one of them | its parent |
//! | whose parent is that of the first of them, and not one of them | the first, as a sibling (`CLONE_PARENT`) |
//!
//! Signal handlers are shared from birth on as well, with the maker.

use std::collections::{BTreeMap, BTreeSet};

use ids::HostPid;
use inventory::{Process, ProcessState};

use crate::births::Maker;
use crate::unsupported::{Refusal, Unsupported};

/// What cannot be made again of what processes of a tree have together. `makers` tells who makes each of `tree`; `root` is its root. A child
/// of vfork has it for a moment (`is_passing`).
pub(crate) fn of_tree(
    root: HostPid,
    tree: &[&Process],
    makers: &[Maker],
    is_passing: impl Fn(&Process) -> bool,
) -> Vec<Unsupported> {
    let mut memories: BTreeMap<HostPid, Vec<Sharer<'_>>> = BTreeMap::new();
    for (process, maker) in tree.iter().zip(makers) {
        let is_alive = !matches!(process.state, ProcessState::Zombie { .. });
        if let Some(memory) = process.tables.memory.filter(|_| is_alive) {
            memories.entry(memory).or_default().push(Sharer { process, maker: *maker });
        }
    }
    let mut found = Vec::new();
    for sharers in memories.values().filter(|sharers| sharers.len() > 1) {
        let lasting: Vec<Sharer<'_>> =
            sharers.iter().filter(|sharer| !is_passing(sharer.process)).copied().collect();
        found.extend(of_memory(root, tree, &lasting));
    }
    found
}

/// A process that has memory together with others, and who would make it if it had not.
#[derive(Clone, Copy)]
struct Sharer<'a> {
    process: &'a Process,
    maker: Maker,
}

const START_BY_PARENT: &str =
    "have the program start it by its parent, or by fork so that they do not share it";

fn of_memory(root: HostPid, tree: &[&Process], sharers: &[Sharer<'_>]) -> Option<Unsupported> {
    let members: BTreeMap<HostPid, &Sharer<'_>> =
        sharers.iter().map(|sharer| (sharer.process.pid, sharer)).collect();
    let is_top = |sharer: &&Sharer<'_>| {
        sharer.process.pid == root
            || !sharer.process.ppid.is_some_and(|parent| members.contains_key(&parent))
    };
    // In a circle of parents there is none; images have no such tree.
    let first = sharers.iter().find(is_top).filter(|_| sharers.len() > 1)?;
    // Those who have their handlers from nobody.
    let mut handlers: BTreeSet<HostPid> =
        first.process.tables.signal_handlers.into_iter().collect();
    for sharer in sharers.iter().filter(|sharer| sharer.process.pid != first.process.pid) {
        let process = sharer.process;
        let (pid, other) = (process.pid, first.process.pid);
        let is_sibling = is_top(&sharer);
        let refuse = |reason: String, remedy: &'static str| {
            Some(Refusal::new(reason, remedy).of(pid, "memory"))
        };
        if is_sibling && !can_be_made_beside(first, sharer, root) {
            let reason = format!(
                "it is shared with process {other} (CLONE_VM), which is neither its parent nor, in the same session, a child of its parent"
            );
            return refuse(reason, START_BY_PARENT);
        }
        if !matches!(sharer.maker, Maker::Parent | Maker::EarlyParent) {
            let reason = format!(
                "it is shared with process {other} (CLONE_VM), and it is in a session that its parent is not in"
            );
            return refuse(reason, START_BY_PARENT);
        }
        if let Some(name) = other_namespace(first.process, process, tree, root) {
            let reason = format!(
                "it is shared with process {other} (CLONE_VM), and the {name} namespace of one of them is not that of the other and of the tree"
            );
            return refuse(
                reason,
                "start the program so that both are in the namespaces of the tree's first process",
            );
        }
        if let Some(table) = table_apart(first.process, process, tree).filter(|_| is_sibling) {
            let reason = format!(
                "it is shared with process {other} (CLONE_VM), and its {table} with another one"
            );
            return refuse(reason, "have the program start it without CLONE_FILES and CLONE_FS");
        }
        let maker = match is_sibling {
            true => Some(first.process),
            false => process.ppid.and_then(|parent| members.get(&parent)).map(|it| it.process),
        };
        let own = process.tables.signal_handlers;
        let is_given = maker.is_some_and(|maker| maker.tables.signal_handlers == own);
        if !is_given && own.is_some_and(|own| !handlers.insert(own)) {
            let reason =
                "they are shared (CLONE_SIGHAND) with a process that could not have made this one";
            return Some(
                Refusal::new(reason, "have the program start them without CLONE_SIGHAND")
                    .of(pid, "signal handlers"),
            );
        }
    }
    None
}

/// Whether the first could make another one as its sibling.
fn can_be_made_beside(first: &Sharer<'_>, other: &Sharer<'_>, root: HostPid) -> bool {
    let parent = first.process.ppid.filter(|_| first.process.pid != root);
    parent.is_some()
        && parent == other.process.ppid
        && first.maker == other.maker
        && other.process.pgid.is_some()
}

/// The name of a namespace that one of two processes is in and the other or, of users and pids, the tree's root not.
fn other_namespace(
    one: &Process,
    other: &Process,
    tree: &[&Process],
    root: HostPid,
) -> Option<&'static str> {
    let of_root = tree.iter().find(|process| process.pid == root)?;
    let names = other.namespaces.keys().copied().filter(|name| !name.ends_with("_for_children"));
    let mut names = names.into_iter();
    names.find(|name| {
        let differs = |from: &Process| from.namespaces.get(name) != other.namespaces.get(name);
        differs(one) || matches!(*name, "user" | "pid") && differs(of_root)
    })
}

/// The name of a table that a process has together with another one than the first.
fn table_apart(first: &Process, process: &Process, tree: &[&Process]) -> Option<&'static str> {
    let tables = |it: &Process| [it.tables.files, it.tables.file_system];
    let names = ["descriptor table", "working directory"];
    names.into_iter().enumerate().find_map(|(index, name)| {
        let own = tables(process)[index]?;
        let is_other = |it: &&&Process| it.pid != process.pid && tables(it)[index] == Some(own);
        let is_shared = tree.iter().any(|it| is_other(&it));
        (is_shared && tables(first)[index] != Some(own)).then_some(name)
    })
}
