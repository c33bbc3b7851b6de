//! Tracked processes. Needs root, and a kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod common;
#[path = "common/home.rs"]
mod home;

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use api::TrackTarget;
use common::{Quiet, until};
use ebpf_common::track::TrackedProcess;
use home::TestHome;
use ids::HostPid;
use stasis_collector::{Collector, Inventory, Look, OpenFile, ROOM, TrackError, Tracks};

#[test]
fn files_that_cannot_have_changed_are_not_read_again() {
    let quiet = Quiet::start();
    let home = TestHome::new("tracks");
    let (mut loader, _) = Collector::serve(&home, ROOM).unwrap();
    loader.watch();
    let mut tracks = loader.tracks().unwrap();
    let id = tracks.begin(&TrackTarget::Tree(quiet.pid().get()), true).unwrap();
    let mut follower = Collector::open_at(&home);
    follower.watch();
    let mut take = |earlier: &mut Inventory, times: usize| {
        let tree = stasis_collector::tree(quiet.pid()).unwrap();
        let mut inventory = follower.again(&tree, earlier, Look::Ahead).unwrap();
        for _ in 1..times {
            inventory = follower.again(&tree, &mut inventory, Look::Now).unwrap();
        }
        let spared = follower.spared();
        let fresh = loader.again(&tree, &mut Inventory::default(), Look::Now).unwrap();
        for (pid, process) in &fresh.processes {
            // Others go on to move the marks.
            let without = |files: &[OpenFile]| -> Vec<OpenFile> {
                files.iter().map(|file| OpenFile { mark: None, ..file.clone() }).collect()
            };
            assert!(without(&inventory.processes[pid].files) == without(&process.files));
        }
        (inventory, spared)
    };
    // The rest of the machine opens and renames files all the time: some pair of inventories meets a
    // moment in which it does not.
    let mut now = Inventory::default();
    until("two inventories with nothing between", || {
        let (next, spared) = take(&mut Inventory::default(), 2);
        now = next;
        spared == 1
    });
    for line in [
        "os.write(pipes[3][1], b'x')",
        "os.read(pipes[3][0], 1)",
        "pairs[2][0].send(b'hello')",
        "pairs[2][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 9000)",
        "os.dup(pipes[0][0])",
        "files[1].write('x' * 100); files[1].flush()",
        "files[2].close()",
        "os.set_inheritable(pipes[0][0], True)",
        "os.rename('file-4', 'other')",
        "os.unlink('file-5')",
        "child = os.fork() or signal.pause()",
        "os.kill(child, 9); os.waitpid(child, 0)",
    ] {
        now = take(&mut Inventory::default(), 1).0;
        quiet.does(line);
        let (next, spared) = take(&mut now, 1);
        assert_eq!(spared, 0, "{line}");
        now = next;
    }
    // Others change what it holds.
    let dir = quiet.dir.path();
    let changes: [(&str, &dyn Fn()); 3] = [
        ("renamed", &|| std::fs::rename(dir.join("file-6"), dir.join("moved")).unwrap()),
        ("removed", &|| std::fs::remove_file(dir.join("file-7")).unwrap()),
        ("written", &|| std::fs::write(dir.join("file-8"), "much").unwrap()),
    ];
    for (what, change) in changes {
        now = take(&mut Inventory::default(), 1).0;
        change();
        let (next, spared) = take(&mut now, 1);
        assert_eq!(spared, 0, "{what}");
        now = next;
    }
    // What somebody else holds is read each time.
    let other = std::fs::File::open(format!("/proc/{}/fd/3", quiet.pid())).unwrap();
    for _ in 0..3 {
        let (next, spared) = take(&mut now, 1);
        assert_eq!(spared, 0, "held by another");
        now = next;
    }
    drop(other);
    tracks.end(id).unwrap();
    drop(loader);
}

/// Python that does what it is told, line by line.
struct Program(Child);

