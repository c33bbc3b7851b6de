//! Pid namespaces below that of the root: made as unshare(1) does it, with orphans, dead children and a namespace further
//! down; processes that have entered one from outside; one that its next child is to make; dead first processes.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, setpgid, setsid};

use crate::files::fcntl;
use crate::stage::{Findings, Outcome, Stage, check, eventually};
use crate::tree::{Kin, child};

const OWN: Pid = Pid::from_raw(0);

fn open(pid: Pid) -> OwnedFd {
    // SAFETY: takes two integers; the answer is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = check(fd as i32).expect("pidfd_open");
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The numbers that the machine's `/proc` tells of the calling process.
fn numbers() -> String {
    let text = fs::read_to_string("/proc/self/status").expect("status");
    let lines = text
        .lines()
        .filter(|line| ["NSpid:", "NSpgid", "NSsid:"].iter().any(|it| line.starts_with(it)));
    lines.collect::<Vec<_>>().join(" ")
}

fn for_children() -> Option<std::path::PathBuf> {
    fs::read_link("/proc/self/ns/pid_for_children").ok()
}

fn await_files(stage: &Stage, names: &[&str]) {
    for name in names {
        assert!(eventually(|| stage.path(name).exists()), "{name} does not come");
    }
}

/// One that is what it was in all namespaces, and `more`.
fn member(stage: &Stage, name: &str, more: impl FnOnce(&mut Findings)) -> Outcome {
    let before = (Kin::now(), numbers(), for_children().is_some());
    stage.publish(name, &getpid().to_string());
    stage.wait();
    let mut found = Findings::default();
    found.same("kin and numbers", &before, &(Kin::now(), numbers(), for_children().is_some()));
    more(&mut found);
    found.outcome()
}

fn ends(found: &mut Findings, what: &str, pid: Pid) {
    found.same(what, &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
}

/// Forks in a pid namespace of its own.
fn first(stage: &Stage, name: &str, work: impl FnOnce() -> Outcome) -> Pid {
    // SAFETY: as fork(2), of a program with one thread.
    let made =
        unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWPID | libc::SIGCHLD, 0, 0, 0, 0) };
    match check(made as i32).expect("clone") {
        0 => {
            let outcome = work();
            if let Err(what) = &outcome {
                stage.publish(&format!("child-{name}"), what);
            }
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        pid => Pid::from_raw(pid),
    }
}

/// The child of a session's leader that has ended, in a group whose leader has ended as well.
fn orphan(stage: &Stage) {
    let leader = child(stage, "leader", || {
        setsid().expect("setsid");
        let grouped = child(stage, "dead group", || {
            setpgid(OWN, OWN).expect("setpgid");
            child(stage, "orphan", || {
                assert!(eventually(|| nix::unistd::getppid() == Pid::from_raw(1)));
                member(stage, "orphan", |_| {})
            });
            Ok(())
        });
        waitpid(grouped, None).expect("wait");
        Ok(())
    });
    waitpid(leader, None).expect("wait");
    await_files(stage, &["orphan"]);
}

/// A timer that signals a thread by its number.
fn timer() -> libc::timer_t {
    // SAFETY: the event is a plain structure whose fields are set; the timer's place is a local.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGUSR2;
        event.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as i32;
        let mut timer = std::mem::zeroed();
        check(libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer))
            .expect("timer");
        timer
    }
}

fn ring(timer: libc::timer_t) {
    // SAFETY: the setting is a local.
    unsafe {
        let mut setting: libc::itimerspec = std::mem::zeroed();
        setting.it_value.tv_nsec = 1_000_000;
        check(libc::timer_settime(timer, 0, &raw const setting, std::ptr::null_mut()))
            .expect("set");
    }
}

/// Waits for one of the signals that are blocked: who has sent it.
fn signalled(signal: Signal) -> Option<i32> {
    let mut set = SigSet::empty();
    set.add(signal);
    let limit = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    // SAFETY: the structures are locals.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let got = libc::sigtimedwait(set.as_ref(), &raw mut info, &raw const limit);
        (got == signal as i32).then(|| info.si_pid())
    }
}

