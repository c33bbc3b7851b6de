//! A dry run says what a dump says, and leaves nothing but that.

use std::process::Command;

use serde_json::{Value, json};
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Services, Snapshot, Workload};

fn tried(workload: &Workload, scratch: &Scratch, more: &[&str]) -> Outcome {
    let mut command: Command = Engine::Stasis.command("dump");
    command.args(["--dry-run", "--json"]).arg(workload.pid().to_string());
    Outcome::of(command.args(more).env("STASIS_RUN_DIR", scratch.path("run")))
}

fn as_json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

#[test]
fn it_tells_what_a_dump_would_cost() {
    let _machine = Machine::prepare();
    for (family, settings) in [
        ("tree", vec![]),
        ("threads", vec![]),
        ("dirty", vec![("STASIS_WORKLOAD_MIB", "40"), ("STASIS_WORKLOAD_RATE", "1")]),
    ] {
        let scratch = Scratch::new();
        let workload = Workload::start_with(family, scratch.path("work"), &settings);
        let images = scratch.path("images");
        let before = Snapshot::of(workload.pid());
        // The directory may be named, and is looked at.
        let named = images.to_str().expect("a path of ours");
        let first = tried(&workload, &scratch, &["-D", named]).must_succeed("the dry run");
        assert!(!images.exists(), "it has left a directory");
        let told = as_json(&first);
        let mut command = Engine::Stasis.dump_command(workload.pid(), &images, Dump::RUNNING_ON);
        let dumped = Outcome::of(command.arg("--json")).must_succeed("the dump");
        let dumped = as_json(&dumped);
        for field in ["pid", "processes", "threads"] {
            assert_eq!(told[field], dumped[field], "{family}: {field}");
        }
        let number = |of: &Value, field: &str| of[field].as_u64().expect("a number");
        assert!(number(&told, "frozen_us") > 0, "{told}");
        let (would, is) = (number(&told, "image_bytes"), number(&dumped, "image_bytes"));
        // It goes on to write meanwhile, and some of it is copied more than once.
        assert!(would.abs_diff(is) <= is / 5, "{family}: {would} bytes were told of {is}");
        let found = tried(&workload, &scratch, &["-D", named]);
        assert!(found.stderr.contains("holds a checkpoint already"), "{}", found.stderr);
        let changed = before.differences(&Snapshot::of(workload.pid()));
        let kept = |line: &&String| line.contains("userfaultfd") || line.contains("TracerPid");
        assert_eq!(changed.iter().filter(kept).count(), 0, "{changed:#?}");
        workload.check().expect("it has not noticed");
    }
}

#[test]
fn it_refuses_what_a_dump_refuses() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("unsupported-inotify", scratch.path("work"));
    let outcome = tried(&workload, &scratch, &[]);
    let dumped = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::default());
    assert!(!outcome.success && !dumped.success);
    assert_eq!(outcome.stderr, dumped.stderr);
    workload.check().expect("it runs on");
}

#[test]
fn it_stands_still_for_no_longer_than_it_may() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let size = [("STASIS_WORKLOAD_COUNT", "1000")];
    let workload = Workload::start_with("many_files", scratch.path("work"), &size);
    let outcome = tried(&workload, &scratch, &["--max-freeze", "1us"]);
    assert!(outcome.stderr.contains("it runs on"), "{}", outcome.stderr);
    workload.check().expect("it runs on");
}

/// What tells of changes since a checkpoint is for the next one.
#[test]
fn what_is_tracked_stays_tracked() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let settings = [("STASIS_WORKLOAD_MIB", "40"), ("STASIS_WORKLOAD_RATE", "1")];
    let workload = Workload::start_with("dirty", scratch.path("work"), &settings);
    let dump = |name: &str, more: &[&str]| {
        let mut command: Command =
            Engine::Stasis.dump_command(workload.pid(), &scratch.path(name), Dump::RUNNING_ON);
        command.args(more).arg("--json").env("STASIS_RUN_DIR", scratch.path("run"));
        as_json(&Outcome::of(&mut command).must_succeed(name))
    };
    dump("first", &["--track"]);
    let outcome = tried(&workload, &scratch, &[]);
    assert!(outcome.stderr.contains("stasis untrack"), "{}", outcome.stderr);
    let first = scratch.path("first");
    let second = dump("second", &["--parent", first.to_str().expect("a path of ours")]);
    let bytes = second["image_bytes"].as_u64().expect("a number");
    assert!(bytes < 35 << 20, "nothing was left to the parent: {second}");
    // With nothing to lose it is no matter.
    tried(&workload, &scratch, &[]).must_succeed("the dry run");
    workload.check().expect("it has not noticed");
}

#[test]
fn a_gateway_tries_it_too() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("threads", scratch.path("work"));
    let ask = |body: Value| services.job("/v1/checkpoints", &body);
    let job = ask(json!({"pid": workload.pid(), "dry_run": true})).expect("the dry run");
    assert_eq!((&job["kind"], &job["state"]), (&json!("dry_run"), &json!("done")), "{job}");
    assert!(job["dump"]["frozen_us"].as_u64().is_some_and(|us| us > 0), "{job}");
    assert!(job["dump"]["image_bytes"].as_u64().is_some_and(|bytes| bytes > 10_000), "{job}");
    // It may be asked what is refused of a tree that is to end.
    ask(
        json!({"pid": workload.pid(), "dry_run": true, "leave_running": false, "directory": "a/b"}),
    )
    .expect("another");
    workload.check().expect("it runs on");
    let body = json!({"pid": workload.pid(), "dry_run": true, "track": true});
    let refused = services.call("POST", "/v1/checkpoints", Some(&body.to_string()));
    assert_eq!(
        (refused.status, &refused.body["field"]),
        (422, &json!("track")),
        "{}",
        refused.text
    );
    let listed = services.call("GET", "/v1/checkpoints", None).body;
    assert_eq!(listed["checkpoints"], json!([]), "{listed}");
    let left: Vec<_> = std::fs::read_dir(services.checkpoints()).expect("the root").collect();
    assert!(left.is_empty(), "{left:?}");
    let jobs = services.call("GET", "/v1/jobs?kind=dry_run", None).body;
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(2), "{jobs}");
}
