//! The command line: what people and scripts see.

use std::process::Command;

use serde_json::Value;
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload, stasis_program};

const RUNNING_ON: Dump<'_> = Dump::RUNNING_ON;

fn stasis(arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new(stasis_program()).args(arguments))
}

#[test]
fn check_says_what_the_kernel_can_do() {
    let _machine = Machine::prepare();
    let text = stasis(&["check"]).must_succeed("stasis check").stdout;
    assert!(text.lines().count() > 5, "{text}");
    let json = stasis(&["check", "--json"]).must_succeed("stasis check --json").stdout;
    let _: Value = serde_json::from_str(&json).expect("JSON");
}

#[test]
fn ps_names_a_process_of_ours() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let text = stasis(&["ps"]).must_succeed("stasis ps").stdout;
    let pid = workload.pid().to_string();
    let line = text.lines().find(|line| line.split_whitespace().any(|word| word == pid));
    assert!(line.is_some_and(|line| line.contains("stasis-workloa")), "{text}");
}

#[test]
fn show_tells_of_processes_memory_files_and_sizes() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("tree", scratch.path("work"));
    let images = scratch.path("images");
    let dump = Engine::Stasis.dump(workload.pid(), &images, RUNNING_ON).must_succeed("dump");
    assert!(!dump.stdout.contains('\r') && !dump.stderr.contains('\r'), "progress in a pipe");
    let images = images.to_str().expect("UTF-8");
    let text = stasis(&["show", images]).must_succeed("show").stdout;
    for word in [workload.pid().to_string().as_str(), "stasis-workloa", "shared"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    let json = stasis(&["show", images, "--json"]).must_succeed("show --json").stdout;
    let shown: Value = serde_json::from_str(&json).expect("JSON");
    assert!(shown.is_object(), "{shown}");
    workload.check().expect("the program's own check");
}

#[test]
fn bad_use_ends_with_a_status_of_its_own() {
    for arguments in [&["dump"][..], &["restore"], &["no-such-command"], &["dump", "x", "-D", "y"]]
    {
        let outcome = stasis(arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.is_empty());
    }
    let outcome = stasis(&["show", "/nonexistent/checkpoint"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("/nonexistent/checkpoint"), "{}", outcome.stderr);
}
