//! `--join-ns`: a tree comes back in namespaces that are there, as a container does in another pod. These tests need root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stasis_tests::{
    Dump, Engine, Machine, Outcome, Program, Scratch, Workload, built_program, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A program in namespaces of its own, under this name of the host.
fn apart(name: &str, command: &str, log: &Path) -> Program {
    let mut program = Command::new("unshare");
    let script = format!("hostname {name} && exec {command}");
    program.args(["--ipc", "--uts", "--time", "sh", "-c", &script]);
    Program::start(&mut program, log)
}

fn namespace(pid: i32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace")
}

/// The shared memory that the tree has attached is in the joined namespace with it.
#[test]
fn a_tree_joins_namespaces() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (work, images) = (scratch.path("work"), scratch.path("images"));
    fs::create_dir(&work).expect("mkdir");
    let command =
        format!("{} sysv_memory {}", built_program("stasis-workload").display(), work.display());
    let tree = apart("dumped", &command, &scratch.path("log"));
    assert!(wait_until(PATIENCE, || work.join("ready").exists()), "it does not come to stand");
    Engine::CriuFace.dump(tree.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();

    let other = apart("joined", "sleep 600", &scratch.path("other"));
    let is_apart =
        || namespace(other.pid(), "uts") != namespace(std::process::id().cast_signed(), "uts");
    assert!(wait_until(PATIENCE, is_apart), "no other namespaces");
    let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
    for kind in ["ipc", "uts", "time"] {
        restore.arg("--join-ns").arg(format!("{kind}:{}", other.pid()));
    }
    Outcome::of(&mut restore).must_succeed("restore");
    for kind in ["ipc", "uts", "time"] {
        assert_eq!(namespace(tree.pid(), kind), namespace(other.pid(), kind), "{kind}");
    }
    fs::write(work.join("go"), "").expect("say so");
    wait_until(PATIENCE, || work.join("result").exists());
    let told = fs::read_to_string(work.join("result")).unwrap_or_else(|error| error.to_string());
    assert_eq!(told, "PASS\n", "{}", fs::read_to_string(scratch.path("log")).unwrap_or_default());
}

/// What is not there is told before anything is made, and kinds that are not joined are refused by name.
#[test]
fn what_cannot_be_joined_is_told() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let tree = apart("dumped", "sleep 600", &scratch.path("log"));
    let is_there =
        || fs::read_to_string(format!("/proc/{}/comm", tree.pid())).is_ok_and(|it| it == "sleep\n");
    assert!(wait_until(PATIENCE, is_there), "it does not start");
    Engine::CriuFace.dump(tree.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    for (value, said) in [
        ("uts:/nowhere", "--join-ns uts:/nowhere"),
        ("user:1", "--join-ns user:1"),
        ("time:/proc/self/ns/uts", "the kind uts"),
    ] {
        let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
        let outcome = Outcome::of(restore.args(["--join-ns", value]));
        let log = fs::read_to_string(images.join("restore.log")).unwrap_or_default();
        assert!(!outcome.success && log.contains(said), "{log}");
        machine.await_no_children();
    }
}

/// A tree that had the clocks of the machine.
#[test]
fn a_tree_joins_other_clocks() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start("timers", scratch.path("work"));
    Engine::CriuFace.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let mut other = Command::new("unshare");
    other.args(["--time", "--boottime", "1000", "sleep", "600"]);
    let other = Program::start(&mut other, &scratch.path("other"));
    let own = namespace(std::process::id().cast_signed(), "time");
    assert!(wait_until(PATIENCE, || namespace(other.pid(), "time") != own), "no other clocks");
    let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
    Outcome::of(restore.arg("--join-ns").arg(format!("time:{}", other.pid())))
        .must_succeed("restore");
    assert_eq!(namespace(workload.pid(), "time"), namespace(other.pid(), "time"));
    workload.check().expect("the program's own check");
}

/// Nothing else of it comes back, and nobody else would bring that up: programs talk to themselves by it.
#[test]
fn the_loopback_device_of_an_empty_network_is_up_again() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let script = "ip link set lo up; : > there; exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script]).current_dir(scratch.path(""));
    let program = Program::start(&mut command, &scratch.path("log"));
    assert!(wait_until(Duration::from_secs(20), || scratch.path("there").exists()), "it starts");
    let images = scratch.path("images");
    let mut dump = Engine::CriuFace.dump_command(program.pid(), &images, Dump::ENDING);
    Outcome::of(dump.args(["--empty-ns", "net"])).must_succeed("dump");
    machine.await_no_children();
    let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
    Outcome::of(restore.args(["--empty-ns", "net"])).must_succeed("restore");
    let mut look = Command::new("nsenter");
    look.args(["--net", "--target", &program.pid().to_string(), "ip", "-brief", "link"]);
    let links = Outcome::of(&mut look).must_succeed("look").stdout;
    let mut links = links.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert!(links.any(|words| words[0] == "lo" && words[3].contains("UP")), "it is not up");
    machine.end_tree(program.pid());
}
