//! The holder's hold on the tasks under construction: it traces each from its birth.
//!
//! Tasks come to a halt together by *parking*: each sends itself the park signal, and the tracer,
//! which keeps signals from being delivered, finds it stopped. A task that ends or crashes on the
//! way is seen at once. When the holder dies, the kernel kills every task that it traces.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arch::syscall::nr;
use ids::{HostPid, ImagePid};
use kernel::process::send_signal;
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::ptrace::{Event, Options, Running, Stop, Stopped, poll_any, wait_any};
use parasite::restorer::births::NOT_WANTED;

use crate::error::Error;
use crate::pids::Pids;
use crate::registrars::{self, Registrars};

/// What the tracer asks for: every task made by a traced one is traced, and dies with the tracer.
const OPTIONS: Options = Options::SYSCALL_GOOD
    .union(Options::FORK)
    .union(Options::VFORK)
    .union(Options::CLONE)
    .union(Options::KILL_WITH_TRACER);

/// The tasks under construction.
#[derive(Debug)]
pub(crate) struct Tracer {
    park_signal: i32,
    /// [`OPTIONS`], and more where the tasks need it.
    options: Options,
    /// Tasks that are there.
    alive: BTreeSet<HostPid>,
    /// Tasks that are to end: zombies and helpers.
    dying: BTreeSet<ImagePid>,
    /// Numbers of all tasks that are to be: others may end as they like.
    ours: BTreeSet<ImagePid>,
    /// Who is who.
    pids: Pids,
    /// Who has numbers given out for births.
    registrars: Option<Registrars>,
}

/// Why a task is lost.
#[derive(Debug)]
pub(crate) enum Loss {
    /// It ended, with this wait status.
    Ended { tid: HostPid, status: i32 },
    /// A signal that it caused itself.
    Crashed { task: Stopped, signal: i32 },
    /// Something else went wrong with it.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Loss {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Tracer {
    /// For the tasks `ours`, which park by `park_signal`; those in `dying` may end.
    pub(crate) fn new(
        park_signal: i32,
        (dying, ours): (BTreeSet<ImagePid>, BTreeSet<ImagePid>),
        pids: Pids,
    ) -> Self {
        Self {
            park_signal,
            options: OPTIONS,
            alive: BTreeSet::new(),
            dying,
            ours,
            pids,
            registrars: None,
        }
    }

    /// For tasks whose births need registrars.
    pub(crate) fn with_registrars(self, registrars: Registrars) -> Self {
        Self { registrars: Some(registrars), ..self }
    }

    /// No task is born any more.
    pub(crate) fn end_registrars(&mut self) {
        if let Some(registrars) = &mut self.registrars {
            registrars.end();
        }
    }

    fn meet(&mut self, host: HostPid) -> Result<(), Error> {
        self.pids.meet(host)?;
        let task = self.pids.image(host);
        self.registrars.as_mut().map_or(Ok(()), |registrars| registrars.met(task, host))
    }

    /// Who is who, of those that are there.
    pub(crate) const fn pids(&self) -> &Pids {
        &self.pids
    }

    /// For tasks that have filters of system calls: none has an effect until the tracer lets go.
    pub(crate) fn suspend_seccomp(self) -> Self {
        Self { options: self.options | Options::SUSPEND_SECCOMP, ..self }
    }

    /// Starts with the root, which is left stopped.
    pub(crate) fn seize_root(&mut self, pid: HostPid) -> Result<Stopped, Error> {
        self.alive.insert(pid);
        let root = Running::seize(pid, self.options)?;
        root.interrupt()?;
        let root = root.wait_stopped()?;
        self.meet(pid)?;
        Ok(root)
    }

    /// Waits until `count` tasks are parked. It is too early for any of them to end.
    pub(crate) fn gather(&mut self, count: usize) -> Result<BTreeMap<HostPid, Stopped>, Loss> {
        self.gather_until(false, |_, parked| parked == count)
    }

    /// Waits until `count` tasks are parked and all that were to end have ended.
    pub(crate) fn gather_all(&mut self, count: usize) -> Result<BTreeMap<HostPid, Stopped>, Loss> {
        self.gather_until(true, |tracer, parked| {
            parked == count && !tracer.alive.iter().any(|task| tracer.is_dying(*task))
        })
    }

