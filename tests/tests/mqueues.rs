//! POSIX message queues with messages, which programs alone see. Needs root, and a kernel that lets it load BPF programs.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kernel::mqueue;
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Scratch, Workload, wait_until,
};

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

    fn dump(&self, name: &str, how: Dump<'_>, parent: Option<&str>) {
        self.dumped(name, how, parent).must_succeed("dump");
    }

    fn dumped(&self, name: &str, how: Dump<'_>, parent: Option<&str>) -> Outcome {
        let collector = Collector::start(&self.scratch.path(&format!("collector-{name}")));
        let how = Dump { collector: Some(&collector), ..how };
        let mut command = Engine::Stasis.dump_command(self.workload.pid(), &self.images(name), how);
        if let Some(parent) = parent {
            command.arg("--parent").arg(self.images(parent));
        }
        Outcome::of(&mut command)
    }

    fn restore(&self, name: &str) {
        self.machine.await_no_children();
        std::fs::write(self.workload.path("restored"), "").expect("say so");
        Engine::Stasis.restore(&self.images(name), Dump::ENDING).must_succeed("restore");
    }
}

fn natively(family: &str) {
    Case::of(family).workload.check().expect("the program's own check");
}

/// With every answer compared with what the tasks say themselves.
fn carried(family: &str) {
    let case = Case::of(family);
    case.dump("images", Dump { cross_check: true, ..Dump::ENDING }, None);
    case.restore("images");
    case.workload.check().expect("the program's own check");
}

/// All messages stay.
fn running_on(family: &str) {
    let case = Case::of(family);
    case.dump("first", Dump::RUNNING_ON, None);
    case.dump("second", Dump::RUNNING_ON, None);
    case.workload.check().expect("the program's own check");
}

#[test]
fn they_stand_natively() {
    natively("mqueue_messages");
    natively("mqueue_namespace");
}

#[test]
fn nameless_queues_are_carried() {
    carried("mqueue_messages");
}

#[test]
fn nameless_queues_keep_their_messages() {
    running_on("mqueue_messages");
}

#[test]
fn queues_of_a_namespace_are_carried() {
    carried("mqueue_namespace");
}

#[test]
fn queues_of_a_namespace_keep_their_messages() {
    running_on("mqueue_namespace");
}

/// Without eBPF.
#[test]
fn messages_that_nobody_tells_are_refused() {
    let case = Case::of("mqueue_namespace");
    let images = case.images("images");
    let outcome = Engine::Stasis.dump(case.workload.pid(), &images, Dump::RUNNING_ON);
    assert!(!outcome.success && !images.exists());
    for word in ["message queue /stasis-lonely", "without a name", "which only eBPF shows"] {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    case.workload.check().expect("the program's own check");
}

/// Of a queue that nobody has open; whether eBPF tells, or not.
#[test]
fn queues_that_tell_somebody_are_refused() {
    let case = Case::of("unsupported-message_queue_notified");
    let without = Engine::Stasis.dump(case.workload.pid(), &case.images("1"), Dump::RUNNING_ON);
    for outcome in [without, case.dumped("2", Dump::RUNNING_ON, None)] {
        assert!(!outcome.success, "it was dumped");
        for word in ["message queue /", "mq_notify"] {
            assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
        }
    }
    case.workload.check().expect("the program's own check");
}

/// Who reads a queue takes messages from all others who do.
#[test]
fn a_queue_that_somebody_else_reads_is_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let name = format!("stasis-read-{}", std::process::id()).into_bytes();
    let like = mqueue::Attributes { most: 4, bytes: 16, waiting: 0 };
    let made = mqueue::make(&name, &like).expect("make");
    let reads = mqueue::open(&name, libc::O_RDONLY.cast_unsigned()).expect("open");
    mqueue::unlink(&name).expect("remove the name");
    drop(made);
    // The program inherits it, and this process keeps it.
    nix::fcntl::fcntl(&reads, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
        .expect("inherit");
    let program = Program::start(Command::new("sleep").arg("1000"), &scratch.path("log"));
    let sleeps = || {
        std::fs::read_to_string(format!("/proc/{}/comm", program.pid()))
            .is_ok_and(|name| name == "sleep\n")
    };
    assert!(wait_until(Duration::from_secs(20), sleeps), "it does not start");
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    let outcome = Engine::Stasis.dump(program.pid(), &scratch.path("images"), how);
    assert!(!outcome.success, "it was dumped");
    assert!(outcome.stderr.contains("outside"), "{}", outcome.stderr);
}

/// Each checkpoint of a chain has all messages, and a queue without a name outlives the namespace that a restore makes it in.
fn carried_twice(family: &str) {
    let case = Case::of(family);
    case.dump("first", Dump::RUNNING_ON, None);
    case.dump("second", Dump::ENDING, Some("first"));
    case.restore("second");
    case.dump("third", Dump::RUNNING_ON, None);
    case.dump("fourth", Dump::ENDING, None);
    case.restore("fourth");
    case.workload.check().expect("the program's own check");
}

#[test]
fn nameless_queues_are_carried_twice() {
    carried_twice("mqueue_messages");
}

#[test]
fn queues_of_a_namespace_are_carried_twice() {
    carried_twice("mqueue_namespace");
}
