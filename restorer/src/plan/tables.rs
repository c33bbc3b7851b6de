//! Tables that processes use together: who passes them on to whom. Pure.
//!
//! Nobody can enter a table of another process: one is born into it. So a table is passed on from birth to birth,
//! from the process that is above all who use it; among siblings, from the first of them, which makes the others as
//! siblings (`CLONE_PARENT`). Who is on the way and has a table of its own takes a copy when it has passed on the
//! one that is not its own.
//!
//! Memory is such a table, too (`CLONE_VM`), but for that: nobody takes a copy. So who passes it on has it itself, and all who have signal handlers
//! together (`CLONE_SIGHAND`) are made by one of them.

use std::collections::{BTreeMap, BTreeSet};

use images::messages::TaskKobjIdsEntry;

use super::{ForkStep, Group, Part, Table, Task};

/// A task that would need two tables at once: the one that it uses, and one that it has to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Torn(pub(super) usize);

/// Plans who shares a table; `id` tells the one that a process of the images uses.
pub(super) fn share(
    tasks: &mut [Task],
    table: Table,
    id: impl Fn(usize) -> Option<u32>,
) -> Result<(), Torn> {
    let mut users: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, task) in tasks.iter().enumerate() {
        if let Some(id) = task.process.and_then(&id) {
            users.entry(id).or_default().push(index);
        }
    }
    users.retain(|_, users| users.len() > 1);
    if users.is_empty() {
        return Ok(());
    }
    for users in users.values() {
        make_by_siblings(tasks, users);
    }
    let makers = makers(tasks);
    let mut own: Vec<Option<u32>> = vec![None; tasks.len()];
    let mut born: Vec<Option<u32>> = vec![None; tasks.len()];
    for (&id, users) in &users {
        let ways: Vec<Vec<usize>> = users.iter().map(|user| way(&makers, *user)).collect();
        for &step in ways.iter().flat_map(|way| &way[common(&ways)..]) {
            if born[step].replace(id).is_some_and(|other| other != id) {
                return Err(Torn(step));
            }
        }
        for (nth, &user) in users.iter().enumerate() {
            own[user] = Some(id);
            tasks[user].share(table).part = match nth {
                0 => Part::First { others: users.len() as u32 - 1 },
                _ => Part::Other,
            };
        }
    }
    // Who makes an orphan is itself no user of the table.
    let orphan = |step: &ForkStep| match step {
        ForkStep::Orphan(made) => Some(*made),
        _ => None,
    };
    let mut orphans = tasks.iter().flat_map(|task| &task.forks).filter_map(orphan);
    if let Some(orphan) = orphans.find(|made| born[*made].is_some()) {
        return Err(Torn(orphan));
    }
    for (index, task) in tasks.iter_mut().enumerate() {
        task.share(table).born = born[index].is_some();
        let used = Used { own: own[index], now: born[index].or(own[index]) };
        task.forks = pass_on(&task.forks, table, used, &born).ok_or(Torn(index))?;
    }
    Ok(())
}

/// Plans who shares memory, and signal handlers with it.
pub(super) fn share_memory<'i>(
    tasks: &mut [Task],
    ids: impl Fn(&Task) -> Option<&'i TaskKobjIdsEntry>,
) -> Result<(), Torn> {
    let of_process: BTreeMap<usize, &TaskKobjIdsEntry> =
        tasks.iter().filter_map(|task| Some((task.process?, ids(task)?))).collect();
    share(tasks, Table::Memory, |process| Some(of_process.get(&process)?.vm_id))?;
    if let Some(torn) =
        tasks.iter().position(|task| task.forks.contains(&ForkStep::Own(Table::Memory)))
    {
        return Err(Torn(torn));
    }
    let makers = makers(tasks);
    // By a process that passes, and has no memory of theirs.
    let given: BTreeSet<usize> = tasks
        .iter()
        .flat_map(|task| &task.forks)
        .filter_map(|step| match step {
            ForkStep::Given(made) | ForkStep::Orphan(made) => Some(*made),
            _ => None,
        })
        .collect();
    let mut with_handlers: BTreeMap<u32, u32> = BTreeMap::new();
    for index in 0..tasks.len() {
        let task = &tasks[index];
        let Some(own) = ids(task).filter(|_| task.memory.part != Part::Alone) else { continue };
        if task.memory.born {
            let maker = makers[index].and_then(|maker| ids(&tasks[maker]));
            let is_made = task.memory.part == Part::Other
                && task.born_in.is_none()
                && !given.contains(&index)
                && maker
                    .is_some_and(|maker| maker.vm_id == own.vm_id && are_in_one_place(maker, own));
            if !is_made {
                return Err(Torn(index));
            }
            tasks[index].handlers = maker.is_some_and(|maker| maker.sighand_id == own.sighand_id);
        } else if task.memory.part == Part::Other {
            return Err(Torn(index));
        }
        // All of them but one are born with them.
        if !tasks[index].handlers && with_handlers.insert(own.sighand_id, own.vm_id).is_some() {
            return Err(Torn(index));
        }
    }
    Ok(())
}

