//! Stopped children: whether their parent has been told is carried, which eBPF alone sees. Needs root.

use stasis_tests::{Collector, Dump, Engine, Machine, Scratch, Workload};

const FAMILY: &str = "stops";

#[test]
fn natively() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(FAMILY, scratch.path("work"));
    workload.check().expect("the program's own check");
}

#[test]
fn carried() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start(FAMILY, scratch.path("work"));
    let how = Dump { collector: Some(&collector), cross_check: true, ..Dump::ENDING };
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}

#[test]
fn running_on() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start(FAMILY, scratch.path("work"));
    let how = Dump { collector: Some(&collector), cross_check: true, ..Dump::RUNNING_ON };
    Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how).must_succeed("dump");
    workload.check().expect("the program's own check");
}
