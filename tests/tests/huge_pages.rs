//! Memory in huge pages that are set aside: natively, carried, refused where a machine has too few.
//!
//! Each test has some set aside and gives them back; they run one after the other.

use stasis_tests::{Collector, Dump, Engine, HugePages, Machine, Scratch, Workload};

/// Pages of the workload `huge_pages`: of both processes, whose private mappings are set aside for each.
const PAGES: u64 = 16;

fn carried(workload: &str, by: Engine, to: Engine, programs: bool) {
    let machine = Machine::prepare();
    let _pages = HugePages::reserve(PAGES);
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start(workload, scratch.path("work"));
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), cross_check: programs, ..Dump::ENDING };
    by.dump(workload.pid(), &images, how).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    to.restore(&images, Dump::ENDING).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("it is not what it was: {what}");
    }
}

#[test]
fn memory_of_huge_pages_comes_back() {
    carried("huge_pages", Engine::Stasis, Engine::Stasis, false);
}

#[test]
fn memory_of_huge_pages_comes_back_by_programs() {
    carried("huge_pages", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn memory_of_huge_pages_is_restored_by_criu_peer() {
    carried("huge_pages", Engine::Stasis, Engine::Criu, false);
}

#[test]
fn memory_of_huge_pages_is_dumped_by_criu_peer() {
    carried("huge_pages", Engine::Criu, Engine::Stasis, false);
}

#[test]
fn memfds_of_huge_pages_come_back() {
    carried("huge_pages_memfd", Engine::Stasis, Engine::Stasis, false);
}

#[test]
fn memfds_of_huge_pages_come_back_by_programs() {
    carried("huge_pages_memfd", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn memfds_of_huge_pages_are_restored_by_criu_peer() {
    carried("huge_pages_memfd", Engine::Stasis, Engine::Criu, false);
}

#[test]
fn memfds_of_huge_pages_are_dumped_by_criu_peer() {
    carried("huge_pages_memfd", Engine::Criu, Engine::Stasis, false);
}

#[test]
fn segments_of_huge_pages_come_back() {
    carried("huge_pages_sysv", Engine::Stasis, Engine::Stasis, false);
}

#[test]
fn segments_of_huge_pages_come_back_by_programs() {
    carried("huge_pages_sysv", Engine::Stasis, Engine::Stasis, true);
}

/// The one that the dumped tree has left is in the way of none, and is not there any more.
#[test]
fn segments_of_huge_pages_are_made_anew() {
    let machine = Machine::prepare();
    let _pages = HugePages::reserve(PAGES);
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start("huge_pages_sysv", scratch.path("work"));
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let id = std::fs::read_to_string(workload.path("ids")).expect("read the id");
    let removed = std::process::Command::new("ipcrm").args(["-m", id.trim()]).status();
    assert!(removed.is_ok_and(|status| status.success()));
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("it is not what it was: {what}");
    }
}

#[test]
fn a_program_with_huge_pages_runs_on() {
    let _machine = Machine::prepare();
    let _pages = HugePages::reserve(PAGES);
    let scratch = Scratch::new();
    let workload = Workload::start("huge_pages", scratch.path("work"));
    for images in ["first", "second"] {
        let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path(images), Dump::RUNNING_ON);
        outcome.must_succeed("dump");
    }
    if let Err(what) = workload.check() {
        panic!("it noticed the checkpoint: {what}");
    }
}

#[test]
fn too_few_huge_pages_are_said_before_anything_is_made() {
    let machine = Machine::prepare();
    let pages = HugePages::reserve(PAGES);
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start("huge_pages", scratch.path("work"));
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    drop(pages);
    let none = HugePages::take_away();
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(
        !refused.success && refused.stderr.contains("huge pages of 2097152 bytes"),
        "{refused:?}"
    );
    machine.await_no_children();
    drop(none);
    let _pages = HugePages::reserve(PAGES);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("it is not what it was: {what}");
    }
}
