//! Restores that are killed at random instants: afterwards nobody of the tree lives, or all of it
//! does, and whoever asks is told which.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::engine::{Dump, Engine, Outcome};
use crate::faults::{Random, Shape, Tally, held, median, start_quietly};
use crate::machine::{Machine, children_of, tree_of, wait_until};
use crate::program::{Scratch, Workload};
use crate::services::Services;

/// How long whatever is to come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreVictim {
    /// The command that restores.
    Command,
    /// The process of it that holds the tree.
    Holder,
    /// The service that restores.
    Service,
    /// The service's worker.
    Worker,
}

impl RestoreVictim {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Command, Self::Holder, Self::Service, Self::Worker];
}

/// A checkpoint of a tree, and all that is done with it.
#[derive(Debug)]
pub struct RestoreRig<'a> {
    machine: &'a Machine,
    scratch: &'a Scratch,
    services: &'a mut Services,
    workload: Workload,
    /// The threads of each process of the tree.
    tree: Vec<(i32, usize)>,
    /// How long a restore takes here.
    length: Duration,
    random: Random,
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.len() > 2 && !rest.starts_with(" Z"))
}

/// Whether SIGKILL waits for it.
fn being_killed(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    let killed = |set: &str| u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & 1 << 8 != 0);
    pending.any(killed)
}

fn session(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(3)?.parse().ok()
}

impl<'a> RestoreRig<'a> {
    /// Starts a tree, and dumps it to its end.
    ///
    /// # Panics
    /// When it does not stand, or cannot be dumped.
    #[must_use]
    pub fn start(
        machine: &'a Machine,
        scratch: &'a Scratch,
        services: &'a mut Services,
        shape: &Shape,
        full: bool,
        random: Random,
    ) -> Self {
        let workload = shape.start_as(&format!("{}-restored", shape.name), scratch, full);
        let root = workload.pid();
        let tree = tree_of(root).into_iter().map(|pid| (pid, threads(pid))).collect();
        let length = Duration::ZERO;
        let mut rig = Self { machine, scratch, services, workload, tree, length, random };
        Engine::Stasis.dump(root, &rig.images(), Dump::ENDING).must_succeed("dump");
        machine.end_tree(root);
        rig.length = rig.timed();
        rig
    }

    fn images(&self) -> PathBuf {
        self.services.checkpoints().join(self.workload.pid().to_string())
    }

    fn run_dir(&self) -> PathBuf {
        self.scratch.path("run")
    }

    fn spawn(&self) -> Child {
        let mut command: Command = Engine::Stasis.restore_command(&self.images(), Dump::ENDING);
        command.env("STASIS_RUN_DIR", self.run_dir());
        start_quietly(command)
    }

    fn timed(&self) -> Duration {
        median(3, || {
            let start = Instant::now();
            assert!(self.spawn().wait().expect("wait").success(), "a restore to be timed");
            let length = start.elapsed();
            assert!(self.alive("after a restore"), "it is not there after a restore");
            self.machine.end_tree(self.workload.pid());
            length
        })
    }

    /// Kills so many victims, each at another instant of a restore, and looks at the tree after
    /// each.
    ///
    /// # Panics
    /// When a part of the tree lives, or what was told of it is not so.
    pub fn kill(&mut self, victim: RestoreVictim, kills: u32) -> Tally {
        let mut tally = Tally::default();
        for attempt in 0..kills {
            let at = self.random.below(self.length.mul_f64(1.1));
            let what = format!("{victim:?} killed after {at:?} (attempt {attempt})");
            let lives = match victim {
                RestoreVictim::Command | RestoreVictim::Holder => {
                    self.kill_command(victim == RestoreVictim::Holder, at, &what)
                }
                RestoreVictim::Service => self.kill_service(at, &what),
                RestoreVictim::Worker => self.kill_worker(at, &what),
            };
            tally.kills += 1;
            tally.finished += u32::from(lives);
            self.machine.end_tree(self.workload.pid());
        }
        tally
    }

