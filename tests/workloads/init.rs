//! The first process of a pid namespace, with children of every kind: whose parent has ended, whose session's leader
//! has, dead ones, a stopped one. And processes whose clocks are shifted.

use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork, setpgid, setsid};

use crate::stage::{Findings, Outcome, Stage};
use crate::tree::{Kin, child};

/// Has a child do `work` in new namespaces, and waits for its end. What is dumped is the child.
pub(crate) fn inside(
    flags: CloneFlags,
    prepare: impl FnOnce(),
    work: impl FnOnce() -> Outcome,
) -> Outcome {
    unshare(flags).expect("unshare");
    prepare();
    // SAFETY: the program has one thread, so the child may use everything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            let _ended = waitpid(child, None).expect("wait");
            // SAFETY: ends the process; the result is the child's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Child => {
            setsid().expect("setsid");
            work()
        }
    }
}

fn member(stage: &Stage, name: &str) -> Outcome {
    let before = Kin::now();
    stage.publish(name, "");
    stage.wait();
    let mut found = Findings::default();
    found.same("kin", &before, &Kin::now());
    found.outcome()
}

fn await_file(stage: &Stage, name: &str) {
    while !stage.path(name).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A session's leader that has ended, and whose child has come to init.
fn orphan(stage: &Stage) {
    let leader = child(stage, "leader", || {
        setsid().expect("setsid");
        child(stage, "orphan", || {
            while nix::unistd::getppid() != Pid::from_raw(1) {
                std::thread::sleep(Duration::from_millis(1));
            }
            member(stage, "orphan")
        });
        Ok(())
    });
    waitpid(leader, None).expect("wait");
    await_file(stage, "orphan");
}

fn init(stage: &Stage) -> Outcome {
    let before = Kin::now();
    orphan(stage);
    let grouped = child(stage, "grouped", || {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
        let below = child(stage, "below", || member(stage, "below"));
        let outcome = member(stage, "grouped");
        waitpid(below, None).expect("wait");
        outcome
    });
    let stopped = child(stage, "stopped", || member(stage, "stopped"));
    let dead = child(stage, "dead", || Ok(()));
    waitid(Id::Pid(dead), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("wait");
    ["grouped", "below", "stopped"].iter().for_each(|name| await_file(stage, name));
    kill(stopped, Signal::SIGSTOP).expect("stop");
    waitpid(stopped, Some(WaitPidFlag::WUNTRACED)).expect("wait for the stop");

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("init", &before, &Kin::now());
    // An init gets no signal from inside that it has no handler for.
    found.works("a signal to init", raise(Signal::SIGTERM));
    found.same("dead child", &Ok(WaitStatus::Exited(dead, 0)), &waitpid(dead, None));
    found.works("continue", kill(stopped, Signal::SIGCONT));
    for (what, pid) in [("grouped", grouped), ("stopped", stopped)] {
        found.same(what, &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
    }
    let new = child(stage, "new", || {
        let mut found = Findings::default();
        found.same("parent of a new process", &Pid::from_raw(1), &nix::unistd::getppid());
        found.outcome()
    });
    found.same("new", &Ok(WaitStatus::Exited(new, 0)), &waitpid(new, None));
    let orphan = waitpid(None, None);
    found.must("the orphan comes to init", matches!(orphan, Ok(WaitStatus::Exited(_, 0))));
    found.same("no other child", &Err(nix::Error::ECHILD), &waitpid(None, None));
    found.outcome()
}

/// A tree in a pid namespace whose first process, which is there for others, is no part of it. What is dumped is the second child.
pub(crate) fn of_others(stage: &Stage) -> Outcome {
    unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
    let first = child(stage, "first", || {
        // Whoever comes to it is not waited for.
        // SAFETY: the program has one thread, and the kernel calls nothing.
        unsafe { nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn) }
            .expect("ignore a signal");
        loop {
            nix::unistd::pause();
        }
    });
    // SAFETY: the program has one thread, so the child may use everything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            let _ended = waitpid(child, None).expect("wait");
            await_file(stage, "result");
            kill(first, Signal::SIGKILL).expect("kill");
            // SAFETY: ends the process; the result is the child's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Child => {
            setsid().expect("setsid");
            guest(stage)
        }
    }
}

fn guest(stage: &Stage) -> Outcome {
    let before = Kin::now();
    let grouped = child(stage, "grouped", || {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
        member(stage, "grouped")
    });
    await_file(stage, "grouped");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("the root", &before, &Kin::now());
    found.must("not the first", nix::unistd::getpid() != Pid::from_raw(1));
    found.works("who is", kill(Pid::from_raw(1), None));
    found.same("grouped", &Ok(WaitStatus::Exited(grouped, 0)), &waitpid(grouped, None));
    let new = child(stage, "new", || {
        let mut found = Findings::default();
        found.must("parent of a new process", nix::unistd::getppid() == before.pid());
        found.outcome()
    });
    found.same("new", &Ok(WaitStatus::Exited(new, 0)), &waitpid(new, None));
    found.outcome()
}

/// An init and what is below it.
pub(crate) fn run(stage: &Stage) -> Outcome {
    inside(CloneFlags::CLONE_NEWPID, || {}, || init(stage))
}

const CLOCKS: [ClockId; 2] = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME];

fn now() -> [Duration; 2] {
    CLOCKS.map(|clock| clock_gettime(clock).expect("a clock").into())
}

/// Clocks of its own, which go on, and a timer that does not ring before its time.
pub(crate) fn clocks(stage: &Stage) -> Outcome {
    const YEAR: u64 = 365 * 86_400;
    let shift = || {
        let offsets = format!("monotonic {YEAR} 0\nboottime {} 7\n", 2 * YEAR);
        std::fs::write("/proc/self/timens_offsets", offsets).expect("shift the clocks");
    };
    inside(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME), shift, || {
        let before = now();
        stage.ready_then_wait();
        let mut found = Findings::default();
        for (before, now) in before.into_iter().zip(now()) {
            let went_on = now >= before && now - before < Duration::from_secs(600);
            found.must(&format!("from {before:?} a clock goes on to {now:?}"), went_on);
        }
        found.outcome()
    })
}
