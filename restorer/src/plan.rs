//! Stage 2 of a restore: who makes whom, in which order. Pure: no system call is made here.
//!
//! A process cannot choose its session: it is born into that of its maker and can only found one of
//! its own. So a tree is rebuilt by forking at the right moment, by who is in the right session
//! ([`support::births`] says who that is). Who stands in for a leader that has died is a *helper*.
//!
//! Groups come afterwards, when all processes are there: a process that leads one founds it at
//! birth, the others join; a group whose leader has died gets a helper for that time.
//!
//! Tables that processes use together are passed on at births ([`tables`]).
//!
//! Every task works through its [`Task::forks`] and then waits for all the others
//! (see [`crate::task`]). Zombies and helpers end when all groups are joined.

mod pids;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use ids::ImagePid;
use images::messages::TaskKobjIdsEntry;
use support::Refusal;
use support::births::{self, Born, Maker};

use crate::error::Error;
use crate::levels::{Levels, PidSpace};
use crate::load::{Checkpoint, State};

/// The tasks to be made; the first is the root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) tasks: Vec<Task>,
    /// The numbers of all these, and of the threads of processes.
    pub(crate) numbers: BTreeSet<ImagePid>,
    /// The tree comes back into a pid namespace of its own, whose init is the root, and not into that of this process.
    pub(crate) inside: bool,
    /// Numbers that tasks have in pid namespaces below that of the root.
    pub(crate) inner: BTreeSet<ImagePid>,
    /// For which first processes of such namespaces others wait, and how often.
    pub(crate) awaited: BTreeMap<ImagePid, u32>,
    /// Births at which registrars are asked for numbers.
    pub(crate) asked: Vec<AskedBirth>,
}

/// A birth for which registrars are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AskedBirth {
    /// The task or thread.
    pub(crate) task: ImagePid,
    /// The process that it is of.
    pub(crate) process: ImagePid,
    /// In which namespaces, from the root's on, and the numbers there.
    pub(crate) numbers: Vec<(PidSpace, ImagePid)>,
}

/// How a task comes into its pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// The task is born into the pid namespace of the process that makes it.
    Plain,
    /// The task is born with a new pid namespace, as its first process.
    First,
    /// The task is born into the pid namespace of which this process is the first.
    Into(ImagePid),
}

/// A process to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) pid: ImagePid,
    /// Index of the process in the images; `None` for a helper.
    pub(crate) process: Option<usize>,
    /// What it does first, in this order.
    pub(crate) forks: Vec<ForkStep>,
    /// It gets the orphans that are made below it.
    pub(crate) adopts: bool,
    /// The user namespace that it is born in, as the first process of a pid namespace that belongs to that, or in the session of such a one.
    pub(crate) born_in: Option<u32>,
    /// How it comes into its pid namespace.
    pub(crate) birth: Birth,
    /// Its group.
    pub(crate) group: Group,
    /// The number of that.
    pub(crate) in_group: Option<ImagePid>,
    /// The number of its session.
    pub(crate) in_session: Option<ImagePid>,
    /// Its children that end while the tree is built: helpers, which it waits for and forgets.
    pub(crate) helpers: Vec<ImagePid>,
    /// Its children that are born dead, which stay to be waited for.
    pub(crate) zombies: Vec<ImagePid>,
    /// Its children that are stopped.
    pub(crate) stopped: Vec<ImagePid>,
    /// Whether it uses its descriptors together with others.
    pub(crate) descriptors: Share,
    /// The same of its root and working directory.
    pub(crate) directories: Share,
    /// The same of its memory: the first puts into it what belongs there.
    pub(crate) memory: Share,
    /// It is born with its maker's signal handlers, which both have then.
    pub(crate) handlers: bool,
}

/// A table that processes may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// The descriptors (`CLONE_FILES`).
    Descriptors,
    /// Root and working directory, and the mask of new files (`CLONE_FS`).
    Directories,
    /// The memory (`CLONE_VM`), of which nobody who is born with it can take a copy.
    Memory,
}

/// What a process has to do with a table that processes use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// It is born into the table of who makes it.
    pub(crate) born: bool,
    /// Who puts into it what belongs there.
    pub(crate) part: Part,
}

/// Who fills a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    /// The process has it alone.
    #[default]
    Alone,
    /// The process, for so many others, too.
    First {
        /// How many.
        others: u32,
    },
    /// Another one.
    Other,
}

