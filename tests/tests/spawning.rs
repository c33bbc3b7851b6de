//! Trees that make and lose processes and threads all the time: a dump at any moment succeeds, and the
//! program does not notice.

use stasis_tests::{Collector, Dump, Engine, Machine, Outcome, Scratch, Workload};

/// Dumps one after the other: where in its loops the program is then is up to chance.
const DUMPS: usize = 10;

fn at_any_moment(programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), ..Dump::RUNNING_ON };
    let workload = Workload::start("spawning", scratch.path("work"));
    for number in 0..DUMPS {
        let images = scratch.path(&number.to_string());
        Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
        std::fs::remove_dir_all(&images).expect("remove");
    }
    let images = scratch.path("images");
    let how = Dump { collector: collector.as_ref(), ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    machine.end_tree(workload.pid());
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("it noticed: {what}");
    }
}

#[test]
fn at_any_moment_by_proc() {
    at_any_moment(false);
}

#[test]
fn at_any_moment_by_programs() {
    at_any_moment(true);
}

/// Each of a chain of dumps, of which each holds what has changed since the one before.
#[test]
fn in_a_chain() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("spawning", scratch.path("work"));
    let mut parent = None;
    for number in 0..DUMPS {
        let images = scratch.path(&number.to_string());
        let mut dump = Engine::Stasis.dump_command(workload.pid(), &images, Dump::RUNNING_ON);
        dump.arg("--track").arg("--run-dir").arg(scratch.path("run"));
        if let Some(parent) = &parent {
            dump.arg("--parent").arg(parent);
        }
        Outcome::of(&mut dump).must_succeed("dump");
        parent = Some(images);
    }
    workload.check().expect("the program's own check");
}