    /// Whether all live; when whoever restores is through, all or none must.
    fn alive(&self, what: &str) -> bool {
        let services = ["collector", "freezer", "dumper", "restorer", "gateway"];
        let services: Vec<i32> = services.iter().map(|name| self.services.pid(name)).collect();
        // Nobody who restores is left. Who is of the tree has left the restorer's program, or ends.
        let through = || {
            let mut others = self.machine.descendants().into_iter().filter(|pid| lives(*pid));
            others.all(|pid| {
                let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                let restores = exe.ends_with("stasis") || exe.ends_with("stasis-restorer");
                !restores || services.contains(&pid)
            })
        };
        assert!(wait_until(PATIENCE, through), "{what}: a restorer is left");
        let living = || self.tree.iter().filter(|(pid, _)| lives(*pid)).count();
        let whole = || {
            self.tree.iter().all(|(pid, count)| threads(*pid) == *count && !being_killed(*pid))
                && held(self.workload.pid()).is_empty()
        };
        let settled = wait_until(PATIENCE, || living() == 0 || whole());
        assert!(settled, "{what}: {} of {} live", living(), self.tree.len());
        living() > 0
    }

    fn noted(&self, run_dir: &Path) -> bool {
        run_dir.join(format!("restores/{}.json", self.workload.pid())).exists()
    }

    fn kill_command(&self, holder: bool, at: Duration, what: &str) -> bool {
        let mut restore = self.spawn();
        std::thread::sleep(at);
        let pid = i32::try_from(restore.id()).expect("a pid");
        let victim = match holder {
            // It leads a session of its own; the root does too, but is not the command's child.
            true => children_of(pid).into_iter().find(|pid| session(*pid) == Some(*pid)),
            false => Some(pid),
        };
        if let Some(victim) = victim {
            // It may have ended by itself.
            kill(Pid::from_raw(victim), Signal::SIGKILL).ok();
        }
        let status = restore.wait().expect("wait for the restore");
        let alive = self.alive(what);
        if status.code().is_some() {
            assert_eq!(alive, status.success(), "{what}: it told something else");
        }
        assert!(!alive || self.noted(&self.run_dir()), "{what}: nobody knows of it");
        alive
    }

    fn restore_by_service(&self) -> bool {
        self.services.restore(&self.workload.pid().to_string()).is_ok()
    }

    fn listed(&self) -> bool {
        let list = self.services.call("GET", "/v1/restores", None).body;
        let trees = list["restores"].as_array().expect("a list").clone();
        trees.iter().any(|tree| tree["pid"] == self.workload.pid() && tree["running"] == true)
    }

    fn kill_service(&mut self, at: Duration, what: &str) -> bool {
        let begun = Instant::now();
        let body = json!({"directory": self.workload.pid().to_string()});
        let job = self.services.begin("/v1/restores", &body);
        std::thread::sleep(at.saturating_sub(begun.elapsed()));
        self.services.kill("restorer");
        self.services.start_again("restorer");
        let told = job.and_then(|job| self.services.ended(&job)).is_ok();
        let alive = self.alive(what);
        assert!(alive || !told, "{what}: it said that the tree runs");
        assert_eq!(self.listed(), alive, "{what}: the new service's list");
        alive
    }

    fn kill_worker(&self, at: Duration, what: &str) -> bool {
        let told = std::thread::scope(|scope| {
            let job = scope.spawn(|| self.restore_by_service());
            std::thread::sleep(at);
            for worker in children_of(self.services.pid("restorer")) {
                let line = fs::read(format!("/proc/{worker}/cmdline")).unwrap_or_default();
                // Not the root, which is the service's child too.
                if line.ends_with(b"\0worker\0") && worker != self.workload.pid() {
                    // It may have ended by itself.
                    kill(Pid::from_raw(worker), Signal::SIGKILL).ok();
                }
            }
            job.join().expect("ask for a restore")
        });
        let alive = self.alive(what);
        assert_eq!(told, alive, "{what}: the service told something else");
        assert_eq!(self.listed(), alive, "{what}: the service's list");
        alive
    }

    /// After all that the tree can be restored, and is what it was.
    ///
    /// # Panics
    /// When it is not.
    pub fn end(self) {
        let mut restore: Command = Engine::Stasis.restore_command(&self.images(), Dump::ENDING);
        restore.env("STASIS_RUN_DIR", self.run_dir());
        Outcome::of(&mut restore).must_succeed("a restore after all that");
        self.workload.check().expect("the program's own check");
        self.machine.end_tree(self.workload.pid());
    }
}