/// Whether two processes are in the same namespaces.
fn are_in_one_place(one: &TaskKobjIdsEntry, other: &TaskKobjIdsEntry) -> bool {
    let of = |ids: &TaskKobjIdsEntry| TaskKobjIdsEntry {
        vm_id: 0,
        files_id: 0,
        fs_id: 0,
        sighand_id: 0,
        pid_for_children_ns_id: None,
        ..*ids
    };
    of(one) == of(other)
}

/// Has the first of siblings that share make the others, if their parent does not share with them, and would make them
/// in the same session.
fn make_by_siblings(tasks: &mut [Task], users: &[usize]) {
    let makers = makers(tasks);
    let ways: Vec<Vec<usize>> = users.iter().map(|user| way(&makers, *user)).collect();
    let above = common(&ways);
    let Some(top) = above.checked_sub(1).and_then(|last| ways.first()?.get(last).copied()) else {
        return;
    };
    let below: BTreeSet<usize> = ways.iter().filter_map(|way| way.get(above).copied()).collect();
    let is_moved = |step: &ForkStep| matches!(step, ForkStep::Child(made) if below.contains(made));
    let of_top = &tasks[top].forks;
    let places: Vec<usize> =
        of_top.iter().enumerate().filter(|(_, step)| is_moved(step)).map(|(at, _)| at).collect();
    let (Some(&first), Some(&last)) = (places.first(), places.last()) else { return };
    let between = &of_top[first..=last];
    if users.contains(&top) || places.len() != below.len() || between.contains(&ForkStep::Session) {
        return;
    }
    let moved: Vec<usize> = places.iter().filter_map(|at| of_top[*at].made()).collect();
    let Some((&maker, others)) = moved.split_first() else { return };
    // The others would be born into the group that the first one founds: those that are to keep the group they are given may not. (Who founds a
    // session has a group by that.)
    let keeps =
        |task: &Task| task.group == Group::Given && !task.forks.contains(&ForkStep::Session);
    if others.iter().any(|other| keeps(&tasks[*other])) {
        return;
    }
    tasks[top].forks.retain(|step| !step.made().is_some_and(|made| others.contains(&made)));
    let siblings = others.iter().map(|other| ForkStep::Sibling(*other));
    tasks[maker].forks.splice(..0, siblings);
}

/// The task that makes each.
fn makers(tasks: &[Task]) -> Vec<Option<usize>> {
    let mut makers = vec![None; tasks.len()];
    for (index, task) in tasks.iter().enumerate() {
        for made in task.forks.iter().filter_map(|step| step.made()) {
            makers[made] = Some(index);
        }
    }
    makers
}

/// The tasks from the root to this one.
fn way(makers: &[Option<usize>], task: usize) -> Vec<usize> {
    let mut way: Vec<usize> = std::iter::successors(Some(task), |task| makers[*task]).collect();
    way.reverse();
    way
}

/// How many steps all ways have in common.
fn common(ways: &[Vec<usize>]) -> usize {
    let Some((first, others)) = ways.split_first() else { return 0 };
    let is_common =
        |(nth, task): &(usize, &usize)| others.iter().all(|way| way.get(*nth) == Some(*task));
    first.iter().enumerate().take_while(is_common).count()
}