impl Program {
    fn start() -> Self {
        let loop_ = "import os, sys, time, socket, threading, subprocess, resource, fcntl\n\
                     r, w = os.pipe()\n\
                     print('up', flush=True)\n\
                     for line in sys.stdin:\n exec(line)\n print('did', flush=True)\n";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", loop_]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut up = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut up).unwrap();
        assert_eq!(up, "up\n");
        Self(child)
    }

    fn pid(&self) -> HostPid {
        HostPid::from(&self.0)
    }

    fn does(&mut self, line: &str) {
        self.starts(line);
        let mut answer = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(answer, "did\n", "{line}");
        // It has said so, and reads the next line soon.
        std::thread::sleep(Duration::from_millis(20));
    }

    /// Has it do something a little later, and returns at once.
    fn starts(&mut self, line: &str) {
        // At once, so that it is read at once.
        self.0.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn tracks() -> Tracks {
    Collector::with_bpf().unwrap().tracks().unwrap()
}

fn process(tracks: &mut Tracks, id: u64, pid: HostPid) -> TrackedProcess {
    tracks.get(id).unwrap().unwrap().processes[&pid]
}

#[test]
fn generations_move_with_their_calls_and_stand_still_without() {
    let mut program = Program::start();
    let mut tracks = tracks();
    let id = tracks.begin(&TrackTarget::Pid(program.pid().get()), true).unwrap();
    let pid = program.pid();
    let first = process(&mut tracks, id, pid);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(process(&mut tracks, id, pid), first, "it waits");

    // What changes nothing: memory, questions, time.
    let quiet = "time.sleep(0.3); end = time.time() + 0.7\nwhile time.time() < end: os.getppid(); b = bytes(300000); time.sleep(0)";
    program.starts(&format!("exec({quiet:?})"));
    std::thread::sleep(Duration::from_millis(400));
    let before = process(&mut tracks, id, pid);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(process(&mut tracks, id, pid), before, "questions change nothing");
    let mut answer = String::new();
    BufReader::new(program.0.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();

    for line in [
        "os.write(w, b'x')",
        "os.read(r, 1)",
        "os.close(os.dup(r))",
        "os.chdir('/')",
        "os.umask(0o22)",
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_NONBLOCK)",
        "s = socket.socketpair()",
        "s[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)",
    ] {
        // Reading the line and answering moves the generation too, by a few.
        const TIMES: u64 = 20;
        let before = process(&mut tracks, id, pid).files;
        program.does(&format!("exec({:?})", format!("for _ in range({TIMES}): {line}")));
        let after = process(&mut tracks, id, pid).files;
        assert!(after - before >= TIMES, "{line}: {before} {after}");
    }
    for line in [
        "os.setpriority(os.PRIO_PROCESS, 0, 1)",
        "resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))",
        "os.setgroups([1, 2])",
        "os.sched_setaffinity(0, os.sched_getaffinity(0))",
        "os.setuid(0)",
        "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    ] {
        let before = process(&mut tracks, id, pid);
        program.does(line);
        let after = process(&mut tracks, id, pid);
        assert!(after.credentials > before.credentials, "{line}");
    }
    let before = process(&mut tracks, id, pid);
    program.does("t = threading.Thread(target=lambda: None); t.start(); t.join()");
    let after = process(&mut tracks, id, pid);
    assert_eq!(after.threads, before.threads + 2, "a thread came and went");
    assert_eq!(after.memory, before.memory);
    program.starts("os.execv('/bin/sleep', ['sleep', '60'])");
    until("it executes", || process(&mut tracks, id, pid).memory > after.memory);
    let after = process(&mut tracks, id, pid);
    assert_eq!((after.entered, after.asynchronous), (before.entered, 0));
    assert!(tracks.end(id).unwrap());
    assert_eq!(tracks.all().unwrap(), []);
}

#[test]
fn without_calls_only_the_scheduler_tells() {
    let mut program = Program::start();
    let mut tracks = tracks();
    let id = tracks.begin(&TrackTarget::Pid(program.pid().get()), false).unwrap();
    let before = process(&mut tracks, id, program.pid());
    program.does("os.setpriority(os.PRIO_PROCESS, 0, 1)");
    assert_eq!(process(&mut tracks, id, program.pid()), before);
    program.does("t = threading.Thread(target=lambda: None); t.start(); t.join()");
    assert_eq!(process(&mut tracks, id, program.pid()).threads, before.threads + 2);
}

#[test]
fn forks_are_followed_through_a_storm_and_the_track_ends_with_the_last_process() {
    let mut program = Program::start();
    let mut tracks = tracks();
    program.starts(
        "p = [subprocess.Popen(['/bin/sh', '-c', 'for i in 1 2 3 4 5 6 7 8 9 10; do (/bin/true | /bin/true) & done; wait; sleep 60']) for _ in range(30)]",
    );
    // In the midst of it.
    std::thread::sleep(Duration::from_millis(20));
    let id = tracks.begin(&TrackTarget::Tree(program.pid().get()), false).unwrap();
    let mut answer = String::new();
    BufReader::new(program.0.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
    until("the storm is over", || {
        let mut tree = stasis_collector::tree(program.pid()).unwrap();
        let track = tracks.get(id).unwrap().unwrap();
        assert_eq!(track.lost, 0);
        tree.sort_unstable();
        // The program, 30 shells, their sleeps.
        tree.len() == 61 && track.processes.keys().copied().eq(tree)
    });
    let track = tracks.get(id).unwrap().unwrap();
    assert!(track.tree > 0);
    for &pid in track.processes.keys() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.get()), nix::sys::signal::SIGKILL)
            .ok();
    }
    until("the track ends", || tracks.all().unwrap().is_empty());
}

