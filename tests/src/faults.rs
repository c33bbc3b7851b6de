//! Dumpers, collectors and freezers that are killed at random instants, and targets that must not
//! notice: not traced, not stopped, not frozen, no mapping and no descriptor more or less, and by
//! their own check what they were.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::engine::{Dump, Engine, Outcome};
use crate::machine::{Machine, tree_of, wait_until};
use crate::program::{Scratch, Workload};
use crate::services::Services;

/// How long a target may take to find home, or to be thawed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The command that dumps.
    Dumper,
    /// The service that dumps, asked by the gateway.
    Service,
    /// The collector, while the command dumps.
    Collector,
    /// The freezer, while it freezes the target and the command dumps it.
    Freezer,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dumper, Self::Service, Self::Collector, Self::Freezer];
}

/// A program that is the target, by its name here, its family and its environment.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    family: &'static str,
    small: &'static [(&'static str, &'static str)],
    full: &'static [(&'static str, &'static str)],
}

impl Shape {
    /// Starts its program in a directory of this name.
    ///
    /// # Panics
    /// When it does not stand.
    #[must_use]
    pub fn start_as(&self, name: &str, scratch: &Scratch, full: bool) -> Workload {
        let environment = if full { self.full } else { self.small };
        Workload::start_with(self.family, scratch.path(name), environment)
    }
}

/// The shapes that are measured. Each rests while it is dumped, so that whatever differs afterwards
/// was done to it.
pub const SHAPES: &[Shape] = &[
    Shape { name: "small", family: "pulse", small: &[], full: &[] },
    Shape {
        name: "files",
        family: "many_files",
        small: &[("STASIS_WORKLOAD_COUNT", "200")],
        full: &[("STASIS_WORKLOAD_COUNT", "5000")],
    },
    Shape {
        name: "mappings",
        family: "many_mappings",
        small: &[("STASIS_WORKLOAD_COUNT", "500")],
        full: &[("STASIS_WORKLOAD_COUNT", "20000")],
    },
    Shape {
        name: "threads",
        family: "many_threads",
        small: &[("STASIS_WORKLOAD_COUNT", "30")],
        full: &[("STASIS_WORKLOAD_COUNT", "500")],
    },
    Shape {
        name: "processes",
        family: "many_processes",
        small: &[("STASIS_WORKLOAD_COUNT", "10")],
        full: &[("STASIS_WORKLOAD_COUNT", "100")],
    },
    Shape {
        name: "memory",
        family: "dirty",
        small: &[("STASIS_WORKLOAD_MIB", "32"), ("STASIS_WORKLOAD_RATE", "20")],
        full: &[("STASIS_WORKLOAD_MIB", "1024"), ("STASIS_WORKLOAD_RATE", "100")],
    },
];

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Kills.
    pub kills: u32,
    /// Dumps that had come to their end, well or not, when it was too late for the kill, or that
    /// did not need the victim.
    pub finished: u32,
}

/// Numbers that look random and are the same every time.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at a seed, which is not 0.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A sequence of its own.
    #[must_use]
    pub fn another(&mut self) -> Self {
        Self::new(self.next())
    }

    /// A time below `limit`.
    pub fn below(&mut self, limit: Duration) -> Duration {
        limit.mul_f64((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// What must be the same before and after, of every process of a tree: mappings with their flags,
/// descriptors, threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace(BTreeMap<i32, Vec<String>>);

impl Trace {
    /// That of the tree of a process, as it is now.
    #[must_use]
    pub fn of(root: i32) -> Self {
        Self(tree_of(root).into_iter().map(|pid| (pid, Self::process(pid))).collect())
    }

    fn process(pid: i32) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            let head = line.split(' ').next().is_some_and(|word| !word.ends_with(':'));
            if line.ends_with("[stack]") {
                // It grows downwards as it is used.
                lines.extend(line.split_once('-').map(|(_, rest)| rest.to_owned()));
            } else if head || line.starts_with("VmFlags") {
                lines.push(line.to_owned());
            }
        }
        for name in names(&format!("/proc/{pid}/fd")) {
            let link = fs::read_link(format!("/proc/{pid}/fd/{name}")).unwrap_or_default();
            lines.push(format!("descriptor {name}: {}", link.display()));
        }
        lines.extend(names(&format!("/proc/{pid}/task")).iter().map(|tid| format!("thread {tid}")));
        lines
    }

    /// What has come and gone since, one a line.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let none = Vec::new();
        let pids = self.0.keys().chain(now.0.keys()).collect::<std::collections::BTreeSet<_>>();
        for pid in pids {
            let (before, after) =
                (self.0.get(pid).unwrap_or(&none), now.0.get(pid).unwrap_or(&none));
            let missing = before.iter().filter(|line| !after.contains(line));
            found.extend(missing.map(|line| format!("{pid} lost: {line}")));
            let new = after.iter().filter(|line| !before.contains(line));
            found.extend(new.map(|line| format!("{pid} gained: {line}")));
        }
        found
    }
}

