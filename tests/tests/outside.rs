//! Unix sockets that are connected to programs outside of the tree: a log, a listener. They are connected again
//! when both the dump and the restore are told that they may be.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use stasis_tests::{Dump, Engine, Machine, Outcome, Program, Scratch, Workload, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// What listens outside.
struct Logs {
    by_path: UnixDatagram,
    by_name: UnixDatagram,
}

impl Logs {
    fn at(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("mkdir");
        let path = dir.join("syslog");
        let name = SocketAddr::from_abstract_name(path.as_os_str().as_bytes()).expect("a name");
        let logs = Self {
            by_path: UnixDatagram::bind(&path).expect("bind"),
            by_name: UnixDatagram::bind_addr(&name).expect("bind"),
        };
        for log in [&logs.by_path, &logs.by_name] {
            log.set_nonblocking(true).expect("do not wait");
        }
        logs
    }

    /// What the socket with a path has been told.
    fn lines(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        std::iter::from_fn(|| {
            let count = self.by_path.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
        })
        .collect()
    }

    /// How many messages end so, of all that have come since.
    fn heard(&self, end: &str) -> [usize; 2] {
        [&self.by_path, &self.by_name].map(|log| {
            let mut bytes = [0; 4096];
            let said = std::iter::from_fn(|| {
                let count = log.recv(&mut bytes).ok()?;
                Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
            });
            said.filter(|line| line.ends_with(end)).count()
        })
    }
}

fn dump(by: Engine, pid: i32, images: &Path, options: &[&str], how: Dump<'_>) -> Outcome {
    Outcome::of(by.dump_command(pid, images, how).args(options))
}

fn restore(by: Engine, images: &Path, options: &[&str]) -> Outcome {
    Outcome::of(by.restore_command(images, Dump::ENDING).args(options))
}

/// A program with its logs, dumped and ended.
fn dumped(by: Engine, scratch: &Scratch, machine: &Machine) -> (Workload, Logs, PathBuf) {
    let images = scratch.path("images");
    let logs = Logs::at(&scratch.path("work"));
    let workload = Workload::start("outside_datagrams", scratch.path("work"));
    assert_eq!(logs.heard("before"), [2, 1]);
    let outcome = dump(by, workload.pid(), &images, &["--ext-unix-sk"], Dump::ENDING);
    outcome.must_succeed("dump");
    machine.await_no_children();
    (workload, logs, images)
}

fn carried(by: Engine, to: Engine) {
    let (machine, scratch) = (Machine::prepare(), Scratch::new());
    let (workload, logs, images) = dumped(by, &scratch, &machine);
    restore(to, &images, &["--ext-unix-sk"]).must_succeed("restore");
    logs.by_path.send_to(b"answer", workload.path("named")).expect("answer");
    workload.check().expect("the program's own check");
    assert_eq!(logs.heard("after"), [2, 1]);
}

#[test]
fn datagrams_reach_the_log_again() {
    carried(Engine::Stasis, Engine::Stasis);
}

#[test]
fn datagrams_reach_the_log_again_by_the_face_of_criu() {
    carried(Engine::CriuFace, Engine::CriuFace);
}

#[test]
fn datagrams_restored_by_criu_peer() {
    carried(Engine::Stasis, Engine::Criu);
}

#[test]
fn datagrams_dumped_by_criu_peer() {
    carried(Engine::Criu, Engine::Stasis);
}

#[test]
fn a_dump_that_is_not_told_so_names_the_option() {
    let (_machine, scratch) = (Machine::prepare(), Scratch::new());
    let logs = Logs::at(&scratch.path("work"));
    let workload = Workload::start("outside_datagrams", scratch.path("work"));
    let outcome = dump(Engine::Stasis, workload.pid(), &scratch.path("i"), &[], Dump::ENDING);
    assert!(!outcome.success);
    let log = scratch.path("work").join("syslog").display().to_string();
    for part in ["outside the tree", "--ext-unix-sk", &log, &format!("@{log}")] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
    logs.by_path.send_to(b"answer", workload.path("named")).expect("answer");
    workload.check().expect("it runs on");
}

