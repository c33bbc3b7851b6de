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

mod inside;

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ids::{HostPid, ImagePid, ImagePids};
use kernel::process::{enter_pids_of, exit_now, fork_as, send_signal_to, share_as, wait_status};
use kernel::ptrace::RseqConfiguration;
use kernel::spare::SpareMemory;
use kernel::turn::Wait;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use parasite::RESTORER;
use parasite::restorer::Arguments;

use crate::cgroups;
use crate::dead;
use crate::error::Error;
use crate::failure::Failure;
use crate::files::{Directory, InstallTask, Member, OpenFiles};
use crate::forked::TaskMemory;
use crate::kept_locks::{self, KeptByMapping};
use crate::load::{Body, Checkpoint, Process, State};
use crate::namespaces;
use crate::plan::{Birth, ForkStep, Group, Part, Plan, Table, Task};
use crate::prepare::{Region, name};
use crate::proc_values;
use crate::registrars::Desks;
use crate::together::{AllTogether, Together};
use crate::turns::{AllTurns, Count, FirstThere, not_told};

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
    /// How those take turns who have one memory.
    pub(crate) together: &'a AllTogether,
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
    pub(crate) root: Directory,
}

impl BuildContext<'_> {
    /// Every signal but the one to park by is blocked.
    pub(crate) fn mask(&self) -> u64 {
        !(1 << (self.park_signal - 1))
    }

    /// Runs task `index` in its new process.
    pub(crate) fn run(&self, index: usize, rseq: &RseqConfiguration) -> ! {
        // Who is born with memory has had to wait for its turn before.
        if let Some(together) = self.together.of(index)
            && !self.plan.tasks[index].memory.born
        {
            together.begin();
        }
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
            match (task.born_in, task.memory.born) {
                (Some(_), _) => self.namespaces.settle(task.pid)?,
                // Its maker is in all of them.
                (None, true) => {}
                (None, false) => self.namespaces.enter(task.pid)?,
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
        self.park(index)?;
        // Who has ended is there until all have parked again.
        let prepared = task.process.and_then(|number| self.prepared[number].as_ref());
        if let Some(PreparedTask { cwd: Directory::OfProcess(id), root, .. }) = prepared
            && !self.is_in_root(*id, *root)
        {
            self.files.enter_of_process(*id)?;
        }
        if let (Some(number), None) = (task.process, task.born_in) {
            let process = &self.checkpoint.processes[number];
            self.change_root_of_process(number, || {
                // Nothing is found by a path afterwards.
                proc_values::set(process, &self.namespaces.ids())
            })?;
        }
        if let Group::Join(pgid) = task.group {
            self.join(task, pgid)?;
        }
        self.park(index)?;
        self.settle_in_session(task)?;
        let Some(number) = task.process else { exit_now(0) };
        for &helper in &task.helpers {
            let there = self.local(task, helper)?;
            self.aside(index, Wait::Ended { pid: there, leave: false }).map_err(|errno| {
                Error::kernel(format!("wait for helper {helper}"))(errno.into())
            })?;
        }
        for &zombie in &task.zombies {
            let there = self.local(task, zombie)?;
            if self.is_killed_from_outside(zombie) {
                send_signal_to(there, libc::SIGKILL)
                    .map_err(Error::kernel(format!("end zombie {zombie}")))?;
            }
            self.aside(index, Wait::Ended { pid: there, leave: true }).map_err(|errno| {
                Error::kernel(format!("wait for zombie {zombie}"))(errno.into())
            })?;
        }
        let process = &self.checkpoint.processes[number];
        match (process.state, &process.body, &self.prepared[number]) {
            (State::Dead { status }, ..) => {
                die(process, status, self.is_killed_from_outside(task.pid))
            }
            (_, Some(body), Some(place)) => {
                self.become_process(index, (process, body), place, rseq)
            }
            _ => Err(Error::image(format!("process {}", process.pid), "nothing is known of it")),
        }
    }

    /// Makes a directory that is about a process the root of this one, if it was, after `before`: who has ended is there only until all
    /// have parked again.
    fn change_root_of_process(
        &self,
        number: usize,
        before: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let prepared = self.prepared[number].as_ref();
        let Some(PreparedTask { root: Directory::OfProcess(id), .. }) = prepared else {
            return Ok(());
        };
        let is_dead = |pid: HostPid| {
            let is_it = |task: &Task| task.pid.get() == pid.get() && task.process.is_none();
            self.plan.tasks.iter().any(is_it)
        };
        let handle = self.files.root_of_process(*id, is_dead)?;
        before()?;
        if let Some(PreparedTask { cwd: Directory::OfProcess(cwd), root, .. }) = prepared
            && self.is_in_root(*cwd, *root)
        {
            kernel::descriptors::change_directory(handle.as_raw_fd())
                .map_err(Error::kernel("change to the working directory"))?;
        }
        std::os::unix::fs::chroot(format!("/proc/self/fd/{}", handle.as_raw_fd()))
            .map_err(Error::kernel("change the root directory"))
    }

    /// Whether a working directory that is about a process is the root itself, and goes with that.
    fn is_in_root(&self, cwd: u32, root: Directory) -> bool {
        matches!(root, Directory::OfProcess(root) if self.files.are_one(cwd, root))
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
            ForkStep::Asked(child) => return self.make_asked(child, rseq),
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
            let index = self.plan.tasks.iter().position(|made| made.pid == task.pid);
            if let Some(there) = self.first.of(first) {
                self.await_told(index.unwrap_or(0), there, 1)?;
            }
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
        let created = match self.together.of(child).filter(|_| made.memory.born) {
            Some(together) => self.share(child, &numbers, (sibling, flags), together),
            None => fork_as(&numbers, sibling, flags).map(|made| {
                if made.is_none() {
                    self.run(child, rseq);
                }
            }),
        };
        if let Birth::Into(_) = made.birth {
            self.come_back(task)?;
        }
        created.map_err(Error::kernel(format!("create process {pid}")))?;
        self.first.tell(pid)
    }

    /// Makes a task that has the memory of this one. All that it borrows stays until everybody has left for the restorer.
    fn share(
        &self,
        child: usize,
        numbers: &ImagePids,
        (sibling, flags): (bool, CloneFlags),
        together: &Together,
    ) -> std::io::Result<()> {
        let handlers = self.plan.tasks[child].handlers;
        // The area of the C library for restartable sequences is this process' own.
        let life = move || self.run(child, &RseqConfiguration::default());
        share_as(numbers, sibling, (flags, handlers), together.turn(), life)
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

    fn park(&self, index: usize) -> Result<(), Error> {
        self.aside(index, Wait::Seen { signal: self.park_signal })
            .map_err(|errno| Error::kernel("stop for the tracer")(errno.into()))
    }

    /// Has task `index` wait, while others who have its memory go on.
    fn aside(&self, index: usize, wait: Wait<'_>) -> nix::Result<()> {
        match self.together.of(index) {
            Some(together) => together.aside(wait),
            None => wait.over(),
        }
    }

    /// Has task `index` wait until something has been counted up so many times by others of the tree.
    fn await_told(&self, index: usize, count: &Count, times: u32) -> Result<(), Error> {
        self.aside(index, count.wait(times)).map_err(not_told)
    }

    fn become_process(
        &self,
        index: usize,
        (process, body): (&Process, &Body),
        place: &PreparedTask,
        rseq: &RseqConfiguration,
    ) -> Result<Infallible, Error> {
        let task = &self.plan.tasks[index];
        kept_locks::take(process.pid, &place.kept_locks)?;
        self.descriptors(index, process, body)?;
        self.namespaces.give_pipes(process.pid)?;
        match (task.born_in, place.root) {
            // It has the others from who passed on the way there.
            (Some(_), _) => proc_values::set_of_session(process)?,
            (None, Directory::OfProcess(_)) => {}
            (None, _) => proc_values::set(process, &self.namespaces.ids())?,
        }
        // Paths lead somewhere else afterwards, for all who share them.
        match (task.directories.part, self.turns.at(Table::Directories, body)) {
            (Part::Other, Some(turns)) => turns.done.tell(1)?,
            (Part::First { others }, Some(turns)) => {
                self.await_told(index, &turns.done, others)?;
                directories(place, body)?;
            }
            _ => directories(place, body)?,
        }
        let region = lay_out(&place.region, rseq)?;
        if let Some(together) = self.together.of(index) {
            together.end(task.memory.part);
        }
        leave(region, &place.region)
    }

    /// Puts the descriptors into place, or waits for who does.
    fn descriptors(&self, index: usize, process: &Process, body: &Body) -> Result<(), Error> {
        let task = &self.plan.tasks[index];
        let install = InstallTask { files_id: body.ids.files_id, pid: process.pid };
        match (task.descriptors.part, self.turns.at(Table::Descriptors, body)) {
            (Part::Other, Some(turns)) => {
                self.await_told(index, &turns.filled, 1)?;
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
        Table::Memory => CloneFlags::CLONE_VM,
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
        let failed = || Error::kernel(format!("change to the {what} directory"));
        kernel::descriptors::change_directory(fd).map_err(failed())
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
    let other_root = match place.root {
        Directory::Here(root) => {
            let path = format!("/proc/self/fd/{root}");
            let is_other = identity("/")? != identity(&path)?;
            Some(path).filter(|_| is_other)
        }
        Directory::OfProcess(_) => None,
    };
    if let Directory::Here(cwd) = place.cwd {
        change(cwd, "working")?;
    }
    if let Some(root) = other_root {
        std::os::unix::fs::chroot(root).map_err(Error::kernel("change the root directory"))?;
    }
    if let Some(mask) = body.fs.umask {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    }
    Ok(())
}

fn not_laid_out(region: &Region) -> impl FnOnce(std::io::Error) -> Error + use<> {
    Error::kernel(format!("lay out the restorer at {:#x}", region.address))
}

/// Puts the restorer into its place.
fn lay_out(region: &Region, rseq: &RseqConfiguration) -> Result<kernel::region::Region, Error> {
    let failed = || not_laid_out(region);
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
    Ok(memory)
}

/// Leaves for the restorer.
fn leave(memory: kernel::region::Region, region: &Region) -> Result<Infallible, Error> {
    memory
        .leave(region.code_bytes, RESTORER.entry, region.stack, region.arguments_at)
        .map_err(not_laid_out(region))
}
