//! Stage 2 of a restore: who makes whom, in which order. Pure: no system call is made here.
//!
//! A process cannot choose its session: it is born into its parent's and can only found one of
//! its own. So a tree is rebuilt by forking at the right moment:
//!
//! - a child in its parent's session is forked after the parent has founded (or not) its own;
//! - a child in the session that its parent was born into is forked before;
//! - a child in the session of one of its siblings is forked by that sibling, *as* a sibling
//!   (`CLONE_PARENT`);
//! - a child in a session whose leader has died is forked so by a *helper*, a process that takes
//!   the dead leader's place while the tree is being built.
//!
//! Groups come afterwards, when all processes are there: a process that leads one founds it at
//! birth, the others join; a group whose leader has died gets a helper for that time.
//!
//! Every task works through its [`Task::births`] and then waits for all the others
//! (see [`crate::task`]). Zombies and helpers end when all groups are joined.

use std::collections::BTreeMap;
use support::Refusal;

use crate::error::Error;
use crate::load::{State, World};

/// The tasks to be made; the first is the root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) tasks: Vec<Task>,
}

/// A process to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) pid: i32,
    /// Index of the process in the images; `None` for a helper.
    pub(crate) process: Option<usize>,
    /// What it does first, in this order.
    pub(crate) births: Vec<Birth>,
    /// Its group.
    pub(crate) group: Group,
    /// Its children that end while the tree is built: helpers, which it waits for and forgets.
    pub(crate) helpers: Vec<i32>,
    /// Its children that are born dead, which stay to be waited for.
    pub(crate) zombies: Vec<i32>,
    /// Its children that are stopped.
    pub(crate) stopped: Vec<i32>,
}

/// A step in the making of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// Found a session.
    Session,
    /// Fork this task (an index) as a child.
    Child(usize),
    /// Fork this task as a sibling.
    Sibling(usize),
}

/// How a task comes into its process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// It was born into it (its leader may be outside of the pid namespace), or founded it with its
    /// session.
    Given,
    /// It founds it at birth.
    Found,
    /// It joins it when all are there.
    Join(i32),
}

/// The session and group of the caller, for a tree that joins them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) sid: i32,
    pub(crate) pgid: i32,
    /// The root need not lead a session.
    pub(crate) shell_job: bool,
}

/// A process on the way to a task.
#[derive(Clone, Copy, Debug)]
struct Member {
    pid: i32,
    /// Index of the parent; the root has none.
    parent: Option<usize>,
    pgid: i32,
    sid: i32,
    dead: bool,
    stopped: bool,
}

impl Plan {
    /// Plans the making of `world`.
    pub(crate) fn new(world: &World, caller: Caller) -> Result<Self, Error> {
        let index_of: BTreeMap<i32, usize> = world
            .processes
            .iter()
            .enumerate()
            .map(|(index, process)| (process.pid, index))
            .collect();
        let members = world.processes.iter().enumerate().map(|(index, process)| Member {
            pid: process.pid,
            parent: if index == 0 { None } else { index_of.get(&process.ppid).copied() },
            pgid: process.pgid,
            sid: process.sid,
            dead: matches!(process.state, State::Dead { .. }),
            stopped: process.state == State::Stopped,
        });
        build(members.collect(), caller)
    }
}

fn refuse(pid: i32, refusal: Refusal) -> Error {
    Error::refused(refusal.of(pid, format!("process {pid}")))
}

fn build(mut members: Vec<Member>, caller: Caller) -> Result<Plan, Error> {
    let joins = adopt_caller(&mut members, caller)?;
    refuse_strangers(&members, joins.then_some(caller))?;
    let mut plan = Plan { tasks: Vec::new() };
    for (index, member) in members.iter().enumerate() {
        plan.tasks.push(Task {
            pid: member.pid,
            process: Some(index),
            births: Vec::new(),
            group: Group::Given,
            helpers: Vec::new(),
            zombies: of(&members, index, |child| child.dead),
            stopped: of(&members, index, |child| child.stopped),
        });
    }
    births(&mut plan, &members, caller)?;
    groups(&mut plan, &members, caller)?;
    Ok(plan)
}

fn of(members: &[Member], parent: usize, which: impl Fn(&Member) -> bool) -> Vec<i32> {
    let children = members.iter().filter(|child| child.parent == Some(parent));
    children.filter(|child| which(child)).map(|child| child.pid).collect()
}

/// A terminal's job has left its session (and sometimes its group) behind with the shell: it
/// takes the caller's instead. Whether the tree is one.
fn adopt_caller(members: &mut [Member], caller: Caller) -> Result<bool, Error> {
    let Some(root) = members.first().copied() else { return Ok(false) };
    if root.sid == root.pid {
        return Ok(false);
    }
    if !caller.shell_job {
        return Err(refuse(root.pid, support::host::JOB));
    }
    let led = members.iter().any(|member| member.pid == root.pgid);
    for member in members {
        if member.sid == root.sid {
            member.sid = caller.sid;
        }
        if !led && member.pgid == root.pgid {
            member.pgid = caller.pgid;
        }
    }
    Ok(true)
}

