//! Stopping by ptrace: a thread of its own seizes and interrupts every thread of the tree, holds
//! them, and detaches them when it is told to or when its holder is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::procfs::{self, Dir, ProcFile, Stat};
use kernel::ptrace::{self, Event, Options, Running, Stop, Stopped};

use crate::Error;

/// A tree that a thread of ours holds stopped; dropping it lets the tree run.
#[derive(Debug)]
pub(crate) struct Held {
    processes: BTreeSet<i32>,
    release: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Held {
    /// Stops a tree, within a time.
    pub(crate) fn stop(root: i32, within: Duration) -> Result<Self, Error> {
        let (report, reported) = channel();
        let (release, released) = channel();
        let holder = std::thread::Builder::new()
            .name(format!("hold {root}"))
            .spawn(move || hold(root, within, &report, &released))
            .map_err(|source| Error::Thread { root, source })?;
        // A holder that ends without a report has panicked; whatever it traced runs on.
        let processes = reported.recv().map_err(|RecvError| Error::Lost(root))??;
        Ok(Self { processes, release: Some(release), holder: Some(holder) })
    }

    pub(crate) const fn processes(&self) -> &BTreeSet<i32> {
        &self.processes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The holder waits for this end of the channel to close.
        self.release.take();
        if let Some(holder) = self.holder.take()
            && holder.join().is_err()
        {
            tracing::error!("a thread that held a tree panicked; the tree runs");
        }
    }
}

type Report = Sender<Result<BTreeSet<i32>, Error>>;

/// The life of a holder.
fn hold(root: i32, within: Duration, report: &Report, released: &Receiver<()>) {
    let mut stopped = BTreeMap::new();
    let result = stop_tree(root, within, &mut stopped);
    let failed = result.is_err();
    // Whoever asked is gone when this fails; then `recv` returns at once as well.
    if report.send(result).is_ok() && !failed {
        // Nothing is ever sent: this ends when the other end is dropped.
        while released.recv().is_ok() {}
    }
    for (tid, task) in stopped {
        let signal = match task.stop() {
            Stop::Signal(signal) => signal,
            _ => 0,
        };
        match task.detach(signal) {
            Ok(()) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => tracing::warn!("let thread {tid} go: {error}"),
        }
    }
    // Threads that were interrupted and have not stopped cannot be detached; the kernel does it
    // when this thread ends, which is now.
}

/// Stops every thread of a tree, new ones as well, until there is none that is not stopped.
fn stop_tree(
    root: i32,
    within: Duration,
    stopped: &mut BTreeMap<i32, Stopped>,
) -> Result<BTreeSet<i32>, Error> {
    let deadline = Instant::now() + within;
    let mut seen = BTreeSet::new();
    loop {
        let (processes, threads) = list(root)?;
        let mut waiting = Vec::new();
        for tid in threads {
            if !seen.insert(tid) {
                continue;
            }
            if let Some(running) = seize(root, tid)? {
                waiting.push(running);
            }
        }
        if waiting.is_empty() {
            return Ok(processes);
        }
        wait_all(root, waiting, stopped, deadline)?
            .then_some(())
            .ok_or(Error::Timeout { root, waited: within })?;
    }
}

/// The processes and threads of a tree that are there now.
fn list(root: i32) -> Result<(BTreeSet<i32>, Vec<i32>), Error> {
    let mut processes = BTreeSet::new();
    let mut threads = Vec::new();
    for pid in procfs::tree(root)? {
        match Dir::open(pid).and_then(|dir| dir.threads()) {
            Ok(tids) => threads.extend(tids),
            Err(error) if error.is_gone() && pid != root => continue,
            Err(error) => return Err(error.into()),
        }
        processes.insert(pid);
    }
    Ok((processes, threads))
}

/// Seizes and interrupts a thread; `None` when it has exited.
fn seize(root: i32, tid: i32) -> Result<Option<Running>, Error> {
    let running = Running::seize(tid, Options::empty())
        .and_then(|running| running.interrupt().map(|()| running));
    match running {
        Ok(running) => Ok(Some(running)),
        Err(error) if error.is_gone() => Ok(None),
        // What has exited and was not waited for yet cannot be seized, and need not be.
        Err(_) if has_exited(tid) => Ok(None),
        Err(source) => Err(Error::Trace { root, source }),
    }
}

fn has_exited(tid: i32) -> bool {
    match Dir::open(tid).and_then(|dir| Stat::read(&dir)) {
        Ok(stat) => stat.is_dead(),
        Err(error) => error.is_gone(),
    }
}

/// Waits until each thread has stopped or ended; false when the deadline came first.
///
/// A wait has no time limit of its own and a stop has no descriptor to poll, so what has not
/// stopped at once is looked at again after pauses that double from 20 µs.
fn wait_all(
    root: i32,
    mut waiting: Vec<Running>,
    stopped: &mut BTreeMap<i32, Stopped>,
    deadline: Instant,
) -> Result<bool, Error> {
    let mut pause = Duration::from_micros(20);
    loop {
        let mut still = Vec::new();
        for running in waiting {
            match running.poll() {
                Ok(Ok(Event::Stopped(task))) => {
                    stopped.insert(task.tid(), task);
                }
                Ok(Ok(Event::Ended { .. })) => {}
                Ok(Err(running)) => still.push(running),
                Err(error) if ptrace::Error::is_gone(&error) => {}
                Err(source) => return Err(Error::Trace { root, source }),
            }
        }
        if still.is_empty() {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(1));
        waiting = still;
    }
}