/// The median of a few tries, so that instants of all steps are among the random ones.
pub(crate) fn median(tries: usize, once: impl FnMut() -> Duration) -> Duration {
    let mut lengths: Vec<Duration> = std::iter::repeat_with(once).take(tries).collect();
    lengths.sort_unstable();
    lengths[tries / 2]
}

/// Starts what is to be killed.
pub(crate) fn start_quietly(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("start what is to be killed")
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What holds a tree: a task that is traced or stopped, one a line.
#[must_use]
pub fn held(root: i32) -> Vec<String> {
    let mut found = Vec::new();
    for pid in tree_of(root) {
        for tid in names(&format!("/proc/{pid}/task")) {
            let path = format!("/proc/{pid}/task/{tid}/status");
            let text = fs::read_to_string(path).unwrap_or_default();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().trim().to_owned()
            };
            let (state, tracer) = (value("State:"), value("TracerPid:"));
            if tracer != "0" || state.to_lowercase().starts_with('t') {
                found.push(format!("thread {tid}: state {state}, tracer {tracer}"));
            }
        }
    }
    found
}

/// A target of one shape, and all that is done to it.
#[derive(Debug)]
pub struct Rig<'a> {
    machine: &'a Machine,
    scratch: &'a Scratch,
    services: &'a mut Services,
    workload: Workload,
    before: Trace,
    /// How long a dump takes here.
    length: Duration,
    random: Random,
    /// A cgroup of the target's own, where there can be one.
    cgroup: Option<Cgroup>,
}

