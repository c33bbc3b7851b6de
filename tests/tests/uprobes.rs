//! Programs with uprobes: breakpoints that the kernel has put into their memory, for who traces them. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use stasis_tests::{
    Dump, Engine, Machine, Outcome, Program, Scratch, built_program, require, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel's files of events, mounted for a test.
struct Events(PathBuf);

impl Events {
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).expect("mkdir");
        let none: Option<&str> = None;
        mount(Some("nodev"), &at, Some("tracefs"), MsFlags::empty(), none).ok()?;
        let mounted = Self(at);
        mounted.0.join("uprobe_events").exists().then_some(mounted)
    }

    fn write(&self, name: &str, text: &str) {
        let file = fs::File::options().append(true).open(self.0.join(name));
        file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .unwrap_or_else(|error| panic!("write {text} to {name}: {error}"));
    }

    /// Counts what comes to a place of a program, until it is dropped.
    fn probe(&self, program: &Path, offset: &str) -> Probe<'_> {
        let name = format!("test_{}", std::process::id());
        self.write("uprobe_events", &format!("p:stasis/{name} {}:{offset}", program.display()));
        let probe = Probe { events: self, name };
        probe.enable("1");
        probe
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

struct Probe<'e> {
    events: &'e Events,
    name: String,
}

impl Probe<'_> {
    fn enable(&self, enabled: &str) {
        self.events.write(&format!("events/stasis/{}/enable", self.name), enabled);
    }

    fn hits(&self) -> u64 {
        let text = fs::read_to_string(self.events.0.join("uprobe_profile")).expect("a profile");
        let line = text.lines().find(|line| line.contains(&self.name)).expect("the probe");
        line.split_whitespace().nth(2).and_then(|hits| hits.parse().ok()).expect("a number")
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.enable("0");
        self.events.write("uprobe_events", &format!("-:stasis/{}", self.name));
    }
}

#[test]
fn programs_with_uprobes_are_carried_where_that_is_allowed() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    fs::create_dir(&work).expect("mkdir");
    let events = Events::mount(scratch.path("events"));
    require!(events.is_some(), "the kernel has no events of uprobes");
    let events = events.expect("mounted");
    // Nobody else runs this file.
    let copy = scratch.path("workload");
    fs::copy(built_program("stasis-workload"), &copy).expect("copy");
    let program = Program::start(Command::new(&copy).arg("uprobes").arg(&work), &work.join("log"));
    let comes = |name: &str| {
        let path = work.join(name);
        assert!(wait_until(PATIENCE, || path.exists()), "{name} does not come");
        fs::read_to_string(path).expect("read")
    };
    let probe = events.probe(&copy, comes("offset").trim());
    fs::write(work.join("probed"), "").expect("say so");
    comes("ready");
    assert_eq!(probe.hits(), 1);

    let face = Engine::CriuFace;
    let refused = Engine::Stasis.dump(program.pid(), &images, Dump::RUNNING_ON);
    assert!(!refused.success && refused.stderr.contains("uprobes"), "{}", refused.stderr);
    let mut dump = face.dump_command(program.pid(), &images, Dump::ENDING);
    Outcome::of(dump.arg("--allow-uprobes")).must_succeed("dump");
    machine.await_no_children();
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!refused.success && refused.stderr.contains("--allow-uprobes"), "{}", refused.stderr);
    let mut restore = face.restore_command(&images, Dump::ENDING);
    Outcome::of(restore.arg("--allow-uprobes")).must_succeed("restore");
    fs::write(work.join("go"), "").expect("say so");
    assert_eq!(comes("result"), "PASS\n", "{}", fs::read_to_string(work.join("log")).expect("log"));
    assert_eq!(probe.hits(), 2);
}
