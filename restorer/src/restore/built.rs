//! The tree, built: from its first process to the point where every thread waits in its own place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;

use ids::{HostPid, ImagePid, ImagePids};
use kernel::pidfd::PidFd;
use kernel::procfs::{Dir, ProcFile, Status};

use super::shared::OwnDescriptors;
use crate::cgroups;
use crate::error::Error;
use crate::explain::explain;
use crate::files::OpenFiles;
use crate::finish::{self, Parked};
use crate::holder::Held;
use crate::load::{Body, Checkpoint, State, Thread};
use crate::pids::Pids;
use crate::plan::Plan;
use crate::registrars::Registrars;
use crate::root::{self, Reins};
use crate::sysv::Attachments;
use crate::task::PreparedTask;
use crate::tracer::{Loss, Tracer};

/// What the holder of a tree builds it by.
pub(super) struct Work<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) plan: &'a Plan,
    pub(super) groups: &'a cgroups::Plan,
    pub(super) prepared: &'a [Option<PreparedTask>],
    /// The tree has a pid namespace of its own.
    pub(super) inside: bool,
    /// That pid namespace is made anew: all end with its first process, the root.
    pub(super) ends_with_root: bool,
    /// The commander hears when all are in their namespaces.
    pub(super) own_namespaces: bool,
    /// The tree stays stopped.
    pub(super) stops: bool,
    /// The holder answers for the tree until somebody has been told of it.
    pub(super) stays: bool,
}

impl Work<'_> {
    /// Builds the tree and lets it go, if it is still wanted then; returns the tasks that the holder answers for.
    pub(super) fn carry_out(
        &self,
        held: &mut Held,
        mut tracer: Tracer,
        reins: Reins,
        mut complaints: File,
        with: (OpenFiles, OwnDescriptors, Attachments),
    ) -> Result<Vec<PidFd>, Error> {
        let root = self.plan.tasks[0].pid;
        let entered = || if self.own_namespaces { held.entered() } else { Ok(()) };
        let built = reins.await_root(root).map_err(Loss::from).and_then(|root| {
            let of = (self.checkpoint, self.groups);
            let parked = build(self.plan, of, &mut tracer, (root, entered), with)?;
            let plan = (self.plan, tracer.pids());
            Ok(finish::finish(self.checkpoint, plan, self.prepared, parked, self.stops)?)
        });
        let parked = built.map_err(|loss| {
            let of = (self.checkpoint, tracer.pids());
            let error = explain(loss, of, self.prepared, &mut complaints);
            tracer.destroy();
            error
        })?;
        // By descriptors: once they run their numbers may become others'.
        let answered_for = match self.stays {
            true if self.inside && self.ends_with_root => opened(&[tracer.pids().host(root)?])?,
            true if self.inside => {
                let pairs = tracer.pids().pairs();
                opened(&pairs.into_iter().map(|(host, _)| host).collect::<Vec<_>>())?
            }
            true => opened(&everybody(self.plan, None, false))?,
            false => Vec::new(),
        };
        if held.ask(tracer.pids())? {
            let threads: Vec<HostPid> = parked.threads().collect();
            finish::let_go(parked)?;
            if self.stops {
                freezer::await_stopped(threads);
            }
            return Ok(answered_for);
        }
        tracer.destroy();
        Err(Error::Lost { pid: root.get(), what: "nobody wants it any more".to_owned() })
    }
}

/// Who traces the tasks while they are built.
pub(super) fn tracer(
    (checkpoint, plan): (&Checkpoint, &Plan),
    helpers: &BTreeMap<ImagePid, ImagePid>,
    park_signal: i32,
    (inside, registrars): (bool, Registrars),
) -> Result<Tracer, Error> {
    let mut dying = dying(checkpoint, plan);
    dying.extend(helpers.values());
    let ours = plan.numbers.clone();
    let tracer = Tracer::new(park_signal, (dying, ours), Pids::of(inside));
    let tracer = tracer.with_registrars(registrars);
    let filtered = |(_, body): &(_, &Body)| body.threads.iter().any(Thread::is_filtered);
    let Some((process, _)) = checkpoint.living().find(filtered) else { return Ok(tracer) };
    if !kernel::seccomp::may_read() {
        let refusal = support::host::FILTERS_FROM_INSIDE;
        return Err(Error::refused(refusal.of(process.pid.get(), "seccomp")));
    }
    Ok(tracer.suspend_seccomp())
}

