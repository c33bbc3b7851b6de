//! Filters of system calls. Nothing is run in a task that has filters which might end it for that: so it takes
//! programs to dump most.

use super::*;

#[test]
fn natively() {
    super::natively("seccomp");
    super::natively("seccomp_together");
    super::natively("seccomp_timers");
}

/// Its filters let pass what it takes to ask it, and nothing else.
#[test]
fn timers_carried() {
    carried("seccomp_timers", Engine::Stasis, Engine::Stasis);
}

#[test]
fn timers_carried_by_programs() {
    carried_with("seccomp_timers", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn timers_running_on() {
    running_on("seccomp_timers", false);
}

/// The dump is what an engine's filters forbid the program: it has the program make a userfaultfd.
#[test]
fn memory_is_copied_ahead() {
    copies_ahead("seccomp_memory", true);
}

/// All threads stand still for it: none sees what its filters do not let it make.
#[test]
fn memory_of_threads_is_copied_ahead() {
    copies_ahead("seccomp_memory_threads", true);
}

/// Nobody is ended for that.
#[test]
fn memory_is_copied_frozen_where_a_userfaultfd_is_deadly() {
    copies_ahead("seccomp_memory_deadly", false);
}

fn copies_ahead(family: &str, ahead: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start(family, scratch.path("work"));
    let dump = |name: &str, how: Dump<'_>| {
        let images = scratch.path(name);
        let how = Dump { collector: Some(&collector), ..how };
        Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
        assert_eq!(images.join("pre-copy").exists(), ahead, "{family}");
        images
    };
    dump("running", Dump::RUNNING_ON);
    let images = dump("ended", Dump::ENDING);
    drop(collector);
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}

#[test]
fn timers_restored_by_criu_peer() {
    carried_with("seccomp_timers", Engine::Stasis, Engine::Criu, true);
}

#[test]
fn timers_dumped_by_criu_peer() {
    carried("seccomp_timers", Engine::Criu, Engine::Stasis);
}

#[test]
fn carried_by_programs() {
    carried_with("seccomp", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn together_carried_by_programs() {
    carried_with("seccomp_together", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn running_on_by_programs() {
    running_on("seccomp", true);
}

#[test]
fn restored_by_criu_peer() {
    carried_with("seccomp", Engine::Stasis, Engine::Criu, true);
}

#[test]
fn dumped_by_criu_peer() {
    carried("seccomp", Engine::Criu, Engine::Stasis);
}

#[test]
fn carried_by_criu_peer_alone() {
    carried("seccomp", Engine::Criu, Engine::Criu);
}

#[test]
fn refused_where_it_would_be_asked_and_under_a_supervisor() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    for (family, collector, said) in [
        ("seccomp", None, "without eBPF"),
        ("seccomp_supervised", Some(&collector), "supervisor"),
        ("seccomp_timers_denied", Some(&collector), "let timer_getoverrun pass"),
    ] {
        let workload = Workload::start(family, scratch.path(&format!("work-{family}")));
        let how = Dump { collector, ..Dump::ENDING };
        let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path(family), how);
        assert!(!outcome.success && outcome.stderr.contains(said), "{family}: {}", outcome.stderr);
        workload.check().expect("the program's own check");
    }
}
