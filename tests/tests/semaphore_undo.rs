//! System V semaphores of which a tree has taken some (`SEM_UNDO`): the kernel gives them back when the tree is ended. Only
//! the eBPF programs tell of that. Needs root.

use std::process::Command;

use kernel::sysv::semaphores::Set;
use stasis_tests::{Collector, Dump, Engine, Machine, Outcome, Scratch, Workload};

/// What the workload's semaphores are at when nobody has taken anything.
const FIRST: [u16; 4] = [5, 32_767, 20_000, 0];

const FAMILIES: [&str; 2] = ["semaphore_undo", "semaphore_undo_namespace"];

/// A workload that has been dumped and has ended.
fn dumped(family: &str) -> (Machine, Scratch, Workload) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start(family, scratch.path("work"));
    let how = Dump { collector: Some(&collector), cross_check: true, ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    (machine, scratch, workload)
}

struct Case {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
    set: i32,
    /// All that the workload has made, which stay when it is ended.
    sets: Vec<i32>,
}

impl Case {
    /// The tree is dumped and has ended.
    fn new() -> Self {
        let (machine, scratch, workload) = dumped("semaphore_undo");
        let sets = std::fs::read_to_string(workload.path("sets")).expect("the sets");
        let sets: Vec<i32> = sets.split(' ').map(|id| id.parse().expect("an id")).collect();
        let case = Self { machine, scratch, workload, set: sets[0], sets };
        assert_eq!(case.values(), FIRST, "the kernel has given all back");
        case
    }

    fn values(&self) -> Vec<u16> {
        Set::read(self.set).expect("read the set").values
    }

    fn restore(&self) -> Outcome {
        Engine::Stasis.restore(&self.scratch.path("images"), Dump::ENDING)
    }

    /// The restore fails with these words, and nothing of the tree is there.
    fn refused(&self, words: &[&str]) {
        let outcome = self.restore();
        assert!(!outcome.success, "it was restored");
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
        }
        self.machine.await_no_children();
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        // They may be gone.
        self.sets.iter().for_each(|set| drop(Set::remove(*set)));
    }
}

/// Sets a semaphore, as another program might.
fn set(id: i32, semaphore: i32, value: u16) {
    const SETVAL: i32 = 16;
    let script = format!("semctl({id}, {semaphore}, {SETVAL}, {value}) or die");
    let done = Command::new("perl").args(["-e", &script]).status();
    assert!(done.expect("run perl").success(), "set a semaphore");
}

#[test]
fn natively() {
    for family in FAMILIES {
        let _machine = Machine::prepare();
        let scratch = Scratch::new();
        let workload = Workload::start(family, scratch.path("work"));
        workload.check().expect("the program's own check");
    }
}

#[test]
fn running_on() {
    for family in FAMILIES {
        let _machine = Machine::prepare();
        let scratch = Scratch::new();
        let collector = Collector::start(&scratch.path("collector"));
        let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
        let workload = Workload::start(family, scratch.path("work"));
        for images in ["first", "second"] {
            let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path(images), how);
            outcome.must_succeed("dump");
        }
        workload.check().expect("the program's own check");
    }
}

#[test]
fn a_namespace_of_its_own_comes_back_with_what_is_taken() {
    let (_machine, scratch, workload) = dumped(FAMILIES[1]);
    let outcome = Engine::Stasis.restore(&scratch.path("images"), Dump::ENDING);
    outcome.must_succeed("restore");
    workload.check().expect("the program's own check");
}

#[test]
fn what_the_tree_had_taken_is_taken_again() {
    let case = Case::new();
    case.restore().must_succeed("restore");
    assert_eq!(case.values(), [0, 32_760, 20_105, 2]);
    case.workload.check().expect("the program's own check");
}

#[test]
fn what_others_have_taken_since_is_named_and_nothing_stays_taken() {
    let case = Case::new();
    set(case.set, 0, 4);
    case.refused(&["semaphore 0", &format!("set {}", case.set), "ipcs -s -i"]);
    assert_eq!(case.values(), [4, 32_767, 20_000, 0], "what was taken before has been given back");
    set(case.set, 0, 5);
    case.restore().must_succeed("restore");
    case.workload.check().expect("the program's own check");
}

#[test]
fn a_set_that_is_gone_is_named() {
    let case = Case::new();
    Set::remove(case.set).expect("remove the set");
    case.refused(&["not here any more", "unshare --ipc"]);
}

#[test]
fn semaphores_of_a_process_that_may_no_more_change_them() {
    for family in ["unsupported-semaphores_no_rights", "unsupported-semaphores_no_rights_there"] {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let collector = Collector::start(&scratch.path("collector"));
        let workload = Workload::start(family, scratch.path("work"));
        let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
        let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how);
        assert!(!outcome.success, "it was dumped");
        let said = &outcome.stderr;
        assert!(said.contains("may no more change") && said.contains("ipcs -s"), "{said}");
        workload.check().expect("the program's own check");
        drop(machine);
    }
}
