//! What a task does between its birth and the moment it leaves for the restorer.
//!
//! This code runs in the new processes, which are copies of the coordinator: what was loaded and
//! prepared is there. The order:
//!
//! 1. control groups and namespaces; sessions and children, as planned; then it parks: **everybody is there**;
//! 2. a working directory of `/proc/PID`; process groups; then it parks again: **everybody is in their group**; the foreground of terminals;
//! 3. zombies and helpers end; their parents wait for that;
//! 4. descriptors, then what has to be opened through `/proc`, then root and working directory;
//! 5. the region is mapped and filled, and the task leaves.
//!
//! An error is written to the pipe that the coordinator reads when a task ends, as one message.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::mem::offset_of;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ids::{HostPid, ImagePid, ImagePids};
use kernel::process::{
    enter_pids_of, exit_now, fork_as, raise, send_signal_to, wait_ended, wait_status,
};
use kernel::ptrace::RseqConfiguration;
use kernel::spare::SpareMemory;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use parasite::RESTORER;
use parasite::restorer::Arguments;
use parasite::restorer::births::NOT_WANTED;

use crate::cgroups;
use crate::dead;
use crate::error::Error;
use crate::failure::Failure;
use crate::files::{Directory, InstallTask, Member, OpenFiles};
use crate::forked::TaskMemory;
use crate::inherited_values;
use crate::kept_locks::{self, KeptByMapping};
use crate::load::{Body, Checkpoint, Process, State};
use crate::namespaces;
use crate::plan::{Birth, ForkStep, Group, Part, Plan, Table, Task};
use crate::prepare::{Region, name};
use crate::proc_values;
use crate::registrars::Desks;
use crate::turns::{AllTurns, FirstThere};

/// What all tasks inherit.
#[derive(Debug)]
pub(crate) struct BuildContext<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) plan: &'a Plan,
    pub(crate) groups: &'a cgroups::Plan,
    pub(crate) namespaces: &'a namespaces::Made<'a>,
    pub(crate) files: &'a OpenFiles,
    /// How those wait for each other who share a table.
    pub(crate) turns: &'a AllTurns,
    /// By process.
    pub(crate) prepared: &'a [Option<PreparedTask>],
    /// Where memory is built that tasks have of their parents.
    pub(crate) spare_memory: Option<&'a SpareMemory>,
    /// Where a task says what went wrong.
    pub(crate) complaints: &'a File,
    pub(crate) park_signal: i32,
    /// Numbers that nobody of the tree wants, for processes that pass.
    pub(crate) spare: &'a [HostPid],
    /// How those wait for first processes of pid namespaces who have children born there.
    pub(crate) first: &'a FirstThere,
    /// Where those are asked for numbers who have them given out.
    pub(crate) desks: &'a Desks,
    /// The number that hooks know the root by, if it is not that of the images.
    pub(crate) stood_in: Option<HostPid>,
}

/// What was prepared for a living process.
#[derive(Debug)]
pub(crate) struct PreparedTask {
    pub(crate) region: Region,
    pub(crate) memory: TaskMemory,
    pub(crate) kept_locks: Vec<KeptByMapping>,
    pub(crate) cwd: Directory,
    pub(crate) root: RawFd,
}

