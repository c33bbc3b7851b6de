//! Programs of 32-bit code: each kind of state natively, through a dump and a restore, with the target running on, and to and from CRIU.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stasis_tests::faults::{Random, Trace, held};
use stasis_tests::{Collector, Dump, Engine, Machine, Outcome, Scratch, Workload, wait_until};

/// Builds a program of sources in `tests/programs`.
fn build_from(sources: &[&str], scratch: &Scratch, options: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let program = scratch.path("program");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Werror", "-pthread"]).args(options).arg("-o").arg(&program);
    compiler.args(sources.iter().map(|name| folder.join(name)));
    let built = Outcome::of(&mut compiler);
    built.must_succeed("build a program (32-bit code takes gcc-multilib)");
    program
}

/// Builds the program whose families are those here, as 32-bit code.
fn build(scratch: &Scratch, options: &[&str]) -> PathBuf {
    let sources = ["main", "calls", "memory", "signals", "threads", "tree", "work"];
    let sources = sources.map(|name| format!("compat/{name}.c"));
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    build_from(&sources, scratch, &[&["-m32"], options].concat())
}

fn start(scratch: &Scratch, family: &str) -> Workload {
    Workload::start_as(&build(scratch, &[]), family, scratch.path("work"))
}

fn verdict(family: &str, workload: &Workload) {
    if let Err(what) = workload.check() {
        panic!("{family} is not what it was: {what}");
    }
}

/// Dumped by one engine and ended, restored by another, and so as often as there are engines.
fn carried(family: &str, engines: &[(Engine, Engine)], programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = start(&scratch, family);
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), cross_check: programs, ..Dump::ENDING };
    for (round, (by, to)) in engines.iter().enumerate() {
        let images = scratch.path(&format!("images-{round}"));
        by.dump(workload.pid(), &images, how).must_succeed("dump");
        machine.end_tree(workload.pid());
        // A dump may take a second try, after which a sleep is continued: which call that is nobody tells then, and it says EINTR.
        if !programs {
            std::fs::write(workload.path("dumped-without-programs"), "").expect("say so");
        }
        if *by == Engine::Criu {
            std::fs::write(workload.path("dumped-by-criu"), "").expect("say so");
        }
        to.restore(&images, Dump::ENDING).must_succeed("restore");
        assert!(workload.program().is_alive(), "it is dead: {}", workload.log());
    }
    verdict(family, &workload);
}

/// Dumped while it runs on; then, if programs tell what call a wait is in that has been continued, carried.
fn running_on(family: &str, programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = start(&scratch, family);
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), ..Dump::RUNNING_ON };
    for name in ["first", "second", "third"] {
        let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path(name), how);
        outcome.must_succeed("dump");
    }
    if programs {
        let how = Dump { leave_running: false, ..how };
        let images = scratch.path("last");
        Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
        machine.end_tree(workload.pid());
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    }
    verdict(family, &workload);
}

const OURS: (Engine, Engine) = (Engine::Stasis, Engine::Stasis);

macro_rules! families {
    ($($family:ident)*) => { $(
        mod $family {
            use super::*;

            const FAMILY: &str = stringify!($family);

            #[test]
            fn natively() {
                let _machine = Machine::prepare();
                let scratch = Scratch::new();
                verdict(FAMILY, &start(&scratch, FAMILY));
            }

            /// Restored, it is carried once more.
            #[test]
            fn carried() {
                super::carried(FAMILY, &[OURS, OURS], false);
            }

            #[test]
            fn carried_by_programs() {
                super::carried(FAMILY, &[OURS, OURS], true);
            }

            #[test]
            fn running_on() {
                super::running_on(FAMILY, false);
            }

            #[test]
            fn running_on_by_programs() {
                super::running_on(FAMILY, true);
            }

            #[test]
            fn restored_by_criu_peer() {
                super::carried(FAMILY, &[(Engine::Stasis, Engine::Criu)], false);
            }

            #[test]
            fn dumped_by_criu_peer() {
                super::carried(FAMILY, &[(Engine::Criu, Engine::Stasis), OURS], false);
            }

            /// CRIU by itself: where this fails the two above may.
            #[test]
            fn carried_by_criu_peer_alone() {
                super::carried(FAMILY, &[(Engine::Criu, Engine::Criu)], false);
            }
        }
    )* };
}

families! { busy calls memory registers signals threads timers tree }