/// The shared table that a task uses in the end, and the one that it has at the moment.
#[derive(Clone, Copy)]
struct Used {
    own: Option<u32>,
    now: Option<u32>,
}

/// The steps of a task, with those by which it takes a table of its own; `born` tells which table each task is
/// born into.
fn pass_on(
    forks: &[ForkStep],
    table: Table,
    mut used: Used,
    born: &[Option<u32>],
) -> Option<Vec<ForkStep>> {
    let (mut steps, mut left) = (Vec::with_capacity(forks.len() + 1), BTreeSet::new());
    for step in forks {
        let passed = step.made().and_then(|made| born[made]);
        if let Some(id) = passed.filter(|id| used.now != Some(*id)) {
            if let Some(now) = used.now {
                if used.own == Some(now) {
                    return None;
                }
                steps.push(ForkStep::Own(table));
                left.insert(now);
            }
            if left.contains(&id) {
                return None;
            }
            used.now = Some(id);
        }
        steps.push(*step);
    }
    match used.own {
        own if own == used.now => {}
        None => steps.push(ForkStep::Own(table)),
        Some(_) => return None,
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ForkStep::{Child, Own, Session, Sibling};

    const TABLE: Table = Table::Descriptors;

    fn tasks(forks: &[&[ForkStep]]) -> Vec<Task> {
        let task = |(index, forks): (usize, &&[ForkStep])| Task {
            process: Some(index),
            ..super::super::helper(
                ids::ImagePid::new(index as i32 + 100).unwrap(),
                forks.to_vec(),
                Group::Join(ids::ImagePid::new(100).unwrap()),
            )
        };
        forks.iter().enumerate().map(task).collect()
    }

    /// Which tasks are born into a shared table, and the steps of all.
    fn planned(
        forks: &[&[ForkStep]],
        ids: &[u32],
    ) -> Result<(Vec<bool>, Vec<Vec<ForkStep>>), Torn> {
        let mut tasks = tasks(forks);
        share(&mut tasks, TABLE, |process| ids.get(process).copied())?;
        let born = tasks.iter().map(|task| task.descriptors.born).collect();
        Ok((born, tasks.into_iter().map(|task| task.forks).collect()))
    }

    #[test]
    fn who_has_a_table_alone_is_made_as_ever() {
        let forks: [&[ForkStep]; 2] = [&[Session, Child(1)], &[]];
        let (born, steps) = planned(&forks, &[1, 2]).unwrap();
        assert_eq!((born, steps), (vec![false; 2], vec![vec![Session, Child(1)], vec![]]));
    }

    #[test]
    fn a_parent_passes_its_table_on() {
        let forks: [&[ForkStep]; 4] = [&[Child(1), Child(2)], &[], &[Child(3)], &[]];
        let (born, steps) = planned(&forks, &[1, 2, 1, 1]).unwrap();
        assert_eq!(born, [false, false, true, true]);
        assert_eq!(steps, forks);
    }

    #[test]
    fn siblings_have_it_from_the_first_of_them() {
        let forks: [&[ForkStep]; 4] = [&[Child(1), Child(2), Child(3)], &[], &[], &[]];
        let (born, steps) = planned(&forks, &[1, 2, 3, 2]).unwrap();
        assert_eq!(born, [false, false, false, true]);
        assert_eq!(steps, [vec![Child(1), Child(2)], vec![Sibling(3)], vec![], vec![]]);
        let forks: [&[ForkStep]; 5] =
            [&[Child(1), Child(2), Child(3), Child(4)], &[], &[], &[], &[]];
        let (_, steps) = planned(&forks, &[1, 2, 3, 2, 3]).unwrap();
        assert_eq!(steps[..3], [vec![Child(1), Child(2)], vec![Sibling(3)], vec![Sibling(4)]]);
    }

    #[test]
    fn siblings_of_two_sessions_have_it_from_a_parent_who_takes_a_copy() {
        let forks: [&[ForkStep]; 3] = [&[Child(1), Session, Child(2)], &[], &[]];
        let (born, steps) = planned(&forks, &[1, 2, 2]).unwrap();
        assert_eq!(born, [false, true, true]);
        assert_eq!(steps[0], [Child(1), Session, Child(2), Own(TABLE)]);
    }

    #[test]
    fn nobody_passes_on_two_tables_at_once() {
        let forks: [&[ForkStep]; 4] = [&[Child(1)], &[Child(2), Child(3)], &[], &[]];
        assert_eq!(planned(&forks, &[1, 2, 2, 1]), Err(Torn(1)));
    }

    #[test]
    fn who_is_on_the_way_takes_a_copy() {
        let forks: [&[ForkStep]; 3] = [&[Child(1)], &[Child(2)], &[]];
        let (born, steps) = planned(&forks, &[1, 2, 1]).unwrap();
        assert_eq!(born, [false, true, true]);
        assert_eq!(steps, [vec![Child(1)], vec![Child(2), Own(TABLE)], vec![]]);
        let forks: [&[ForkStep]; 4] = [&[Child(1)], &[Child(2), Child(3)], &[], &[]];
        assert_eq!(planned(&forks, &[1, 2, 1, 2]).unwrap().1[1], [Child(2), Own(TABLE), Child(3)]);
    }

    #[test]
    fn a_sibling_has_it_from_who_makes_it() {
        let forks: [&[ForkStep]; 3] = [&[Child(1)], &[Session, Sibling(2)], &[]];
        let (born, steps) = planned(&forks, &[1, 2, 2]).unwrap();
        assert_eq!(born, [false, false, true]);
        assert_eq!(steps, forks);
    }

    /// Which tasks are born with memory, and with handlers, by the numbers of both.
    fn with_memory(forks: &[&[ForkStep]], ids: &[(u32, u32)]) -> Result<Vec<(bool, bool)>, Torn> {
        let mut tasks = tasks(forks);
        let ids: Vec<TaskKobjIdsEntry> = ids
            .iter()
            .map(|&(vm_id, sighand_id)| TaskKobjIdsEntry {
                vm_id,
                sighand_id,
                ..TaskKobjIdsEntry::default()
            })
            .collect();
        share_memory(&mut tasks, |task| ids.get(task.process?))?;
        Ok(tasks.iter().map(|task| (task.memory.born, task.handlers)).collect())
    }

    #[test]
    fn memory_is_passed_on_by_who_has_it() {
        let down: [&[ForkStep]; 3] = [&[Child(1)], &[Child(2)], &[]];
        let made = with_memory(&down, &[(1, 1), (1, 2), (1, 2)]);
        assert_eq!(made, Ok(vec![(false, false), (true, false), (true, true)]));
        let beside: [&[ForkStep]; 3] = [&[Child(1), Child(2)], &[Session], &[Session]];
        let made = with_memory(&beside, &[(1, 1), (2, 2), (2, 2)]);
        assert_eq!(made, Ok(vec![(false, false), (false, false), (true, true)]));
        let alone = with_memory(&down, &[(1, 1), (2, 2), (3, 3)]);
        assert_eq!(alone, Ok(vec![(false, false); 3]));
    }

    #[test]
    fn nobody_passes_on_memory_that_is_not_its_own() {
        let down: [&[ForkStep]; 3] = [&[Child(1)], &[Child(2)], &[]];
        assert_eq!(with_memory(&down, &[(1, 1), (2, 2), (1, 3)]), Err(Torn(1)));
        // Siblings of two sessions, of a parent with other memory.
        let beside: [&[ForkStep]; 3] = [&[Child(1), Session, Child(2)], &[], &[]];
        assert!(with_memory(&beside, &[(1, 1), (2, 2), (2, 3)]).is_err());
        // Handlers that who is between has not.
        assert_eq!(with_memory(&down, &[(1, 1), (1, 2), (1, 1)]), Err(Torn(2)));
        assert_eq!(with_memory(&down, &[(1, 1), (2, 1), (1, 3)]), Err(Torn(1)));
    }

    #[test]
    fn the_first_fills_it() {
        let mut tasks = tasks(&[&[Child(1), Child(2)], &[], &[]]);
        share(&mut tasks, TABLE, |_| Some(7)).unwrap();
        let parts: Vec<Part> = tasks.iter().map(|task| task.descriptors.part).collect();
        assert_eq!(parts, [Part::First { others: 2 }, Part::Other, Part::Other]);
        assert_eq!(tasks[0].directories, super::super::Share::default());
    }
}
