//! What is in flight of asynchronous I/O is seen by programs alone.

use super::*;

#[test]
fn natively() {
    super::natively("aio");
    super::natively("aio_plain");
}

#[test]
fn carried_by_programs() {
    carried_with("aio", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn plain_carried_by_programs() {
    carried_with("aio_plain", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn running_on_by_programs() {
    running_on("aio", true);
}

#[test]
fn restored_by_criu_peer() {
    carried_with("aio_plain", Engine::Stasis, Engine::Criu, true);
}

#[test]
fn dumped_by_criu_peer() {
    carried("aio_plain", Engine::Criu, Engine::Stasis);
}

#[test]
fn carried_by_criu_peer_alone() {
    carried("aio_plain", Engine::Criu, Engine::Criu);
}

#[test]
fn carried_in_the_middle() {
    in_the_middle("aio");
}

#[test]
fn refused_without_programs() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("aio_plain", scratch.path("work"));
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::ENDING);
    let said = "only eBPF programs see what an asynchronous I/O context has in flight";
    assert!(!outcome.success && outcome.stderr.contains(said), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/[aio]"), "{}", outcome.stderr);
    workload.check().expect("the program's own check");
}
