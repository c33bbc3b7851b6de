//! Descriptors and directories that processes use together (`CLONE_FILES`, `CLONE_FS`).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::stage::{Findings, Outcome, Stage, check};

/// Forks a process that does `work` and waits for its end by a signal.
fn fork(flags: i32, work: impl FnOnce()) -> Pid {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has a copy of all memory, as after fork(2); this program has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        work();
        loop {
            std::thread::sleep(Duration::from_secs(1000));
        }
    }
    Pid::from_raw(check(pid as i32).expect("clone"))
}

/// `KCMP_FILES` and `KCMP_FS`.
const DESCRIPTORS: i32 = 2;
const DIRECTORIES: i32 = 3;

fn is_shared(table: i32, one: Pid, other: Pid) -> bool {
    // SAFETY: takes integers.
    let compared =
        unsafe { libc::syscall(libc::SYS_kcmp, one.as_raw(), other.as_raw(), table, 0, 0) };
    check(compared as i32).expect("kcmp") == 0
}

fn await_file(path: &Path) {
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn make(path: &Path) {
    drop(File::create(path).expect("make a file"));
}

fn end(all: &[Pid]) {
    for &pid in all {
        kill(pid, Signal::SIGKILL).expect("kill");
        waitpid(pid, None).expect("wait");
    }
}

fn has(number: i32) -> bool {
    // SAFETY: takes integers.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

const NUMBER: i32 = 150;

/// Children that share descriptors with their parent.
pub(crate) fn run(stage: &Stage) -> Outcome {
    let open = File::open(stage.dir()).expect("open");
    let (ask, opened) = (stage.path("ask"), stage.path("opened"));
    let opener = fork(libc::CLONE_FILES, || {
        await_file(&ask);
        // SAFETY: takes integers.
        check(unsafe { libc::dup2(open.as_raw_fd(), NUMBER) }).expect("dup2");
        make(&opened);
    });
    let other = fork(libc::CLONE_FILES, || {});
    let neither = fork(0, || {});
    stage.ready_then_wait();

    let own = Pid::this();
    let mut found = Findings::default();
    for (child, shares) in [(opener, true), (other, true), (neither, false)] {
        found.same("descriptors", &shares, &is_shared(DESCRIPTORS, own, child));
    }
    found.must("nothing of the restore's is open", !has(NUMBER));
    make(&ask);
    await_file(&opened);
    found.must("what a child opens is open", has(NUMBER));
    end(&[opener, other, neither]);
    found.outcome()
}

/// Directories, siblings that share, and a grandchild with a parent that does not: what CRIU does not carry.
pub(crate) fn apart(stage: &Stage) -> Outcome {
    let open = File::open(stage.dir()).expect("open");
    let (ask, moved) = (stage.path("ask"), stage.path("moved"));
    let below = stage.path("below");
    std::fs::create_dir(&below).expect("mkdir");
    let mover = fork(libc::CLONE_FS, || {
        await_file(&ask);
        std::env::set_current_dir(&below).expect("chdir");
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o27));
        make(&moved);
    });
    let numbers: [std::path::PathBuf; 2] = ["grandchild", "sibling"].map(|name| stage.path(name));
    let publish = |name: &str, pid: Pid| stage.publish(name, &pid.to_string());
    let between = fork(libc::CLONE_FILES | libc::CLONE_FS, || {
        publish("grandchild", fork(libc::CLONE_FILES | libc::CLONE_FS, || {}));
        // SAFETY: takes an integer.
        check(unsafe { libc::unshare(libc::CLONE_FILES | libc::CLONE_FS) }).expect("unshare");
        // SAFETY: takes integers.
        check(unsafe { libc::dup2(open.as_raw_fd(), NUMBER) }).expect("dup2");
    });
    let first = fork(0, || {
        publish("sibling", fork(libc::CLONE_FILES | libc::CLONE_PARENT, || {}));
    });
    let pids = numbers.map(|path| {
        await_file(&path);
        Pid::from_raw(std::fs::read_to_string(&path).expect("read").parse().expect("a pid"))
    });
    let [grandchild, sibling] = pids;
    let own = Pid::this();
    while is_shared(DIRECTORIES, own, between) {
        std::thread::yield_now();
    }
    stage.ready_then_wait();

    let mut found = Findings::default();
    for table in [DESCRIPTORS, DIRECTORIES] {
        found.must("a grandchild shares", is_shared(table, own, grandchild));
        found.must("who is between does not", !is_shared(table, own, between));
    }
    found.must("siblings share", is_shared(DESCRIPTORS, first, sibling));
    found.must("and not their parent", !is_shared(DESCRIPTORS, own, sibling));
    found.must("and not directories", !is_shared(DIRECTORIES, first, sibling));
    found.must("what was opened between is not open", !has(NUMBER));
    let link = format!("/proc/{between}/fd/{NUMBER}");
    found.same("but there", &Some(stage.dir()), &std::fs::read_link(link).ok());
    make(&ask);
    await_file(&moved);
    found.same("directory", &Some(below), &std::env::current_dir().ok());
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty()).bits();
    found.same("mask", &0o27, &mask);
    kill(grandchild, Signal::SIGKILL).expect("kill");
    end(&[between, first, sibling, mover]);
    found.outcome()
}