/// With whom the whole tree ends: all the others end with the init of a pid namespace.
pub(super) fn everybody(plan: &Plan, root: Option<HostPid>, inside: bool) -> Vec<HostPid> {
    match inside {
        true => root.into_iter().collect(),
        false => plan.tasks.iter().map(|task| task.pid.in_own_namespace()).collect(),
    }
}

/// A pidfd of each task that has not ended yet.
fn opened(tasks: &[HostPid]) -> Result<Vec<PidFd>, Error> {
    let is_there = |opened: &std::io::Result<PidFd>| {
        opened.as_ref().err().is_none_or(|error| error.raw_os_error() != Some(libc::ESRCH))
    };
    let opened: std::io::Result<Vec<PidFd>> =
        tasks.iter().map(|&pid| PidFd::open(pid)).filter(is_there).collect();
    opened.map_err(Error::kernel("open the tasks of the tree"))
}

/// Tasks that end while the tree is being built.
fn dying(checkpoint: &Checkpoint, plan: &Plan) -> BTreeSet<ImagePid> {
    let ends = plan.tasks.iter().filter(|task| {
        task.process
            .is_none_or(|index| matches!(checkpoint.processes[index].state, State::Dead { .. }))
    });
    ends.map(|task| task.pid).collect()
}

/// Those have their numbers in all pid namespaces who could not choose them.
fn check_asked(plan: &Plan, checkpoint: &Checkpoint, pids: &Pids) -> Result<(), Error> {
    // Helpers have ended; a group or session is called as they were, or nobody could have joined it.
    let helpers = plan.tasks.iter().filter(|task| task.process.is_none()).map(|task| task.pid);
    let helpers: BTreeSet<ImagePid> = helpers.collect();
    for birth in plan.asked.iter().filter(|birth| !helpers.contains(&birth.task)) {
        let (wanted, host) = (checkpoint.levels.all(birth.task), pids.host(birth.task)?);
        let mut numbers = Dir::open(host).and_then(|dir| Status::read(&dir))?.ns_pid;
        let above = numbers.len().saturating_sub(wanted.depth() + 1);
        let numbers = ImagePids::from_outermost(numbers.drain(above..));
        if numbers.as_ref() != Some(&wanted) {
            let what = "it has other numbers than it had".to_owned();
            return Err(Error::Lost { pid: birth.task.get(), what });
        }
    }
    Ok(())
}

/// Builds the tree up to the point where every thread is parked in its new process. What is open here is
/// closed when there is nothing to do but to wait.
fn build(
    plan: &Plan,
    (checkpoint, groups): (&Checkpoint, &cgroups::Plan),
    tracer: &mut Tracer,
    ((root, mut go), entered): ((HostPid, File), impl FnOnce() -> Result<(), Error>),
    (mut files, kept, attachments): (OpenFiles, OwnDescriptors, Attachments),
) -> Result<Parked, Loss> {
    let root = tracer.seize_root(root)?;
    let rseq = root.rseq()?;
    root.resume(0)?;
    go.write_all(&root::message(&rseq)).map_err(Error::kernel("set the root going"))?;
    drop(go);
    let everybody = plan.tasks.len();
    let there = tracer.gather(everybody)?;
    entered()?;
    for task in there.into_values() {
        task.resume(0)?;
    }
    let grouped = tracer.gather(everybody)?;
    files.open_later(tracer.pids()).map_err(Error::from)?;
    for task in grouped.into_values() {
        task.resume(0)?;
    }
    let unsealed = files.take_unsealed();
    let (_, later, _) = files.into_kept();
    drop(kept);
    let parked = tracer.gather_all(checkpoint.threads())?;
    unsealed.seal().map_err(Error::from)?;
    tracer.end_registrars();
    check_asked(plan, checkpoint, tracer.pids())?;
    drop((later, attachments));
    groups.move_threads(tracer.pids())?;
    Ok(parked)
}
