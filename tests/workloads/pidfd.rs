//! pidfds: of living processes, of one that waits to be waited for, and of one that is gone.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::files::fcntl;
use crate::stage::{Findings, Outcome, Stage, check};

fn open(pid: Pid, flags: i32) -> OwnedFd {
    // SAFETY: takes two integers; the answer is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) };
    let fd = check(fd as i32).expect("pidfd_open");
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn send(pidfd: &OwnedFd, signal: i32) -> Result<i32, i32> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the information pointer is null, which the call takes for kill(2)'s.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    check(sent as i32).map_err(|error| error.raw_os_error().unwrap_or(0))
}

/// What the kernel says that it stands for.
fn pid(pidfd: &OwnedFd) -> i32 {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).expect("fdinfo");
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:")).expect("Pid");
    line.trim().parse().expect("a number")
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).expect("poll");
    polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

fn is_nonblocking(pidfd: &OwnedFd) -> bool {
    fcntl(pidfd.as_raw_fd(), libc::F_GETFL, 0) & libc::O_NONBLOCK != 0
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let child = |name: &str, work: fn() -> Outcome| crate::tree::child(stage, name, work);
    let wait_long = || {
        std::thread::sleep(Duration::from_secs(1000));
        Ok(())
    };
    let gone = child("gone", || Ok(()));
    let of_gone = [open(gone, 0), open(gone, libc::O_NONBLOCK)];
    waitpid(gone, None).expect("wait");
    // More than the restore has numbers in hand for.
    let many: Vec<OwnedFd> = (0..120)
        .map(|_| {
            let ended = child("many", || Ok(()));
            let pidfd = open(ended, 0);
            waitpid(ended, None).expect("wait");
            pidfd
        })
        .collect();
    let zombie = child("zombie", || Err(String::new()));
    let of_zombie = open(zombie, 0);
    waitid(Id::Pid(zombie), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("wait");
    let living = child("living", wait_long);
    let of_living = open(living, libc::O_NONBLOCK);
    let own = open(Pid::this(), 0);
    // One description in two processes, one of them that which it stands for.
    let other = open(living, 0);
    let (asked, told) = (stage.path("asked"), stage.path("told"));
    let holder = crate::tree::child(stage, "holder", || {
        while !asked.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if pid(&other) != living.as_raw() || pid(&of_gone[0]) != -1 {
            return Err(format!("the child's: {} {}", pid(&other), pid(&of_gone[0])));
        }
        fcntl(other.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        std::fs::write(&told, "").map_err(|error| error.to_string())
    });

    stage.ready_then_wait();

    let mut found = Findings::default();
    for gone in &of_gone {
        found.same("gone", &(-1, Err(libc::ESRCH)), &(pid(gone), send(gone, 0)));
        found.must("has ended", has_ended(gone));
    }
    found.must("all are gone", many.iter().all(|gone| pid(gone) == -1));
    found.same(
        "flags",
        &(false, true),
        &(is_nonblocking(&of_gone[0]), is_nonblocking(&of_gone[1])),
    );
    found.same("zombie", &(zombie.as_raw(), true), &(pid(&of_zombie), has_ended(&of_zombie)));
    let status = waitid(Id::PIDFd(of_zombie.as_fd()), WaitPidFlag::WEXITED);
    found.same("its end", &Ok(WaitStatus::Exited(zombie, 1)), &status);
    found.same("myself", &(Pid::this().as_raw(), Ok(0)), &(pid(&own), send(&own, 0)));
    found.same("living", &(living.as_raw(), false), &(pid(&of_living), has_ended(&of_living)));
    found.must("not blocking", is_nonblocking(&of_living) && !is_nonblocking(&other));
    std::fs::write(stage.path("asked"), "").expect("ask");
    found.same("the holder", &Ok(WaitStatus::Exited(holder, 0)), &waitpid(holder, None));
    found.must("what the holder set", told.exists() && is_nonblocking(&other));
    found.same("kill", &Ok(0), &send(&of_living, libc::SIGKILL));
    let killed = WaitStatus::Signaled(living, nix::sys::signal::Signal::SIGKILL, false);
    found.same("killed", &Ok(killed), &waitpid(living, None));
    found.same("gone too", &-1, &pid(&other));
    found.outcome()
}

/// A process that waits, and what stands for it.
fn waiting() -> (Pid, OwnedFd) {
    // SAFETY: this process has one thread, and the child makes two calls.
    let pid = unsafe {
        let pid = check(libc::fork()).expect("fork");
        if pid == 0 {
            libc::pause();
            libc::_exit(0);
        }
        Pid::from_raw(pid)
    };
    (pid, open(pid, 0))
}

/// Processes that are ended and waited for all the time, while what stands for them stays open.
pub(crate) fn changing(stage: &Stage) -> Outcome {
    let mut living = waiting();
    let mut gone: Vec<OwnedFd> = Vec::new();
    stage.ready_then_wait_and(|| {
        for _ in 0..20 {
            send(&living.1, libc::SIGKILL).expect("kill");
            waitpid(living.0, None).expect("wait");
            gone.push(std::mem::replace(&mut living, waiting()).1);
            gone.drain(..gone.len().saturating_sub(4));
        }
    });
    let mut found = Findings::default();
    let (child, pidfd) = &living;
    found.same("living", &(child.as_raw(), Ok(0)), &(pid(pidfd), send(pidfd, 0)));
    for pidfd in &gone {
        found.same("gone", &(-1, Err(libc::ESRCH)), &(pid(pidfd), send(pidfd, 0)));
        found.must("has ended", has_ended(pidfd));
    }
    found.same("kill", &Ok(0), &send(pidfd, libc::SIGKILL));
    let killed = WaitStatus::Signaled(*child, nix::sys::signal::Signal::SIGKILL, false);
    found.same("killed", &Ok(killed), &waitpid(*child, None));
    found.outcome()
}
