//! Cgroup namespaces: what their root is, is seen inside and outside, and comes back. Needs root and control groups.

use std::time::Duration;

use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Scratch, Workload, directories_of_group, groups_of,
    wait_until,
};

/// The control groups that a workload has made; gone at the end.
struct Groups(String);

impl Groups {
    fn of(workload: &Workload) -> Self {
        Self(format!("stasis-test-ns-{}", workload.pid()))
    }

    fn remove(&self) {
        for group in directories_of_group(&self.0) {
            let removed = || stasis_tests::remove_group(&group);
            assert!(wait_until(Duration::from_secs(10), removed), "{}", group.display());
        }
    }
}

fn carried(family: &str, by: Engine, to: Engine, how: Dump<'_>) {
    for there in [true, false] {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let images = scratch.path("images");
        let workload = Workload::start(family, scratch.path("work"));
        let groups = Groups::of(&workload);
        let before = groups_of(workload.pid());
        assert!(before.contains(&format!("/{}/in", groups.0)), "{before}");
        by.dump(workload.pid(), &images, how).must_succeed("dump");
        machine.end_tree(workload.pid());
        if !there {
            groups.remove();
        }
        to.restore(&images, Dump::ENDING).must_succeed("restore");
        assert_eq!(groups_of(workload.pid()), before);
        workload.check().expect("the program's own check");
        machine.end_all();
        groups.remove();
    }
}

#[test]
fn one_comes_back() {
    carried("cgroup_namespaces", Engine::Stasis, Engine::Stasis, Dump::ENDING);
}

#[test]
fn several_come_back() {
    carried("cgroup_namespaces_apart", Engine::Stasis, Engine::Stasis, Dump::ENDING);
}

#[test]
fn they_come_back_by_the_programs() {
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump { collector: Some(&collector), cross_check: true, ..Dump::ENDING };
    carried("cgroup_namespaces_apart", Engine::Stasis, Engine::Stasis, how);
}

#[test]
fn criu_peer_makes_ours() {
    carried("cgroup_namespaces", Engine::CriuFace, Engine::Criu, Dump::ENDING);
}

#[test]
fn ours_is_made_of_criu_peer_images() {
    carried("cgroup_namespaces", Engine::Criu, Engine::CriuFace, Dump::ENDING);
}

/// Another root takes the place of that of the namespace: what is seen inside is what was seen.
#[test]
fn its_root_may_be_another() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start("cgroup_namespaces", scratch.path("work"));
    let (groups, other) =
        (Groups::of(&workload), Groups(format!("stasis-test-ns-other-{}", std::process::id())));
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    groups.remove();
    let mut restore = Engine::Stasis.restore_command(&images, Dump::ENDING);
    Outcome::of(restore.args(["--cgroup-root", &format!("/{}", other.0)])).must_succeed("restore");
    let after = groups_of(workload.pid());
    assert!(after.contains(&format!("/{}/in\n", other.0)) && !after.contains(&groups.0), "{after}");
    workload.check().expect("the program's own check");
    machine.end_all();
    assert!(directories_of_group(&groups.0).is_empty());
    other.remove();
}
