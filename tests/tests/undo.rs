//! What a killed process has left done that the kernel keeps is undone by whatever starts next. Needs root and
//! the unified hierarchy of control groups.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use stasis_tests::{
    Machine, Outcome, Program, Scratch, built_program, require, stasis_program, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A control group with a program in it; gone at the end.
struct Group {
    directory: PathBuf,
    program: Program,
}

impl Group {
    fn with_a_program(scratch: &Scratch) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        require!(mount.is_some(), "the unified hierarchy of control groups is mounted");
        let mount = mount.and_then(|line| line.split(' ').nth(1)).expect("where it is mounted");
        let directory = Path::new(mount).join(format!("stasis-undo-{}", std::process::id()));
        fs::create_dir(&directory).expect("make a control group");
        let program = Program::start(Command::new("sleep").arg("1000"), &scratch.path("log"));
        fs::write(directory.join("cgroup.procs"), program.pid().to_string())
            .expect("move it there");
        Self { directory, program }
    }

    fn is_frozen(&self) -> bool {
        let events = fs::read_to_string(self.directory.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    }

    fn ask_for(&self, frozen: &str) {
        fs::write(self.directory.join("cgroup.freeze"), frozen).expect("write cgroup.freeze");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::write(self.directory.join("cgroup.freeze"), "0").ok();
        fs::write(self.directory.join("cgroup.kill"), "1").ok();
        wait_until(Duration::from_secs(5), || fs::remove_dir(&self.directory).is_ok());
    }
}

/// The service alone, by which a process holds a freeze for as long as somebody wants it.
struct Freezer {
    service: Child,
    /// While it is open, the lease lasts.
    _connection: UnixStream,
}

impl Freezer {
    fn of(run_dir: &Path, pid: i32) -> Self {
        let service = freezer(run_dir);
        let socket = run_dir.join("freezer.sock");
        let mut connection = None;
        wait_until(PATIENCE, || {
            connection = UnixStream::connect(&socket).ok();
            connection.is_some()
        });
        let mut connection = connection.expect("connect to the freezer");
        let lease = json!({"pid": pid, "method": "cgroup_v2", "ttl_ms": 60_000}).to_string();
        let head =
            "POST /v1/leases HTTP/1.1\r\nHost: freezer\r\nContent-Type: application/json\r\n";
        write!(connection, "{head}Content-Length: {}\r\n\r\n{lease}", lease.len()).expect("ask");
        let mut answer = [0; 4096];
        let length = connection.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        Self { service, _connection: connection }
    }

    fn kill(mut self) {
        self.service.kill().expect("kill the freezer");
        self.service.wait().expect("wait for the freezer");
    }
}

fn freezer(run_dir: &Path) -> Child {
    let mut command = Command::new(built_program("stasis-freezer"));
    command.env("STASIS_RUN_DIR", run_dir).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().expect("start the freezer")
}

fn written_down(run_dir: &Path) -> usize {
    fs::read_dir(run_dir.join("undo")).map_or(0, Iterator::count)
}

/// Whether what comes next undoes the freeze of a freezer that was killed, and no other.
fn next(undoes: impl Fn(&Path)) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let run_dir = scratch.path("run");
    let group = Group::with_a_program(&scratch);
    let held = Freezer::of(&run_dir, group.program.pid());
    assert!(group.is_frozen());
    assert_eq!(written_down(&run_dir), 1);
    // It is nobody's business while its doer lives.
    stasis(&run_dir);
    assert!(group.is_frozen());
    held.kill();
    assert!(group.is_frozen(), "the kernel keeps it");
    undoes(&run_dir);
    assert!(wait_until(PATIENCE, || !group.is_frozen()), "it was left frozen");
    assert_eq!(written_down(&run_dir), 0);
    // What somebody freezes now is not ours to thaw.
    group.ask_for("1");
    assert!(wait_until(PATIENCE, || group.is_frozen()));
    undoes(&run_dir);
    assert!(group.is_frozen(), "it was undone twice");
}

fn stasis(run_dir: &Path) {
    let command = &mut Command::new(stasis_program());
    drop(Outcome::of(command.arg("check").env("STASIS_RUN_DIR", run_dir)));
}

#[test]
fn a_command_undoes_what_a_killed_freezer_has_left() {
    next(stasis);
}

#[test]
fn the_criu_face_undoes_what_a_killed_freezer_has_left() {
    next(|run_dir| {
        let command = &mut Command::new(built_program("criu"));
        drop(Outcome::of(command.arg("check").env("STASIS_RUN_DIR", run_dir)));
    });
}

#[test]
fn the_next_freezer_undoes_what_a_killed_one_has_left() {
    next(|run_dir| {
        let mut service = freezer(run_dir);
        let socket = run_dir.join("freezer.sock");
        let up = wait_until(PATIENCE, || UnixStream::connect(&socket).is_ok());
        service.kill().expect("kill the freezer");
        service.wait().expect("wait for the freezer");
        assert!(up, "it does not come up");
    });
}

/// A lease that is given back leaves nothing behind.
#[test]
fn what_is_let_go_is_no_longer_written_down() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let run_dir = scratch.path("run");
    let group = Group::with_a_program(&scratch);
    let Freezer { mut service, _connection } = Freezer::of(&run_dir, group.program.pid());
    assert!(group.is_frozen());
    drop(_connection);
    assert!(wait_until(PATIENCE, || !group.is_frozen() && written_down(&run_dir) == 0));
    service.kill().expect("kill the freezer");
    service.wait().expect("wait for the freezer");
}
