//! The gateway and the services are killed again and again while all of them are at work: no job is lost, what is told of each is
//! so, no process is left stopped, frozen or traced, and nothing is left on the machine.

mod kills {
    pub(super) mod leaks;
    pub(super) mod load;

    /// All of them.
    pub(super) const SERVICES: [&str; 5] =
        ["collector", "freezer", "dumper", "restorer", "gateway"];
}

use std::collections::BTreeSet;
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use kills::SERVICES;
use kills::leaks::{Things, descriptors, must_have_no_more, names};
use kills::load::Load;
use stasis_tests::faults::{Cgroup, Random, SHAPES, Trace, held};
use stasis_tests::{Machine, Scratch, Services, Workload, tree_of, wait_until};

/// How often each is killed, if `STASIS_KILLS` says nothing else.
const KILLS: u32 = 50;
/// All at once are killed in one of so many rounds.
const AT_ONCE: u32 = 5;
/// The next is killed after a time below that.
const BETWEEN: Duration = Duration::from_millis(150);
/// For so long a program may take to find home.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many read lists.
const READERS: usize = 2;

/// A program that is there all the time, and must be what it was.
struct Target {
    name: String,
    workload: Workload,
    before: Trace,
}

impl Target {
    fn start(scratch: &Scratch, shape: usize, what: &str) -> Self {
        let shape = &SHAPES[shape];
        let name = format!("{}-{what}", shape.name);
        let workload = shape.start_as(&name, scratch, false);
        let before = settled(workload.pid());
        Self { name, workload, before }
    }

    /// `stayed`: it was never ended, so nothing of it may have changed.
    fn must_be_whole(&self, stayed: bool) {
        let (name, pid) = (&self.name, self.workload.pid());
        assert!(self.workload.program().is_alive(), "{name} is gone: {}", self.workload.log());
        let changed = || match stayed {
            true => self.before.differences(&Trace::of(pid)),
            false => Vec::new(),
        };
        let home = wait_until(PATIENCE, || held(pid).is_empty() && changed().is_empty());
        assert!(home, "{name} is not what it was: {:#?} {:#?}", held(pid), changed());
        self.workload.check().unwrap_or_else(|what| panic!("{name}: {what}"));
    }
}

/// What a program is like once it rests: its threads may still be starting.
fn settled(pid: i32) -> Trace {
    let mut before = Trace::of(pid);
    let rests = wait_until(PATIENCE, || {
        sleep(Duration::from_millis(50));
        let now = Trace::of(pid);
        let same = now == before;
        before = now;
        same
    });
    assert!(rests, "process {pid} does not come to rest");
    before
}

/// Ends the load also where something is found to be wrong.
struct Ending<'a>(&'a Load);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Kills each so many times, one after the other or all at once; for how long that goes on.
fn kill_all(
    services: &mut Services,
    kills: u32,
    load: &[ScopedJoinHandle<'_, ()>],
    random: &mut Random,
) -> Duration {
    let begun = Instant::now();
    for round in 0..kills {
        if round % AT_ONCE == AT_ONCE - 1 {
            sleep(random.below(BETWEEN));
            SERVICES.iter().for_each(|name| services.kill(name));
            SERVICES.iter().for_each(|name| services.start_again(name));
            continue;
        }
        for name in SERVICES {
            sleep(random.below(BETWEEN));
            services.kill(name);
            services.start_again(name);
        }
        if load.iter().any(ScopedJoinHandle::is_finished) {
            break;
        }
    }
    begun.elapsed()
}

/// Every job is over, those that were accepted are all there are, and none is there twice.
fn must_know_all_jobs(load: &Load) {
    let accepted: BTreeSet<String> = load.jobs().into_iter().collect();
    assert_eq!(accepted.len(), load.jobs().len(), "two requests have one job");
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/jobs?limit=1000{cursor}");
        let page = load.sent("GET", &path, None, None).body;
        for job in page["jobs"].as_array().expect("a list") {
            let id = job["id"].as_str().unwrap_or_default();
            assert!(accepted.contains(id), "nobody has asked for it: {job}");
            let over = ["done", "failed"].iter().any(|state| job["state"] == *state);
            assert!(over, "it is at work: {job}");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return,
        }
    }
}

