//! Trees with a user namespace of their own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ids::HostPid;
use kernel::sched::{Scheduling, io_priority, scheduling, set_io_priority, set_scheduling};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use stasis_tests::{
    Dump, Engine, Machine, Outcome, Program, Rig, Scratch, children_of, wait_until,
};

/// The workload writes the maps for its child, which has made the namespaces for the tree.
const GENERATIONS: usize = 2;

fn start(family: &str) -> Rig {
    Rig::start(family, GENERATIONS)
}

/// One with mounts of its own, whose stage is mounted with `nosuid` by root outside, which nobody inside may change, and from which
/// it receives what is mounted there.
fn with_locked_mounts(family: &str) -> Rig {
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    let change = |source: Option<&Path>, at: &Path, flags: MsFlags| {
        mount(source, at, None::<&str>, flags, None::<&str>).expect("mount");
    };
    change(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    let scratch = Scratch::new();
    let work = scratch.path("work");
    std::fs::create_dir(&work).expect("mkdir");
    change(Some(&work), &work, MsFlags::MS_BIND);
    change(None, &work, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID);
    change(None, &work, MsFlags::MS_SHARED);
    Rig::start_in(scratch, family, GENERATIONS)
}

#[test]
fn natively() {
    for family in ["users_alone", "users_denied", "users_all", "users_mounts", "users_without_pids"]
    {
        start(family).check();
    }
}

#[test]
fn ids_are_those_of_inside() {
    start("users_alone").carried(Engine::Stasis, Engine::Stasis);
}

#[test]
fn groups_that_nobody_may_set_come_back() {
    start("users_denied").carried(Engine::Stasis, Engine::Stasis);
}

#[test]
fn namespaces_belong_to_it() {
    start("users_all").carried(Engine::Stasis, Engine::Stasis);
}

/// What nobody may give himself in there: they have it from the machine's root.
#[test]
fn priorities_from_outside() {
    let rig = start("users_alone");
    let given = |pid| {
        let task = HostPid::new(pid).expect("a number");
        (scheduling(task).expect("scheduling"), io_priority(task).expect("I/O priority"))
    };
    // SCHED_RR.
    let wanted = Scheduling { policy: 2, nice: -7, priority: 5, ..Scheduling::default() };
    let task = HostPid::new(rig.root).expect("a number");
    set_scheduling(task, &wanted).expect("schedule");
    set_io_priority(task, 1 << 13 | 2).expect("I/O priority");
    let before = given(rig.root);
    assert_eq!((before.0.policy, before.0.nice, before.0.priority), (2, -7, 5));
    rig.dump(Engine::Stasis);
    let root = rig.restore(Engine::Stasis);
    assert_eq!(given(root), before);
    rig.check();
}

#[test]
fn it_runs_on() {
    let rig = start("users_all");
    Engine::Stasis.dump(rig.root, &rig.images(), Dump::RUNNING_ON).must_succeed("dump");
    rig.check();
}

/// It is refused before the freeze, by a message that says so, and runs on.
fn refused(family: &str, what: &str) {
    let rig = start(family);
    let outcome = Engine::Stasis.dump(rig.root, &rig.images(), Dump::ENDING);
    assert!(!outcome.success, "{}", outcome.stderr);
    assert!(outcome.stderr.contains(what), "{}", outcome.stderr);
    rig.check();
}

#[test]
fn another_one_below_is_refused() {
    refused("users_nested", "it is another one than that of the tree's root");
}

#[test]
fn numbers_of_outside_are_given_again() {
    start("users_without_pids").carried(Engine::Stasis, Engine::Stasis);
}

#[test]
fn mounts_of_outside_are_locked_natively() {
    with_locked_mounts("users_mounts").check();
    with_locked_mounts("users_covered").check();
}

/// With mounts of its own, of which the stage comes from outside, and nothing that is locked is let go.
#[test]
fn mounts_belong_to_it() {
    carried_with_mounts("users_mounts");
}

#[test]
fn what_is_hidden_is_read_in_its_user_namespace() {
    carried_with_mounts("users_covered");
}

fn carried_with_mounts(family: &str) {
    let rig = with_locked_mounts(family);
    let mut dump = Engine::Stasis.dump_command(rig.root, &rig.images(), Dump::ENDING);
    dump.args(["--external", "mnt[/stage]:STAGE", "--external", "mnt[/memory]:MEMORY"]);
    Outcome::of(&mut dump).must_succeed("dump");
    rig.machine.await_no_children();
    let work = rig.scratch.path("work");
    let mut restore = Engine::Stasis.restore_command(&rig.images(), Dump::ENDING);
    restore.arg("--external").arg(format!("mnt[STAGE]:{}", work.display()));
    restore.args(["--external", "mnt[MEMORY]:/dev/shm"]);
    Outcome::of(restore.arg("--root").arg(work.join("root"))).must_succeed("restore");
    rig.check();
}

/// A deleted file of somebody who has no number in it: made again by root it would be root's, with its set-user-ID bit.
#[test]
fn a_deleted_file_of_nobody_is_refused() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let file = scratch.path("file");
    std::fs::write(&file, "bytes").expect("write");
    std::os::unix::fs::chown(&file, Some(12_345), Some(12_345)).expect("chown");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).expect("chmod");
    let script = format!("exec 7<'{}'; exec sleep 600", file.display());
    let mut command = std::process::Command::new("unshare");
    command.args(["-Urpf", "setsid", "sh", "-c", &script]);
    let program = Program::start(&mut command, &scratch.path("log"));
    let mut root = None;
    let waits = || {
        root = children_of(program.pid()).first().copied();
        let comm = root.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        comm.is_some_and(|comm| comm.trim() == "sleep")
    };
    assert!(wait_until(Duration::from_secs(30), waits), "it does not start");
    let root = root.expect("a process");
    std::fs::remove_file(&file).expect("unlink");
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(root, &images, Dump::ENDING);
    assert!(!outcome.success && !images.exists(), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("its owner has no number"), "{}", outcome.stderr);
    let comm = std::fs::read_to_string(format!("/proc/{root}/comm")).expect("it runs on");
    assert_eq!(comm, "sleep\n");
    machine.end_all();
}
