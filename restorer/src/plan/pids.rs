//! Pid namespaces below that of the tree's root: how each task is born into its own. Pure.
//!
//! | a task | is made |
//! |---|---|
//! | in the namespace of its maker | as any other, with a number for each namespace |
//! | the first one of a namespace | with `CLONE_NEWPID`, by who is in the one around it |
//! | the first one of a namespace that belongs to a user namespace below the root's | in that user namespace, by a process that passes there. Where nobody there may choose its numbers, registrars are asked for them ([`crate::registrars`]) |
//! | a child of that one | by its maker, in a process that passes in the pid namespace, and falls to it: nobody in the user namespace chooses numbers of around |
//! | who is in the session of that one, or makes somebody who is | by its parent, in the user namespace, where registrars are asked for its numbers |
//! | of another one in a namespace further down | by a maker that has its children born there for that time (setns), when the first one is there |
//!
//! Who is in a group that it does not see has it from its parent, which is in it by then.

use std::collections::{BTreeMap, BTreeSet};

use ids::ImagePid;

use super::{AskedBirth, Birth, ForkStep, Group, Plan, refuse};
use crate::error::Error;
use crate::levels::Levels;
use crate::load::Checkpoint;
use crate::nested_users::NestedUsers;

impl Plan {
    /// Plans the births in namespaces.
    pub(super) fn place(&mut self, levels: &Levels) -> Result<(), Error> {
        self.inner = levels.inner().collect();
        let makers = self.makers();
        for (index, maker) in makers.iter().enumerate() {
            let pid = self.tasks[index].pid;
            let Some(maker) = *maker else { continue };
            let is_given = self.tasks[maker].forks.contains(&ForkStep::Given(index));
            let is_helper = self.tasks[index].process.is_none() && !is_given;
            let of_maker = levels.namespace(self.tasks[maker].pid);
            let own = levels.namespace(pid);
            let birth = match own.and_then(|own| levels.space(own)) {
                _ if levels.is_first(pid) && !is_helper => {
                    let around = own.map(|own| levels.space(own).and_then(|space| space.around));
                    match around {
                        Some(Some(around)) if Some(around) != of_maker && is_given => {
                            levels.space(around).map(|space| Birth::Into(space.first))
                        }
                        Some(around) if around != of_maker => None,
                        _ => Some(Birth::First),
                    }
                }
                _ if own == of_maker => Some(Birth::Plain),
                Some(space) if levels.is_below(own, of_maker) && !is_helper => {
                    Some(Birth::Into(space.first))
                }
                _ => None,
            };
            let task = &mut self.tasks[index];
            task.birth = birth.ok_or_else(|| refuse(pid, support::images::PIDS_APART))?;
        }
        self.inherit_groups(levels, &makers)?;
        self.put_last(levels);
        self.await_first(levels, &makers)
    }

    /// Finds the first processes of pid namespaces that belong to user namespaces below the root's, and has what they would make made
    /// by their makers.
    pub(super) fn hand_over(&mut self, levels: &Levels, users: &NestedUsers) -> Result<(), Error> {
        for index in 0..self.tasks.len() {
            let task = &self.tasks[index];
            let own = levels.namespace(task.pid).filter(|_| levels.is_first(task.pid));
            let owner = own.filter(|_| task.process.is_some()).and_then(|own| users.owner(own));
            let Some(owner) = owner else { continue };
            let apart = || refuse(self.tasks[index].pid, support::images::PIDS_APART);
            // It may have been handed over by one that was handed over itself.
            let maker = self.makers()[index].ok_or_else(apart)?;
            let own = users.number(task.pid);
            let is_own = own.is_some_and(|own| users.is_within(own, owner));
            let leads = task.forks.iter().position(|step| *step == ForkStep::Session);
            let (mut moved, mut kept) = (Vec::new(), Vec::new());
            for (nth, step) in task.forks.iter().enumerate() {
                match *step {
                    ForkStep::Child(made)
                        if leads < Some(nth)
                            && leads.is_some()
                            && self.is_in_session(made, task.pid) =>
                    {
                        kept.push(ForkStep::Asked(made));
                    }
                    ForkStep::Child(made) => moved.push(ForkStep::Given(made)),
                    step => kept.push(step),
                }
            }
            let steps = &self.tasks[maker].forks;
            let at = steps.iter().position(|step| step.made() == Some(index));
            let is_asked = |step: &ForkStep| matches!(step, ForkStep::Asked(_));
            let makes = kept.iter().any(|step| step.made().is_some() && !is_asked(step));
            let (Some(at), true, false) = (at, is_own, makes) else {
                return Err(apart());
            };
            let asked: Vec<usize> =
                kept.iter().filter(|step| is_asked(step)).filter_map(|step| step.made()).collect();
            self.tasks[index].forks = kept;
            self.tasks[index].born_in = Some(owner);
            self.tasks[maker].forks.splice(at + 1..at + 1, moved);
            for made in asked {
                self.be_born_in(made, owner)?;
            }
        }
        Ok(())
    }

