//! `criu dedup` and `--auto-dedup`: room of pages that nobody will read is given back, and nobody reads them. Needs root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload};

const MIB: u64 = 1 << 20;

struct Case {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
}

impl Case {
    fn start() -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let settings = [("STASIS_WORKLOAD_MIB", "40"), ("STASIS_WORKLOAD_RATE", "200")];
        let workload = Workload::start_with("dirty", scratch.path("work"), &settings);
        Self { machine, scratch, workload }
    }

    fn images(&self, name: &str) -> PathBuf {
        let path = self.scratch.path(name);
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    /// A dump or pre-dump whose parent is the one before.
    fn dump(&self, command: &str, number: u32, more: &[&str]) {
        let mut run = Engine::CriuFace.command(command);
        run.args(["-t", &self.workload.pid().to_string(), "-v4", "-o", "dump.log", "--track-mem"]);
        run.arg("-D").arg(self.images(&number.to_string())).args(more);
        if number > 1 {
            run.args(["--prev-images-dir", &format!("../{}", number - 1)]);
        }
        run.env("STASIS_RUN_DIR", self.scratch.path("run")).env("STASIS_BPF_DIR", "none");
        Outcome::of(&mut run).must_succeed(command);
    }

    fn dedup(&self, number: u32) -> Outcome {
        let mut run = Engine::CriuFace.command("dedup");
        Outcome::of(run.args(["-v4", "-D"]).arg(self.images(&number.to_string())))
    }

    /// Restored and asked.
    fn must_be_right(&self, number: u32, by: Engine, more: &[&str]) {
        self.machine.await_no_children();
        for left in ["go", "result"] {
            drop(fs::remove_file(self.workload.path(left)));
        }
        fs::write(self.workload.path("restored"), "").expect("say so");
        let mut restore = by.restore_command(&self.images(&number.to_string()), Dump::ENDING);
        Outcome::of(restore.args(more)).must_succeed("restore");
        self.workload.check().expect("the program's own check");
    }
}

/// Room that the pages of a checkpoint take on the disk, those that were copied early left out.
fn room(images: &Path) -> u64 {
    let entries = fs::read_dir(images).expect("list").map(|entry| entry.expect("entry"));
    let pages = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("pages-"));
    pages.map(|entry| entry.metadata().expect("stat").blocks() * 512).sum()
}

fn refused(case: &Case, number: u32) {
    case.machine.await_no_children();
    let outcome = Engine::CriuFace.restore(&case.images(&number.to_string()), Dump::ENDING);
    assert!(!outcome.success && outcome.stderr.contains("given back"), "{}", outcome.stderr);
}

fn a_parent_gives_back(by: Engine) {
    let case = Case::start();
    case.dump("pre-dump", 1, &[]);
    let before = room(&case.images("1"));
    assert!(before >= 40 * MIB, "{before}");
    case.dump("pre-dump", 2, &[]);
    case.dedup(2).must_succeed("dedup");
    let after = room(&case.images("1"));
    assert!(after < before, "nothing was given back: {before}");
    case.dump("dump", 3, &[]);
    case.dedup(3).must_succeed("dedup");
    assert!(room(&case.images("2")) < before && room(&case.images("1")) <= after);
    // The first has no parent: there is nothing to be done.
    let alone = case.dedup(1).must_succeed("dedup");
    assert!(alone.stderr.contains("nothing to a parent"), "{}", alone.stderr);
    case.must_be_right(3, by, &[]);
}

#[test]
fn a_parent_gives_back_what_a_child_has() {
    a_parent_gives_back(Engine::CriuFace);
}

#[test]
fn what_is_left_is_restored_by_criu_peer() {
    a_parent_gives_back(Engine::Criu);
}

/// Dumps do it by themselves, and a restore gives back everything.
#[test]
fn dumps_and_restores_give_back() {
    let case = Case::start();
    let auto = ["--auto-dedup"];
    case.dump("pre-dump", 1, &auto);
    let before = room(&case.images("1"));
    case.dump("dump", 2, &[&auto[..], &["--leave-running"]].concat());
    assert!(room(&case.images("1")) < before);
    // Who gave pages away is no parent for another, either.
    let other = case.images("other");
    let mut run = Engine::CriuFace.command("dump");
    run.args(["-t", &case.workload.pid().to_string(), "-R", "--prev-images-dir", "../1", "-D"]);
    run.arg(&other).env("STASIS_RUN_DIR", case.scratch.path("run"));
    let outcome = Outcome::of(&mut run);
    assert!(!outcome.success && outcome.stderr.contains("given back"), "{}", outcome.stderr);
    case.dump("dump", 3, &auto);
    refused(&case, 2);
    case.must_be_right(3, Engine::CriuFace, &auto);
    for number in [1, 2, 3] {
        assert!(room(&case.images(&number.to_string())) < MIB, "{number}");
    }
    refused(&case, 2);
    refused(&case, 3);
}

/// A server has the pages: it gives them back.
#[test]
fn a_page_server_gives_back() {
    let case = Case::start();
    let send = |command: &str, number: u32| {
        let port = stasis_tests::free_port();
        let images = case.images(&number.to_string());
        let mut server = Engine::CriuFace.command("page-server");
        server.args(["--daemon", "--auto-dedup", "-v4", "-o", "ps.log", "--pidfile", "ps.pid"]);
        server.args(["--port", &port.to_string(), "-D"]).arg(&images);
        server.env("STASIS_RUN_DIR", case.scratch.path("run"));
        Outcome::of(&mut server).must_succeed("page-server");
        let port = port.to_string();
        case.dump(command, number, &["--page-server", "--address", "127.0.0.1", "--port", &port]);
        let pid = fs::read_to_string(images.join("ps.pid")).expect("a pidfile");
        case.machine.await_gone(pid.parse().expect("a pid"));
    };
    send("pre-dump", 1);
    let before = room(&case.images("1"));
    send("dump", 2);
    assert!(room(&case.images("1")) < before, "nothing was given back");
    case.must_be_right(2, Engine::CriuFace, &[]);
}