impl BuildContext<'_> {
    /// Every signal but the one to park by is blocked.
    pub(crate) fn mask(&self) -> u64 {
        !(1 << (self.park_signal - 1))
    }

    /// Runs task `index` in its new process.
    pub(crate) fn run(&self, index: usize, rseq: &RseqConfiguration) -> ! {
        // A panic must not unwind into the coordinator's code, of which this process is a copy.
        let ended = catch_unwind(AssertUnwindSafe(|| self.live(index, rseq)));
        if let Ok(Err(error)) = ended {
            let pid = self.plan.tasks[index].pid;
            let mut pipe = self.complaints;
            // Who cannot even complain just ends.
            drop(pipe.write_all(&Failure::complaint(pid.get(), &error)));
        }
        exit_now(1)
    }

    fn live(&self, index: usize, rseq: &RseqConfiguration) -> Result<Infallible, Error> {
        let task = &self.plan.tasks[index];
        if let Some(process) = task.process {
            self.groups.enter(process)?;
            match task.born_in {
                Some(_) => self.namespaces.settle(task.pid)?,
                None => self.namespaces.enter(task.pid)?,
            }
            // Before its children are there, who are born with it.
            if let (Some(spare), Some(place)) = (self.spare_memory, &self.prepared[process]) {
                place.memory.build(spare)?;
            }
        }
        if task.group == Group::Found {
            join(None)?;
        }
        if task.adopts {
            // The process sets it as it had it when it is its own self.
            nix::sys::prctl::set_child_subreaper(true)
                .map_err(|errno| Error::kernel("adopt orphans")(errno.into()))?;
        }
        for birth in &task.forks {
            self.bear(task, *birth, rseq)?;
        }
        self.park()?;
        // Who has ended is there until all have parked again.
        let prepared = task.process.and_then(|number| self.prepared[number].as_ref());
        if let Some(PreparedTask { cwd: Directory::OfProcess(id), .. }) = prepared {
            self.files.enter_of_process(*id)?;
        }
        if let Group::Join(pgid) = task.group {
            self.join(task, pgid)?;
        }
        self.park()?;
        self.settle_in_session(task)?;
        let Some(number) = task.process else { exit_now(0) };
        for &helper in &task.helpers {
            wait_ended(self.local(task, helper)?, false)
                .map_err(Error::kernel(format!("wait for helper {helper}")))?;
        }
        for &zombie in &task.zombies {
            let there = self.local(task, zombie)?;
            if self.is_killed_from_outside(zombie) {
                send_signal_to(there, libc::SIGKILL)
                    .map_err(Error::kernel(format!("end zombie {zombie}")))?;
            }
            wait_ended(there, true).map_err(Error::kernel(format!("wait for zombie {zombie}")))?;
        }
        let process = &self.checkpoint.processes[number];
        match (process.state, &process.body, &self.prepared[number]) {
            (State::Dead { status }, ..) => {
                die(process, status, self.is_killed_from_outside(task.pid))
            }
            (_, Some(body), Some(place)) => self.become_process(task, process, body, place, rseq),
            _ => Err(Error::image(format!("process {}", process.pid), "nothing is known of it")),
        }
    }

    /// Does what a task does as a member of its session.
    fn settle_in_session(&self, task: &Task) -> Result<(), Error> {
        let Some(number) = task.process else { return Ok(()) };
        let process = &self.checkpoint.processes[number];
        let member = Member {
            pid: task.pid,
            leads: process.sid == Some(process.pid),
            gave_up_terminal: process.core.without_terminal == Some(true),
        };
        match process.state {
            State::Dead { .. } => Ok(()),
            _ => Ok(self.files.in_session(&member)?),
        }
    }

    /// What a task calls another one, in its own pid namespace.
    fn local(&self, task: &Task, pid: ImagePid) -> Result<ImagePid, Error> {
        let local = self.checkpoint.levels.local(task.pid, pid);
        let unseen = || Error::image(format!("process {pid}"), format!("{} sees it not", task.pid));
        local.ok_or_else(unseen)
    }

    /// Joins a process group, unless it is in it.
    fn join(&self, task: &Task, group: ImagePid) -> Result<(), Error> {
        let group = self.local(task, group)?;
        match nix::unistd::getpgrp().as_raw() == group.get() {
            true => Ok(()),
            false => join(Some(group)),
        }
    }

    /// Whether a process that has ended was the first one of a pid namespace and killed: nobody in there can do that.
    fn is_killed_from_outside(&self, pid: ImagePid) -> bool {
        if !self.checkpoint.levels.is_first(pid) {
            return false;
        }
        let dead = self.checkpoint.processes.iter().find(|process| process.pid == pid);
        let state = dead.map(|process| process.state);
        matches!(state, Some(State::Dead { status }) if libc::WIFSIGNALED(status))
    }

    fn bear(&self, task: &Task, birth: ForkStep, rseq: &RseqConfiguration) -> Result<(), Error> {
        let (child, sibling) = match birth {
            ForkStep::Session => {
                nix::unistd::setsid()
                    .map_err(|errno| Error::kernel("found a session")(errno.into()))?;
                return Ok(self.files.found_session(task.pid)?);
            }
            ForkStep::Own(table) => {
                let copied = unshare(flag(table));
                return copied
                    .map_err(|errno| Error::kernel("take a copy of a table")(errno.into()));
            }
            ForkStep::Group(group) => {
                // Who stands in for its leader may not have founded it yet.
                if task.helpers.contains(&group) {
                    let leader = Pid::from_raw(self.local(task, group)?.get());
                    nix::unistd::setpgid(leader, leader)
                        .map_err(|errno| Error::kernel("found a group")(errno.into()))?;
                }
                return self.join(task, group);
            }
            ForkStep::Children(first) => return self.have_children_elsewhere(task, first),
            ForkStep::Child(child) => (child, false),
            ForkStep::Sibling(child) => (child, true),
            ForkStep::Orphan(child) => return self.orphan(task, child, rseq),
            ForkStep::Given(child) => return self.give(task, child, rseq),
        };
        if let Some(user) = self.plan.tasks[child].born_in {
            return self.make_in_users(task, (child, user), rseq);
        }
        self.make(task, (child, sibling), rseq)
    }

    /// Has children born into another pid namespace from now on: that of process `first`, or one that the next child makes.
    fn have_children_elsewhere(&self, task: &Task, first: Option<ImagePid>) -> Result<(), Error> {
        let Some(first) = first else {
            let made = unshare(CloneFlags::CLONE_NEWPID);
            return made.map_err(|errno| Error::kernel("leave a pid namespace")(errno.into()));
        };
        let is_own = self.plan.tasks.iter().any(|made| {
            made.pid == first && task.forks.iter().any(|step| self.makes(*step, made.pid))
        });
        if !is_own {
            self.first.wait(first)?;
        }
        enter_pids_of(self.local(task, first)?)
            .map_err(Error::kernel(format!("have children in the pid namespace of {first}")))
    }

    fn makes(&self, step: ForkStep, pid: ImagePid) -> bool {
        step.made().is_some_and(|made| self.plan.tasks[made].pid == pid)
    }

    /// Has a task made by a process that ends at once.
    fn orphan(&self, task: &Task, child: usize, rseq: &RseqConfiguration) -> Result<(), Error> {
        let failed = || Error::kernel("create a process that leaves an orphan");
        let depth = self.checkpoint.levels.depth(task.pid);
        match self.fork_spare(depth).map_err(failed())? {
            Some(passing) => match wait_status(passing).map_err(failed())? {
                0 => Ok(()),
                status => Err(failed()(std::io::Error::other(format!("wait status {status:#x}")))),
            },
            None => {
                self.make(task, (child, false), rseq)?;
                exit_now(0)
            }
        }
    }

    /// Has a task made by a process that ends at once in the pid namespace of that: it falls to the first one there.
    fn give(&self, task: &Task, child: usize, rseq: &RseqConfiguration) -> Result<(), Error> {
        let failed = || Error::kernel("create a process that passes in another pid namespace");
        let made = &self.plan.tasks[child];
        if let Some(user) = made.born_in {
            return self.make_in_users(task, (child, user), rseq);
        }
        let Birth::Into(first) = made.birth else {
            return Err(Error::image(format!("process {}", made.pid), "it is in no pid namespace"));
        };
        self.have_children_elsewhere(task, Some(first))?;
        let passing = self.fork_spare(self.checkpoint.levels.depth(made.pid)).map_err(failed())?;
        let Some(passing) = passing else {
            self.pass_slack(child)?;
            let forked = fork_as(&self.checkpoint.levels.all(made.pid), false, shared(made));
            if forked.as_ref().is_ok_and(Option::is_none) {
                self.run(child, rseq);
            }
            forked.map_err(Error::kernel(format!("create process {}", made.pid)))?;
            exit_now(0)
        };
        let status = wait_status(passing).map_err(failed())?;
        self.come_back(task)?;
        match status {
            0 => self.first.tell(made.pid),
            status => Err(failed()(std::io::Error::other(format!("wait status {status:#x}")))),
        }
    }

    /// Has children born into the own pid namespace again.
    fn come_back(&self, task: &Task) -> Result<(), Error> {
        let own = self.local(task, task.pid)?;
        enter_pids_of(own).map_err(Error::kernel("come back to the own pid namespace"))
    }

    /// Makes the first process of a pid namespace that belongs to a user namespace below the root's. It is born in that, by a process
    /// that passes there, and nobody in there may choose the numbers that it has around. So registrars are asked for those,
    /// once more if somebody else has got one meanwhile.
    fn make_in_users(
        &self,
        task: &Task,
        (child, user): (usize, u32),
        rseq: &RseqConfiguration,
    ) -> Result<(), Error> {
        let made = &self.plan.tasks[child];
        let failed =
            || Error::kernel(format!("create process {} in user namespace {user}", made.pid));
        self.pass_slack(child)?;
        // One that falls to the first process of the namespace around its own is born there.
        let into = match made.birth {
            Birth::Into(first) => Some(first),
            _ => None,
        };
        if let Some(around) = into {
            self.have_children_elsewhere(task, Some(around))?;
        }
        let depth = self.checkpoint.levels.depth(made.pid).saturating_sub(1);
        let mut is_there = false;
        for _ in 0..TRIES {
            let (mut ours, theirs) = UnixStream::pair().map_err(failed())?;
            let Some(passing) = self.fork_spare(depth).map_err(failed())? else {
                drop(ours);
                if let Err(error) = self.pass_into((child, into.is_none()), user, theirs) {
                    let mut pipe = self.complaints;
                    drop(pipe.write_all(&Failure::complaint(made.pid.get(), &error)));
                    exit_now(1);
                }
                self.run(child, rseq)
            };
            drop(theirs);
            let mut told = [0; 5];
            let heard = ours.read_exact(&mut told);
            let [number @ .., wanted] = told;
            is_there = heard.is_ok() && wanted != 0;
            // Who passes waits for one that is not wanted, unless that is a child of this process.
            let judge = |ours: &mut UnixStream| ours.write_all(&[wanted]).map_err(failed());
            if heard.is_ok() && !is_there {
                judge(&mut ours)?;
            }
            wait_status(passing).map_err(failed())?;
            heard.map_err(failed())?;
            if is_there {
                judge(&mut ours)?;
                break;
            }
            if into.is_none() {
                let number = ImagePid::new(i32::from_ne_bytes(number))
                    .ok_or_else(|| failed()(std::io::ErrorKind::InvalidData.into()))?;
                wait_ended(number, false).map_err(failed())?;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if into.is_some() {
            self.come_back(task)?;
        }
        if !is_there {
            return Err(failed()(std::io::ErrorKind::AlreadyExists.into()));
        }
        self.first.tell(made.pid)
    }

    /// In the process that passes: enters the namespaces of a task, and has it made as a child of the own parent, or (not `sibling`) as
    /// one that is left to who adopts orphans here. Returns in that task.
    fn pass_into(
        &self,
        (child, sibling): (usize, bool),
        user: u32,
        mut tie: UnixStream,
    ) -> Result<(), Error> {
        let made = &self.plan.tasks[child];
        let failed = || Error::kernel(format!("create process {}", made.pid));
        let process = made.process.map(|number| &self.checkpoint.processes[number]);
        if let Some(process) = process {
            proc_values::pass_on(process)?;
            inherited_values::raise_limits(std::iter::once(&process.core))?;
        }
        let groups = process.map(crate::rights::groups_around).unwrap_or_default();
        self.namespaces.enter_before(made.pid, user, &groups)?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| failed()(errno.into()))?;
        let numbers = self.checkpoint.levels.all(made.pid);
        let birth = self.plan.asked.iter().find(|birth| birth.task == made.pid);
        let around = birth.map_or(&[][..], |birth| &birth.numbers);
        let chosen = ImagePids::from_outermost((around.len()..).map_while(|at| numbers.at(at)));
        let chosen = chosen.ok_or_else(|| failed()(std::io::ErrorKind::InvalidData.into()))?;
        let asked = self.desks.ask(around).map_err(failed())?;
        match fork_as(&chosen, sibling, CloneFlags::empty()).map_err(failed())? {
            None => {
                let mut is_wanted = [0];
                tie.read_exact(&mut is_wanted).map_err(failed())?;
                if is_wanted == [0] {
                    exit_now(NOT_WANTED);
                }
                Ok(())
            }
            Some(number) => {
                let own = numbers.depth().checked_sub(1).and_then(|depth| numbers.at(depth));
                let is_own = own.is_some_and(|own| own.get() == number.get());
                let is_wanted = asked.born().map_err(failed())? && is_own;
                let mut told = [0; 5];
                told[..4].copy_from_slice(&number.get().to_ne_bytes());
                told[4] = is_wanted.into();
                tie.write_all(&told).map_err(failed())?;
                if !is_wanted && !sibling {
                    wait_status(number).map_err(failed())?;
                }
                exit_now(0)
            }
        }
    }

    /// Forks a process with a number that nobody of the tree wants, in any of its pid namespaces as far as `depth` below that of the
    /// root.
    fn fork_spare(&self, depth: usize) -> std::io::Result<Option<HostPid>> {
        for spare in self.spare.iter().filter_map(|spare| ImagePid::new(spare.get())) {
            let Some(numbers) = ImagePids::from_outermost(vec![spare; depth + 1]) else { continue };
            match fork_as(&numbers, false, CloneFlags::empty()) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        Err(std::io::ErrorKind::AlreadyExists.into())
    }

    /// Makes a task; a sibling is a child of the parent of `task`.
    fn make(
        &self,
        task: &Task,
        (child, sibling): (usize, bool),
        rseq: &RseqConfiguration,
    ) -> Result<(), Error> {
        let made = &self.plan.tasks[child];
        let pid = made.pid;
        self.pass_slack(child)?;
        let mut flags = shared(made);
        match made.birth {
            Birth::Plain => {}
            Birth::First => flags |= CloneFlags::CLONE_NEWPID,
            Birth::Into(first) => self.have_children_elsewhere(task, Some(first))?,
        }
        let numbers = self.checkpoint.levels.all(pid);
        let forked = fork_as(&numbers, sibling, flags);
        if forked.as_ref().is_ok_and(Option::is_none) {
            self.run(child, rseq);
        }
        if let Birth::Into(_) = made.birth {
            self.come_back(task)?;
        }
        forked.map_err(Error::kernel(format!("create process {pid}")))?;
        self.first.tell(pid)
    }

    /// Sets this process's timer slack to what child `child` has as its default: a process takes its default from its maker.
    pub(crate) fn pass_slack(&self, child: usize) -> Result<(), Error> {
        let process =
            self.plan.tasks[child].process.map(|number| &self.checkpoint.processes[number]);
        let leader = process.and_then(|process| process.body.as_ref()?.threads.first());
        match leader.and_then(|leader| leader.core.default_timer_slack) {
            Some(slack) => nix::sys::prctl::set_timerslack(slack)
                .map_err(|errno| Error::kernel("pass on the timer slack")(errno.into())),
            None => Ok(()),
        }
    }

    fn park(&self) -> Result<(), Error> {
        raise(self.park_signal).map_err(Error::kernel("stop for the tracer"))
    }

    fn become_process(
        &self,
        task: &Task,
        process: &Process,
        body: &Body,
        place: &PreparedTask,
        rseq: &RseqConfiguration,
    ) -> Result<Infallible, Error> {
        kept_locks::take(process.pid, &place.kept_locks)?;
        self.descriptors(task, process, body)?;
        match task.born_in {
            // It has the others from who passed on the way there.
            Some(_) => proc_values::set_of_session(process)?,
            None => proc_values::set(process, &self.namespaces.ids())?,
        }
        // Paths lead somewhere else afterwards, for all who share them.
        match (task.directories.part, self.turns.at(Table::Directories, body)) {
            (Part::Other, Some(turns)) => turns.done.tell(1)?,
            (Part::First { others }, Some(turns)) => {
                turns.done.wait(others)?;
                directories(place, body)?;
            }
            _ => directories(place, body)?,
        }
        enter(&place.region, rseq)
    }

    /// Puts the descriptors into place, or waits for who does.
    fn descriptors(&self, task: &Task, process: &Process, body: &Body) -> Result<(), Error> {
        let install = InstallTask { files_id: body.ids.files_id, pid: process.pid };
        match (task.descriptors.part, self.turns.at(Table::Descriptors, body)) {
            (Part::Other, Some(turns)) => {
                turns.filled.wait(1)?;
                self.files.join(&install)?;
            }
            (Part::First { others }, Some(turns)) => {
                self.files.install(&install)?;
                turns.filled.tell(others)?;
            }
            _ => self.files.install(&install)?,
        }
        Ok(())
    }
}

/// How often a birth is tried at which another process may get the number.
const TRIES: usize = 500;

/// What a process is born with that is its maker's, too.
fn shared(task: &Task) -> CloneFlags {
    let tables = [(Table::Descriptors, task.descriptors), (Table::Directories, task.directories)];
    let born = tables.into_iter().filter(|(_, share)| share.born);
    born.map(|(table, _)| flag(table)).collect()
}

const fn flag(table: Table) -> CloneFlags {
    match table {
        Table::Descriptors => CloneFlags::CLONE_FILES,
        Table::Directories => CloneFlags::CLONE_FS,
    }
}

/// Joins a process group of its own pid namespace, or founds one.
fn join(pgid: Option<ImagePid>) -> Result<(), Error> {
    let pgid = pgid.map_or(0, ImagePid::get);
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(pgid))
        .map_err(|errno| Error::kernel(format!("join process group {pgid}"))(errno.into()))
}