/// A session or group whose leader lives outside of the pid namespace has the number 0: nobody can
/// join it by number. Who is born into the caller's (`adopted`) has it all the same.
fn refuse_strangers(members: &[Member], adopted: Option<Caller>) -> Result<(), Error> {
    for member in members {
        let is_callers = |own: i32, callers: fn(&Caller) -> i32| {
            adopted.as_ref().is_some_and(|caller| own == callers(caller))
        };
        let born = member.parent.is_none_or(|parent| members[parent].pgid == 0);
        if member.sid == 0 && !is_callers(member.sid, |caller| caller.sid) {
            return Err(refuse(member.pid, support::images::SESSION_OUTSIDE));
        }
        if member.pgid == 0 && !(born && is_callers(member.pgid, |caller| caller.pgid)) {
            return Err(refuse(member.pid, support::host::GROUP_OUTSIDE));
        }
    }
    Ok(())
}

/// Decides who forks whom and when.
fn births(plan: &mut Plan, members: &[Member], caller: Caller) -> Result<(), Error> {
    let birth_session = |index: usize| match members[index].parent {
        _ if members[index].sid != members[index].pid => members[index].sid,
        Some(parent) => members[parent].sid,
        None => caller.sid,
    };
    let mut early: Vec<Vec<usize>> = vec![Vec::new(); members.len()];
    let mut late: Vec<Vec<Birth>> = vec![Vec::new(); members.len()];
    let mut helpers: BTreeMap<(usize, i32), usize> = BTreeMap::new();
    for (index, child) in members.iter().enumerate() {
        let Some(parent) = child.parent else { continue };
        let leads = child.sid == child.pid;
        if leads || child.sid == members[parent].sid {
            late[parent].push(Birth::Child(index));
        } else if child.sid == birth_session(parent) {
            early[parent].push(index);
        } else if let Some(leader) = members.iter().position(|other| other.pid == child.sid) {
            if members[leader].parent != Some(parent) {
                return Err(refuse(child.pid, support::images::session_elsewhere(child.sid)));
            }
            late[leader].push(Birth::Sibling(index));
        } else {
            let helper = *helpers.entry((parent, child.sid)).or_insert_with(|| {
                plan.tasks.push(helper(child.sid, vec![Birth::Session], Group::Given));
                plan.tasks.len() - 1
            });
            plan.tasks[helper].births.push(Birth::Sibling(index));
        }
    }
    for ((parent, sid), helper) in helpers {
        late[parent].push(Birth::Child(helper));
        plan.tasks[parent].helpers.push(sid);
    }
    for (index, member) in members.iter().enumerate() {
        let births = &mut plan.tasks[index].births;
        births.extend(early[index].iter().map(|&child| Birth::Child(child)));
        if member.sid == member.pid {
            births.push(Birth::Session);
        }
        births.append(&mut late[index]);
    }
    Ok(())
}

fn helper(pid: i32, births: Vec<Birth>, group: Group) -> Task {
    Task {
        pid,
        process: None,
        births,
        group,
        helpers: Vec::new(),
        zombies: Vec::new(),
        stopped: Vec::new(),
    }
}

/// Decides who founds and who joins a group.
fn groups(plan: &mut Plan, members: &[Member], caller: Caller) -> Result<(), Error> {
    let mut founded: BTreeMap<i32, i32> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        if member.sid == member.pid {
            if member.pgid != member.pid {
                return Err(refuse(member.pid, support::images::leader_in_group(member.pgid)));
            }
            continue;
        }
        plan.tasks[index].group = match member.pgid {
            0 => Group::Given,
            own if own == member.pid => Group::Found,
            other => Group::Join(other),
        };
    }
    for (index, member) in members.iter().enumerate() {
        if let Some(&sid) = founded.get(&member.pgid)
            && sid != member.sid
        {
            return Err(refuse(member.pid, support::images::group_in_two_sessions(member.pgid)));
        }
        let led = plan.tasks.iter().any(|task| task.pid == member.pgid);
        if led || (member.pgid, member.sid) == (caller.pgid, caller.sid) {
            continue;
        }
        // The leader is dead: a helper, born into the member's session, stands in for it.
        founded.insert(member.pgid, member.sid);
        plan.tasks.push(helper(member.pgid, Vec::new(), Group::Found));
        let made = plan.tasks.len() - 1;
        plan.tasks[index].births.push(Birth::Child(made));
        plan.tasks[index].helpers.push(member.pgid);
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
