//! What cannot be checkpointed is refused by name, before the target is stopped.

use serde_json::Value;
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Snapshot, Workload};

/// The message must name the process and each of the words; the target must not have noticed.
fn refused(family: &str, words: &[&str]) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let pid = workload.pid();
    let before = Snapshot::of(pid);
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(pid, &images, Dump::default());
    assert!(!outcome.success, "{family} was dumped");
    for word in words.iter().copied().chain([pid.to_string().as_str()]) {
        let said = outcome.stderr.to_lowercase();
        assert!(said.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!images.exists(), "a refused dump leaves no directory");
    // It sleeps and looks for work, so where it is in its sleep may differ.
    let ignored = ["syscall", "wchan", "stat:", "status: - State", "status: + State"];
    let differences = before.differences(&Snapshot::of(pid));
    let told: Vec<_> =
        differences.iter().filter(|line| !ignored.iter().any(|i| line.contains(i))).collect();
    assert!(told.is_empty(), "{told:#?}");
    // `stasis ps` says it beforehand.
    let listed = Outcome::of(Engine::Stasis.command("ps").arg("--json")).must_succeed("stasis ps");
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let processes = listed["processes"].as_array().expect("processes");
    let this = processes.iter().find(|process| process["pid"] == pid).expect("the process");
    let refusals = this["refusals"].to_string().to_lowercase();
    assert!(refusals.contains(words[0]), "stasis ps does not say it: {this}");
    workload.check().expect("the program's own check");
}

#[test]
fn inotify() {
    refused("unsupported-inotify", &["inotify", "descriptor"]);
}

#[test]
fn io_uring() {
    refused("unsupported-io_uring", &["io_uring"]);
}

#[test]
fn userfaultfd() {
    refused("unsupported-userfaultfd", &["userfaultfd"]);
}

#[test]
fn files_of_proc_about_the_program_itself() {
    refused("unsupported-proc_self", &["/proc", "descriptor"]);
}

#[test]
fn netlink_sockets() {
    refused("unsupported-netlink", &["netlink"]);
}

#[test]
fn packet_sockets() {
    refused("unsupported-packet", &["packet"]);
}

#[test]
fn connected_tcp_sockets() {
    refused("unsupported-tcp", &["tcp"]);
}

#[test]
fn a_process_that_is_not_there() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(i32::MAX, &images, Dump::default());
    assert!(!outcome.success);
    assert!(outcome.stderr.contains("2147483647"), "{}", outcome.stderr);
    assert!(!images.exists());
}

#[test]
fn a_directory_that_holds_a_checkpoint_already() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let images = scratch.path("images");
    let how = Dump { leave_running: true, ..Dump::default() };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("first dump");
    let listed = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&images).expect("list").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let before = listed();
    let again = Engine::Stasis.dump(workload.pid(), &images, how);
    assert!(!again.success, "a checkpoint was written over");
    assert_eq!(before, listed());
    workload.check().expect("the program's own check");
}
