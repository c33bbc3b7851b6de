//! What the kernel keeps of an io_uring, and what is in flight, is seen by programs alone.

use super::*;

#[test]
fn natively() {
    super::natively("io_uring");
    super::natively("io_uring_shared");
}

#[test]
fn carried_by_programs() {
    carried_with("io_uring", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn running_on_by_programs() {
    running_on("io_uring", true);
}

#[test]
fn shared_by_processes_carried_by_programs() {
    carried_with("io_uring_shared", Engine::Stasis, Engine::Stasis, true);
    running_on("io_uring_shared", true);
}

#[test]
fn carried_in_the_middle() {
    in_the_middle("io_uring");
}

#[test]
fn refused_without_programs() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("io_uring_shared", scratch.path("work"));
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::ENDING);
    let said = "only eBPF programs see what the kernel keeps of an io_uring";
    assert!(!outcome.success && outcome.stderr.contains(said), "{}", outcome.stderr);
    workload.check().expect("the program's own check");
}