/// Without a dynamic linker.
#[test]
fn a_static_program_is_carried() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let program = build(&scratch, &["-static"]);
    let workload = Workload::start_as(&program, "threads", scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.end_tree(workload.pid());
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    verdict("threads", &workload);
}

/// As far as eBPF tells where that is.
#[test]
fn new_mappings_go_where_they_would_have_gone() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = start(&scratch, "memory");
    std::fs::write(workload.path("same-places"), "").expect("say so");
    let images = scratch.path("images");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    machine.end_tree(workload.pid());
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    verdict("memory", &workload);
}

/// Below a 64-bit program.
#[test]
fn a_tree_of_both_kinds_is_carried() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let program = build(&scratch, &[]);
    let script = scratch.path("both");
    let text = format!("#!/bin/sh\n{} \"$@\"\nexit 0\n", program.display());
    std::fs::write(&script, text).expect("write a script");
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, all).expect("make it a program");
    let workload = Workload::start_as(&script, "tree", scratch.path("work"));
    for round in 0..2 {
        let images = scratch.path(&format!("images-{round}"));
        Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
        machine.end_tree(workload.pid());
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    }
    verdict("tree", &workload);
}

/// How often the dumper is killed.
const KILLS: u32 = 60;

/// The dumper is killed at an instant between its start and its end, again and again: what runs in the program finds home by itself.
#[test]
fn the_dumper_killed_at_random_instants() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = start(&scratch, "busy");
    let dump = |name: &str| {
        Engine::Stasis.dump_command(workload.pid(), &scratch.path(name), Dump::RUNNING_ON)
    };
    let begun = Instant::now();
    Outcome::of(&mut dump("timed")).must_succeed("dump");
    let length = begun.elapsed();
    let before = Trace::of(workload.pid());
    let mut random = Random::new(0x32b1);
    for attempt in 0..KILLS {
        let mut command = dump(&format!("killed-{attempt}"));
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut dumper = quiet.spawn().expect("start the dumper");
        let at = random.below(length.mul_f64(1.1));
        std::thread::sleep(at);
        dumper.kill().expect("kill the dumper");
        dumper.wait().expect("wait for the dumper");
        let is_home = || {
            held(workload.pid()).is_empty()
                && before.differences(&Trace::of(workload.pid())).is_empty()
        };
        let differences = || before.differences(&Trace::of(workload.pid()));
        let home = wait_until(Duration::from_secs(10), is_home);
        assert!(home, "killed after {at:?}: {:?}, {:?}", held(workload.pid()), differences());
    }
    Outcome::of(&mut dump("after")).must_succeed("dump");
    verdict("busy", &workload);
}

/// Its memory is copied while it runs: it makes a userfaultfd for that.
#[test]
fn memory_is_copied_ahead() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = start(&scratch, "large");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    assert!(images.join("pre-copy").exists(), "nothing was copied ahead");
    machine.end_tree(workload.pid());
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    verdict("large", &workload);
}

/// Nothing of the 64-bit kind may be run in it: it is dumped where the kernel's structures tell all.
#[test]
fn a_filter_that_knows_no_other_calls() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = start(&scratch, "filtered");
    let images = scratch.path("images");
    let refused = Engine::Stasis.dump(workload.pid(), &images, Dump::RUNNING_ON);
    assert!(!refused.success && refused.stderr.contains("seccomp"), "{}", refused.stderr);
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    machine.end_tree(workload.pid());
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    verdict("filtered", &workload);
}

/// 32-bit code in a 64-bit program, with what of it that is to be seen.
fn refused(what: &str, programs: bool, named: &str) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let program = build_from(&["mixed.c"], &scratch, &[]);
    let workload = Workload::start_as(&program, what, scratch.path("work"));
    std::thread::sleep(Duration::from_millis(50));
    let how = Dump { collector: collector.as_ref(), ..Dump::RUNNING_ON };
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how);
    assert!(!outcome.success && outcome.stderr.contains(named), "{}", outcome.stderr);
    assert!(workload.program().is_alive() && held(workload.pid()).is_empty(), "it has noticed");
}

#[test]
fn code_of_both_kinds_is_refused() {
    refused("code", false, "runs 32-bit code in a 64-bit program");
}

#[test]
fn segments_in_a_64_bit_program_are_refused() {
    refused("segments", true, "set_thread_area");
}

#[test]
fn an_action_of_the_other_kind_is_refused() {
    refused("action", true, "signal 10");
}
