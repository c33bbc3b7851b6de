//! How the command line speaks: JSON from every command, quiet, verbose, and in colour where that is wanted.

use std::process::Command;

use serde_json::Value;
use stasis_tests::{Machine, Outcome, Scratch, Workload, stasis_program};

fn stasis(arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new(stasis_program()).args(arguments))
}

fn json(arguments: &[&str]) -> Value {
    let outcome = stasis(&[&["--json"], arguments].concat()).must_succeed(&arguments.join(" "));
    serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", outcome.stdout))
}

#[test]
fn every_command_speaks_json() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let pid = workload.pid().to_string();
    let images = scratch.path("images");
    let images = images.to_str().expect("UTF-8");

    let dump = json(&["dump", &pid, "-D", images, "--leave-running", "--track"]);
    assert_eq!((&dump["pid"], &dump["directory"]), (&workload.pid().into(), &images.into()));
    assert!(dump["frozen_us"].as_u64() > Some(0) && dump["account"].is_object(), "{dump}");
    assert!(dump["warnings"].is_array(), "{dump}");
    assert_eq!(json(&["untrack", &pid])["untracked"]["pid"], workload.pid());
    assert_eq!(json(&["verify", images])["sound"], true);
    assert_eq!(json(&["unlock", images])["unlocked"], "never");
    assert!(json(&["show", images])["processes"].is_array());
    assert!(json(&["list", scratch.path("").to_str().expect("UTF-8")])["checkpoints"].is_array());
    assert_eq!(json(&["diff", images, images])["same"], true);
    assert!(json(&["ps"])["processes"].is_array());
    assert!(json(&["ps", "--containers"])["containers"].is_array());
    assert!(json(&["programs"])["pinned"].is_array());

    machine.end_tree(workload.pid());
    let restored = json(&["restore", "-D", images, "--detach"]);
    assert_eq!(restored["pid"], workload.pid(), "{restored}");
    assert!(restored["restore"]["total_us"].as_u64() > Some(0), "{restored}");
    workload.check().expect("it runs on");
    assert_eq!(json(&["rm", images])["removed"], Value::from(vec![images]));
}

#[test]
fn quiet_says_what_was_asked_for_alone_and_verbose_says_more() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let pid = workload.pid().to_string();
    let dump = |name: &str, how: &[&str], log: Option<&str>| {
        let mut command = Command::new(stasis_program());
        command.args(["dump", &pid, "--leave-running", "-D"]).arg(scratch.path(name)).args(how);
        // Its inventory comes from /proc, which is worth a word.
        command.env("STASIS_BPF_DIR", "none").envs(log.map(|log| ("STASIS_LOG", log)));
        Outcome::of(&mut command).must_succeed("dump")
    };
    let quiet = dump("quiet", &["-q"], None);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let verbose = dump("verbose", &["-vv"], None);
    assert!(verbose.stderr.lines().count() > 0, "{verbose:?}");
    assert!(!verbose.stderr.contains('\u{1b}'), "no colours in a pipe: {}", verbose.stderr);
    let above = dump("above", &["-vvv"], Some("off"));
    let noted = |line: &str| line.starts_with("stasis: ");
    assert!(above.stderr.lines().all(noted), "STASIS_LOG stays above it: {}", above.stderr);
    let images = scratch.path("quiet");
    let images = images.to_str().expect("UTF-8");
    assert_eq!(stasis(&["-q", "verify", images]).must_succeed("verify").stdout, "");
    let both = stasis(&["-q", "-v", "verify", images]);
    assert_eq!(both.code, Some(2), "{}", both.stderr);
    assert!(both.stderr.contains("--quiet") && both.stderr.contains("--verbose"), "{both:?}");
}

#[test]
fn colours_are_where_they_are_wanted() {
    let fail = |environment: &[(&str, &str)]| {
        let mut command = Command::new(stasis_program());
        command.args(["show", "/nonexistent"]).envs(environment.iter().copied());
        Outcome::of(&mut command).stderr
    };
    assert!(!fail(&[]).contains('\u{1b}'), "a pipe is no terminal");
    assert!(fail(&[("CLICOLOR_FORCE", "1")]).contains("\u{1b}["));
    assert!(!fail(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\u{1b}'));
}

#[test]
fn what_speaks_as_criu_takes_none_of_it() {
    for option in ["--json", "-q", "-v"] {
        let told = stasis(&[option, "criu", "check"]);
        assert!(!told.success && told.stderr.contains("remedy: leave"), "{option}: {told:?}");
    }
    // These are CRIU's own.
    let version = stasis(&["criu", "-V"]).must_succeed("criu -V").stdout;
    assert!(version.contains("Version"), "{version}");
}
