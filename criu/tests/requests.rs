//! Requests that one process serves, as a program that goes on does. Needs root.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::path::Path;
use std::process::{Child, Command as Program, Stdio};

use collector::Home;
use ids::HostPid;
use stasis_criu::{Command, Done, Error, FinalState, Host, Options, run};

/// A program to be dumped, ended when dropped.
struct Target(Child);

impl Target {
    fn start() -> Self {
        let mut program = Program::new("sleep");
        program.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(program.spawn().unwrap())
    }

    fn request(&self, images: &Path) -> Options {
        std::fs::create_dir(images).unwrap();
        Options {
            tree: Some(HostPid::from(&self.0)),
            images_dir: Some(images.to_owned()),
            log_file: Some("dump.log".into()),
            verbosity: Some(4),
            final_state: FinalState::Running,
            shell_job: true,
            ..Options::default()
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// Of each the log says all, and nothing of others: also what was said in other threads.
#[test]
fn requests_at_the_same_time_have_logs_of_their_own() {
    let scratch = tempfile::tempdir().unwrap();
    let pins = format!("/sys/fs/bpf/stasis-test-criu-{}", std::process::id());
    let one = |name: &str| {
        let images = scratch.path().join(name);
        let target = Target::start();
        // Programs of its own: that they are loaded is logged by the thread that dumps.
        let programs = Home {
            pins: format!("{pins}-{name}").into(),
            cache: scratch.path().join(format!("{name}-cache")),
        };
        let host = Host {
            run_dir: scratch.path().join("run"),
            programs: programs.clone(),
            configuration: Vec::new(),
            configuration_too: None,
            dry_run: None,
        };
        let done = run(Command::Dump, &target.request(&images), &host).unwrap();
        programs.clear().unwrap();
        assert!(matches!(done, Done::Dumped(report) if report.processes == 1));
        let log = std::fs::read_to_string(images.join("dump.log")).unwrap();
        assert!(log.contains(&format!("images in {}", images.display())), "{log}");
        for said in ["Version: ", "no programs are pinned", "Dumping finished successfully"] {
            assert_eq!(count(&log, said), 1, "{said}: {log}");
        }
    };
    std::thread::scope(|scope| {
        for name in ["one", "two", "three"] {
            let one = &one;
            scope.spawn(move || one(name));
        }
    });
}

#[test]
fn a_request_that_fails_is_an_error_and_the_next_is_served() {
    let scratch = tempfile::tempdir().unwrap();
    let host = Host {
        run_dir: scratch.path().join("run"),
        programs: Home::at(Some("none".into()), None),
        configuration: Vec::new(),
        configuration_too: None,
        dry_run: None,
    };
    let target = Target::start();

    let images = scratch.path().join("failed");
    let gone = Options { tree: HostPid::new(i32::MAX), ..target.request(&images) };
    let error = run(Command::Dump, &gone, &host).unwrap_err();
    assert!(matches!(error, Error::Dump(_)) && error.is_in_the_log(), "{error:?}");
    let log = std::fs::read_to_string(images.join("dump.log")).unwrap();
    let first = error.to_string();
    assert_eq!(count(&log, first.lines().next().unwrap()), 1, "{log}");
    assert_eq!(count(&log, "Dumping FAILED."), 1, "{log}");

    let nowhere = Options { images_dir: Some(scratch.path().join("x")), ..Options::default() };
    let error = run(Command::Check, &nowhere, &host).unwrap_err();
    assert!(matches!(error, Error::Directory { .. }) && !error.is_in_the_log(), "{error:?}");

    let refused = Options {
        refused: vec!["--lazy-pages".to_owned()],
        ..target.request(&scratch.path().join("refused"))
    };
    let error = run(Command::Dump, &refused, &host).unwrap_err();
    assert!(matches!(&error, Error::Options(options) if options == &["--lazy-pages"]), "{error:?}");

    let request = target.request(&scratch.path().join("served"));
    assert!(matches!(run(Command::Dump, &request, &host).unwrap(), Done::Dumped(_)));
}
