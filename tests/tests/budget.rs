//! `--max-freeze` and `--timeout` are promises: when one is over the target runs on, unharmed, there is
//! no checkpoint, and the error says where the time went.

use std::process::Command;

use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload};

fn dump(workload: &Workload, scratch: &Scratch, limits: &[&str]) -> Outcome {
    let images = scratch.path("images");
    let mut command: Command =
        Engine::Stasis.dump_command(workload.pid(), &images, Dump::RUNNING_ON);
    let outcome = Outcome::of(command.args(limits));
    assert_eq!(images.exists(), outcome.success, "complete or absent: {}", outcome.stderr);
    outcome
}

#[test]
fn a_target_stands_still_for_no_longer_than_it_may() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let size = [("STASIS_WORKLOAD_COUNT", "1000")];
    let workload = Workload::start_with("many_files", scratch.path("work"), &size);
    // /proc is read: 1,800 descriptors take longer than this on any machine.
    let outcome = dump(&workload, &scratch, &["--max-freeze", "1ms"]);
    assert!(!outcome.success, "{}", outcome.stdout);
    for part in ["has stood still for the 1 ms that it may", "inventory ", "it runs on"] {
        assert!(outcome.stderr.contains(part), "no {part:?} in: {}", outcome.stderr);
    }
    dump(&workload, &scratch, &["--max-freeze", "1min"]).must_succeed("dump");
    if let Err(what) = workload.check() {
        panic!("it noticed: {what}");
    }
}

#[test]
fn a_dump_takes_no_longer_than_it_may() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pulse", scratch.path("work"));
    let outcome = dump(&workload, &scratch, &["--timeout", "1us"]);
    assert!(!outcome.success, "{}", outcome.stdout);
    assert!(outcome.stderr.contains("the dump is not done"), "{}", outcome.stderr);
    dump(&workload, &scratch, &["--timeout", "1min"]).must_succeed("dump");
    if let Err(what) = workload.check() {
        panic!("it noticed: {what}");
    }
}