    fn gather_until(
        &mut self,
        may_end: bool,
        done: impl Fn(&Self, usize) -> bool,
    ) -> Result<BTreeMap<HostPid, Stopped>, Loss> {
        let mut parked = BTreeMap::new();
        while !done(self, parked.len()) {
            match wait_any()? {
                Event::Ended { tid, status } => {
                    self.alive.remove(&tid);
                    let is_ours = self.is_ours(tid);
                    if !is_ours || status == NOT_WANTED << 8 {
                        self.pids.forget(tid);
                    }
                    if status == NOT_WANTED << 8 {
                        continue;
                    }
                    let is_registrar = |it: &Registrars| it.has(tid);
                    if self.registrars.as_ref().is_some_and(is_registrar) {
                        return Err(Loss::Failed(registrars::ended(status)));
                    }
                    if is_ours && !(may_end && self.is_dying(tid)) {
                        return Err(Loss::Ended { tid, status });
                    }
                }
                Event::Stopped(task) => {
                    let tid = task.tid();
                    self.alive.insert(tid);
                    self.meet(tid)?;
                    if let Some(task) = self.pass(task, tid)? {
                        parked.insert(tid, task);
                    }
                }
            }
        }
        Ok(parked)
    }

    /// Whether a task is one that is to be. Who ended before it was met can only be one of them.
    fn is_ours(&self, tid: HostPid) -> bool {
        self.pids.image(tid).is_none_or(|tid| self.ours.contains(&tid))
    }

    fn is_dying(&self, tid: HostPid) -> bool {
        self.pids.image(tid).is_some_and(|tid| self.dying.contains(&tid))
    }

    /// Lets a task go on from a stop that is none of its parking; gives it back if it is.
    fn pass(&self, task: Stopped, tid: HostPid) -> Result<Option<Stopped>, Loss> {
        let signal = match task.stop() {
            Stop::Signal(signal) if signal == self.park_signal => match Self::is_own(&task) {
                Ok(true) => return Ok(Some(task)),
                // Whoever may signal it must not say when it is built.
                Ok(false) => 0,
                Err(error) if error.is_gone() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
            // It dies as it once did.
            Stop::Signal(signal) if self.is_dying(tid) => signal,
            // Somebody else's wish, for a process that is not there yet.
            Stop::Signal(libc::SIGSTOP | libc::SIGCHLD | libc::SIGCONT) => 0,
            Stop::Signal(signal) => return Err(Loss::Crashed { task, signal }),
            Stop::Event(_) | Stop::Interrupted | Stop::Group(_) | Stop::Syscall => 0,
        };
        match task.resume(signal) {
            Ok(_) => Ok(None),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a task stops where it sends itself signals. (That it has sent one the kernel does not always tell: not of a user who has as
    /// many pending as he may.) Up to its parking it sends itself none in that way, unless it ends by it.
    fn is_own(task: &Stopped) -> kernel::ptrace::Result<bool> {
        Ok(task.registers()?.call() == Some(nr::TGKILL))
    }

    /// Ends everything that was built and takes the dead away.
    pub(crate) fn destroy(&mut self) {
        self.end_registrars();
        for &tid in &self.alive {
            // It may have gone already, which is what is wanted.
            drop(send_signal(tid, libc::SIGKILL));
        }
        let mut until = None;
        while !self.alive.is_empty() {
            let event = match self.alive.iter().all(|task| is_first(*task)) {
                true => poll_any(),
                false => wait_any().map(Some),
            };
            match event {
                Ok(None) => {
                    let now = Instant::now();
                    if now >= *until.get_or_insert(now + PATIENCE_WITH_FIRST) {
                        break;
                    }
                    std::thread::sleep(PAUSE);
                }
                Ok(Some(Event::Ended { tid, .. })) => {
                    self.alive.retain(|known| *known != tid);
                }
                Ok(Some(Event::Stopped(task))) => {
                    // One that was being born, or that stopped on its way out.
                    self.alive.insert(task.tid());
                    drop(send_signal(task.tid(), libc::SIGKILL));
                    drop(task.resume(0));
                }
                Err(_) => break,
            }
        }
        // What their parents can no longer take away has come to us.
        while let Ok(Some(_)) = poll_any() {}
    }
}

/// How long is waited for first processes of pid namespaces that have been killed. Each ends when nobody is left in its namespace; of who
/// entered that from outside the dead are the commander's, who takes them away when this process has said what went wrong.
const PATIENCE_WITH_FIRST: Duration = Duration::from_millis(500);

/// Between two looks at them.
const PAUSE: Duration = Duration::from_millis(1);

/// Whether a task is the first process of a pid namespace.
fn is_first(task: HostPid) -> bool {
    let status = Dir::open(task).and_then(|dir| Status::read(&dir));
    status.is_ok_and(|status| matches!(status.ns_pid[..], [_, .., last] if last.get() == 1))
}
