//! Children that are stopped: one of which the parent has been told, one with threads of the same kind, and one of which it has yet to be told.

use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::stage::{Findings, Outcome, Stage, eventually};

fn child(threads: usize) -> Pid {
    // SAFETY: the program has one thread, so its child may use everything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            for _ in 0..threads {
                thread::spawn(|| {
                    loop {
                        thread::sleep(Duration::from_millis(1));
                    }
                });
            }
            loop {
                thread::sleep(Duration::from_secs(1000));
            }
        }
    }
}

/// The letters of the states of all threads of a process.
fn states(pid: Pid) -> Vec<char> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let state = |task: std::io::Result<std::fs::DirEntry>| {
        let text =
            std::fs::read_to_string(task.expect("a task").path().join("stat")).expect("stat");
        text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).expect("a state")
    };
    tasks.map(state).collect()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    // What children cause is to be seen in what is pending.
    let child_signal = SigSet::from(Signal::SIGCHLD);
    child_signal.thread_block().expect("block");
    let signals = SignalFd::with_flags(&child_signal, SfdFlags::SFD_NONBLOCK).expect("signals");
    let [told, with_threads, untold] = [child(0), child(3), child(0)];
    assert!(eventually(|| states(with_threads).len() == 4), "it has threads");
    let all = [(told, 1), (with_threads, 4), (untold, 1)];
    for (pid, threads) in all {
        kill(pid, Signal::SIGSTOP).expect("stop");
        assert!(eventually(|| states(pid) == vec!['T'; threads]), "it stops");
        // Its stop is told by a signal, a moment later.
        assert!(
            eventually(|| signals.read_signal().expect("take the signal").is_some()),
            "a signal"
        );
    }
    let stopped = |pid| WaitStatus::Stopped(pid, Signal::SIGSTOP);
    for pid in [told, with_threads] {
        assert_eq!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)), Ok(stopped(pid)));
    }
    drop(signals);
    stage.ready_then_wait();
    let mut found = Findings::default();
    let pending = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).map(str::trim);
        line.map(str::to_owned)
    };
    found.same("pending", &Some("0".repeat(16)), &pending());
    for (pid, threads) in all {
        found.same("states", &vec!['T'; threads], &states(pid));
    }
    let asked = |pid| waitpid(pid, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG));
    found.same("told", &Ok(WaitStatus::StillAlive), &asked(told));
    found.same("told, with threads", &Ok(WaitStatus::StillAlive), &asked(with_threads));
    found.same("untold", &Ok(stopped(untold)), &asked(untold));
    found.same("told by now", &Ok(WaitStatus::StillAlive), &asked(untold));
    for (pid, _) in all {
        found.works("end", kill(pid, Signal::SIGKILL));
        let killed = WaitStatus::Signaled(pid, Signal::SIGKILL, false);
        found.same("its end", &Ok(killed), &waitpid(pid, None));
    }
    found.outcome()
}
