//! Memory in huge pages that are set aside: natively, carried, refused where a machine has too few.
//!
//! Each test has some set aside and gives them back; they run one after the other.

use std::process::Command;
use std::time::Duration;

use stasis_tests::{
    Collector, Dump, Engine, HugePages, Machine, Program, Scratch, Workload, children_of,
    wait_until,
};

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
    let removed = Command::new("ipcrm").args(["-m", id.trim()]).status();
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

/// Three processes share what one has set aside, and there is not as much for each.
#[test]
fn what_could_not_be_set_aside_for_each_is_not_dumped() {
    const FORKED: &str = "import mmap, os, sys, time
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000
memory = mmap.mmap(-1, int(sys.argv[1]) << 21, flags=flags)
memory[0] = 7
os.fork() and os.fork()
time.sleep(600)";
    let machine = Machine::prepare();
    let pages = HugePages::reserve(PAGES);
    // Half of all that there may be.
    let each = pages.all().div_ceil(2);
    let scratch = Scratch::new();
    let mut python = Command::new("python3");
    let program =
        Program::start(python.args(["-c", FORKED, &each.to_string()]), &scratch.path("log"));
    let root = program.pid();
    let forked = wait_until(Duration::from_secs(10), || children_of(root).len() == 2);
    assert!(forked, "{:?}", std::fs::read_to_string(scratch.path("log")));
    let images = scratch.path("images");
    let refused = Engine::Stasis.dump(root, &images, Dump::ENDING);
    assert!(!refused.success && !images.exists(), "{refused:?}");
    let said =
        format!("{} huge pages of 2097152 bytes: a restore gives each process its own", 3 * each);
    assert!(refused.stderr.contains(&said), "{refused:?}");
    assert_eq!(children_of(root).len(), 2, "it runs on");
    machine.end_all();
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

/// Those that a mapping sets aside of memory in which there is nothing, and those that are filled where nothing was set
/// aside.
#[test]
fn huge_pages_that_nothing_is_in_or_that_are_not_set_aside_count() {
    const SPARED: &str = "import mmap, os, sys, time
memfd = os.memfd_create('empty', 4)
os.ftruncate(memfd, 6 << 21)
shared = mmap.mmap(memfd, 6 << 21)
memory = mmap.mmap(-1, 8 << 21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x44000)
memory[0] = 7
memory[5 << 21] = 8
open(sys.argv[1], 'w')
time.sleep(600)";
    let machine = Machine::prepare();
    let pages = HugePages::reserve(PAGES);
    let scratch = Scratch::new();
    let (images, ready) = (scratch.path("images"), scratch.path("ready"));
    let mut python = Command::new("python3");
    let program = Program::start(python.args(["-c", SPARED]).arg(&ready), &scratch.path("log"));
    let is_ready = wait_until(Duration::from_secs(10), || ready.exists());
    assert!(is_ready, "{:?}", std::fs::read_to_string(scratch.path("log")));
    Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    drop(pages);
    let none = HugePages::take_away();
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    let said = "8 huge pages of 2097152 bytes";
    assert!(!refused.success && refused.stderr.contains(said), "{refused:?}");
    machine.await_no_children();
    drop(none);
    let _pages = HugePages::reserve(8);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(program.is_alive());
    machine.end_all();
}