    /// Whether a task has to be born into a session, or makes somebody who has to.
    fn is_in_session(&self, task: usize, session: ImagePid) -> bool {
        let mut waiting = vec![task];
        while let Some(index) = waiting.pop() {
            let task = &self.tasks[index];
            if task.in_session == Some(session) {
                return true;
            }
            let before = task.forks.iter().take_while(|step| **step != ForkStep::Session);
            waiting.extend(before.filter_map(|step| step.made()));
        }
        false
    }

    /// Has a task, and all below it, born in a user namespace.
    fn be_born_in(&mut self, task: usize, user: u32) -> Result<(), Error> {
        let mut waiting = vec![task];
        while let Some(index) = waiting.pop() {
            let task = &mut self.tasks[index];
            task.born_in = Some(user);
            for step in &mut task.forks {
                match *step {
                    ForkStep::Child(made) => {
                        *step = ForkStep::Asked(made);
                        waiting.push(made);
                    }
                    ForkStep::Session | ForkStep::Own(_) | ForkStep::Group(_) => {}
                    _ => return Err(refuse(task.pid, support::images::PIDS_APART)),
                }
            }
        }
        Ok(())
    }

    /// Finds the births at which registrars are asked.
    pub(super) fn ask(&mut self, checkpoint: &Checkpoint) {
        let (levels, users) = (&checkpoint.levels, checkpoint.namespaces.nested_users());
        let asked = |task, process, user| {
            let numbers = users.not_chosen(levels, task, user);
            (!numbers.is_empty()).then_some(AskedBirth { task, process, numbers })
        };
        for task in &self.tasks {
            self.asked.extend(task.born_in.and_then(|user| asked(task.pid, task.pid, user)));
            let Some(user) = users.number(task.pid) else { continue };
            let process = task.process.and_then(|process| checkpoint.processes.get(process));
            let threads = process.and_then(|process| process.body.as_ref()).map(|it| &it.threads);
            for thread in threads.into_iter().flatten().skip(1) {
                self.asked.extend(asked(thread.tid, task.pid, user));
            }
        }
    }

    fn makers(&self) -> Vec<Option<usize>> {
        let mut makers = vec![None; self.tasks.len()];
        for (index, task) in self.tasks.iter().enumerate() {
            for made in task.forks.iter().filter_map(|step| step.made()) {
                makers[made] = Some(index);
            }
        }
        makers
    }

