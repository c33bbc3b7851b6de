//! Several trees in one frozen moment, by the shell: what they share fits all of their checkpoints, and if one tree cannot be dumped,
//! none is. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stasis_tests::faults::{Random, held};
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// How often the dumper is killed.
const KILLS: u32 = 20;

/// Programs of which each knows what the one before it has told.
struct Couriers {
    shared: PathBuf,
    programs: Vec<Workload>,
}

impl Couriers {
    fn start(scratch: &Scratch, count: usize) -> Self {
        let shared = scratch.path("shared");
        fs::create_dir(&shared).expect("mkdir");
        let start = |rank: usize| {
            let (rank, count) = (rank.to_string(), count.to_string());
            let settings = [
                ("STASIS_WORKLOAD_SHARED", shared.to_str().expect("a path of ours")),
                ("STASIS_WORKLOAD_RANK", &rank),
                ("STASIS_WORKLOAD_COUNT", &count),
            ];
            Workload::start_with("couriers", scratch.path(&format!("courier-{rank}")), &settings)
        };
        let couriers = Self { shared: shared.clone(), programs: (0..count).map(start).collect() };
        assert!(couriers.go_on(), "they do not count");
        couriers
    }

    fn pids(&self) -> Vec<i32> {
        self.programs.iter().map(Workload::pid).collect()
    }

    fn told(&self, rank: usize) -> u64 {
        let bytes = fs::read(self.shared.join(rank.to_string())).unwrap_or_default();
        bytes.try_into().map(u64::from_le_bytes).unwrap_or_default()
    }

    /// Whether all run: what the first counts comes to the last.
    fn go_on(&self) -> bool {
        let first = self.told(0);
        wait_until(SOON, || self.told(self.programs.len() - 1) > first + 10)
    }

    /// Nobody of them is held by anybody.
    fn must_run_on(&self) {
        assert!(self.go_on(), "they stand still");
        for pid in self.pids() {
            let free = wait_until(SOON, || held(pid).is_empty());
            assert!(free, "{:?}", held(pid));
        }
    }

    /// Ends them, restores each from below a directory, and asks what it knew: at first the largest number, at last what the first one
    /// had heard.
    fn knew(&self, machine: &Machine, images: &Path) -> Vec<u64> {
        for pid in self.pids() {
            machine.end_tree(pid);
        }
        fs::write(self.shared.join("halt"), "").expect("write halt");
        for pid in self.pids() {
            let images = images.join(pid.to_string());
            Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
        }
        let mut knew = Vec::new();
        let mut heard = 0;
        for (rank, program) in self.programs.iter().enumerate() {
            let place = program.path("knows");
            assert!(wait_until(SOON, || place.exists()), "{}", program.log());
            let text = fs::read_to_string(place).expect("what it knows");
            let numbers: Vec<u64> =
                text.split(' ').map(|it| it.parse().expect("a number")).collect();
            knew.push(numbers[0]);
            if rank == 0 {
                heard = numbers[1];
            }
            program.check().expect("it ends");
        }
        knew.push(heard);
        machine.reap();
        knew
    }
}

/// `stasis dump PID … -D IMAGES OPTIONS`.
fn dump(pids: &[i32], images: &Path, scratch: &Scratch, options: &[&str]) -> Command {
    let mut command = Engine::Stasis.command("dump");
    command.args(pids.iter().map(ToString::to_string)).arg("-D").arg(images).args(options);
    command.env("STASIS_BPF_DIR", "none").env("STASIS_RUN_DIR", scratch.path("run"));
    command
}

const TOGETHER: [&str; 2] = ["--together", "--leave-running"];

fn refused(pids: &[i32], images: &Path, scratch: &Scratch, options: &[&str]) -> String {
    let outcome = Outcome::of(&mut dump(pids, images, scratch, options));
    assert!(!outcome.success, "{}", outcome.stdout);
    outcome.stderr
}