impl Task {
    fn share(&mut self, table: Table) -> &mut Share {
        match table {
            Table::Descriptors => &mut self.descriptors,
            Table::Directories => &mut self.directories,
            Table::Memory => &mut self.memory,
        }
    }
}

/// A step in the making of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForkStep {
    /// Found a session.
    Session,
    /// Fork this task (an index) as a child.
    Child(usize),
    /// Fork this task as a sibling.
    Sibling(usize),
    /// Have this task forked by a process that ends at once, so that the next above that adopts orphans gets it.
    Orphan(usize),
    /// Have this task forked by a process that ends at once, in the pid namespace whose first process gets it; if it is itself the first
    /// one of a namespace, in the one around that.
    Given(usize),
    /// Fork this task as a child, in a user namespace in which nobody chooses all of its numbers.
    Asked(usize),
    /// Take a copy of a table, for itself alone.
    Own(Table),
    /// Join this process group, for who is to be born into it.
    Group(ImagePid),
    /// Have children born into the pid namespace of this process, its first, or into one that the next child makes.
    Children(Option<ImagePid>),
}

impl ForkStep {
    /// The task that is forked.
    pub(crate) const fn made(self) -> Option<usize> {
        match self {
            Self::Child(made)
            | Self::Sibling(made)
            | Self::Orphan(made)
            | Self::Given(made)
            | Self::Asked(made) => Some(made),
            Self::Session | Self::Own(_) | Self::Group(_) | Self::Children(_) => None,
        }
    }
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
    Join(ImagePid),
}

/// The session and group of the caller, for a tree that joins them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) sid: Option<ImagePid>,
    pub(crate) pgid: Option<ImagePid>,
    /// The root need not lead a session.
    pub(crate) shell_job: bool,
}

/// A process on the way to a task.
#[derive(Clone, Copy, Debug)]
struct Member {
    pid: ImagePid,
    /// Index of the parent; the root has none.
    parent: Option<usize>,
    pgid: Option<ImagePid>,
    sid: Option<ImagePid>,
    dead: bool,
    stopped: bool,
}

impl Member {
    fn leads_session(&self) -> bool {
        self.sid == Some(self.pid)
    }
}

impl Plan {
    /// Has a process that has ended there while the tree is built, as a child of the root: files of `/proc` about it are
    /// opened then.
    fn have_for_a_moment(&mut self, dead: ImagePid) {
        if self.tasks.is_empty() || self.tasks.iter().any(|task| task.pid == dead) {
            return;
        }
        let made = self.tasks.len();
        self.tasks.push(helper(dead, Vec::new(), Group::Given));
        // Before those who need it for their births.
        self.tasks[0].forks.insert(0, ForkStep::Child(made));
        self.tasks[0].helpers.push(dead);
    }

    /// Plans the making of `checkpoint`, `inside` a pid namespace of its own or in that of this process.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        caller: Caller,
        inside: bool,
    ) -> Result<Self, Error> {
        let index_of: BTreeMap<ImagePid, usize> = checkpoint
            .processes
            .iter()
            .enumerate()
            .map(|(index, process)| (process.pid, index))
            .collect();
        let members = checkpoint.processes.iter().enumerate().map(|(index, process)| Member {
            pid: process.pid,
            parent: if index == 0 {
                None
            } else {
                process.ppid.and_then(|parent| index_of.get(&parent).copied())
            },
            pgid: process.pgid,
            sid: process.sid,
            dead: matches!(process.state, State::Dead { .. }),
            stopped: process.state == State::Stopped,
        });
        let mut plan = build(members.collect(), caller, &checkpoint.levels)?;
        plan.hand_over(&checkpoint.levels, checkpoint.namespaces.nested_users())?;
        for dead in checkpoint.files.dead() {
            plan.have_for_a_moment(dead);
        }
        let ids = |process: usize| Some(&checkpoint.processes.get(process)?.body.as_ref()?.ids);
        let of = |tasks: &mut [Task], table, id: fn(&TaskKobjIdsEntry) -> u32| {
            tables::share(tasks, table, |process| ids(process).map(id))
                .map_err(|torn| refuse(tasks[torn.0].pid, support::images::SHARED_APART))
        };
        of(&mut plan.tasks, Table::Descriptors, |ids| ids.files_id)?;
        of(&mut plan.tasks, Table::Directories, |ids| ids.fs_id)?;
        let of_task = |task: &Task| ids(task.process?);
        tables::share_memory(&mut plan.tasks, of_task)
            .map_err(|torn| refuse(plan.tasks[torn.0].pid, support::images::MEMORY_APART))?;
        let threads =
            checkpoint.living().flat_map(|(_, body)| &body.threads).map(|thread| thread.tid);
        plan.numbers = plan.tasks.iter().map(|task| task.pid).chain(threads).collect();
        plan.inside = inside;
        plan.place(&checkpoint.levels)?;
        plan.ask(checkpoint);
        Ok(plan)
    }
}

