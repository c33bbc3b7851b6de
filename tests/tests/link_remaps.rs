//! Files that have lost the name by which they were opened, and have others (`--link-remap`). Needs root.

use std::path::Path;

use stasis_tests::{Collector, Dump, Engine, Machine, Outcome, Scratch, Workload};

/// The names that a dump has given files in a directory.
fn given(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("list").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("link_remap.")).collect()
}

fn carried(family: &str, by: Engine, to: Engine, programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start(family, scratch.path("work"));
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), cross_check: programs, ..Dump::ENDING };
    let mut dump = by.dump_command(workload.pid(), &images, how);
    Outcome::of(dump.arg("--link-remap")).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    assert!(!given(&scratch.path("work")).is_empty(), "a restore finds the files by links");
    to.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}

#[test]
fn natively() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    for family in ["link_remaps", "link_remaps_beyond_criu"] {
        Workload::start(family, scratch.path(family)).check().expect(family);
    }
}

#[test]
fn carried_here() {
    carried("link_remaps", Engine::Stasis, Engine::Stasis, false);
}

#[test]
fn carried_by_programs() {
    carried("link_remaps", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn carried_beyond_criu() {
    carried("link_remaps_beyond_criu", Engine::Stasis, Engine::Stasis, true);
}

#[test]
fn carried_by_the_face() {
    carried("link_remaps", Engine::CriuFace, Engine::CriuFace, false);
}

#[test]
fn restored_by_criu_peer() {
    carried("link_remaps", Engine::Stasis, Engine::Criu, false);
}

#[test]
fn dumped_by_criu_peer() {
    carried("link_remaps", Engine::Criu, Engine::Stasis, false);
}

/// A file may be closed when it has been given a name, before the target is frozen: that one is no restore's.
#[test]
fn no_name_stays_that_no_restore_needs() {
    let machine = Machine::prepare();
    // On a machine that has more to do the program may come too late, and have both files open still.
    let is_closed = (0..10).any(|_| {
        let scratch = Scratch::new();
        let (images, work) = (scratch.path("images"), scratch.path("work"));
        let workload = Workload::start("link_remaps_closed", work.clone());
        let mut dump = Engine::Stasis.dump_command(workload.pid(), &images, Dump::ENDING);
        Outcome::of(dump.arg("--link-remap")).must_succeed("dump");
        machine.await_no_children();
        let is_closed = workload.path("closed it").exists();
        assert_eq!(given(&work).len(), if is_closed { 1 } else { 2 }, "of what is open still");
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
        workload.check().expect("carried, and nothing left");
        is_closed
    });
    assert!(is_closed, "it was closed in time once");
}

/// A tree that runs on needs no links, and has none afterwards; nor has one whose dump fails.
#[test]
fn links_go_with_their_dump() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("link_remaps", scratch.path("work"));
    let dump = |images: &str, options: &[&str]| {
        let images = scratch.path(images);
        let mut dump = Engine::Stasis.dump_command(workload.pid(), &images, Dump::RUNNING_ON);
        Outcome::of(dump.arg("--link-remap").args(options))
    };
    dump("one", &[]).must_succeed("dump");
    assert_eq!(given(&scratch.path("work")), [""; 0]);
    assert!(!dump("two", &["--max-freeze", "1ns"]).success);
    assert_eq!(given(&scratch.path("work")), [""; 0]);
    workload.check().expect("the program's own check");
}

/// What a killed dump has left goes with the next command; what a checkpoint needs stays.
#[test]
fn a_killed_dump_leaves_no_links() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (run_dir, work) = (scratch.path("run"), scratch.path("work"));
    let workload = Workload::start("link_remaps", work.clone());
    let script = scratch.path("stop");
    let text = "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-dump ] && kill -9 $PPID\nexit 0\n";
    std::fs::write(&script, text).expect("write a script");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&script, executable).expect("make it executable");
    let mut dump = Engine::CriuFace.dump_command(workload.pid(), &scratch.path("1"), Dump::ENDING);
    let dump = dump.args(["--link-remap", "--action-script"]).arg(&script);
    let killed = Outcome::of(dump.env("STASIS_RUN_DIR", &run_dir));
    assert!(!killed.success && workload.program().is_alive(), "{}", killed.stderr);
    assert!(!given(&work).is_empty(), "it was killed with links made");
    let next = || {
        let mut next = Engine::Stasis.command("ps");
        Outcome::of(next.env("STASIS_RUN_DIR", &run_dir)).must_succeed("stasis ps");
    };
    next();
    assert_eq!(given(&work), [""; 0]);
    let mut dump = Engine::Stasis.dump_command(workload.pid(), &scratch.path("2"), Dump::ENDING);
    let dump = dump.arg("--link-remap").env("STASIS_RUN_DIR", &run_dir);
    Outcome::of(dump).must_succeed("dump");
    machine.await_no_children();
    next();
    assert!(!given(&work).is_empty(), "a restore needs them");
    Engine::Stasis.restore(&scratch.path("2"), Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}
