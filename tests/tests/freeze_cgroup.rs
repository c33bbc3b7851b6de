//! A tree that its control group stops (`--freeze-cgroup`): one that runs, and one that somebody has paused, which stays so.
//! Needs root, the first version's freezer or the unified hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Scratch, Workload, built_program, require,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A control group that can be frozen, gone at the end.
struct Group {
    directory: PathBuf,
    /// The file that freezes it.
    file: PathBuf,
    is_first: bool,
}

impl Group {
    /// One of each version that is there.
    fn of_each(name: &str) -> Vec<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mut found = Vec::new();
        for words in mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()) {
            let is_first =
                words[2] == "cgroup" && words[3].split(',').any(|word| word == "freezer");
            if is_first || words[2] == "cgroup2" {
                let directory = Path::new(words[1])
                    .join(format!("stasis-freeze-{}-{name}", std::process::id()));
                fs::create_dir(&directory).expect("make a control group");
                let file = directory.join(if is_first { "freezer.state" } else { "cgroup.freeze" });
                found.push(Self { directory, file, is_first });
            }
        }
        require!(!found.is_empty(), "control groups that can be frozen are mounted");
        found
    }

    fn take_in(&self, workload: &Workload) {
        fs::write(self.directory.join("cgroup.procs"), workload.pid().to_string())
            .expect("move it there");
    }

    fn ask_for(&self, frozen: bool) {
        let value = match (self.is_first, frozen) {
            (true, true) => "FROZEN",
            (true, false) => "THAWED",
            (false, true) => "1",
            (false, false) => "0",
        };
        fs::write(&self.file, value).expect("freeze or thaw it");
    }

    fn is_frozen(&self) -> bool {
        match self.is_first {
            true => fs::read_to_string(&self.file).expect("its state").trim() == "FROZEN",
            false => fs::read_to_string(self.directory.join("cgroup.events"))
                .expect("its events")
                .contains("frozen 1"),
        }
    }

    fn pause(&self) {
        self.ask_for(true);
        assert!(wait_until(PATIENCE, || self.is_frozen()));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.directory.exists() {
            self.ask_for(false);
            let gone = || fs::remove_dir(&self.directory).is_ok();
            assert!(wait_until(PATIENCE, gone) || std::thread::panicking(), "it is left behind");
        }
    }
}

/// The dump, stopped by the group.
fn dump(by: &Group, pid: i32, images: &Path, run_dir: &Path, how: Dump<'_>) -> Command {
    let mut command = Engine::CriuFace.dump_command(pid, images, how);
    command.arg("--freeze-cgroup").arg(&by.directory).env("STASIS_RUN_DIR", run_dir);
    command
}

fn written_down(run_dir: &Path) -> usize {
    fs::read_dir(run_dir.join("undo")).map_or(0, Iterator::count)
}

/// Dumped while it runs on, then to its end, and restored.
fn stopped(family: &str, paused: bool, how: Dump<'_>) {
    for group in Group::of_each(family) {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let (images, run_dir) = (scratch.path("images"), scratch.path("run"));
        let workload = Workload::start(family, scratch.path("work"));
        group.take_in(&workload);
        if paused {
            group.pause();
        }
        let on = Dump { leave_running: true, ..how };
        Outcome::of(&mut dump(&group, workload.pid(), &scratch.path("first"), &run_dir, on))
            .must_succeed("a dump of what runs on");
        assert_eq!(written_down(&run_dir), 0);
        assert!(wait_until(PATIENCE, || group.is_frozen() == paused), "paused: {paused}");
        Outcome::of(&mut dump(&group, workload.pid(), &images, &run_dir, how)).must_succeed("dump");
        assert_eq!(written_down(&run_dir), 0);
        machine.end_tree(workload.pid());
        assert!(!group.is_frozen(), "nobody is in it, and others are to come");
        Engine::CriuFace.restore(&images, Dump::ENDING).must_succeed("restore");
        assert!(!group.is_frozen());
        workload.check().expect("the program's own check");
        machine.end_all();
    }
}

#[test]
fn a_tree_that_runs() {
    stopped("tree", false, Dump::ENDING);
}

#[test]
fn threads_that_run() {
    stopped("threads", false, Dump::ENDING);
}

#[test]
fn a_tree_that_is_paused() {
    stopped("tree", true, Dump::ENDING);
}