fn names_in(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Nothing of a dump is left: no images in `place`, and nothing that has to be undone.
fn must_be_empty(place: &Path, scratch: &Scratch) {
    assert_eq!(names_in(place), [] as [String; 0]);
    assert_eq!(names_in(&scratch.path("run/undo")), [] as [String; 0]);
}

fn is_a_cut(knew: &[u64]) -> bool {
    knew.windows(2).all(|pair| pair[0] >= pair[1])
}

#[test]
fn programs_know_nothing_that_another_has_not_told_yet() {
    let machine = Machine::prepare();
    for _ in 0..3 {
        let scratch = Scratch::new();
        let couriers = Couriers::start(&scratch, 3);
        let images = scratch.path("images");
        let mut command = dump(&couriers.pids(), &images, &scratch, &TOGETHER);
        let told = Outcome::of(command.arg("--json")).must_succeed("dump").stdout;
        let told: Value = serde_json::from_str(&told).expect("JSON");
        couriers.must_run_on();
        let of_each: Vec<_> = told["checkpoints"].as_array().expect("a list").iter().collect();
        let pids: Vec<_> = of_each.iter().map(|one| one["pid"].as_i64().expect("a pid")).collect();
        assert_eq!(pids, couriers.pids().into_iter().map(i64::from).collect::<Vec<_>>());
        let moment = told["frozen_us"].as_u64().expect("a time");
        for one in of_each {
            let own = one["frozen_us"].as_u64().expect("a time");
            assert!(own > 0 && own <= moment, "{told}");
            let labels =
                Path::new(one["directory"].as_str().expect("a path")).join("stasis-labels.json");
            let labels: Value =
                serde_json::from_str(&fs::read_to_string(labels).expect("labels")).expect("JSON");
            assert_eq!(labels["stasis.together"], told["together"], "{told}");
        }
        let mut verify = Engine::Stasis.command("verify");
        let one = images.join(couriers.pids()[0].to_string());
        Outcome::of(verify.arg(&one)).must_succeed("verify");
        let knew = couriers.knew(&machine, &images);
        assert!(is_a_cut(&knew), "{knew:?}");
    }
}

/// What the test above would see if they were not of one moment.
#[test]
fn one_by_one_they_do() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let couriers = Couriers::start(&scratch, 3);
    let images = scratch.path("images");
    let mut command = dump(&couriers.pids(), &images, &scratch, &["--leave-running"]);
    Outcome::of(&mut command).must_succeed("dump");
    couriers.must_run_on();
    let knew = couriers.knew(&machine, &images);
    assert!(!is_a_cut(&knew), "{knew:?}");
}

/// Of several that are dumped one after the other one that cannot be leaves the others theirs.
#[test]
fn one_by_one_each_has_its_own() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let bad = Workload::start("unsupported-inotify", scratch.path("bad"));
    let good = Workload::start("pipes", scratch.path("good"));
    let images = scratch.path("images");
    let pids = [bad.pid(), good.pid()];
    let mut command = dump(&pids, &images, &scratch, &["--leave-running"]);
    let outcome = Outcome::of(command.arg("--json"));
    assert!(!outcome.success && outcome.stderr.contains("inotify"), "{}", outcome.stderr);
    let told: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(
        (&told["failed"][0]["pid"], &told["checkpoints"][0]["pid"]),
        (&bad.pid().into(), &good.pid().into())
    );
    assert_eq!(names_in(&images), [good.pid().to_string()]);
    bad.check().expect("it runs on");
    good.check().expect("it runs on");
}

/// Ended together they come back, each by itself, and go on.
#[test]
fn numbers_by_tcp_come_once() {
    let machine = Machine::prepare();
    for way in [&TOGETHER[..1], &TOGETHER] {
        let scratch = Scratch::new();
        let receiver = Workload::start("courier_receives", scratch.path("receiver"));
        let address = fs::read_to_string(receiver.path("address")).expect("an address");
        let sender =
            Workload::start_with("courier_sends", scratch.path("sender"), &[("PEER", &address)]);
        let images = scratch.path("images");
        let pids = [sender.pid(), receiver.pid()];
        std::thread::sleep(Duration::from_millis(20));
        let mut command = dump(&pids, &images, &scratch, way);
        Outcome::of(command.arg("--tcp-established")).must_succeed("dump");
        if way.len() == 1 {
            machine.await_end(&pids);
            for pid in pids {
                let mut command =
                    Engine::Stasis.restore_command(&images.join(pid.to_string()), Dump::ENDING);
                let command = command.env("STASIS_RUN_DIR", scratch.path("run"));
                Outcome::of(command).must_succeed("restore");
            }
        }
        fs::write(receiver.path("go"), "").expect("say so");
        let came = wait_until(SOON, || receiver.path("came").exists());
        assert!(came, "{}", receiver.log());
        sender.check().expect("it has sent them");
        receiver.check().expect("none is lost, or comes twice");
        machine.end_all();
    }
}

#[test]
fn if_one_cannot_be_dumped_none_is() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let couriers = Couriers::start(&scratch, 2);
    let bad = Workload::start("unsupported-inotify", scratch.path("bad"));
    let place = scratch.path("place");
    fs::create_dir(&place).expect("mkdir");
    let (images, mut pids) = (place.join("images"), couriers.pids());
    pids.insert(1, bad.pid());
    for options in [&TOGETHER[..], &["--together"]] {
        let said = refused(&pids, &images, &scratch, options);
        for part in [&format!("process {}", bad.pid()), "inotify", "all run on"] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        must_be_empty(&place, &scratch);
        couriers.must_run_on();
    }
    bad.check().expect("it runs on");

    // One that is no process, twice the same, one in another's tree, and a place that is in use.
    let pids = couriers.pids();
    let said = refused(&[pids[0], i32::MAX], &images, &scratch, &TOGETHER);
    assert!(said.contains("no such process"), "{said}");
    let said = refused(&[pids[0], pids[0]], &images, &scratch, &TOGETHER);
    assert!(said.contains("is in the tree of"), "{said}");
    let tree = Workload::start("tree", scratch.path("tree"));
    let child = stasis_tests::children_of(tree.pid())[0];
    let said = refused(&[pids[0], child, tree.pid()], &images, &scratch, &TOGETHER);
    let named = format!("process {child} is in the tree of process {}", tree.pid());
    assert!(said.contains(&named), "{said}");
    must_be_empty(&place, &scratch);
    fs::create_dir(&images).expect("mkdir");
    fs::write(images.join("mine"), "").expect("write");
    let said = refused(&pids, &images, &scratch, &TOGETHER);
    assert!(said.contains("is not empty"), "{said}");
    assert_eq!(names_in(&images), ["mine"]);
    couriers.must_run_on();
}

