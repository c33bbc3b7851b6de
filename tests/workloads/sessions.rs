//! What daemons and closed shells leave behind: processes whose session has lost its leader, or is led by somebody
//! that is not above them, adopted by one further up.

use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid, setsid};

use crate::stage::{Findings, Outcome, Stage};
use crate::tree::{Kin, child};

fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Stands, as a child of `parent`, until it is asked.
fn member(stage: &Stage, name: &str, parent: Pid) -> Outcome {
    until(|| getppid() == parent);
    let before = Kin::now();
    stage.publish(&format!("stands-{name}"), "");
    stage.wait();
    let mut found = Findings::default();
    found.same(name, &before, &Kin::now());
    found.outcome()
}

/// Makes a process that leaves one behind, and waits for its end.
fn leave(stage: &Stage, name: &str, found_session: bool, parent: Pid) {
    let passing = child(stage, &format!("{name}-passing"), || {
        if found_session {
            setsid().expect("setsid");
        }
        child(stage, name, || member(stage, name, parent));
        Ok(())
    });
    waitpid(passing, None).expect("wait");
}

/// The leader of a session below which something was left.
fn shell(stage: &Stage, root: Pid) -> Outcome {
    setsid().expect("setsid");
    leave(stage, "left", false, root);
    member(stage, "shell", getppid())
}

/// Adopts what a leader leaves behind, which itself leaves something to the root.
fn middle(stage: &Stage, root: Pid) -> Outcome {
    let shell = child(stage, "shell", || shell(stage, root));
    // What that leaves is the root's.
    until(|| stage.path("stands-left").exists());
    set_child_subreaper(true).expect("adopt orphans");
    let this = getpid();
    let passing = child(stage, "adopted-passing", || {
        setsid().expect("setsid");
        child(stage, "adopted", || {
            until(|| stage.path("alone").exists());
            leave(stage, "of-adopted", false, root);
            member(stage, "adopted", this)
        });
        Ok(())
    });
    waitpid(passing, None).expect("wait");
    set_child_subreaper(false).expect("adopt nobody any more");
    stage.publish("alone", "");
    let mut found = Findings::default();
    found.works("middle", member(stage, "middle", root));
    found.same("shell", &Ok(WaitStatus::Exited(shell, 0)), &waitpid(shell, None));
    ended(&mut found, 1);
    found.outcome()
}

/// Waits for children whose numbers are not known.
fn ended(found: &mut Findings, count: usize) {
    for _ in 0..count {
        let end = waitpid(None, None);
        found.must(&format!("{end:?}"), matches!(end, Ok(WaitStatus::Exited(_, 0))));
    }
    found.same("no other child", &Err(nix::Error::ECHILD), &waitpid(None, None));
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    set_child_subreaper(true).expect("adopt orphans");
    let root = getpid();
    leave(stage, "daemon", true, root);
    child(stage, "middle", || middle(stage, root));
    for name in ["daemon", "left", "shell", "adopted", "of-adopted", "middle"] {
        until(|| stage.path(&format!("stands-{name}")).exists());
    }
    stage.ready_then_wait();
    let mut found = Findings::default();
    // The daemon, what the shell left, what the adopted one left, and the middle.
    ended(&mut found, 4);
    found.same("adopts orphans", &Ok(true), &nix::sys::prctl::get_child_subreaper());
    found.outcome()
}