/// Of what a signal has stopped and the first version's freezer has frozen the kernel makes a tracer wait until it is thawed, so that nothing would
/// end a dump.
#[test]
fn a_stopped_process_that_is_paused() {
    for group in Group::of_each("stopped") {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let (images, run_dir) = (scratch.path("images"), scratch.path("run"));
        let workload = Workload::start("threads", scratch.path("work"));
        let pid = workload.pid();
        let kill = |signal: &str| {
            let done = Command::new("kill").args([signal, &pid.to_string()]).status();
            assert!(done.expect("kill").success());
        };
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
            stat.rsplit_once(") ").expect("a state").1.chars().next()
        };
        group.take_in(&workload);
        kill("-STOP");
        assert!(wait_until(PATIENCE, || state() == Some('T')));
        group.pause();
        if group.is_first {
            let on = Dump { leave_running: true, ..Dump::ENDING };
            let mut alone = Engine::Stasis.dump_command(pid, &scratch.path("alone"), on);
            let refused = Outcome::of(alone.env("STASIS_RUN_DIR", &run_dir));
            assert!(
                !refused.success && refused.stderr.contains("it is frozen"),
                "{}",
                refused.stderr
            );
        }
        let on = Dump { leave_running: true, ..Dump::ENDING };
        Outcome::of(&mut dump(&group, pid, &scratch.path("first"), &run_dir, on))
            .must_succeed("a dump of what runs on");
        assert!(wait_until(PATIENCE, || group.is_frozen()));
        Outcome::of(&mut dump(&group, pid, &images, &run_dir, Dump::ENDING)).must_succeed("dump");
        assert_eq!(written_down(&run_dir), 0);
        machine.end_tree(pid);
        Engine::CriuFace.restore(&images, Dump::ENDING).must_succeed("restore");
        assert_eq!(state(), Some('T'));
        kill("-CONT");
        workload.check().expect("the program's own check");
        machine.end_all();
    }
}

/// Memory is copied ahead of a dump only where code can be run.
#[test]
fn memory_of_what_is_paused() {
    stopped("memory", true, Dump::ENDING);
}

#[test]
fn by_the_programs() {
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    for cross_check in [false, true] {
        let how = Dump { collector: Some(&collector), cross_check, ..Dump::ENDING };
        for paused in [false, true] {
            stopped("threads", paused, how);
        }
    }
}

/// Whoever kills the dumper, the group is as it was when the next command has begun.
#[test]
fn a_dumper_that_is_killed_leaves_it_as_it_was() {
    for group in Group::of_each("killed") {
        for paused in [false, true] {
            let machine = Machine::prepare();
            let scratch = Scratch::new();
            let run_dir = scratch.path("run");
            let workload = Workload::start("many_threads", scratch.path("work"));
            group.take_in(&workload);
            if paused {
                group.pause();
            }
            for round in 0..12u64 {
                let images = scratch.path(&format!("images-{round}"));
                let mut command = dump(&group, workload.pid(), &images, &run_dir, Dump::RUNNING_ON);
                let mut child = command.stdin(Stdio::null()).spawn().expect("start a dump");
                std::thread::sleep(Duration::from_millis(10 + 9 * round));
                child.kill().expect("kill it");
                child.wait().expect("wait for it");
                let mut next = Command::new(built_program("criu"));
                drop(Outcome::of(next.arg("check").env("STASIS_RUN_DIR", &run_dir)));
                assert_eq!(written_down(&run_dir), 0);
                assert!(wait_until(PATIENCE, || group.is_frozen() == paused), "round {round}");
            }
            group.ask_for(false);
            workload.check().expect("the program's own check");
            machine.end_all();
        }
    }
}

/// What was frozen in a group that a restore makes is frozen again, by the first version, as CRIU has it.
#[test]
fn a_group_that_is_made_again_is_frozen_again() {
    let groups = Group::of_each("again");
    let Some(group) = groups.iter().find(|group| group.is_first) else { return };
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, run_dir) = (scratch.path("images"), scratch.path("run"));
    let workload = Workload::start("threads", scratch.path("work"));
    group.take_in(&workload);
    group.pause();
    Outcome::of(&mut dump(group, workload.pid(), &images, &run_dir, Dump::ENDING))
        .must_succeed("dump");
    machine.end_tree(workload.pid());
    fs::remove_dir(&group.directory).expect("remove the group");
    Engine::CriuFace.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(wait_until(PATIENCE, || group.is_frozen()));
    group.ask_for(false);
    workload.check().expect("the program's own check");
    machine.end_all();
}

#[test]
fn a_group_that_cannot_stop_it_is_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("still", scratch.path("work"));
    let groups = Group::of_each("refused");
    let other = groups[0].directory.clone();
    let top = other.parent().expect("a mount").to_owned();
    for (directory, said) in [
        (scratch.path("work"), "can be frozen"),
        (other, "its root is not in it"),
        (top, "can be frozen"),
    ] {
        let images = scratch.path("images");
        let mut command = Engine::CriuFace.dump_command(workload.pid(), &images, Dump::ENDING);
        let outcome = Outcome::of(command.arg("--freeze-cgroup").arg(&directory));
        let log = fs::read_to_string(images.join("dump.log")).expect("a log");
        assert!(!outcome.success && log.contains(said), "{}: {log}", directory.display());
    }
    workload.check().expect("it runs on");
}