/// The first process of a namespace, and what is in it.
fn init(stage: &Stage) -> Outcome {
    let mut blocked = SigSet::empty();
    [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGIO].into_iter().for_each(|it| blocked.add(it));
    blocked.thread_block().expect("block");
    let before = (Kin::now(), numbers());
    let of_own = timer();
    orphan(stage);
    let grouped = child(stage, "grouped", || {
        setpgid(OWN, OWN).expect("setpgid");
        let below = child(stage, "below", || member(stage, "below", |_| {}));
        let outcome = member(stage, "grouped", |_| {});
        waitpid(below, None).expect("wait");
        outcome
    });
    let threaded = child(stage, "threaded", || {
        let (numbers, told) = std::sync::mpsc::channel();
        let tid = || {
            // SAFETY: takes nothing.
            unsafe { libc::syscall(libc::SYS_gettid) }
        };
        let (go, waits) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let before = tid();
            numbers.send(before).expect("tell");
            waits.recv().expect("go");
            (before, tid())
        });
        told.recv().expect("told");
        member(stage, "threaded", |found| {
            go.send(()).expect("go");
            let (before, now) = other.join().expect("the thread");
            found.same("number of the other thread", &before, &now);
        })
    });
    let deeper = first(stage, "deeper", || {
        let below = child(stage, "deepest", || member(stage, "deepest", |_| {}));
        member(stage, "deeper", |found| {
            ends(found, "the one below", below);
            let new = child(stage, "newest", || {
                let mut found = Findings::default();
                found.same("parent of the newest", &Pid::from_raw(1), &nix::unistd::getppid());
                found.outcome()
            });
            ends(found, "the newest", new);
        })
    });
    let session = child(stage, "session", || {
        setsid().expect("setsid");
        let below = child(stage, "of session", || member(stage, "of session", |_| {}));
        member(stage, "session", |found| ends(found, "of session", below))
    });
    let stopped = child(stage, "stopped", || member(stage, "stopped", |_| {}));
    let dead = child(stage, "dead", || Ok(()));
    waitid(Id::Pid(dead), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("wait");
    let owner = child(stage, "owner", || {
        member(stage, "owner", |found| {
            found.same("who has sent the signal", &Some(1), &signalled(Signal::SIGUSR1));
            found.must("a file that is ready", signalled(Signal::SIGIO).is_some());
        })
    });
    let names = [
        "grouped",
        "below",
        "threaded",
        "deeper",
        "deepest",
        "session",
        "of session",
        "stopped",
        "owner",
    ];
    await_files(stage, &names);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    fcntl(read.as_raw_fd(), libc::F_SETOWN, owner.as_raw());
    let flags = fcntl(read.as_raw_fd(), libc::F_GETFL, 0);
    fcntl(read.as_raw_fd(), libc::F_SETFL, flags | libc::O_ASYNC);
    let of_owner = open(owner);
    kill(owner, Signal::SIGUSR1).expect("signal");
    kill(stopped, Signal::SIGSTOP).expect("stop");
    waitpid(stopped, Some(WaitPidFlag::WUNTRACED)).expect("wait for the stop");
    stage.publish("init", "");
    stage.wait();

    let mut found = Findings::default();
    found.same("init", &before, &(Kin::now(), numbers()));
    found.must("a pidfd of a child", fdinfo(&of_owner).contains(&format!("\t{owner}\n")));
    found.same("owner of a file", &owner.as_raw(), &fcntl(read.as_raw_fd(), libc::F_GETOWN, 0));
    nix::unistd::write(&write, b".").expect("write");
    ring(of_own);
    found.must("a timer's signal", signalled(Signal::SIGUSR2).is_some());
    found.works("a signal to init", nix::sys::signal::raise(Signal::SIGTERM));
    found.same("dead child", &Ok(WaitStatus::Exited(dead, 0)), &waitpid(dead, None));
    found.works("continue", kill(stopped, Signal::SIGCONT));
    for (what, pid) in [
        ("grouped", grouped),
        ("threaded", threaded),
        ("deeper", deeper),
        ("session", session),
        ("stopped", stopped),
    ] {
        ends(&mut found, what, pid);
    }
    ends(&mut found, "owner", owner);
    let new = child(stage, "new", || {
        let mut found = Findings::default();
        found.same("parent of a new process", &Pid::from_raw(1), &nix::unistd::getppid());
        found.outcome()
    });
    ends(&mut found, "new", new);
    let orphan = waitpid(None, None);
    found.must("the orphan comes to init", matches!(orphan, Ok(WaitStatus::Exited(_, 0))));
    // With it all in its namespace end.
    await_files(stage, &["over"]);
    found.outcome()
}

/// Enters the namespace of the first process that is a child of `of`, and has a child in it.
fn entered(stage: &Stage, name: &'static str, of: Pid, stays: bool) -> Outcome {
    setns(open(of), CloneFlags::CLONE_NEWPID).expect("setns");
    let inner = format!("{name} inside");
    let inside = child(stage, &inner, || member(stage, &inner, |_| {}));
    if !stays {
        setns(open(getpid()), CloneFlags::CLONE_NEWPID).expect("setns");
    }
    await_files(stage, &[&inner]);
    let before = for_children();
    member(stage, name, |found| {
        found.must(
            "children are born where they were",
            before.is_some() && for_children().is_some(),
        );
        ends(found, "who is inside", inside);
    })
}

