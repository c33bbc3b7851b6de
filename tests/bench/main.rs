//! `make bench`: how long a small program is frozen, as it sees it itself; how long its dump and
//! its restore take; and the same for 1 GiB of memory. Beside CRIU where there is one.
//!
//! Images are on `/dev/shm`. Each number is the median of the runs; stasis and CRIU take turns in
//! one session, so that both meet the same machine.
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stasis_tests::{Engine, Machine, Outcome, Scratch, Workload};

/// Runs of everything: an odd number, so that the median is one of them.
const RUNS: usize = 7;

/// What is measured, by the name it has in the table and in the JSON.
const ROWS: &[(&str, &str, Option<f64>)] = &[
    ("small_frozen", "small process: frozen, as it saw it (ms)", Some(1.5)),
    ("small_dump", "small process: dump, wall (ms)", Some(15.0)),
    ("small_restore", "small process: restore, wall (ms)", Some(15.0)),
    ("gib_dump", "1 GiB of memory: dump, wall (ms)", None),
    ("gib_restore", "1 GiB of memory: restore, wall (ms)", None),
];

/// The runs of one engine, by row.
#[derive(Default)]
struct Measured(std::collections::BTreeMap<&'static str, Vec<f64>>);

impl Measured {
    fn add(&mut self, row: &'static str, time: Duration) {
        self.0.entry(row).or_default().push(time.as_secs_f64() * 1000.0);
    }

    fn median(&self, row: &str) -> Option<f64> {
        let mut runs = self.0.get(row)?.clone();
        runs.sort_by(f64::total_cmp);
        runs.get(runs.len() / 2).copied()
    }
}

fn criu_works() -> bool {
    let path = std::env::var_os("CRIU").filter(|path| !path.is_empty());
    let mut check = Command::new(path.unwrap_or_else(|| "criu".into()));
    let ended = check.arg("check").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.is_ok_and(|status| status.success())
}

/// Runs a command; how long it took.
fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let outcome = Outcome::of(command);
    let time = start.elapsed();
    outcome.must_succeed("a measured command");
    time
}

/// The plainest dump that the engine has.
fn dump(engine: Engine, pid: i32, images: &Path, leave_running: bool) -> Duration {
    let mut command = engine.command("dump");
    if engine == Engine::Stasis {
        command.arg(pid.to_string());
    } else {
        std::fs::create_dir_all(images).expect("make the images directory");
        command.arg("-t").arg(pid.to_string()).args(["-o", "dump.log"]);
    }
    command.arg("-D").arg(images);
    if leave_running {
        command.arg("--leave-running");
    }
    timed(&mut command)
}

fn restore(engine: Engine, images: &Path) -> Duration {
    let mut command = engine.command("restore");
    command.arg("-D").arg(images);
    let detached: &[&str] =
        if engine == Engine::Stasis { &["--detach"] } else { &["-d", "-o", "restore.log"] };
    timed(command.args(detached))
}

/// What the pulse of a small process saw while `work` was done to it.
fn gap(scratch: &Scratch, name: &str, work: impl FnOnce(i32)) -> Duration {
    let workload = Workload::start("pulse", scratch.path(name));
    work(workload.pid());
    workload.check().expect("the pulse's own check");
    let text = std::fs::read_to_string(workload.path("gap")).expect("read the gap");
    Duration::from_nanos(text.parse().expect("a number"))
}

fn frozen(engine: Engine, scratch: &Scratch, run: usize) -> Duration {
    let images = scratch.path(&format!("frozen-images-{run}"));
    let name = format!("frozen-{engine:?}-{run}");
    let gap = gap(scratch, &name, |pid| {
        dump(engine, pid, &images, true);
    });
    std::fs::remove_dir_all(&images).expect("remove the images");
    gap
}

/// A dump that ends the family's program, and its restore.
fn there_and_back(
    engine: Engine,
    machine: &Machine,
    scratch: &Scratch,
    family: &str,
) -> (Duration, Duration) {
    let work = scratch.path("work");
    let images = scratch.path("images");
    let workload = Workload::start(family, work.clone());
    let dumped = dump(engine, workload.pid(), &images, false);
    machine.await_no_children();
    let restored = restore(engine, &images);
    workload.check().expect("the program's own check");
    machine.end_all();
    for dir in [work, images] {
        std::fs::remove_dir_all(dir).expect("remove");
    }
    (dumped, restored)
}

fn table(engines: &[(Engine, Measured)], noise: f64) -> Value {
    println!("\n{:<42} {:>9} {:>9} {:>8} {:>8}", "", "stasis", "CRIU", "ratio", "goal");
    let mut rows = Vec::new();
    for (row, title, goal) in ROWS {
        let median = |engine| {
            engines
                .iter()
                .find(|(e, _)| *e == engine)
                .and_then(|(_, measured)| measured.median(row))
        };
        let (ours, theirs) = (median(Engine::Stasis), median(Engine::Criu));
        let ratio = ours.zip(theirs).map(|(ours, theirs)| theirs / ours);
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        println!(
            "{title:<42} {:>9} {:>9} {:>8} {:>8}",
            number(ours, 2),
            number(theirs, 2),
            number(ratio, 1),
            number(*goal, 1),
        );
        let runs = |engine| {
            engines.iter().find(|(e, _)| *e == engine).and_then(|(_, m)| m.0.get(row)).cloned()
        };
        rows.push(json!({
            "name": row, "title": title, "goal_ms": goal, "stasis_ms": ours, "criu_ms": theirs,
            "criu_over_stasis": ratio, "stasis_runs_ms": runs(Engine::Stasis),
            "criu_runs_ms": runs(Engine::Criu),
        }));
    }
    println!("\nratio: CRIU's time over ours. Median of {RUNS} runs each, in turns.");
    println!(
        "A pulse that nothing is done to sees a gap of {noise:.2} ms here: that much is noise."
    );
    json!({"runs": RUNS, "pulse_noise_ms": noise, "rows": rows})
}

fn main() -> ExitCode {
    let machine = Machine::prepare();
    let scratch = Scratch::new_in("/dev/shm");
    let mut engines = vec![(Engine::Stasis, Measured::default())];
    if criu_works() {
        engines.push((Engine::Criu, Measured::default()));
    } else {
        println!("no working criu on PATH or in $CRIU: its column stays empty");
    }
    let mut idle = Measured::default();
    for run in 0..RUNS {
        println!("run {} of {RUNS}", run + 1);
        idle.add(
            "noise",
            gap(&scratch, &format!("idle-{run}"), |_| {
                std::thread::sleep(Duration::from_millis(50));
            }),
        );
        for (engine, measured) in &mut engines {
            measured.add("small_frozen", frozen(*engine, &scratch, run));
            let (dumped, restored) = there_and_back(*engine, &machine, &scratch, "pulse");
            measured.add("small_dump", dumped);
            measured.add("small_restore", restored);
            let (dumped, restored) = there_and_back(*engine, &machine, &scratch, "memory-gib");
            measured.add("gib_dump", dumped);
            measured.add("gib_restore", restored);
        }
    }
    let result = table(&engines, idle.median("noise").unwrap_or_default());
    let file = std::env::args().nth(1).unwrap_or_else(|| "target/bench.json".to_owned());
    let text = serde_json::to_string_pretty(&result).expect("plain data");
    match std::fs::write(&file, text + "\n") {
        Ok(()) => println!("written: {file}"),
        Err(error) => {
            println!("write {file}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
