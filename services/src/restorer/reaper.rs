//! Whose children restored trees are: the restorer service is their reaper.
//!
//! A worker makes the tree and ends; the root is made as the worker's sibling, so it is the
//! service's child from birth, and whatever else loses its parent comes to the service too
//! (`PR_SET_CHILD_SUBREAPER`). Every child that ends, worker or restored, is waited for here and
//! nowhere else.
//!
//! To the kernel a parent is a *thread*: a signal that a child asked for at its parent's death comes
//! when the thread ends that made it. So one thread makes all workers, and with them all roots, and
//! lives as long as the service.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use api::{Directory, Labels, RestoredTree};
use ids::HostPid;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use prometheus::{IntCounter, IntGauge};
use service::metrics::{Metrics, definitions as are};

use restorer::Record;

/// Trees remembered beyond their ends.
const KEPT: usize = 1000;

/// Reaps the service's children.
#[derive(Clone, Debug)]
pub(super) struct Reaper {
    state: Arc<Mutex<State>>,
    parent: mpsc::Sender<Birth>,
    running: IntGauge,
    reaped: IntCounter,
}

/// A worker's standard input and output.
type Pipes = (ChildStdin, ChildStdout);

/// A command to be started, and who waits for the child.
type Birth = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that is the parent of all.
fn parent() -> io::Result<mpsc::Sender<Birth>> {
    let (sender, asked) = mpsc::channel::<Birth>();
    std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        for (mut command, answer) in asked {
            // Who asked waits for it.
            drop(answer.send(command.spawn()));
        }
    })?;
    Ok(sender)
}

#[derive(Debug, Default)]
struct State {
    /// Trees of restorers before this one, which are nobody's children of ours.
    inherited: Vec<Record>,
    /// Newest first.
    trees: VecDeque<RestoredTree>,
    /// How children ended that nobody has claimed yet: a tree may end before its worker has told
    /// of it.
    unclaimed: BTreeMap<HostPid, WaitStatus>,
    workers: Vec<HostPid>,
}

impl Reaper {
    /// Makes this process the reaper of its descendants.
    ///
    /// # Errors
    /// If the kernel refuses, or the metrics are registered already.
    pub(super) fn start(
        metrics: &Metrics,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        prctl::set_child_subreaper(true)?;
        Ok(Self {
            state: Arc::default(),
            parent: parent()?,
            running: metrics.gauge(&are::RESTORED_RUNNING)?,
            reaped: metrics.counter(&are::REAPED)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in between leaves at worst an end unclaimed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a worker that this reaper will wait for.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn spawn(&self, command: Command) -> io::Result<(HostPid, Pipes)> {
        // Under the lock: the worker must be known as one before its end can be seen.
        let mut state = self.lock();
        let gone = || io::Error::other("the thread that starts workers has ended");
        let (answer, started) = mpsc::channel();
        self.parent.send((command, answer)).map_err(|_| gone())?;
        let mut child = started.recv().map_err(|_| gone())??;
        let worker = HostPid::from(&child);
        state.workers.push(worker);
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok((worker, (input, output))),
            _ => Err(io::Error::other("the worker has no pipes")),
        }
    }

    /// Ends a worker, if it has not ended: then what it was making is gone, or a tree that stands.
    pub(super) fn end_worker(&self, worker: HostPid) {
        // Under the lock nobody waits for it, so that the number is its own.
        let state = self.lock();
        if state.workers.contains(&worker)
            && let Err(errno) = kill(Pid::from_raw(worker.get()), Signal::SIGKILL)
        {
            tracing::warn!("end worker {worker}: {errno}");
        }
    }

    /// Notes a tree that stands.
    pub(super) fn adopt(&self, directory: Directory, labels: Labels, pid: HostPid) {
        let mut state = self.lock();
        let mut tree = RestoredTree {
            directory,
            labels,
            pid: pid.get(),
            running: true,
            exit_code: None,
            signal: None,
        };
        match state.unclaimed.remove(&pid) {
            Some(status) => end(&mut tree, status),
            None => self.running.inc(),
        }
        state.trees.push_front(tree);
        if state.trees.len() > KEPT
            && let Some(oldest) = state.trees.iter().rposition(|tree| !tree.running)
        {
            state.trees.remove(oldest);
        }
    }

    /// Notes a tree that a restorer before this one restored. How it ends cannot be known.
    pub(super) fn inherit(&self, directory: Directory, record: Record) {
        let tree = RestoredTree {
            directory,
            labels: record.labels.clone(),
            pid: record.summary.pid,
            running: true,
            exit_code: None,
            signal: None,
        };
        let mut state = self.lock();
        state.inherited.push(record);
        state.trees.push_back(tree);
        self.running.inc();
    }

    /// The trees restored, newest first.
    #[must_use]
    pub(super) fn trees(&self) -> Vec<RestoredTree> {
        let mut state = self.lock();
        let State { inherited, trees, .. } = &mut *state;
        for gone in inherited.extract_if(.., |record| !record.is_true()) {
            let pid = gone.summary.pid;
            if let Some(tree) = trees.iter_mut().rev().find(|tree| tree.pid == pid && tree.running)
            {
                tree.running = false;
                self.running.dec();
            }
        }
        trees.iter().cloned().collect()
    }

    /// Waits for every child that has ended; to be called at each `SIGCHLD`.
    pub(super) fn reap(&self) {
        let mut state = self.lock();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => {
                    let pid = status.pid().and_then(|pid| HostPid::new(pid.as_raw()));
                    if let Some(pid) = pid {
                        self.ended(&mut state, pid, status);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::error!("wait for children: {errno}");
                    return;
                }
            }
        }
    }

    fn ended(&self, state: &mut State, pid: HostPid, status: WaitStatus) {
        if let Some(worker) = state.workers.iter().position(|worker| *worker == pid) {
            state.workers.swap_remove(worker);
            if !matches!(status, WaitStatus::Exited(_, 0)) {
                tracing::warn!("worker {pid} ended: {status:?}");
            }
            return;
        }
        self.reaped.inc();
        let tree = state.trees.iter_mut().find(|tree| tree.pid == pid.get() && tree.running);
        match tree {
            Some(tree) => {
                tracing::info!("restored process {pid} ({}) ended: {status:?}", tree.directory);
                end(tree, status);
                self.running.dec();
            }
            None if state.workers.is_empty() => {}
            // With a worker about, it may be the root of the tree that it has made.
            None => {
                state.unclaimed.insert(pid, status);
            }
        }
        if state.workers.is_empty() {
            state.unclaimed.clear();
        }
    }
}

fn end(tree: &mut RestoredTree, status: WaitStatus) {
    tree.running = false;
    match status {
        WaitStatus::Exited(_, code) => tree.exit_code = Some(code),
        WaitStatus::Signaled(_, signal, _) => tree.signal = Some(signal as i32),
        _ => {}
    }
}
