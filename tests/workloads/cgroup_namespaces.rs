//! Processes in cgroup namespaces: below the root of one, at it, in one of their own, and back in that of the test.
//!
//! The groups are called by the pid of the program, in every hierarchy that it uses; whoever started it removes them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{getpid, getppid};

use crate::stage::{Findings, Outcome, Stage};
use crate::tree::child;

/// Where the second version is mounted, and the first version's freezer, with their names in `/proc/PID/cgroup`.
fn hierarchies() -> Vec<(&'static str, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let find = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let has = option.is_empty() || words[3].split(',').any(|word| word == option);
            (words[2] == kind && has).then(|| PathBuf::from(words[1]))
        })
    };
    let found = [("", find("cgroup2", "")), ("freezer", find("cgroup", "freezer"))];
    found.into_iter().filter_map(|(name, mount)| Some((name, mount?))).collect()
}

/// Goes into a group that is made, in each of them.
fn go_into(hierarchies: &[(&str, PathBuf)], group: &Path) {
    for (_, mount) in hierarchies {
        let group = mount.join(group);
        fs::create_dir_all(&group).expect("make a control group");
        fs::write(group.join("cgroup.procs"), "0").expect("go into it");
    }
}

/// Where a process sees itself.
fn seen(hierarchies: &[(&str, PathBuf)]) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/cgroup").expect("control groups");
    let is_ours = |line: &&str| {
        let name = line.split(':').nth(1).expect("a hierarchy");
        hierarchies.iter().any(|(known, _)| *known == name)
    };
    text.lines().filter(is_ours).map(|line| line.split(':').skip(1).collect()).collect()
}

fn link(pid: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/cgroup")).expect("a namespace")
}

fn member(
    stage: &Stage,
    hierarchies: &[(&str, PathBuf)],
    name: &str,
    enter: impl Fn(),
    is_shared: bool,
) -> nix::unistd::Pid {
    let pid = child(stage, name, || {
        enter();
        let before = seen(hierarchies);
        stage.publish(name, &before.join(" "));
        stage.wait();
        let mut found = Findings::default();
        found.same("control groups", &before, &seen(hierarchies));
        found.same("sharing", &is_shared, &(link("self") == link(&getppid().to_string())));
        found.outcome()
    });
    while !stage.path(name).exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    pid
}

/// All in one namespace, as CRIU has it: the root below its root, a child at it.
pub(crate) fn together(stage: &Stage) -> Outcome {
    let (hierarchies, top) = begin();
    let at_root = || go_into(&hierarchies, &top);
    let members = vec![
        member(stage, &hierarchies, "same", || {}, true),
        member(stage, &hierarchies, "above", at_root, true),
    ];
    run(stage, &hierarchies, members)
}

/// The root in one, a child in another, one back where the test is.
pub(crate) fn apart(stage: &Stage) -> Outcome {
    let test = getppid();
    let (hierarchies, top) = begin();
    let own = || {
        go_into(&hierarchies, &top.join("other"));
        unshare(CloneFlags::CLONE_NEWCGROUP).expect("unshare");
    };
    let back = || {
        let outside = File::open(format!("/proc/{test}/ns/cgroup")).expect("open");
        setns(outside.as_fd(), CloneFlags::CLONE_NEWCGROUP).expect("setns");
    };
    let members = vec![
        member(stage, &hierarchies, "other", own, false),
        member(stage, &hierarchies, "outside", back, false),
    ];
    run(stage, &hierarchies, members)
}

fn begin() -> (Vec<(&'static str, PathBuf)>, PathBuf) {
    let hierarchies = hierarchies();
    let top = PathBuf::from(format!("stasis-test-ns-{}", getpid()));
    go_into(&hierarchies, &top);
    unshare(CloneFlags::CLONE_NEWCGROUP).expect("unshare");
    go_into(&hierarchies, &top.join("in"));
    (hierarchies, top)
}

fn run(stage: &Stage, hierarchies: &[(&str, PathBuf)], members: Vec<nix::unistd::Pid>) -> Outcome {
    let before = seen(hierarchies);
    assert!(before.iter().all(|line| line.ends_with("/in") && !line.contains("stasis")));
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("control groups", &before, &seen(hierarchies));
    for child in members {
        found.same("end of a child", &Ok(WaitStatus::Exited(child, 0)), &waitpid(child, None));
    }
    found.outcome()
}
