//! Real programs of the distribution under load: dumped running on, dumped to their end, restored, and asked
//! whether they go on where they were, with the same clients.
//!
//! Those that are marked `ignored` need large packages: `make test-all` installs these and runs them, too.

mod distribution {
    mod large;
    mod small;
}

use stasis_tests::at_work::AtWork;
use stasis_tests::{Collector, Dump, Engine, Machine, Scratch, tree_of};

/// What all of them have to stand.
fn carried(engine: Engine, start: fn(&Scratch) -> AtWork) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("work")).expect("make a directory");
    let mut work = start(&scratch);
    work.must_go_on("at first");
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump {
        collector: Some(&collector),
        connections: work.connections,
        leave_running: true,
        ..Dump::ENDING
    };
    engine.dump(work.pid, &scratch.path("first"), how).must_succeed("dump");
    work.must_go_on("after a dump");
    let images = scratch.path("second");
    let tree = tree_of(work.pid);
    let how = Dump { leave_running: false, ..how };
    engine.dump(work.pid, &images, how).must_succeed("dump");
    machine.await_end(&tree);
    engine.restore(&images, how).must_succeed("restore");
    work.must_go_on("after a restore");
    work.must_go_on("some time after a restore");
}
