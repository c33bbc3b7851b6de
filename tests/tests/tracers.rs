//! Programs that others of the tree trace: a debugger and its program. Needs root, gdb and a C compiler.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use stasis_tests::faults::Random;
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Scratch, Workload, children_of, tree_of,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// gdb with a program of two threads, which it is told about by a fifo.
struct Debugger {
    program: Program,
    dir: PathBuf,
}

impl Debugger {
    fn start(dir: &Path) -> Self {
        fs::create_dir(dir).expect("mkdir");
        let source = dir.join("stepped.c");
        fs::write(&source, include_str!("../programs/stepped.c")).expect("write the program");
        let mut cc = Command::new("cc");
        cc.args(["-g", "-O0", "-pthread", "-o", "stepped", "stepped.c"]).current_dir(dir);
        Outcome::of(&mut cc).must_succeed("compile");
        nix::unistd::mkfifo(&dir.join("commands"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec gdb -q -nx ./stepped <>commands"]).current_dir(dir);
        let log = dir.join("log");
        let gdb = Self { program: Program::start(&mut shell, &log), dir: dir.to_owned() };
        gdb.say("set debuginfod enabled off\nset pagination off\nset confirm off\nbreak count_step\nrun");
        gdb.await_stops("Breakpoint 1, count_step", 1);
        gdb
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn say(&self, commands: &str) {
        let mut fifo = fs::File::options().write(true).open(self.dir.join("commands"));
        let fifo = fifo.as_mut().expect("open the fifo");
        writeln!(fifo, "{commands}").expect("tell the debugger");
    }

    /// Waits until it has said so as often.
    fn await_stops(&self, what: &str, times: usize) {
        let said = || self.log().matches(what).count();
        let stopped = wait_until(PATIENCE, || said() >= times);
        assert!(stopped, "{what} has come {} times, not {times}: {}", said(), self.log());
        // The prompt comes when it is at rest.
        assert!(wait_until(PATIENCE, || self.log().ends_with("(gdb) ")), "{}", self.log());
    }

    /// What it answers.
    fn ask(&self, command: &str) -> String {
        let before = self.log().len();
        self.say(&format!("{command}\necho asked\\n"));
        assert!(
            wait_until(PATIENCE, || self.log()[before..].contains("asked\n")),
            "{}",
            self.log()
        );
        self.log()[before..].replace("(gdb) ", "").replace("asked\n", "").trim().to_owned()
    }

    /// The registers of the thread that it looks at, asked of the kernel.
    fn registers(&self) -> String {
        self.ask("maintenance flush register-cache");
        self.ask("info all-registers")
    }

    fn debugged(&self) -> i32 {
        *children_of(self.program.pid()).last().expect("a program")
    }
}

/// Dumps a tree by what a collector sees.
fn dump(root: i32, images: &Path, how: Dump<'_>) -> Outcome {
    let collector = Collector::start(&images.with_extension("collector"));
    let how = Dump { collector: Some(&collector), cross_check: true, ..how };
    Engine::Stasis.dump(root, images, how)
}

fn carry(machine: &Machine, gdb: &Debugger, images: &Path) {
    dump(gdb.program.pid(), images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(images, Dump::ENDING).must_succeed("restore");
}

#[test]
fn gdb_and_its_program_at_a_breakpoint() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let gdb = Debugger::start(&scratch.path("gdb"));
    let mut stops = 1;
    for nth in 0..3 {
        let images = scratch.path(&format!("running-{nth}"));
        let before = gdb.registers();
        dump(gdb.program.pid(), &images, Dump::RUNNING_ON).must_succeed("dump");
        assert_eq!(gdb.registers(), before);
        gdb.say("continue");
        stops += 1;
        gdb.await_stops("Breakpoint 1, count_step", stops);
    }
    for nth in 0..3 {
        let before = (gdb.registers(), gdb.ask("print steps"), gdb.ask("info threads"));
        carry(&machine, &gdb, &scratch.path(&format!("ended-{nth}")));
        let value = |answer: &str| answer.split(" = ").nth(1).map(str::to_owned);
        assert_eq!((gdb.registers(), value(&gdb.ask("print steps"))), (before.0, value(&before.1)));
        assert_eq!(gdb.ask("info threads"), before.2);
        gdb.say("continue");
        stops += 1;
        gdb.await_stops("Breakpoint 1, count_step", stops);
    }
    gdb.say("watch others\ndelete 1\ncontinue");
    gdb.await_stops("Hardware watchpoint 2: others", 2);
    carry(&machine, &gdb, &scratch.path("watched"));
    gdb.say("continue");
    gdb.await_stops("Hardware watchpoint 2: others", 3);
    gdb.say("delete\ncontinue");
    let runs = || !gdb.log().ends_with("(gdb) ");
    assert!(wait_until(PATIENCE, runs), "{}", gdb.log());
    let refused = dump(gdb.program.pid(), &scratch.path("runs"), Dump::RUNNING_ON);
    assert!(!refused.success && refused.stderr.contains("Ctrl-C"), "{}", refused.stderr);
    let interrupt = || {
        let debugged = nix::unistd::Pid::from_raw(gdb.debugged());
        nix::sys::signal::kill(debugged, nix::sys::signal::Signal::SIGINT).expect("interrupt");
    };
    interrupt();
    gdb.await_stops("received signal SIGINT", 1);
    carry(&machine, &gdb, &scratch.path("interrupted"));
    gdb.say("continue");
    assert!(wait_until(PATIENCE, runs), "{}", gdb.log());
    interrupt();
    gdb.await_stops("received signal SIGINT", 2);
    assert_eq!(gdb.ask("print steps > 3").split(" = ").nth(1), Some("1"));
    machine.end_all();
}

/// The state and the tracer of a process, if it lives.
fn held(pid: i32) -> Option<(char, i32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let state = value("State:")?.chars().next().filter(|state| !"ZX".contains(*state))?;
    Some((state, value("TracerPid:")?.parse().ok()?))
}

/// Wherever the dumper is killed, the debugger runs on, with its program where it was.
#[test]
fn the_dumper_killed_at_random_instants() {
    const KILLS: u32 = 60;
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let gdb = Debugger::start(&scratch.path("gdb"));
    let (tracer, tracee) = (gdb.program.pid(), gdb.debugged());
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    let begun = Instant::now();
    Engine::Stasis.dump(tracer, &scratch.path("timing"), how).must_succeed("dump");
    let length = begun.elapsed();
    let mut random = Random::new(0x7eace);
    let registers = gdb.registers();
    for nth in 0..KILLS {
        let images = scratch.path(&format!("killed-{nth}"));
        let mut dumper = Engine::Stasis.dump_command(tracer, &images, how);
        let null = std::process::Stdio::null;
        let mut dumper = dumper.stdout(null()).stderr(null()).spawn().expect("start the dumper");
        let instant = random.below(length.mul_f64(1.1));
        std::thread::sleep(instant);
        dumper.kill().expect("kill the dumper");
        dumper.wait().expect("wait");
        let is_free = || matches!(held(tracer), Some((state, 0)) if !"Tt".contains(state));
        assert!(wait_until(PATIENCE, is_free), "after {instant:?}: {:?}", held(tracer));
        assert_eq!(held(tracee), Some(('t', tracer)), "after {instant:?}");
        if nth % 10 == 0 {
            assert_eq!(gdb.registers(), registers, "after {instant:?}");
        }
    }
    assert_eq!(gdb.registers(), registers);
    gdb.say("continue");
    gdb.await_stops("Breakpoint 1, count_step", 2);
    machine.end_all();
}

/// Whoever is killed of those that restore: the debugger and its program live, or neither does.
#[test]
fn the_restore_killed_at_random_instants() {
    const KILLS: u32 = 24;
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let gdb = Debugger::start(&scratch.path("gdb"));
    let (tracer, tracee) = (gdb.program.pid(), gdb.debugged());
    let images = scratch.path("images");
    dump(tracer, &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let begun = Instant::now();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    let length = begun.elapsed();
    machine.end_tree(tracer);
    let mut random = Random::new(0x9eace);
    for nth in 0..KILLS {
        let mut command = Engine::Stasis.restore_command(&images, Dump::ENDING);
        let null = std::process::Stdio::null;
        let mut restore = command.stdout(null()).stderr(null()).spawn().expect("start the restore");
        let instant = random.below(length.mul_f64(1.1));
        std::thread::sleep(instant);
        let pid = i32::try_from(restore.id()).expect("a number");
        // Its holder, or itself.
        let ours = [tracer, tracee];
        let holder = children_of(pid).into_iter().find(|child| !ours.contains(child));
        let victim = holder.filter(|_| nth % 2 == 0).unwrap_or(pid);
        let victim = nix::unistd::Pid::from_raw(victim);
        // It may have ended by itself.
        let _gone = nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL);
        restore.wait().expect("wait");
        let is_over = || match (held(tracer), held(tracee)) {
            (Some((_, 0)), Some(('t', by))) => by == tracer,
            (None, None) => true,
            _ => false,
        };
        let states = || (held(tracer), held(tracee));
        assert!(wait_until(PATIENCE, is_over), "after {instant:?}: {:?}", states());
        machine.end_tree(tracer);
        machine.await_no_children();
    }
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    gdb.say("continue");
    gdb.await_stops("Breakpoint 1, count_step", 2);
    machine.end_all();
}

/// What `stasis ps` says of the tree of a process.
fn listed(pid: i32) -> Vec<String> {
    let listed = Outcome::of(Engine::Stasis.command("ps").arg("--json")).must_succeed("stasis ps");
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let processes = listed["processes"].as_array().expect("processes");
    let this = processes.iter().find(|process| process["pid"] == pid).expect("the process");
    let refusals = this["refusals"].as_array().expect("refusals").iter();
    refusals.map(|refusal| refusal["reason"].as_str().expect("text").to_owned()).collect()
}

/// A tracer without its tracee and the other way round, and one that is in no stop, are refused; `stasis ps` says the same.
#[test]
fn what_cannot_be_carried_is_refused() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "sleep", "1000"]);
    let strace = Program::start(&mut strace, &scratch.path("strace.log"));
    let traced = || {
        children_of(strace.pid()).last().copied().filter(|pid| {
            held(*pid) == Some(('S', strace.pid()))
                && fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n")
        })
    };
    assert!(wait_until(PATIENCE, || traced().is_some()), "it sleeps");
    let sleeper = traced().expect("it sleeps");
    let refused = |pid: i32, name: &str, word: &str| {
        let refused = dump(pid, &scratch.path(name), Dump::RUNNING_ON);
        assert!(!refused.success && refused.stderr.contains(word), "{}", refused.stderr);
        let said = listed(pid);
        assert!(said.iter().any(|said| said.contains(word)), "{said:?}");
        assert!(
            said.iter().all(|said| refused.stderr.contains(said)),
            "{said:?}: {}",
            refused.stderr
        );
    };
    refused(strace.pid(), "runs", "it runs, or waits in a system call");
    refused(sleeper, "alone", "traces it");
    let mut other = Command::new("sleep");
    let other = Program::start(other.arg("1000"), &scratch.path("sleep.log"));
    let mut outside = Command::new("strace");
    outside.args(["-o", "/dev/null", "-p", &other.pid().to_string()]);
    let outside = Program::start(&mut outside, &scratch.path("outside.log"));
    let is_traced = || held(other.pid()) == Some(('S', outside.pid()));
    assert!(wait_until(PATIENCE, is_traced), "it is traced");
    refused(outside.pid(), "outside", "outside the tree");
    assert_eq!(tree_of(strace.pid()).len(), 2, "all run on");
    machine.end_all();
}

const FAMILY: &str = "tracers";

#[test]
fn natively() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(FAMILY, scratch.path("work"));
    workload.check().expect("the program's own check");
}

#[test]
fn running_on() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(FAMILY, scratch.path("work"));
    for images in ["first", "second"] {
        dump(workload.pid(), &scratch.path(images), Dump::RUNNING_ON).must_succeed("dump");
    }
    workload.check().expect("the program's own check");
}

#[test]
fn carried() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(FAMILY, scratch.path("work"));
    for images in ["first", "second"] {
        let images = scratch.path(images);
        dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
        machine.await_no_children();
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    }
    workload.check().expect("the program's own check");
}

/// CRIU would have the program run on, untraced.
#[test]
fn images_of_it_are_refused_by_criu_peer() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(FAMILY, scratch.path("work"));
    let images = scratch.path("images");
    dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let refused = Engine::Criu.restore(&images, Dump::ENDING);
    assert!(!refused.success, "{}", refused.stderr);
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}
