//! Births by processes that pass: in the pid namespace of another, and in a user namespace below that of the root.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use ids::{HostPid, ImagePid, ImagePids};
use kernel::process::{enter_pids_of, exit_now, fork_as, wait_status};
use kernel::ptrace::RseqConfiguration;
use kernel::turn::Wait;
use nix::sched::{CloneFlags, unshare};
use parasite::restorer::births::NOT_WANTED;

use super::{BuildContext, shared};
use crate::error::Error;
use crate::failure::Failure;
use crate::inherited_values;
use crate::load::Process;
use crate::plan::{Birth, ForkStep, Task};
use crate::proc_values;
use crate::registrars::{Asked, hasten};

/// How often a birth is tried at which another process may get the number.
const TRIES: usize = 500;

impl BuildContext<'_> {
    /// Has a task made by a process that ends at once in the pid namespace of that: it falls to the first one there.
    pub(super) fn give(
        &self,
        task: &Task,
        child: usize,
        rseq: &RseqConfiguration,
    ) -> Result<(), Error> {
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
    pub(super) fn come_back(&self, task: &Task) -> Result<(), Error> {
        let own = self.local(task, task.pid)?;
        enter_pids_of(own).map_err(Error::kernel("come back to the own pid namespace"))
    }

    /// Makes the first process of a pid namespace that belongs to a user namespace below the root's. It is born in that, by a process
    /// that passes there, and nobody in there may choose the numbers that it has around. So registrars are asked for those,
    /// once more if somebody else has got one meanwhile.
    pub(super) fn make_in_users(
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
                await_end(number).map_err(failed())?;
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

    /// Makes a task in the user namespace of this one, in which nobody chooses the numbers that it has around.
    pub(super) fn make_asked(&self, child: usize, rseq: &RseqConfiguration) -> Result<(), Error> {
        let made = &self.plan.tasks[child];
        let failed = || Error::kernel(format!("create process {}", made.pid));
        self.pass_slack(child)?;
        for _ in 0..TRIES {
            let (mut ours, mut theirs) = UnixStream::pair().map_err(failed())?;
            let (asked, chosen) = self.ask_for(made)?;
            let Some(_) = fork_as(&chosen, false, shared(made)).map_err(failed())? else {
                drop(ours);
                let mut is_wanted = [0];
                if theirs.read_exact(&mut is_wanted).is_err() || is_wanted == [0] {
                    exit_now(NOT_WANTED);
                }
                drop(theirs);
                self.run(child, rseq)
            };
            drop(theirs);
            let is_wanted = asked.born().map_err(failed())?;
            ours.write_all(&[is_wanted.into()]).map_err(failed())?;
            if is_wanted {
                return self.first.tell(made.pid);
            }
            await_end(chosen.innermost()).map_err(failed())?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(failed()(std::io::ErrorKind::AlreadyExists.into()))
    }

    /// Asks for the numbers of a task that nobody chooses in its user namespace; with those that are chosen.
    fn ask_for(&self, made: &Task) -> Result<(Asked<'_>, ImagePids), Error> {
        let failed = || Error::kernel(format!("create process {}", made.pid));
        let numbers = self.checkpoint.levels.all(made.pid);
        let birth = self.plan.asked.iter().find(|birth| birth.task == made.pid);
        let around = birth.map_or(&[][..], |birth| &birth.numbers);
        let chosen = ImagePids::from_outermost((around.len()..).map_while(|at| numbers.at(at)));
        let chosen = chosen.ok_or_else(|| failed()(std::io::ErrorKind::InvalidData.into()))?;
        Ok((self.desks.ask(around).map_err(failed())?, chosen))
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
            inherited_values::raise_limits(self.born_with(child).map(|it| &it.core))?;
        }
        let groups = process.map(crate::rights::groups_around).unwrap_or_default();
        // The newborn is made to be scheduled as it was in the end, whatever it has of this one.
        hasten(HostPid::own());
        // In there nobody may look at another process.
        self.namespaces.enter_before(made.pid, user, &groups, || match made.process {
            Some(number) => self.change_root_of_process(number, || Ok(())),
            None => Ok(()),
        })?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| failed()(errno.into()))?;
        let numbers = self.checkpoint.levels.all(made.pid);
        let (asked, chosen) = self.ask_for(made)?;
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

    /// A process and those that are born below it in its user namespace.
    fn born_with(&self, child: usize) -> impl Iterator<Item = &Process> {
        let mut tasks = vec![child];
        let mut next = 0;
        while let Some(&index) = tasks.get(next) {
            let asked = self.plan.tasks[index].forks.iter().filter_map(|step| match step {
                ForkStep::Asked(made) => Some(*made),
                _ => None,
            });
            tasks.extend(asked);
            next += 1;
        }
        let processes = tasks.into_iter().filter_map(|index| self.plan.tasks[index].process);
        processes.map(|process| &self.checkpoint.processes[process])
    }

    /// Forks a process with a number that nobody of the tree wants, in any of its pid namespaces as far as `depth` below that of the
    /// root.
    pub(super) fn fork_spare(&self, depth: usize) -> std::io::Result<Option<HostPid>> {
        for spare in self.spare.iter().filter_map(|spare| ImagePid::new(spare.get())) {
            let Some(numbers) = ImagePids::from_outermost(vec![spare; depth + 1]) else { continue };
            match fork_as(&numbers, false, CloneFlags::empty()) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        Err(std::io::ErrorKind::AlreadyExists.into())
    }
}

/// Waits until a child has ended, and takes it away.
fn await_end(pid: ImagePid) -> std::io::Result<()> {
    Ok(Wait::Ended { pid, leave: false }.over()?)
}