#[test]
fn all_stand_still_for_no_longer_than_they_may() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let size = [("STASIS_WORKLOAD_COUNT", "1000")];
    // /proc is read: it takes longer than it may, and the others wait for it.
    let slow = Workload::start_with("many_files", scratch.path("slow"), &size);
    let couriers = Couriers::start(&scratch, 2);
    let place = scratch.path("place");
    fs::create_dir(&place).expect("mkdir");
    let mut pids = couriers.pids();
    pids.push(slow.pid());
    for options in [&TOGETHER[..], &["--together"]] {
        let options = [options, &["--max-freeze", "3ms"]].concat();
        let said = refused(&pids, &place.join("images"), &scratch, &options);
        let parts = ["has stood still for the 3 ms that it may", "all run on"];
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        must_be_empty(&place, &scratch);
        couriers.must_run_on();
    }
    let options = [&TOGETHER[..], &["--timeout", "1us"]].concat();
    let said = refused(&pids, &place.join("images"), &scratch, &options);
    assert!(said.contains("the dump is not done"), "{said}");
    must_be_empty(&place, &scratch);
    couriers.must_run_on();
    slow.check().expect("it runs on");
}

/// Whoever is killed leaves all checkpoints or none, and all trees run on.
#[test]
fn who_is_killed_leaves_all_or_none() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let couriers = Couriers::start(&scratch, 3);
    let place = scratch.path("place");
    fs::create_dir(&place).expect("mkdir");
    let images = place.join("images");
    let whole = Instant::now();
    Outcome::of(&mut dump(&couriers.pids(), &images, &scratch, &TOGETHER)).must_succeed("dump");
    let whole = whole.elapsed();
    let mut random = Random::new(0x7069);
    let (mut all, mut none) = (0, 0);
    for _ in 0..KILLS {
        fs::remove_dir_all(&images).ok();
        let mut command = dump(&couriers.pids(), &images, &scratch, &TOGETHER);
        let mut dumper = command.stderr(Stdio::null()).spawn().expect("start stasis");
        std::thread::sleep(random.below(whole + whole / 4));
        dumper.kill().expect("kill");
        dumper.wait().expect("wait");
        couriers.must_run_on();
        match images.exists() {
            true => {
                all += 1;
                assert_eq!(names_in(&images).len(), couriers.pids().len());
            }
            false => none += 1,
        }
    }
    assert!(none > 0, "it was never killed in time: {all}");
    // The next one clears what is left.
    fs::remove_dir_all(&images).ok();
    Outcome::of(&mut dump(&couriers.pids(), &images, &scratch, &TOGETHER)).must_succeed("dump");
    assert_eq!(names_in(&place), ["images"]);
    let knew = couriers.knew(&machine, &images);
    assert!(is_a_cut(&knew), "{knew:?}");
}

/// A dry run tells what it would be.
#[test]
fn together_there_are_dry_runs() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let couriers = Couriers::start(&scratch, 2);
    let place = scratch.path("place");
    fs::create_dir(&place).expect("mkdir");
    let pids = couriers.pids();
    let mut command = dump(&pids, &place.join("images"), &scratch, &["--together", "--dry-run"]);
    let told = Outcome::of(command.arg("--json")).must_succeed("dry run").stdout;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert!(told["frozen_us"].as_u64() > Some(0) && told["together"].is_null(), "{told}");
    must_be_empty(&place, &scratch);
    couriers.must_run_on();
}

fn size(place: &Path) -> u64 {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// An increment of each leaves pages to the checkpoint of the same tree.
#[test]
fn together_there_are_increments() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let settings = [("STASIS_WORKLOAD_MIB", "40"), ("STASIS_WORKLOAD_RATE", "4")];
    let start = |name| Workload::start_with("dirty", scratch.path(name), &settings);
    let programs = [start("one"), start("two")];
    let pids = programs.each_ref().map(Workload::pid);
    let (first, second) = (scratch.path("first"), scratch.path("second"));
    let options = [&TOGETHER[..], &["--track"]].concat();
    Outcome::of(&mut dump(&pids, &first, &scratch, &options)).must_succeed("the first");
    let mut command = dump(&pids, &second, &scratch, &["--together", "--parent"]);
    Outcome::of(command.arg(&first)).must_succeed("the second");
    machine.await_end(&pids);
    assert!(size(&second) < size(&first) / 2, "{} of {}", size(&second), size(&first));
    for program in &programs {
        fs::write(program.path("restored"), "").expect("say so");
        let images = second.join(program.pid().to_string());
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
        program.check().expect("it is what it was");
    }
}