#[test]
fn a_dump_leaves_the_connections_of_a_program_that_runs_on() {
    let (_machine, scratch) = (Machine::prepare(), Scratch::new());
    let logs = Logs::at(&scratch.path("work"));
    let workload = Workload::start("outside_datagrams", scratch.path("work"));
    for images in ["first", "second"] {
        let (pid, images) = (workload.pid(), scratch.path(images));
        dump(Engine::Stasis, pid, &images, &["--ext-unix-sk"], Dump::RUNNING_ON)
            .must_succeed("dump");
    }
    logs.by_path.send_to(b"answer", workload.path("named")).expect("answer");
    workload.check().expect("it runs on");
    assert_eq!(logs.heard("after"), [2, 1]);
}

#[test]
fn a_restore_is_told_so_too_and_says_who_is_missing() {
    let (machine, scratch) = (Machine::prepare(), Scratch::new());
    let (_workload, logs, images) = dumped(Engine::Stasis, &scratch, &machine);
    let outcome = restore(Engine::Stasis, &images, &[]);
    assert!(!outcome.success);
    assert!(outcome.stderr.contains("--ext-unix-sk"), "{}", outcome.stderr);
    drop(logs);
    let outcome = restore(Engine::Stasis, &images, &["--ext-unix-sk"]);
    assert!(!outcome.success);
    assert!(outcome.stderr.contains("start what listens at"), "{}", outcome.stderr);
    machine.await_no_children();
}

/// A new connection, by the process that had the old one.
#[test]
fn a_stream_is_connected_anew_if_it_is_named() {
    let (machine, scratch) = (Machine::prepare(), Scratch::new());
    let (work, images) = (scratch.path("work"), scratch.path("images"));
    std::fs::create_dir(&work).expect("mkdir");
    let listener = UnixListener::bind(work.join("listener")).expect("bind");
    let workload = Workload::start("outside_stream", work.clone());
    let (mut first, _) = listener.accept().expect("accept");
    let inode = std::fs::read_to_string(work.join("inode")).expect("read");
    let external = format!("unix[{inode}]");
    let refused = dump(Engine::Stasis, workload.pid(), &images, &["--ext-unix-sk"], Dump::ENDING);
    assert!(!refused.success);
    let remedy = format!("--external {external}");
    assert!(refused.stderr.contains(&remedy), "{}", refused.stderr);
    let options = ["--external", &external];
    dump(Engine::Stasis, workload.pid(), &images, &options, Dump::ENDING).must_succeed("dump");
    let mut text = String::new();
    first.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before");
    machine.await_no_children();
    restore(Engine::Stasis, &images, &["--ext-unix-sk"]).must_succeed("restore");
    let (mut second, _) = listener.accept().expect("accept");
    let peer = nix::sys::socket::getsockopt(&second, nix::sys::socket::sockopt::PeerCredentials);
    assert_eq!(peer.expect("SO_PEERCRED").pid(), workload.pid());
    workload.check().expect("the program's own check");
    let mut text = String::new();
    second.read_to_string(&mut text).expect("read");
    assert_eq!(text, "after");
}

/// A connection from outside, and the inode of its end in the program; or its other end, named `name`.
fn connected(scratch: &Scratch, name: Option<&str>) -> (Workload, UnixStream, String) {
    let work = scratch.path("work");
    let (listens, service) = (work.join("listens"), work.join("service"));
    let name = name.map(|name| work.join(name));
    let client = std::thread::spawn(move || {
        assert!(wait_until(PATIENCE, || listens.exists()), "nobody listens");
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("socket");
        let address = |path: &Path| UnixAddr::new(path).expect("a name");
        if let Some(name) = name {
            bind(socket.as_raw_fd(), &address(&name)).expect("bind");
        }
        connect(socket.as_raw_fd(), &address(&service)).expect("connect");
        UnixStream::from(socket)
    });
    let workload = Workload::start("outside_client", work.clone());
    let client = client.join().expect("a client");
    let inode = std::fs::read_to_string(work.join("inode")).expect("read");
    (workload, client, inode)
}