/// Ends as the process once did.
fn die(process: &Process, status: i32, is_killed: bool) -> ! {
    let comm = name(&process.core.comm);
    if let Ok(comm) = std::ffi::CStr::from_bytes_until_nul(&comm) {
        // A zombie without its name is one all the same.
        nix::sys::prctl::set_name(comm).unwrap_or_default();
    }
    if is_killed {
        // Its parent does that.
        loop {
            nix::unistd::pause();
        }
    }
    dead::end_as(status);
    exit_now(libc::WEXITSTATUS(status))
}

/// Root first: it is opened already, as is the working directory, so that neither is looked for
/// inside the other.
fn directories(place: &PreparedTask, body: &Body) -> Result<(), Error> {
    let change = |fd: RawFd, what: &str| {
        std::env::set_current_dir(format!("/proc/self/fd/{fd}"))
            .map_err(Error::kernel(format!("change to the {what} directory")))
    };
    // One directory may be mounted twice.
    let identity = |path: &str| {
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let found = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty());
        let found = found.map_err(std::io::Error::from).and_then(|found| {
            let stat = nix::sys::stat::fstat(&found)?;
            Ok((stat.st_dev, stat.st_ino, kernel::mounts::id(&found).ok()))
        });
        found.map_err(Error::kernel(format!("stat {path}")))
    };
    let other_root = identity("/")? != identity(&format!("/proc/self/fd/{}", place.root))?;
    if let Directory::Here(cwd) = place.cwd {
        change(cwd, "working")?;
    }
    if other_root {
        std::os::unix::fs::chroot(format!("/proc/self/fd/{}", place.root))
            .map_err(Error::kernel("change the root directory"))?;
    }
    if let Some(mask) = body.fs.umask {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    }
    Ok(())
}

/// Leaves for the restorer.
fn enter(region: &Region, rseq: &RseqConfiguration) -> Result<Infallible, Error> {
    let failed = || Error::kernel(format!("lay out the restorer at {:#x}", region.address));
    let mut memory = kernel::region::Region::map(region.address, region.bytes).map_err(failed())?;
    memory.write(0, RESTORER.code).map_err(failed())?;
    memory.write(region.arguments_at, &region.arguments).map_err(failed())?;
    let at = |offset: usize| region.arguments_at + offset;
    for (offset, bytes) in [
        (offset_of!(Arguments, old_rseq), &rseq.pointer.to_ne_bytes()[..]),
        (offset_of!(Arguments, old_rseq_bytes), &rseq.size.to_ne_bytes()),
        (offset_of!(Arguments, old_rseq_signature), &rseq.signature.to_ne_bytes()),
    ] {
        memory.write(at(offset), bytes).map_err(failed())?;
    }
    memory
        .leave(region.code_bytes, RESTORER.entry, region.stack, region.arguments_at)
        .map_err(failed())
}