#[test]
#[ignore = "takes minutes: make test-all; STASIS_KILLS says how often each is killed"]
#[allow(clippy::print_stdout, reason = "the figures are for people to read")]
fn nobody_notices_who_is_killed_under_load() {
    let kills = std::env::var("STASIS_KILLS").ok().and_then(|text| text.parse().ok());
    let kills: u32 = kills.unwrap_or(KILLS);
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let things = Things::now();
    let temporary = scratch.path("tmp");
    std::fs::create_dir(&temporary).expect("mkdir");
    let directory = scratch.path("services");
    let settings = [("TMPDIR", temporary.to_str().expect("a path of letters"))];
    let mut services = Services::start_with(&directory, &settings);
    let stay: Vec<_> = (0..SHAPES.len() + 4)
        .map(|n| Target::start(&scratch, n % SHAPES.len(), &format!("on-{n}")))
        .collect();
    // Of one process, of many, and with many files.
    let end: Vec<_> = [0, 4, 1].map(|shape| Target::start(&scratch, shape, "end")).into();
    let leased = Target::start(&scratch, 3, "leased");
    let tracked = Target::start(&scratch, 4, "tracked");
    let group = Cgroup::with(leased.workload.pid());
    let methods: &[&str] = if group.is_some() { &["cgroup_v2", "ptrace"] } else { &["ptrace"] };
    let load = Load::new(services.asker(), services.checkpoints());
    let mut random = Random::new(0x6b11);
    let (names_before, descriptors_before) = (names(&directory), descriptors(&services));
    let freezer = &services.socket("freezer");

    let took = scope(|scope| {
        let _ending = Ending(&load);
        let load = &load;
        let mut all = Vec::new();
        for target in &stay {
            all.push(scope.spawn(|| load.checkpoints_of(&target.workload, &target.name)));
        }
        for target in &end {
            all.push(scope.spawn(|| load.ends_and_restores_of(&target.workload, &target.name)));
        }
        all.extend((0..READERS).map(|_| scope.spawn(|| load.reads())));
        let (pid, moments) = (leased.workload.pid(), random.another());
        all.push(scope.spawn(move || load.leases_of(pid, freezer, methods, moments)));
        // It may end early: where the kernel cannot count.
        let tracks = scope.spawn(|| load.tracks_of(tracked.workload.pid()));
        let took = kill_all(&mut services, kills, &all, &mut random);
        load.end();
        for one in all.into_iter().chain([tracks]) {
            if let Err(panic) = one.join() {
                std::panic::resume_unwind(panic);
            }
        }
        took
    });

    must_know_all_jobs(&load);
    assert!(group.as_ref().is_none_or(|group| !group.is_frozen()), "it is left frozen");
    stay.iter().chain([&leased, &tracked]).for_each(|target| target.must_be_whole(true));
    end.iter().for_each(|target| target.must_be_whole(false));
    // Who starts clears what those have left who were killed: nobody was after that.
    let unfinished = load.sent("GET", "/v1/checkpoints", None, None).body;
    assert!(unfinished["unfinished"].is_null(), "half made: {unfinished}");
    assert_eq!(names(&services.checkpoints()), BTreeSet::new(), "left where checkpoints are");
    assert_eq!(names(&directory.join("undo")), BTreeSet::new(), "left to be undone");
    assert_eq!(names(&temporary), BTreeSet::new(), "left among temporary files");
    let more: Vec<_> = names(&directory).difference(&names_before).cloned().collect();
    assert!(more.iter().all(|name| name == "undo" || name == "restores"), "left: {more:?}");
    must_have_no_more(&services, &descriptors_before);
    let ours: BTreeSet<i32> = SERVICES.iter().map(|name| services.pid(name)).collect();
    let targets = stay.iter().chain(&end).chain([&leased, &tracked]);
    let trees: BTreeSet<i32> = targets.flat_map(|it| tree_of(it.workload.pid())).collect();
    let others = || {
        // Those whose parents were killed are ours by now.
        machine.reap();
        let mut all = machine.descendants();
        all.retain(|pid| !ours.contains(pid) && !trees.contains(pid));
        let status = |pid| std::fs::read_to_string(format!("/proc/{pid}/status"));
        all.into_iter().filter_map(|pid| status(pid).ok()).collect::<Vec<_>>()
    };
    assert!(wait_until(PATIENCE, || others().is_empty()), "processes are left: {:#?}", others());
    drop(services);
    machine.end_all();
    drop(group);
    things.must_be_all();
    println!("{kills} kills of each in {took:.0?}: {:#?}", load.tally());
}
