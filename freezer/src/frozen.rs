//! A tree that stands still, by ptrace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Stat};
use kernel::ptrace::Stopped;

use crate::Error;
use crate::group::StoppedGroup;

/// One stopped thread.
#[derive(Debug)]
pub struct FrozenThread {
    /// Always there, but for the moments in which code runs in the thread; of one that another thread traces once that has been asked.
    pub stopped: Option<Stopped>,
    /// The thread that traces it, if we do not: it stands still for as long as that one does, if it was found in a stop.
    pub tracer: Option<HostPid>,
    /// The signal of the group stop that it was in, 0 for none.
    pub group_stop: i32,
}

/// Stopped threads by process and tid.
pub type Processes = BTreeMap<HostPid, BTreeMap<HostPid, FrozenThread>>;

/// A tree that stands still.
#[derive(Debug)]
pub struct Frozen {
    /// Threads by process and tid.
    pub processes: Processes,
    /// How often tasks were missed.
    pub(crate) missed: u32,
    /// When the first thread was told to stop.
    pub since: Instant,
    /// Stop signals that came from others meanwhile, by process: sent again at the release.
    pub postponed: Vec<(HostPid, i32)>,
    /// The control group that it was stopped by.
    pub(crate) group: Option<StoppedGroup>,
}

/// What becomes of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It runs on (what was stopped by job control stays so).
    Resume,
    /// It stays stopped, by `SIGSTOP`.
    Stop,
    /// It is killed.
    Kill,
}

impl Frozen {
    /// Whether a thread of a process is among those that stand still.
    #[must_use]
    pub fn has(&self, pid: HostPid, tid: HostPid) -> bool {
        self.processes.get(&pid).is_some_and(|threads| threads.contains_key(&tid))
    }

    /// Lets go of all processes but these: they run on.
    pub fn keep_only(&mut self, is_ours: impl Fn(HostPid) -> bool) {
        self.processes.retain(|pid, threads| {
            let ours = is_ours(*pid);
            if !ours {
                threads.values_mut().for_each(detach);
            }
            ours
        });
    }

    /// Threads that others trace, with their processes and who does.
    #[must_use]
    pub fn traced(&self) -> Vec<(HostPid, HostPid, HostPid)> {
        let threads = self.processes.iter().flat_map(|(&pid, threads)| {
            threads.iter().filter_map(move |(&tid, thread)| Some((pid, tid, thread.tracer?)))
        });
        threads.collect()
    }

    /// Whether somebody had frozen the control group that it was stopped by.
    #[must_use]
    pub fn was_paused(&self) -> bool {
        self.group.as_ref().is_some_and(StoppedGroup::was_frozen)
    }

    /// Makes it possible to run code in the tasks: a control group that somebody had frozen is thawed until all
    /// are let go.
    ///
    /// # Errors
    /// If it cannot be thawed.
    pub fn let_code_run(&mut self) -> Result<(), Error> {
        self.group.as_mut().map_or(Ok(()), StoppedGroup::let_code_run)
    }

    /// Ends the frozen time in the way asked for. A control group is as it was before when its tasks are let go; that
    /// of tasks that are killed, which do not end while it is frozen, is left thawed.
    pub fn release(mut self, how: Release) {
        // What is frozen by its group takes no signal.
        let is_paused = self.was_paused();
        if how != Release::Kill {
            self.group.take();
        }
        for (&pid, threads) in &mut self.processes {
            match how {
                Release::Resume => {}
                // It stands still with its tracer, who would hear of the signal.
                Release::Stop if is_traced(threads) => {}
                Release::Stop => signal(pid, libc::SIGSTOP),
                Release::Kill => signal(pid, libc::SIGKILL),
            }
            for thread in threads.values_mut() {
                detach(thread);
            }
        }
        if how != Release::Resume {
            self.postponed.clear();
        }
        if how == Release::Stop && !is_paused {
            await_stopped(self.processes.values().flat_map(BTreeMap::keys).copied());
        }
        if let Some(group) = self.group.take() {
            group.leave_thawed();
        }
    }
}

/// Waits until threads that are to stop by a signal, and that nobody holds any more, have stopped: each does when it is its turn on a processor, and
/// whoever asked for a tree that is stopped looks at once. The kernel tells nobody but their parents; one that cannot stop (it waits for the child of a
/// vfork) is not waited for longer than a second.
pub fn await_stopped(threads: impl IntoIterator<Item = HostPid>) {
    const PATIENCE: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_micros(200);
    let until = Instant::now() + PATIENCE;
    for tid in threads {
        let runs = || {
            let stat = Dir::open(tid).and_then(|dir| Stat::read(&dir));
            stat.is_ok_and(|stat| !stat.is_dead() && !matches!(stat.state, b'T' | b't'))
        };
        while runs() && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Whether another process traces a process.
fn is_traced(threads: &BTreeMap<HostPid, FrozenThread>) -> bool {
    threads.values().any(|thread| thread.tracer.is_some())
}

/// After an error: what is as it was runs on at once. (A task in which code runs is let go when this
/// thread ends.)
impl Drop for Frozen {
    fn drop(&mut self) {
        self.group.take();
        self.processes.values_mut().flat_map(BTreeMap::values_mut).for_each(detach);
        for (pid, postponed) in std::mem::take(&mut self.postponed) {
            signal(pid, postponed);
        }
    }
}

fn signal(pid: HostPid, signal: i32) {
    // It can only fail because the process is gone, and then there is nobody to tell.
    let _gone = kernel::process::send_signal(pid, signal);
}

pub(crate) fn detach(thread: &mut FrozenThread) {
    if let Some(stopped) = thread.stopped.take() {
        // It can only fail because the thread was killed meanwhile.
        let _gone = stopped.detach(0);
    }
}