/// A tree whose root is outside of all of that.
pub(crate) fn run(stage: &Stage) -> Outcome {
    let unshared = child(stage, "unshared", || {
        unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
        let first = child(stage, "first", || init(stage));
        await_files(stage, &["init"]);
        stage.publish("number", &first.to_string());
        member(stage, "unshared", |found| ends(found, "first", first))
    });
    await_files(stage, &["unshared", "number"]);
    let number = fs::read_to_string(stage.path("number")).expect("a number");
    let of = Pid::from_raw(number.parse().expect("a number"));
    let stays = child(stage, "stays", || entered(stage, "stays", of, true));
    let returns = child(stage, "returns", || entered(stage, "returns", of, false));
    let pending = child(stage, "pending", || {
        unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
        member(stage, "pending", |found| {
            let made = child(stage, "made", || {
                let mut found = Findings::default();
                found.same("number of the first child", &Pid::from_raw(1), &getpid());
                found.outcome()
            });
            ends(found, "made", made);
        })
    });
    let exited = first(stage, "exited", || Err("on purpose".to_owned()));
    let killed = first(stage, "killed", || {
        std::thread::sleep(Duration::from_secs(1000));
        Ok(())
    });
    kill(killed, Signal::SIGKILL).expect("kill");
    for pid in [exited, killed] {
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("wait");
    }
    let _ignored = fs::remove_file(stage.path("child-exited"));
    await_files(stage, &["stays", "returns", "pending"]);
    let before = [exited, killed, of].map(|pid| (pid, levels(pid)));
    let of_first = open(of);

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (pid, before) in &before {
        let name = format!("numbers of {pid}");
        found.same(&name, before, &levels(*pid));
    }
    found.must(
        "a pidfd of the first process",
        fdinfo(&of_first).contains(&format!("NSpid:\t{of}\t1")),
    );
    found.same("one that has exited", &Ok(WaitStatus::Exited(exited, 1)), &waitpid(exited, None));
    let by_kill = WaitStatus::Signaled(killed, Signal::SIGKILL, false);
    found.same("one that was killed", &Ok(by_kill), &waitpid(killed, None));
    for (what, pid) in [("stays", stays), ("returns", returns), ("pending", pending)] {
        ends(&mut found, what, pid);
    }
    stage.publish("over", "");
    ends(&mut found, "unshared", unshared);
    found.outcome()
}

fn fdinfo(file: &OwnedFd) -> String {
    fs::read_to_string(Path::new("/proc/self/fdinfo").join(file.as_raw_fd().to_string()))
        .expect("fdinfo")
}

/// The numbers of a process from here down.
fn levels(pid: Pid) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default().to_owned()
}

/// What is not carried of such namespaces, each by a child of its own.
pub(crate) fn refused(stage: &Stage) -> Outcome {
    let leader = child(stage, "group leader", || {
        setpgid(OWN, OWN).expect("setpgid");
        member(stage, "group leader", |_| {})
    });
    await_files(stage, &["group leader"]);
    let beside = child(stage, "beside", || {
        setpgid(OWN, leader).expect("setpgid");
        let first =
            first(stage, "of a group beside", || member(stage, "of a group beside", |_| {}));
        member(stage, "beside", |found| ends(found, "the first", first))
    });
    let ended = child(stage, "ended", || {
        unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
        waitpid(child(stage, "first of it", || Ok(())), None).expect("wait");
        member(stage, "ended", |_| {})
    });
    let faulted = first(stage, "faulted", || {
        let limit = nix::sys::resource::Resource::RLIMIT_CORE;
        nix::sys::resource::setrlimit(limit, 0, 0).expect("no core");
        // SAFETY: there is no memory there, which is what is wanted.
        unsafe { std::ptr::without_provenance_mut::<u8>(16).write_volatile(0) };
        Ok(())
    });
    waitid(Id::Pid(faulted), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("wait");
    let (read, write) = nix::unistd::pipe().expect("pipe");
    fcntl(read.as_raw_fd(), libc::F_SETOWN, getpid().as_raw());
    let owned = first(stage, "owned", || {
        let flags = fcntl(read.as_raw_fd(), libc::F_GETFL, 0);
        member(stage, "owned", |found| {
            found.same("flags", &flags, &fcntl(read.as_raw_fd(), libc::F_GETFL, 0));
        })
    });
    drop((read, write));
    await_files(stage, &["of a group beside", "beside", "ended", "owned"]);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (what, pid) in [("leader", leader), ("beside", beside), ("ended", ended), ("owned", owned)]
    {
        ends(&mut found, what, pid);
    }
    found.works("the faulted one", waitpid(faulted, None));
    found.outcome()
}
