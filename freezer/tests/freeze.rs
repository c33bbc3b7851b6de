//! Freezing real trees. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends at the first thing that is not as it should be, and says what it skips"
)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use common::{Group, Tree, eventually, frozen};
use ids::HostPid;
use kernel::cgroup::Version;
use kernel::ptrace::{Options, Running};
use stasis_freezer::{
    Error, Method, Release, Target, freeze, stop, stop_process, stop_thread, undo_left,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn ptrace_stops_every_thread_and_lets_it_go() {
    let undo = tempfile::tempdir().unwrap();
    let tree = Tree::start();
    let target = Target::Tree(tree.pid());
    let held = freeze(&target, Method::Ptrace, SECOND, undo.path()).unwrap();
    assert_eq!(held.method(), Method::Ptrace);
    assert_eq!(held.processes().len(), 2);
    assert_eq!(tree.states(), b"tt");
    drop(held);
    assert!(!tree.states().contains(&b't'));
}

#[test]
fn a_tree_that_multiplies_is_caught_whole() {
    let undo = tempfile::tempdir().unwrap();
    let forks = "while :; do (for i in 1 2 3; do true & done; wait); done";
    let tree = Tree(Command::new("sh").args(["-c", forks]).spawn().unwrap());
    let target = Target::Tree(tree.pid());
    for _ in 0..20 {
        let held = freeze(&target, Method::Ptrace, SECOND * 5, undo.path()).unwrap();
        let states = tree.states();
        assert!(states.iter().all(|state| matches!(state, b't' | b'Z' | b'X')), "{states:?}");
        drop(held);
    }
}

#[test]
fn each_cgroup_version_freezes_a_tree_of_its_own() {
    let undo = tempfile::tempdir().unwrap();
    for (version, method) in [(Version::V1, Method::CgroupV1), (Version::V2, Method::CgroupV2)] {
        let tree = Tree::start();
        let Some(group) = Group::make(version, "own") else { continue };
        group.add(&tree);
        let target = Target::Tree(tree.pid());
        for asked in [method, Method::Auto] {
            let held = freeze(&target, asked, SECOND, undo.path()).unwrap();
            assert_eq!(held.method(), method);
            assert_eq!(held.processes().len(), 2);
            assert!(frozen(version, &group.0));
            drop(held);
            assert!(!frozen(version, &group.0));
        }
        drop(tree);
    }
}

/// What a killed process has written down, by another inode, of another boot, and as it is.
#[test]
fn a_freeze_that_was_left_is_undone_once_and_no_other() {
    let tree = Tree::start();
    let Some(group) = Group::make(Version::V2, "left") else { return };
    group.add(&tree);
    let freeze_file = group.0.join("cgroup.freeze");
    let undo = tempfile::tempdir().unwrap();
    let boot = kernel::boot::boot().unwrap();
    let inode = fs::metadata(&group.0).unwrap().ino();
    let left = |boot: u64, inode: u64| {
        let directory = group.0.display();
        let deed = format!(r#"{{"version":2,"directory":"{directory}","inode":{inode}}}"#);
        let text = format!(r#"{{"boot":{boot},"pid":1,"deed":{{"frozen_cgroup":{deed}}}}}"#);
        fs::write(undo.path().join("1-0.json"), text).unwrap();
        fs::write(&freeze_file, "1").unwrap();
        eventually("it is frozen", || frozen(Version::V2, &group.0));
        let undone = undo_left(undo.path()).len();
        assert_eq!(fs::read_dir(undo.path()).unwrap().count(), 0);
        undone
    };
    assert_eq!(left(boot, inode + 1), 0);
    assert!(frozen(Version::V2, &group.0), "another group had the name");
    assert_eq!(left(boot ^ 1, inode), 0);
    assert!(frozen(Version::V2, &group.0), "the machine was started again");
    assert_eq!(left(boot, inode), 1);
    assert!(!frozen(Version::V2, &group.0));
    fs::write(&freeze_file, "1").unwrap();
    assert_eq!(undo_left(undo.path()), []);
    fs::write(&freeze_file, "0").unwrap();
    drop(tree);
}

#[test]
fn what_somebody_else_froze_stays_frozen() {
    let undo = tempfile::tempdir().unwrap();
    let tree = Tree::start();
    let Some(group) = Group::make(Version::V2, "before") else { return };
    group.add(&tree);
    fs::write(group.0.join("cgroup.freeze"), "1").unwrap();
    drop(freeze(&Target::Tree(tree.pid()), Method::CgroupV2, SECOND, undo.path()).unwrap());
    assert!(frozen(Version::V2, &group.0));
    fs::write(group.0.join("cgroup.freeze"), "0").unwrap();
    drop(tree);
}

#[test]
fn a_cgroup_shared_with_others_is_not_frozen() {
    let undo = tempfile::tempdir().unwrap();
    let (tree, other) = (Tree::start(), Tree::start());
    let Some(group) = Group::make(Version::V2, "shared") else { return };
    group.add(&tree);
    group.add(&other);
    let target = Target::Tree(tree.pid());
    let error = freeze(&target, Method::CgroupV2, SECOND, undo.path()).unwrap_err();
    assert!(matches!(error, Error::Shared { .. }), "{error}");
    let held = freeze(&target, Method::Auto, SECOND, undo.path()).unwrap();
    assert_eq!(held.method(), Method::Ptrace);
    drop((held, tree, other));
}

#[test]
fn a_tree_is_released_as_it_is_asked_for() {
    let tree = Tree::start();
    let frozen = stop(tree.pid(), SECOND, None, None, &|_| true, &mut || {}).unwrap();
    assert_eq!(frozen.processes.len(), 2);
    assert!(frozen.has(tree.pid(), tree.pid()));
    assert_eq!(tree.states(), b"tt");
    frozen.release(Release::Stop);
    eventually("job control has stopped both", || tree.states() == b"TT");

    // Stopped by that, it can be stopped still, and is as it was afterwards.
    let frozen = stop(tree.pid(), SECOND, None, None, &|_| true, &mut || {}).unwrap();
    assert!(frozen.processes[&tree.pid()][&tree.pid()].group_stop != 0);
    drop(frozen);
    eventually("job control keeps both", || tree.states() == b"TT");
    assert!(
        matches!(stop(HostPid::new(i32::MAX).unwrap(), SECOND, None, None, &|_| true, &mut || {}), Err(error) if error.is_gone())
    );
}

#[test]
fn one_thread_is_stopped_and_its_children_run() {
    let tree = Tree::start();
    let seized = Running::seize(tree.pid(), Options::empty()).unwrap();
    assert!(!tree.states().contains(&b't'));
    let thread = stop_thread(seized, SECOND).unwrap();
    let states = tree.states();
    assert!(states[0] == b't' && states[1] != b't', "{states:?}");
    thread.stopped.unwrap().detach(0).unwrap();
    assert!(!tree.states().contains(&b't'));
}

#[test]
fn one_process_is_stopped_and_its_children_run() {
    let tree = Tree::start();
    let frozen = stop_process(tree.pid(), SECOND).unwrap();
    let states = tree.states();
    assert!(states[0] == b't' && states[1] != b't', "{states:?}");
    assert_eq!(frozen.processes.len(), 1);
    drop(frozen);
    assert!(!tree.states().contains(&b't'));
    let nobody = HostPid::new(i32::MAX).unwrap();
    assert!(stop_process(nobody, SECOND).is_err_and(|error| error.is_gone()));
}
