//! Freezing real trees. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends at the first thing that is not as it should be, and says what it skips"
)]

mod common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use common::{Group, Tree, eventually, frozen};
use kernel::cgroup::{Cgroup, Version};
use kernel::ptrace::{Options, Running};
use stasis_freezer::{Error, Method, Release, Target, freeze, stop, stop_thread};

fn no_journal(_: &Cgroup) -> Result<(), Error> {
    Ok(())
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn ptrace_stops_every_thread_and_lets_it_go() {
    let tree = Tree::start();
    let target = Target::Tree(tree.pid());
    let held = freeze(&target, Method::Ptrace, SECOND, &mut no_journal).unwrap();
    assert_eq!(held.method(), Method::Ptrace);
    assert_eq!(held.processes().len(), 2);
    assert_eq!(tree.states(), b"tt");
    drop(held);
    assert!(!tree.states().contains(&b't'));
}

#[test]
fn a_tree_that_multiplies_is_caught_whole() {
    let forks = "while :; do (for i in 1 2 3; do true & done; wait); done";
    let tree = Tree(Command::new("sh").args(["-c", forks]).spawn().unwrap());
    let target = Target::Tree(tree.pid());
    for _ in 0..20 {
        let held = freeze(&target, Method::Ptrace, SECOND * 5, &mut no_journal).unwrap();
        let states = tree.states();
        assert!(states.iter().all(|state| matches!(state, b't' | b'Z' | b'X')), "{states:?}");
        drop(held);
    }
}

#[test]
fn each_cgroup_version_freezes_a_tree_of_its_own() {
    for (version, method) in [(Version::V1, Method::CgroupV1), (Version::V2, Method::CgroupV2)] {
        let tree = Tree::start();
        let Some(group) = Group::make(version, "own") else { continue };
        group.add(&tree);
        let target = Target::Tree(tree.pid());
        for asked in [method, Method::Auto] {
            let held = freeze(&target, asked, SECOND, &mut no_journal).unwrap();
            assert_eq!(held.method(), method);
            assert_eq!(held.processes().len(), 2);
            assert!(frozen(version, &group.0));
            drop(held);
            assert!(!frozen(version, &group.0));
        }
        drop(tree);
    }
}

#[test]
fn what_somebody_else_froze_stays_frozen() {
    let tree = Tree::start();
    let Some(group) = Group::make(Version::V2, "before") else { return };
    group.add(&tree);
    fs::write(group.0.join("cgroup.freeze"), "1").unwrap();
    drop(freeze(&Target::Tree(tree.pid()), Method::CgroupV2, SECOND, &mut no_journal).unwrap());
    assert!(frozen(Version::V2, &group.0));
    fs::write(group.0.join("cgroup.freeze"), "0").unwrap();
    drop(tree);
}

#[test]
fn a_cgroup_shared_with_others_is_not_frozen() {
    let (tree, other) = (Tree::start(), Tree::start());
    let Some(group) = Group::make(Version::V2, "shared") else { return };
    group.add(&tree);
    group.add(&other);
    let target = Target::Tree(tree.pid());
    let error = freeze(&target, Method::CgroupV2, SECOND, &mut no_journal).unwrap_err();
    assert!(matches!(error, Error::Shared { .. }), "{error}");
    let held = freeze(&target, Method::Auto, SECOND, &mut no_journal).unwrap();
    assert_eq!(held.method(), Method::Ptrace);
    drop((held, tree, other));
}

#[test]
fn a_tree_is_released_as_it_is_asked_for() {
    let tree = Tree::start();
    let frozen = stop(tree.pid(), SECOND, None).unwrap();
    assert_eq!(frozen.processes.len(), 2);
    assert!(frozen.has(tree.pid(), tree.pid()));
    assert_eq!(tree.states(), b"tt");
    frozen.release(Release::Stop);
    eventually("job control has stopped both", || tree.states() == b"TT");

    // Stopped by that, it can be stopped still, and is as it was afterwards.
    let frozen = stop(tree.pid(), SECOND, None).unwrap();
    assert!(frozen.processes[&tree.pid()][&tree.pid()].group_stop != 0);
    drop(frozen);
    eventually("job control keeps both", || tree.states() == b"TT");
    assert!(matches!(stop(i32::MAX, SECOND, None), Err(error) if error.is_gone()));
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
