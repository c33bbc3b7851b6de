//! Memory whose faults programs serve themselves (userfaultfd). Needs root, and a kernel that lets it load BPF programs.

use std::path::PathBuf;

use stasis_tests::{Collector, Dump, Engine, Machine, Outcome, Scratch, Workload};

struct Case {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
}

impl Case {
    fn of(family: &str) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let workload = Workload::start(family, scratch.path("work"));
        Self { machine, scratch, workload }
    }

    fn images(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    fn dumped(&self, name: &str, how: Dump<'_>, more: &[&str]) -> Outcome {
        let collector = Collector::start(&self.scratch.path(&format!("collector-{name}")));
        let how = Dump { collector: Some(&collector), ..how };
        let mut command = Engine::Stasis.dump_command(self.workload.pid(), &self.images(name), how);
        Outcome::of(command.args(more).env("STASIS_RUN_DIR", self.scratch.path("run")))
    }

    fn dump(&self, name: &str, how: Dump<'_>, more: &[&str]) {
        self.dumped(name, how, more).must_succeed("dump");
    }

    fn restore(&self, name: &str) {
        self.machine.await_no_children();
        std::fs::write(self.workload.path("restored"), "").expect("say so");
        Engine::Stasis.restore(&self.images(name), Dump::ENDING).must_succeed("restore");
    }

    fn check(&self) {
        self.workload.check().expect("the program's own check");
    }
}

fn carried(family: &str) {
    let case = Case::of(family);
    case.dump("images", Dump { cross_check: true, ..Dump::ENDING }, &[]);
    case.restore("images");
    case.check();
}

#[test]
fn they_stand_natively() {
    for family in ["userfaults", "userfaults_stack", "userfaults_unread"] {
        Case::of(family).check();
    }
}

#[test]
fn missing_pages_are_asked_for() {
    carried("userfaults");
}

#[test]
fn a_fault_that_nobody_has_read_waits_again() {
    carried("userfaults_unread");
}

#[test]
fn nobody_looks_below_a_stack_that_is_served() {
    carried("userfaults_stack");
}

#[test]
fn a_program_that_runs_on_is_served() {
    let case = Case::of("userfaults");
    case.dump("first", Dump::RUNNING_ON, &[]);
    case.dump("second", Dump::RUNNING_ON, &[]);
    case.check();
}

/// What is written is logged by a userfaultfd as well, and memory has room for one.
#[test]
fn a_chain_of_checkpoints_is_whole() {
    let case = Case::of("userfaults");
    case.dump("first", Dump::RUNNING_ON, &["--track"]);
    let parent = case.images("first");
    let parent = ["--parent", parent.to_str().expect("a path")];
    case.dump("second", Dump::ENDING, &parent);
    case.restore("second");
    case.dump("third", Dump::ENDING, &[]);
    case.restore("third");
    case.check();
}

fn refused(family: &str, words: &[&str]) {
    let case = Case::of(family);
    let outcome = case.dumped("images", Dump::RUNNING_ON, &[]);
    assert!(!outcome.success && !case.images("images").exists(), "{family} was dumped");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    case.check();
}

#[test]
fn what_several_have_is_refused() {
    refused("unsupported-userfaults_shared", &["anon_inode:[userfaultfd]", "several processes"]);
}

#[test]
fn other_memory_is_refused() {
    refused("unsupported-userfaults_of_shared", &["mapping 0x", "shared, of a file"]);
}

#[test]
fn write_protection_is_refused() {
    refused("unsupported-userfaults_protecting", &["mapping 0x", "write-protected"]);
}

/// Without eBPF nobody tells which userfaultfd serves what.
#[test]
fn what_nobody_tells_is_refused() {
    let case = Case::of("userfaults");
    let images = case.images("images");
    let outcome = Engine::Stasis.dump(case.workload.pid(), &images, Dump::RUNNING_ON);
    assert!(!outcome.success && !images.exists());
    for word in ["anon_inode:[userfaultfd]", "only eBPF programs see"] {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    case.check();
}
