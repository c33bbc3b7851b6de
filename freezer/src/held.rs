//! A tree that is held stopped by ptrace for somebody in other threads: a thread of its own stops it,
//! and lets it go when it is told to or when whoever asked is gone.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ids::HostPid;
use kernel::procfs::{self, Dir, ProcFile, Stat};

use crate::Error;
use crate::frozen::{Frozen, Release};
use crate::stop::{self, stop};

/// A tree that a thread of ours holds stopped; dropping it lets the tree run.
#[derive(Debug)]
pub(crate) struct Held {
    processes: BTreeSet<HostPid>,
    release: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Held {
    /// Stops a tree, within a time.
    pub(crate) fn stop(root: HostPid, within: Duration) -> Result<Self, Error> {
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

    pub(crate) const fn processes(&self) -> &BTreeSet<HostPid> {
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

type StopReply = Sender<Result<BTreeSet<HostPid>, Error>>;

/// The life of a holder.
fn hold(root: HostPid, within: Duration, report: &StopReply, released: &Receiver<()>) {
    let (frozen, told) = match stop_whole(root, within) {
        Ok(frozen) => {
            let processes = frozen.processes.keys().copied().collect();
            (Some(frozen), Ok(processes))
        }
        Err(source) => (None, Err(Error::Stop { root, source })),
    };
    // Whoever asked is gone when this fails; then `recv` returns at once as well.
    if report.send(told).is_ok() && frozen.is_some() {
        // Nothing is ever sent: this ends when the other end is dropped.
        while released.recv().is_ok() {}
    }
    if let Some(frozen) = frozen {
        frozen.release(Release::Resume);
    }
}

/// Stops every thread of a tree, and looks until there is none that was missed.
fn stop_whole(root: HostPid, within: Duration) -> Result<Frozen, stop::Error> {
    let mut frozen = stop(root, within, Some(within), None, &|_| true, &mut || {})?;
    loop {
        if let Some(&(_, tid, tracer)) = frozen.traced().first() {
            return Err(stop::Error::Traced { tid, tracer });
        }
        let missed = running(root, &frozen)?;
        if missed.is_empty() {
            return Ok(frozen);
        }
        frozen.stop_missed(&missed)?;
    }
}

/// The processes and threads of a tree that do not stand still.
fn running(root: HostPid, frozen: &Frozen) -> Result<Vec<(HostPid, HostPid)>, procfs::Error> {
    let mut running = Vec::new();
    for pid in procfs::tree(root)? {
        let Ok(dir) = Dir::open(pid) else { continue };
        let threads = dir.threads().unwrap_or_default();
        let others = threads.into_iter().filter(|&tid| !frozen.has(pid, tid));
        let lives = |tid: &HostPid| {
            let stat = dir.thread(*tid).and_then(|thread| Stat::read(&thread));
            stat.is_ok_and(|stat| !stat.is_dead() && !stat.is_worker())
        };
        running.extend(others.filter(lives).map(|tid| (pid, tid)));
    }
    Ok(running)
}
