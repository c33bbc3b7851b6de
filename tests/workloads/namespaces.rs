//! Processes in UTS namespaces: with names of their own, together, apart, and back in that of the test.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::utsname::uname;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::stage::{Findings, Outcome, Stage, check};
use crate::tree::child;

/// Host name, domain name.
fn names() -> (OsString, OsString) {
    let names = uname().expect("uname");
    (names.nodename().to_owned(), names.domainname().to_owned())
}

fn unshare_as(node: &str, domain: &str) {
    unshare(CloneFlags::CLONE_NEWUTS).expect("unshare");
    nix::unistd::sethostname(node).expect("host name");
    // SAFETY: pointer and length are those of the name.
    check(unsafe { libc::setdomainname(domain.as_ptr().cast(), domain.len()) })
        .expect("domain name");
}

fn link(pid: &str) -> OsString {
    std::fs::read_link(format!("/proc/{pid}/ns/uts")).expect("a namespace").into_os_string()
}

/// A child that sees the same names after the wait as before, in a namespace that `is_shared` with its parent.
fn member(stage: &Stage, name: &str, enter: impl Fn(), is_shared: bool) -> nix::unistd::Pid {
    let pid = child(stage, name, || {
        enter();
        let before = names();
        stage.publish(name, "");
        stage.wait();
        let mut found = Findings::default();
        found.same("names", &before, &names());
        let parent = nix::unistd::getppid().to_string();
        found.same("sharing", &is_shared, &(link("self") == link(&parent)));
        found.outcome()
    });
    while !stage.path(name).exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    pid
}

/// All in one namespace of their own, as CRIU has it.
pub(crate) fn together(stage: &Stage) -> Outcome {
    unshare_as("carried", "example.org");
    run(stage, vec![member(stage, "same", || {}, true)])
}

/// The root in one, a child with it, one in another, one back where the test is.
pub(crate) fn apart(stage: &Stage) -> Outcome {
    let test = nix::unistd::getppid();
    unshare_as("carried", "");
    let back = || {
        let outside = File::open(format!("/proc/{test}/ns/uts")).expect("open");
        setns(outside.as_fd(), CloneFlags::CLONE_NEWUTS).expect("setns");
    };
    let children = vec![
        member(stage, "same", || {}, true),
        member(stage, "other", || unshare_as("elsewhere", "x"), false),
        member(stage, "outside", back, false),
    ];
    run(stage, children)
}

fn run(stage: &Stage, children: Vec<nix::unistd::Pid>) -> Outcome {
    let before = names();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("names", &before, &names());
    for child in children {
        found.same("end of a child", &Ok(WaitStatus::Exited(child, 0)), &waitpid(child, None));
    }
    found.outcome()
}
