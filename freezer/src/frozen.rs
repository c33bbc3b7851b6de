//! A tree that stands still, by ptrace.

use std::collections::BTreeMap;
use std::time::Instant;

use ids::HostPid;
use kernel::ptrace::Stopped;

/// One stopped thread.
#[derive(Debug)]
pub struct FrozenThread {
    /// Always there, but for the moments in which code runs in the thread.
    pub stopped: Option<Stopped>,
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

    /// Ends the frozen time in the way asked for.
    pub fn release(mut self, how: Release) {
        for (&pid, threads) in &mut self.processes {
            match how {
                Release::Resume => {}
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
    }
}

/// After an error: what is as it was runs on at once. (A task in which code runs is let go when this
/// thread ends.)
impl Drop for Frozen {
    fn drop(&mut self) {
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
