//! A family of processes: groups, sessions, zombies, a stopped child, what they share.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, getpid, getppid, getsid, setpgid, setsid};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage};

/// Forks; the child does `work` and ends with 0 if it came out well, else it says why in a file.
pub(crate) fn child(stage: &Stage, name: &str, work: impl FnOnce() -> Outcome) -> Pid {
    // SAFETY: the program has one thread, so the child may use everything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let outcome = work();
            if let Err(what) = &outcome {
                stage.publish(&format!("child-{name}"), what);
            }
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
    }
}

/// Relations of the calling process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kin {
    pid: Pid,
    parent: Pid,
    group: Pid,
    session: Option<Pid>,
}

impl Kin {
    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn now() -> Self {
        Self { pid: getpid(), parent: getppid(), group: getpgrp(), session: getsid(None).ok() }
    }
}

/// What the members share, to see that it is shared still.
struct Shared {
    counters: Region,
    file: File,
}

impl Shared {
    fn new(stage: &Stage) -> Self {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let path = stage.path("shared");
        let mut file =
            File::options().read(true).write(true).create_new(true).open(path).expect("open");
        file.write_all(b"0123456789").expect("write");
        file.seek(SeekFrom::Start(0)).expect("seek");
        Self { counters: Region::map(4096, rw, libc::MAP_SHARED, None), file }
    }

    fn counter(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the region is a page long, aligned, and lives as long as `self`; all processes
        // reach its words by atomic operations only.
        unsafe { &*(self.counters.addr() as *const AtomicU32).add(index) }
    }

    /// Waits until as many members stand as are expected.
    fn await_standing(&self, count: u32) {
        while self.counter(0).load(Ordering::SeqCst) < count {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    fn stand(&self) {
        self.counter(0).fetch_add(1, Ordering::SeqCst);
    }
}

fn member(stage: &Stage, shared: &Shared, index: usize) -> Outcome {
    let before = Kin::now();
    shared.stand();
    stage.wait();
    let mut found = Findings::default();
    found.same("kin", &before, &Kin::now());
    shared.counter(1).fetch_add(1 << index, Ordering::SeqCst);
    let mut byte = [0];
    found.works("read through the shared position", (&shared.file).read_exact(&mut byte));
    found.must("one of the digits", byte[0].is_ascii_digit());
    found.outcome()
}

/// A child that leads a session, with a child in a group of its own and one beside it.
fn session(stage: &Stage, shared: &Shared) -> Outcome {
    setsid().expect("setsid");
    let in_group = child(stage, "in-group", || {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
        member(stage, shared, 1)
    });
    let beside = child(stage, "beside", || member(stage, shared, 2));
    let outcome = member(stage, shared, 3);
    let mut found = Findings::default();
    found.works("session leader", outcome);
    for pid in [in_group, beside] {
        found.same("grandchild", &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
    }
    found.outcome()
}

/// Whether it is stopped, without taking note.
const SUSPENDED: WaitPidFlag =
    WaitPidFlag::WSTOPPED.union(WaitPidFlag::WNOWAIT).union(WaitPidFlag::WNOHANG);

struct Family {
    plain: Pid,
    group_mate: Pid,
    session: Pid,
    exited: Pid,
    killed: Pid,
    stopped: Pid,
    /// Stopped as by a key of a terminal, and not waited for.
    suspended: Pid,
}

impl Family {
    fn new(stage: &Stage, shared: &Shared) -> Self {
        let this = Pid::from_raw(0);
        let plain = child(stage, "plain", || {
            setpgid(this, this).expect("setpgid");
            member(stage, shared, 0)
        });
        let exited = child(stage, "exited", || Ok(()));
        // SAFETY: the program has one thread; the child ends at once.
        let exited_with = match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => child,
            // SAFETY: ends the child without running the parent's destructors.
            ForkResult::Child => unsafe { libc::_exit(42) },
        };
        waitpid(exited, None).expect("wait");
        let killed = child(stage, "killed", || {
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        });
        kill(killed, Signal::SIGKILL).expect("kill");
        for pid in [exited_with, killed] {
            // Dead, but not reaped.
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("wait");
        }
        let session = child(stage, "session", || session(stage, shared));
        let stopped = child(stage, "stopped", || member(stage, shared, 4));
        shared.await_standing(5);
        kill(stopped, Signal::SIGSTOP).expect("stop");
        // Its stop is reported now, so that it is not news after the checkpoint.
        waitpid(stopped, Some(WaitPidFlag::WUNTRACED)).expect("wait for the stop");
        let suspended = child(stage, "suspended", || {
            setpgid(this, this).expect("setpgid");
            member(stage, shared, 6)
        });
        shared.await_standing(6);
        kill(suspended, Signal::SIGTSTP).expect("suspend");
        waitid(Id::Pid(suspended), SUSPENDED.difference(WaitPidFlag::WNOHANG)).expect("wait");
        let group_mate = child(stage, "group-mate", || {
            setpgid(this, plain).expect("join the group");
            member(stage, shared, 5)
        });
        shared.await_standing(7);
        Self { plain, group_mate, session, exited: exited_with, killed, stopped, suspended }
    }

    fn verify(&self, found: &mut Findings, shared: &Shared) {
        let ends = |pid| waitpid(pid, None);
        found.same("exited child", &Ok(WaitStatus::Exited(self.exited, 42)), &ends(self.exited));
        let killed = WaitStatus::Signaled(self.killed, Signal::SIGKILL, false);
        found.same("killed child", &Ok(killed), &ends(self.killed));
        for (what, pid) in
            [("plain", self.plain), ("group mate", self.group_mate), ("session", self.session)]
        {
            found.same(what, &Ok(WaitStatus::Exited(pid, 0)), &ends(pid));
        }
        let by_signal = WaitStatus::Stopped(self.suspended, Signal::SIGTSTP);
        found.same("suspended", &Ok(by_signal), &waitid(Id::Pid(self.suspended), SUSPENDED));
        found.works("continue it", kill(self.suspended, Signal::SIGCONT));
        let ended = ends(self.suspended);
        found.same("suspended", &Ok(WaitStatus::Exited(self.suspended, 0)), &ended);
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.stopped));
        let state = state.unwrap_or_default();
        found.must("the stopped child is stopped", state.contains(") T "));
        found.works("continue it", kill(self.stopped, Signal::SIGCONT));
        found.same("stopped", &Ok(WaitStatus::Exited(self.stopped, 0)), &ends(self.stopped));
        let counted = shared.counter(1).load(Ordering::SeqCst);
        found.same("counted in shared memory", &0b111_1111, &counted);
        let position = (&shared.file).stream_position().ok();
        found.same("shared file position", &Some(7), &position);
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let shared = Shared::new(stage);
    let family = Family::new(stage, &shared);
    let before = (getpid(), getpgrp(), getsid(None));

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("root", &before, &(getpid(), getpgrp(), getsid(None)));
    family.verify(&mut found, &shared);
    found.same("no other child", &Err(nix::Error::ECHILD), &waitpid(None, None));
    found.outcome()
}