    /// Has the makers of those that do not see their groups join these before.
    fn inherit_groups(&mut self, levels: &Levels, makers: &[Option<usize>]) -> Result<(), Error> {
        for (index, maker) in makers.iter().enumerate() {
            let task = &self.tasks[index];
            let Some(maker) = maker.filter(|_| levels.is_stranger(task.pid)) else { continue };
            let outside = || refuse(self.tasks[index].pid, support::pids::GROUP_OUTSIDE);
            let (of_maker, wanted) = (self.tasks[maker].in_group, task.in_group);
            if of_maker != wanted {
                return Err(outside());
            }
            let Group::Join(group) = self.tasks[maker].group else { continue };
            let forks = &self.tasks[maker].forks;
            let at = forks.iter().position(|step| step.made() == Some(index));
            let (Some(at), false) = (at, forks.contains(&ForkStep::Group(group))) else { continue };
            // Who stands in for the leader is there before.
            let leader = self.tasks.iter().position(|task| task.pid == group);
            let helper = leader.filter(|leader| self.tasks[*leader].process.is_none());
            let place = helper
                .and_then(|helper| forks.iter().position(|step| *step == ForkStep::Child(helper)));
            if helper.is_some() && place.is_none() {
                return Err(outside());
            }
            let forks = &mut self.tasks[maker].forks;
            let mut before = vec![ForkStep::Group(group)];
            if let Some(place) = place {
                before.insert(0, forks.remove(place));
            }
            let at = at - usize::from(place.is_some_and(|place| place < at));
            forks.splice(at..at, before);
        }
        Ok(())
    }

    /// What waits for others comes last, and where children are born in the end last of all.
    fn put_last(&mut self, levels: &Levels) {
        for index in 0..self.tasks.len() {
            let waits = |step: &ForkStep| {
                step.made().is_some_and(|made| matches!(self.tasks[made].birth, Birth::Into(_)))
            };
            let forks = &self.tasks[index].forks;
            // Who founds a session has made by then who is not to be in it.
            let from = forks.iter().rposition(|step| *step == ForkStep::Session);
            let (mut early, mut late) = match from {
                Some(from) => (forks[..from].to_vec(), forks[from..].to_vec()),
                None => (Vec::new(), forks.clone()),
            };
            early.sort_by_key(waits);
            late.sort_by_key(waits);
            early.append(&mut late);
            let task = &self.tasks[index];
            if let Some(other) = levels.for_children(task.pid).filter(|_| task.process.is_some()) {
                let first = other.and_then(|other| levels.space(other));
                early.push(ForkStep::Children(first.map(|space| space.first)));
            }
            self.tasks[index].forks = early;
        }
    }

    /// Finds out who waits for which first process, and that none waits for ever.
    fn await_first(&mut self, levels: &Levels, makers: &[Option<usize>]) -> Result<(), Error> {
        let by_pid: BTreeMap<ImagePid, usize> =
            self.tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
        let awaited = |step: &ForkStep| match *step {
            ForkStep::Children(first) => first,
            step => match self.tasks[step.made()?].birth {
                Birth::Into(first) => Some(first),
                _ => None,
            },
        };
        let mut waits: BTreeMap<ImagePid, u32> = BTreeMap::new();
        for (index, task) in self.tasks.iter().enumerate() {
            for first in task.forks.iter().filter_map(&awaited) {
                let maker = by_pid.get(&first).and_then(|first| makers[*first]);
                // Who is below it need not wait, nor who makes it.
                let is_there = levels.is_first(task.pid) && task.pid == first;
                if maker != Some(index) && !is_there {
                    *waits.entry(first).or_default() += 1;
                }
            }
        }
        // All do what they can, until nobody can do anything.
        let mut left: Vec<_> = self.tasks.iter().map(|task| task.forks.iter().peekable()).collect();
        let mut there: BTreeSet<usize> = BTreeSet::from([0]);
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for (index, steps) in left.iter_mut().enumerate() {
                while there.contains(&index)
                    && let Some(step) = steps.peek()
                {
                    let first = awaited(step).and_then(|first| by_pid.get(&first));
                    if first.is_some_and(|first| !there.contains(first)) {
                        break;
                    }
                    there.extend(step.made());
                    steps.next();
                    moved = true;
                }
            }
        }
        let is_stuck = |steps: &mut std::iter::Peekable<std::slice::Iter<'_, ForkStep>>| {
            steps.peek().is_some()
        };
        let stuck = left.iter_mut().position(is_stuck);
        let missing = (0..self.tasks.len()).find(|index| !there.contains(index));
        if let Some(index) = stuck.or(missing) {
            return Err(refuse(self.tasks[index].pid, support::images::PIDS_IN_CIRCLE));
        }
        self.awaited = waits;
        Ok(())
    }
}
