//! The test as the parent of all it starts, so that pids are free when a restore needs them and
//! nothing is left running.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Makes the test process adopt orphans; ends every descendant when dropped.
///
/// Process 1 may reap late, and a pid stays taken until its zombie is reaped: here the test reaps.
#[derive(Debug)]
pub struct Machine(());

impl Machine {
    /// Call it first in a test, and keep the value to its end.
    #[must_use]
    pub fn prepare() -> Self {
        crate::require!(nix::unistd::geteuid().is_root(), "checkpoints need root");
        nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper");
        end_with_the_test();
        Self(())
    }

    /// Waits until no child is left, alive or zombie: what a dump that ends its target leads to.
    pub fn await_no_children(&self) {
        let ended = wait_until(Duration::from_secs(10), || {
            loop {
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Err(Errno::ECHILD) => return true,
                    Ok(WaitStatus::StillAlive) | Err(_) => return false,
                    Ok(_) => {}
                }
            }
        });
        assert!(ended, "these should be gone: {:?}", descriptions(&self.descendants()));
    }

    /// Waits until a process is gone; a child of ours is waited for.
    pub fn await_gone(&self, pid: i32) {
        let gone = wait_until(Duration::from_secs(10), || {
            // It may be nobody's of ours.
            waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).ok();
            !Path::new(&format!("/proc/{pid}")).exists()
        });
        assert!(gone, "this should be gone: {:?}", descriptions(&[pid]));
    }

    /// Waits until none of these processes is left, alive or zombie.
    pub fn await_end(&self, tree: &[i32]) {
        let gone = wait_until(Duration::from_secs(30), || {
            self.reap();
            !tree.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists())
        });
        assert!(gone, "these should be gone: {:?}", descriptions(tree));
    }

    /// Reaps what has ended.
    pub fn reap(&self) {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
    }

    /// Every process below this one.
    #[must_use]
    pub fn descendants(&self) -> Vec<i32> {
        descendants_of(nix::unistd::getpid().as_raw())
    }

    /// Ends and reaps a process and all below it.
    pub fn end_tree(&self, root: i32) {
        let tree = tree_of(root);
        for pid in &tree {
            // It may have ended by itself.
            kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        self.await_end(&tree);
    }

    /// Ends and reaps every process below this one.
    pub fn end_all(&self) {
        end_descendants();
    }
}

/// The control groups of a process, as the kernel tells them, but for a hierarchy that another test has made: the kernel keeps
/// such for seconds after its last mount.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn groups_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("control groups");
    let own = text.lines().filter(|line| !line.contains(":name=stasis-options-"));
    own.map(|line| format!("{line}\n")).collect()
}

fn end_descendants() {
    let descendants = || descendants_of(nix::unistd::getpid().as_raw());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for pid in descendants() {
            // It may have ended by itself.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        if descendants().is_empty() || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A test that takes too long is told to end before it is killed. Programs are in sessions of their own and would
/// outlive it; a parent-death signal would be state that is dumped with them.
fn end_with_the_test() {
    let mut signals = Signals::new([SIGTERM]).expect("handle SIGTERM");
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            end_descendants();
            emulate_default_handler(SIGTERM).expect("end by SIGTERM");
        }
    });
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Children of all threads of a process.
#[must_use]
pub fn children_of(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|c| c.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A process and all below it.
#[must_use]
pub fn tree_of(root: i32) -> Vec<i32> {
    std::iter::once(root).chain(descendants_of(root)).collect()
}

fn descendants_of(pid: i32) -> Vec<i32> {
    let mut found = children_of(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children_of(found[next]));
        next += 1;
    }
    found
}

fn descriptions(pids: &[i32]) -> Vec<String> {
    let stat = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    pids.iter().map(stat).map(|s| s.chars().take(60).collect()).collect()
}

/// Looks until the condition holds; whether it did in time.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    true
}

/// Where a control group of this path is, in each hierarchy that has it.
#[must_use]
pub fn directories_of_group(path: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let points =
        lines.filter(|words| words[2].starts_with("cgroup")).map(|words| words[1].to_owned());
    let all = points.map(|point| Path::new(&point).join(path));
    all.filter(|group| group.is_dir()).collect()
}

/// Removes a control group with all below it, some of which a restore may have made for groups that it found described; whether it
/// is gone.
#[must_use]
pub fn remove_group(group: &Path) -> bool {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if !remove_group(&entry.path()) {
            return false;
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}