/// Nobody connects again to who has been connected to: a restore is handed another socket.
fn handed(by: Engine, to: Engine, name: Option<&str>) {
    let (machine, scratch) = (Machine::prepare(), Scratch::new());
    let images = scratch.path("images");
    let (workload, mut first, inode) = connected(&scratch, name);
    let external = ["--external", &format!("unix[{inode}]")];
    let key = format!("socket:[{inode}]");
    if by != Engine::Criu {
        let refused = dump(Engine::Stasis, workload.pid(), &images, &external, Dump::ENDING);
        assert!(!refused.success && refused.stderr.contains(&key), "{}", refused.stderr);
    }
    let outcome = dump(by, workload.pid(), &images, &external, Dump::ENDING);
    outcome.must_succeed("dump");
    let log = |name: &str| std::fs::read_to_string(images.join(name)).expect("the log");
    assert!(by == Engine::Criu || log("dump.log").contains(&key), "{}", log("dump.log"));
    let mut text = String::new();
    first.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before");
    machine.await_no_children();
    if to != Engine::Criu {
        assert!(!restore(to, &images, &["--ext-unix-sk"]).success);
        assert!(log("restore.log").contains(&key), "{}", log("restore.log"));
    }
    let (other, mut second) = UnixStream::pair().expect("a pair");
    // Only the copy is inherited.
    let copy = nix::unistd::dup(&other).expect("dup");
    let option = format!("fd[{}]:{key}", copy.as_raw_fd());
    restore(to, &images, &["--inherit-fd", &option]).must_succeed("restore");
    drop((other, copy));
    second.write_all(b"answer").expect("answer");
    workload.check().expect("the program's own check");
    let mut text = String::new();
    second.read_to_string(&mut text).expect("read");
    assert_eq!(text, "after");
}

#[test]
fn a_restore_is_handed_what_nobody_connects_again() {
    handed(Engine::CriuFace, Engine::CriuFace, None);
}

#[test]
fn a_client_with_a_name_is_not_connected_to() {
    handed(Engine::CriuFace, Engine::CriuFace, Some("client"));
}

#[test]
fn what_is_handed_over_dumped_by_criu_peer() {
    handed(Engine::Criu, Engine::CriuFace, None);
}

#[test]
fn what_is_handed_over_restored_by_criu_peer() {
    handed(Engine::CriuFace, Engine::Criu, None);
}

/// Python's logging to syslog, and a worker of multiprocessing that has not received what was handed to it.
#[test]
fn a_python_program_logs_on_and_its_worker_receives_a_handle() {
    let (machine, scratch) = (Machine::prepare(), Scratch::new());
    let (work, images) = (scratch.path("work"), scratch.path("images"));
    let logs = Logs::at(&work);
    let script = work.join("handles.py");
    std::fs::write(&script, include_str!("../programs/handles.py")).expect("write the script");
    let debian = Path::new("/usr/bin/python3");
    let python = if debian.exists() { debian } else { Path::new("python3") };
    let mut command = Command::new(python);
    command.arg(script).arg(&work).arg(work.join("syslog"));
    let program = Program::start(&mut command, &work.join("output"));
    let stands = wait_until(PATIENCE, || work.join("ready").exists());
    assert!(stands, "{:?}", std::fs::read_to_string(work.join("output")));
    dump(Engine::Stasis, program.pid(), &images, &["--ext-unix-sk"], Dump::ENDING)
        .must_succeed("dump");
    machine.await_no_children();
    restore(Engine::Stasis, &images, &["--ext-unix-sk"]).must_succeed("restore");
    std::fs::write(work.join("go"), "").expect("say so");
    assert!(wait_until(PATIENCE, || work.join("done").exists()), "the worker does not end");
    let lines = logs.lines();
    for said in ["ready", "worker read what was handed over", "worker ended with 0"] {
        assert!(lines.iter().any(|line| line.contains(said)), "{said}: {lines:?}");
    }
    machine.end_tree(program.pid());
}