#[test]
fn what_has_no_room_is_counted_as_lost() {
    let mut program = Program::start();
    let room = NonZeroU32::new(4).unwrap();
    let mut tracks = Collector::with_bpf_for(room).unwrap().tracks().unwrap();
    let id = tracks.begin(&TrackTarget::Pid(program.pid().get()), false).unwrap();
    program.does("p = [subprocess.Popen(['/bin/sleep', '60']) for _ in range(60)]");
    let track = tracks.get(id).unwrap().unwrap();
    assert!(track.lost >= 30, "{track:?}");
    program.does("for q in p: q.kill()");
    program.does("for q in p: q.wait()");
    let lost = tracks.get(id).unwrap().unwrap().lost;
    assert_eq!(lost, track.lost, "and it stays so");
    // The maps have room again.
    assert!(tracks.end(id).unwrap());
    let id = tracks.begin(&TrackTarget::Pid(program.pid().get()), false).unwrap();
    assert_eq!(tracks.get(id).unwrap().unwrap().lost, 0);
}

#[test]
fn what_cannot_be_tracked_is_refused() {
    let program = Program::start();
    let mut tracks = tracks();
    let gone = tracks.begin(&TrackTarget::Pid(i32::MAX), false).unwrap_err();
    assert!(matches!(gone, TrackError::Process { .. }), "{gone:?}");
    let gone = tracks.begin(&TrackTarget::Cgroup("/no/such".to_owned()), false).unwrap_err();
    assert!(matches!(gone, TrackError::Cgroup { .. }), "{gone:?}");
    let id = tracks.begin(&TrackTarget::Tree(program.pid().get()), false).unwrap();
    let twice = tracks.begin(&TrackTarget::Pid(program.pid().get()), false).unwrap_err();
    assert!(matches!(twice, TrackError::Taken { track, .. } if track == id), "{twice:?}");
    assert_eq!(tracks.all().unwrap().len(), 1);
    assert!(!tracks.end(id + 7).unwrap());
}