fn refuse(pid: ImagePid, refusal: Refusal) -> Error {
    Error::refused(refusal.of(pid.get(), format!("process {pid}")))
}

fn build(mut members: Vec<Member>, caller: Caller, levels: &Levels) -> Result<Plan, Error> {
    let joins = adopt_caller(&mut members, caller)?;
    refuse_strangers(&members, joins.then_some(caller))?;
    let mut plan = Plan::default();
    for (index, member) in members.iter().enumerate() {
        plan.tasks.push(Task {
            pid: member.pid,
            process: Some(index),
            forks: Vec::new(),
            adopts: false,
            born_in: None,
            birth: Birth::Plain,
            group: Group::Given,
            in_group: member.pgid,
            in_session: member.sid,
            helpers: Vec::new(),
            zombies: of(&members, index, |child| child.dead),
            stopped: of(&members, index, |child| child.stopped),
            descriptors: Share::default(),
            directories: Share::default(),
            memory: Share::default(),
            handlers: false,
        });
    }
    forks(&mut plan, &members, caller)?;
    groups(&mut plan, &members, caller, levels)?;
    Ok(plan)
}

fn of(members: &[Member], parent: usize, which: impl Fn(&Member) -> bool) -> Vec<ImagePid> {
    let children = members.iter().filter(|child| child.parent == Some(parent));
    children.filter(|child| which(child)).map(|child| child.pid).collect()
}

/// A terminal's job has left its session (and sometimes its group) behind with the shell: it
/// takes the caller's instead. Whether the tree is one.
fn adopt_caller(members: &mut [Member], caller: Caller) -> Result<bool, Error> {
    let Some(root) = members.first().copied() else { return Ok(false) };
    if root.leads_session() {
        return Ok(false);
    }
    if !caller.shell_job {
        return Err(refuse(root.pid, support::host::JOB));
    }
    let led = members.iter().any(|member| Some(member.pid) == root.pgid);
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
        let is_callers = |own: Option<ImagePid>, callers: fn(&Caller) -> Option<ImagePid>| {
            adopted.as_ref().is_some_and(|caller| own == callers(caller))
        };
        let born = member.parent.is_none_or(|parent| members[parent].pgid.is_none());
        if member.sid.is_none() && !is_callers(member.sid, |caller| caller.sid) {
            return Err(refuse(member.pid, support::images::SESSION_OUTSIDE));
        }
        if member.pgid.is_none() && !(born && is_callers(member.pgid, |caller| caller.pgid)) {
            return Err(refuse(member.pid, support::host::GROUP_OUTSIDE));
        }
    }
    Ok(())
}

