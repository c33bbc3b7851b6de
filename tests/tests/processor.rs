//! State of the processor and what depends on it: where signal frames of injected calls lie,
//! restartable sequences.

use std::time::Duration;

use stasis_tests::{Collector, Dump, Engine, Machine, Scratch, Workload, wait_until};

/// How often a program is dumped that is in a restartable sequence nearly all the time.
const ROUNDS: usize = 10;
/// How long a program is given to get somewhere.
const PATIENCE: Duration = Duration::from_secs(30);

/// The places of the workload, the last two of which are alternate signal stacks.
const PLACES: usize = 5;

/// Dumped while it runs on, then carried, with each thread in a sequence nearly always.
fn restartable(programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let workload = Workload::start("restartable", scratch.path("work"));
    let how = |how| Dump { collector: collector.as_ref(), ..how };
    for round in 0..ROUNDS {
        let images = scratch.path(&format!("running-{round}"));
        let outcome = Engine::Stasis.dump(workload.pid(), &images, how(Dump::RUNNING_ON));
        outcome.must_succeed("dump");
    }
    for round in 0..ROUNDS {
        let images = scratch.path(&format!("ended-{round}"));
        let outcome = Engine::Stasis.dump(workload.pid(), &images, how(Dump::ENDING));
        outcome.must_succeed("dump");
        machine.end_tree(workload.pid());
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
        assert!(workload.program().is_alive(), "round {round}: {}", workload.log());
    }
    if let Err(what) = workload.check() {
        panic!("a sequence was torn: {what}");
    }
}

#[test]
fn no_restartable_sequence_is_torn() {
    restartable(false);
}

/// Asked by the parasite for their timers alone.
#[test]
fn no_restartable_sequence_is_torn_by_programs() {
    restartable(true);
}

/// Asked while it stands where there is no room for a signal frame, and carried from there.
fn cramped(programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let workload = Workload::start("cramped", scratch.path("work"));
    for place in 1..=PLACES {
        std::fs::write(workload.path("place"), place.to_string()).expect("say where");
        let standing = || {
            let text = std::fs::read_to_string(workload.path("standing")).unwrap_or_default();
            text.trim() == place.to_string()
        };
        assert!(wait_until(PATIENCE, standing), "place {place}: {}", workload.log());
        let how = |how| Dump { collector: collector.as_ref(), cross_check: programs, ..how };
        for round in 0..2 {
            let images = scratch.path(&format!("running-{place}-{round}"));
            let outcome = Engine::Stasis.dump(workload.pid(), &images, how(Dump::RUNNING_ON));
            outcome.must_succeed(&format!("dump at place {place}"));
        }
        let images = scratch.path(&format!("ended-{place}"));
        let outcome = Engine::Stasis.dump(workload.pid(), &images, how(Dump::ENDING));
        outcome.must_succeed(&format!("dump at place {place}"));
        machine.end_tree(workload.pid());
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
        assert!(workload.program().is_alive(), "place {place}: {}", workload.log());
    }
    if let Err(what) = workload.check() {
        panic!("it is not what it was: {what}");
    }
}

#[test]
fn threads_without_room_on_their_stacks_are_asked() {
    cramped(false);
}

#[test]
fn threads_without_room_on_their_stacks_are_asked_by_programs() {
    cramped(true);
}

/// Seen in the kernel's structures alone.
#[test]
fn segments_of_its_own_are_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start("unsupported-segments", scratch.path("work"));
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how);
    assert!(!outcome.success, "it was dumped");
    assert!(outcome.stderr.contains("modify_ldt"), "{}", outcome.stderr);
    workload.check().expect("the program's own check");
}