impl<'a> Rig<'a> {
    /// Starts the target.
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
        let workload = shape.start_as(shape.name, scratch, full);
        fs::create_dir_all(scratch.path("images")).expect("make the images' directory");
        let cgroup = Cgroup::with(workload.pid());
        std::thread::sleep(Duration::from_millis(50));
        let before = Trace::of(workload.pid());
        let length = Duration::ZERO;
        let mut rig = Self { machine, scratch, services, workload, before, length, random, cgroup };
        rig.length = rig.timed();
        rig
    }

    fn timed(&self) -> Duration {
        median(5, || {
            let start = Instant::now();
            Outcome::of(&mut self.command()).must_succeed("a dump to be timed");
            let length = start.elapsed();
            self.clear();
            length
        })
    }

    fn images(&self) -> PathBuf {
        self.scratch.path("images/target")
    }

    /// Whatever is there under the final name is whole; then it goes, with what the dead left.
    fn clear(&self) {
        let images = self.images();
        if images.exists() {
            let shown = Outcome::of(Engine::Stasis.command("show").arg(&images));
            assert!(shown.success, "half a checkpoint under its final name: {}", shown.stderr);
        }
        let dir = self.scratch.path("images");
        fs::remove_dir_all(&dir).and_then(|()| fs::create_dir(&dir)).expect("empty the directory");
    }

    /// Kills so many victims, each at another instant of a dump, and looks at the target after
    /// each.
    ///
    /// # Panics
    /// When the target is not what it was.
    pub fn kill(&mut self, victim: Victim, kills: u32) -> Tally {
        let mut tally = Tally::default();
        for attempt in 0..kills {
            let at = self.random.below(self.length.mul_f64(1.1));
            tally.finished += u32::from(self.strike(victim, attempt, at));
            tally.kills += 1;
            self.must_be_untouched(&format!("{victim:?} killed after {at:?} (attempt {attempt})"));
            self.clear();
        }
        tally
    }

    fn strike(&mut self, victim: Victim, attempt: u32, at: Duration) -> bool {
        match victim {
            Victim::Dumper => self.kill_command(at),
            Victim::Service => self.kill_service(at),
            Victim::Collector => self.kill_beside("collector", at),
            Victim::Freezer => self.kill_freezer(attempt, at),
        }
    }

    /// The dump, with the programs of the services' collector.
    fn command(&self) -> Command {
        let how = Dump::RUNNING_ON;
        let mut command = Engine::Stasis.dump_command(self.workload.pid(), &self.images(), how);
        command.env("STASIS_BPF_DIR", self.services.programs());
        command
    }

    fn spawn(&self) -> Child {
        start_quietly(self.command())
    }

    fn kill_command(&self, at: Duration) -> bool {
        let mut dumper = self.spawn();
        std::thread::sleep(at);
        dumper.kill().expect("kill the dumper");
        dumper.wait().expect("wait for the dumper").success()
    }

    fn kill_service(&mut self, at: Duration) -> bool {
        let body =
            json!({"pid": self.workload.pid(), "directory": "killed", "leave_running": true});
        let begun = Instant::now();
        let job = self.services.begin("/v1/checkpoints", &body);
        std::thread::sleep(at.saturating_sub(begun.elapsed()));
        self.services.kill("dumper");
        self.services.start_again("dumper");
        // The gateway asks the next one what became of it.
        let done = job.and_then(|job| self.services.ended(&job)).is_ok();
        let left = self.services.checkpoints().join("killed");
        if left.exists() {
            fs::rename(left, self.images()).expect("move the checkpoint");
        }
        done
    }

    fn kill_beside(&mut self, service: &'static str, at: Duration) -> bool {
        let mut dumper = self.spawn();
        std::thread::sleep(at);
        self.services.kill(service);
        self.services.start_again(service);
        dumper.wait().expect("wait for the dumper").success()
    }

    /// By cgroup and by ptrace in turns.
    fn kill_freezer(&mut self, attempt: u32, at: Duration) -> bool {
        let by_cgroup = self.cgroup.is_some() && attempt.is_multiple_of(2);
        let method = if by_cgroup { "cgroup_v2" } else { "ptrace" };
        let lease = json!({"pid": self.workload.pid(), "method": method, "ttl_ms": 60_000});
        let socket = self.services.socket("freezer");
        std::thread::scope(|scope| {
            let asked = scope.spawn(move || ask_for_lease(&socket, &lease));
            let mut dumper = self.spawn();
            std::thread::sleep(at);
            self.services.kill("freezer");
            // The connection is held until now: the lease does not end with its holder.
            drop(asked.join().expect("ask for a lease"));
            self.services.start_again("freezer");
            dumper.wait().expect("wait for the dumper").success()
        })
    }

    /// The target as it is must be the target as it was, soon.
    fn must_be_untouched(&self, what: &str) {
        let pid = self.workload.pid();
        assert!(self.workload.program().is_alive(), "{what}: it died: {}", self.workload.log());
        let home = wait_until(PATIENCE, || held(pid).is_empty() && Trace::of(pid) == self.before);
        if home {
            let frozen = self.cgroup.as_ref().is_some_and(Cgroup::is_frozen);
            assert!(!frozen, "{what}: it was left frozen");
            return;
        }
        let mut found = held(pid);
        found.extend(self.before.differences(&Trace::of(pid)));
        panic!("{what}: it is not what it was:\n{}", found.join("\n"));
    }

    /// After all that the target can be dumped, ended and restored, and is what it was.
    ///
    /// # Panics
    /// When it is not.
    pub fn end(mut self) {
        let pid = self.workload.pid();
        let images = self.images();
        Outcome::of(&mut self.command()).must_succeed("a dump after all that");
        self.workload.check().expect("the program's own check");
        self.machine.end_tree(pid);
        let group = self.cgroup.take().map(|group| group.0.clone());
        self.workload.forget_check().expect("let the copy be asked");
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("a restore after all that");
        self.workload.check().expect("the copy's own check");
        self.machine.end_tree(pid);
        // The restore has made it again.
        drop(group.map(Cgroup));
        self.clear();
    }
}

/// Asks the freezer for a lease, which lasts as long as the client; the status, if it answers.
#[must_use]
pub fn ask_for_lease(
    socket: &Path,
    lease: &Value,
) -> Option<(reqwest::blocking::Client, Option<u16>)> {
    let client = reqwest::blocking::Client::builder().unix_socket(socket).build().ok()?;
    // The freezer may be gone already.
    let answer = client.post("http://freezer/v1/leases").json(lease).send().ok();
    Some((client, answer.map(|answer| answer.status().as_u16())))
}

/// A control group of the unified hierarchy, for one tree; gone at the end.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// With the tree of a process in it; `None` where there is no such hierarchy.
    #[must_use]
    pub fn with(root: i32) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        let name = format!("stasis-faults-{root}");
        let group = Self(Path::new(mount.split(' ').nth(1)?).join(name));
        fs::create_dir(&group.0).ok()?;
        for pid in tree_of(root) {
            fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
        }
        Some(group)
    }

    /// Whether the kernel says that it is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that just ended leave it a moment later; one that stays does no harm.
        wait_until(Duration::from_secs(2), || fs::remove_dir(&self.0).is_ok());
    }
}