/// Decides who forks whom and when.
fn forks(plan: &mut Plan, members: &[Member], caller: Caller) -> Result<(), Error> {
    let born = |member: &Member| Born { pid: member.pid, parent: member.parent, sid: member.sid };
    let born: Vec<Born<ImagePid>> = members.iter().map(born).collect();
    let makers = births::makers(&born, caller.sid).map_err(|index| {
        let (pid, sid) = (members[index].pid, members[index].sid);
        refuse(pid, sid.map_or(support::images::SESSION_OUTSIDE, births::nobody_makes))
    })?;
    let mut early: Vec<Vec<usize>> = vec![Vec::new(); members.len()];
    let mut late: Vec<Vec<ForkStep>> = vec![Vec::new(); members.len()];
    let mut helpers: BTreeMap<(usize, ImagePid), Vec<ForkStep>> = BTreeMap::new();
    for (index, (child, maker)) in members.iter().zip(makers).enumerate() {
        let (Some(parent), Some(sid)) = (child.parent, child.sid.or(Some(child.pid))) else {
            continue;
        };
        match maker {
            Maker::Outside => {}
            Maker::Parent => late[parent].push(ForkStep::Child(index)),
            Maker::EarlyParent => early[parent].push(index),
            Maker::Leader(leader) => late[leader].push(ForkStep::Sibling(index)),
            Maker::StandIn => {
                helpers.entry((parent, sid)).or_default().push(ForkStep::Sibling(index));
            }
            Maker::Orphaned(leader) => late[leader].push(ForkStep::Orphan(index)),
            Maker::OrphanedByStandIn(home) => {
                helpers.entry((home, sid)).or_default().push(ForkStep::Orphan(index));
            }
        }
        plan.tasks[parent].adopts |=
            matches!(maker, Maker::Orphaned(_) | Maker::OrphanedByStandIn(_));
    }
    for ((parent, sid), steps) in helpers {
        let steps = std::iter::once(ForkStep::Session).chain(steps).collect();
        plan.tasks.push(helper(sid, steps, Group::Given));
        late[parent].push(ForkStep::Child(plan.tasks.len() - 1));
        plan.tasks[parent].helpers.push(sid);
    }
    for (index, born) in born.iter().enumerate() {
        let forks = &mut plan.tasks[index].forks;
        forks.extend(early[index].iter().map(|&child| ForkStep::Child(child)));
        if born.leads() {
            forks.push(ForkStep::Session);
        }
        forks.append(&mut late[index]);
    }
    Ok(())
}

fn helper(pid: ImagePid, forks: Vec<ForkStep>, group: Group) -> Task {
    Task {
        pid,
        process: None,
        forks,
        adopts: false,
        born_in: None,
        birth: Birth::Plain,
        group,
        in_group: None,
        in_session: None,
        helpers: Vec::new(),
        zombies: Vec::new(),
        stopped: Vec::new(),
        descriptors: Share::default(),
        directories: Share::default(),
        memory: Share::default(),
        handlers: false,
    }
}

/// Decides who founds and who joins a group.
fn groups(
    plan: &mut Plan,
    members: &[Member],
    caller: Caller,
    levels: &Levels,
) -> Result<(), Error> {
    let mut founded: BTreeMap<ImagePid, Option<ImagePid>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        if member.leads_session() {
            if member.pgid != Some(member.pid) {
                return Err(refuse(member.pid, support::images::leader_in_group(member.pgid)));
            }
            continue;
        }
        plan.tasks[index].group = match member.pgid {
            None => Group::Given,
            Some(own) if own == member.pid => Group::Found,
            // It is born into it.
            Some(_) if levels.is_stranger(member.pid) => Group::Given,
            Some(other) => Group::Join(other),
        };
    }
    // Who stands in for a leader that is seen further down is made there.
    let mut order: Vec<usize> = (0..members.len()).collect();
    // Best by whom others are born into the group that do not see it.
    let strangers = members.iter().filter(|member| levels.is_stranger(member.pid));
    let bears_stranger: BTreeSet<usize> = strangers
        .filter_map(|child| child.parent.filter(|parent| members[*parent].pgid == child.pgid))
        .collect();
    order.sort_by_key(|&index| {
        std::cmp::Reverse((bears_stranger.contains(&index), levels.depth(members[index].pid)))
    });
    for (index, member) in order.into_iter().map(|index| (index, &members[index])) {
        let Some(pgid) = member.pgid.filter(|_| !levels.is_stranger(member.pid)) else { continue };
        if let Some(&sid) = founded.get(&pgid)
            && sid != member.sid
        {
            return Err(refuse(member.pid, support::images::group_in_two_sessions(pgid)));
        }
        let led = plan.tasks.iter().any(|task| task.pid == pgid);
        if led || (member.pgid, member.sid) == (caller.pgid, caller.sid) {
            continue;
        }
        // The leader is dead: a helper, born into the member's session, stands in for it.
        founded.insert(pgid, member.sid);
        let helper = helper(pgid, Vec::new(), Group::Found);
        plan.tasks.push(Task { in_session: member.sid, ..helper });
        let made = plan.tasks.len() - 1;
        plan.tasks[index].forks.push(ForkStep::Child(made));
        plan.tasks[index].helpers.push(pgid);
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
