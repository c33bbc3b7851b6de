//! Containers of LXC, Podman and Docker, which call the `criu` that is first on PATH: here ours. (Those of runc are in `containers.rs`.)
//!
//! Each container counts in a file, in a variable of its shell: a count that goes on from where it was is the same shell.

mod engine_programs;
mod engine_rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use engine_rig::{COUNTS, Docker, Rig, collected, lxc, name, podman, utf8, with_podman};
use serde_json::Value;
use stasis_tests::{Outcome, stasis_program};

/// Its mounts share what is mounted below them, `/proc` as well.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_container_of_lxc_comes_back() {
    let rig = Rig::prepare("lxc-start", |rig| drop(lxc(rig, "lxc-stop", &["-k"])));
    let root = rig.root();
    fs::write(root.join("init"), format!("#!/bin/sh\n{COUNTS}\n")).expect("write");
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).expect("chmod");
    let config = format!(
        "lxc.rootfs.path = dir:{}\nlxc.init.cmd = /init\nlxc.net.0.type = empty\nlxc.tty.max = 0\n\
         lxc.pty.max = 1\nlxc.console.path = none\nlxc.mount.auto = proc:rw sys:ro\n\
         lxc.mount.entry = {} shown none bind 0 0\n",
        root.display(),
        rig.scratch.path("shown").display()
    );
    let place = rig.scratch.path(&name());
    fs::create_dir(&place).expect("mkdir");
    fs::write(place.join("config"), config).expect("write");
    lxc(&rig, "lxc-start", &["-d"]).must_succeed("lxc-start");
    rig.counts_on(0);
    let images = utf8(&rig.scratch.path("images"));
    lxc(&rig, "lxc-checkpoint", &["-s", "-D", &images]).must_succeed("lxc-checkpoint -s");
    let before = rig.count().expect("a count");
    lxc(&rig, "lxc-checkpoint", &["-r", "-D", &images]).must_succeed("lxc-checkpoint -r");
    rig.counts_on(before);
}

/// Starts a container that counts.
fn podman_run(rig: &Rig, options: &[&str]) {
    let shown = format!("{}:/shown", rig.scratch.path("shown").display());
    let start = [&["run", "-d", "--name", "counts", "-v", &shown], options].concat();
    podman(rig, &[&start[..], &["counts:1", "/bin/sh", "-c", COUNTS]].concat())
        .must_succeed("podman run");
    rig.counts_on(0);
}

fn podman_checkpoint(rig: &Rig, options: &[&str]) -> u64 {
    podman(rig, &[&["container", "checkpoint"], options, &["counts"]].concat())
        .must_succeed("podman container checkpoint");
    rig.count().expect("a count")
}

fn podman_restore(rig: &Rig, options: &[&str]) {
    podman(rig, &[&["container", "restore"], options].concat())
        .must_succeed("podman container restore");
}

/// It is copied ahead, runs on, comes to its end, and comes back: what CRIU says of the times is printed.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_container_of_podman_comes_back() {
    let rig = with_podman();
    podman_run(&rig, &["--network", "none"]);
    let before = podman_checkpoint(&rig, &["--leave-running"]);
    let before = rig.counts_on(before);
    podman_checkpoint(&rig, &["--pre-checkpoint"]);
    rig.counts_on(before);
    let before = podman_checkpoint(&rig, &["--with-previous"]);
    let restored = podman(&rig, &["container", "restore", "--print-stats", "counts"]);
    let said = restored.must_succeed("podman container restore").stdout;
    assert!(said.contains("forking_time") && said.contains("pages_restored"), "{said}");
    rig.counts_on(before);
}

#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_container_of_podman_comes_back_under_another_name() {
    let rig = with_podman();
    podman_run(&rig, &["--network", "none"]);
    let archive = utf8(&rig.scratch.path("checkpoint.tar.gz"));
    let before = podman_checkpoint(&rig, &["--export", &archive]);
    podman_restore(&rig, &["--import", &archive, "--name", "other"]);
    rig.counts_on(before);
}

/// Podman deletes the upper layer of such a volume with the container: it would not come back.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_container_of_podman_with_a_volume_for_one_run_does_not_end() {
    let rig = with_podman();
    fs::create_dir(rig.scratch.path("volume")).expect("mkdir");
    let volume = format!("{}:/vol:O", rig.scratch.path("volume").display());
    podman_run(&rig, &["--network", "none", "-v", &volume]);
    let outcome = podman(&rig, &["container", "checkpoint", "counts"]);
    assert!(!outcome.success, "{}", outcome.stdout);
    let before = rig.count().expect("a count");
    rig.counts_on(before);
}

/// It joins the IPC and UTS namespaces of the other pod (`--join-ns`).
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_container_of_podman_comes_back_in_another_pod() {
    let rig = with_podman();
    let mut ids = Vec::new();
    for pod in ["first", "second"] {
        let infra = ["--infra-image", "localhost/counts:1", "--infra-command", "/bin/sleep 1000"];
        let create =
            ["pod", "create", "--name", pod, "--share", "ipc,net,uts", "--network", "none"];
        let made = podman(&rig, &[&create[..], &infra].concat()).must_succeed("podman pod create");
        ids.push(made.stdout.trim().to_owned());
        podman(&rig, &["pod", "start", pod]).must_succeed("podman pod start");
    }
    podman_run(&rig, &["--pod", "first"]);
    let archive = utf8(&rig.scratch.path("checkpoint.tar.gz"));
    let before = podman_checkpoint(&rig, &["--export", &archive]);
    podman(&rig, &["rm", "-f", "counts"]).must_succeed("podman rm");
    podman_restore(&rig, &["--import", &archive, "--pod", &ids[1]]);
    rig.counts_on(before);
}

/// `stasis`, which finds the engine's command first on PATH, where it has all the options of this test.
fn stasis(rig: &Rig, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(stasis_program());
    rig.run(command.args(arguments).env("STASIS_RUN_DIR", rig.scratch.path("stasis")))
}

/// A command that stands for another, with words and variables of its own.
fn stand_in(rig: &Rig, name: &str, line: &str) {
    let path = rig.scratch.path("path").join(name);
    fs::write(&path, format!("#!/bin/sh\n{line} \"$@\"\n")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Where a command of the machine is.
fn real(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join(name));
    utf8(&places.find(|file| file.is_file()).unwrap_or_else(|| panic!("no {name}")))
}

/// The one container of an engine that is listed by this name.
fn listed(rig: &Rig, engine: &str, name: &str) -> Value {
    let said = stasis(rig, &["ps", "--containers", "--json"]).must_succeed("stasis ps").stdout;
    let list: Value = serde_json::from_str(&said).expect("JSON");
    let all = list["containers"].as_array().expect("containers").iter();
    let of_name: Vec<_> = all.filter(|one| one["name"] == name || one["id"] == name).collect();
    let [one] = of_name[..] else { panic!("{list}") };
    assert_eq!(one["engine"], engine);
    one.clone()
}

/// What Podman has runc run is Podman's, and its checkpoint is kept by it.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_container_of_podman_is_dumped_by_its_name() {
    let rig = with_podman();
    let at = |name: &str| utf8(&rig.scratch.path(name));
    stand_in(
        &rig,
        "podman",
        &format!(
            "CONTAINERS_CONF={} exec {} --root {} --runroot {} --tmpdir {} --cgroup-manager cgroupfs \
             --events-backend none --storage-driver vfs --runtime runc",
            at("containers.conf"),
            real("podman"),
            at("store"),
            at("run"),
            at("tmp")
        ),
    );
    podman_run(&rig, &["--network", "none"]);
    let one = listed(&rig, "podman", "counts");
    assert_eq!((&one["state"], &one["checkpointable"]), (&"running".into(), &true.into()), "{one}");
    let id = one["id"].as_str().expect("an id");
    assert_eq!(listed(&rig, "podman", id), one, "and runc lists it no more");
    let refused = stasis(&rig, &["dump", "--container", "counts", "-D", &at("images")]);
    assert!(refused.stderr.contains("Podman keeps its checkpoints itself"), "{}", refused.stderr);
    let refused =
        stasis(&rig, &["dump", "--container", "counts", "--engine", "runc", "-D", &at("i")]);
    assert!(refused.stderr.contains("no container"), "{}", refused.stderr);
    let before = rig.count().expect("a count");
    let tried = ["dump", "--container", "counts", "--dry-run", "--json"];
    let tried = stasis(&rig, &tried).must_succeed("a dry run").stdout;
    let tried: Value = serde_json::from_str(&tried).expect("JSON");
    assert!(tried["frozen_us"].as_u64().is_some_and(|frozen| frozen > 0), "{tried}");
    let before = rig.counts_on(before);
    let never =
        podman(&rig, &["container", "inspect", "--format", "{{.State.Checkpointed}}", "counts"]);
    assert_eq!(never.must_succeed("podman inspect").stdout.trim(), "false");
    stasis(&rig, &["dump", "--container", "counts", "--leave-running"]).must_succeed("stasis dump");
    rig.counts_on(before);
    let said = stasis(&rig, &["dump", "--container", &id[..12]]).must_succeed("stasis dump").stdout;
    let before = rig.count().expect("a count");
    let line = said.lines().find_map(|line| line.strip_prefix("it comes back by: "));
    let mut shell = Command::new("sh");
    rig.run(shell.arg("-c").arg(line.expect("a command"))).must_succeed("podman restore");
    rig.counts_on(before);
    podman(&rig, &["pause", "counts"]).must_succeed("podman pause");
    let one = listed(&rig, "podman", "counts");
    assert_eq!((&one["state"], &one["checkpointable"]), (&"paused".into(), &false.into()), "{one}");
    let refused = stasis(&rig, &["dump", "--container", "counts"]);
    assert!(refused.stderr.contains("it is paused"), "{}", refused.stderr);
}

/// Its daemon has to find our criu by itself; its checkpoint is kept by it, by a name.
#[test]
#[ignore = "needs packages of its own: make test-all"]
fn a_container_of_docker_is_dumped_by_its_name() {
    let rig = Rig::prepare("dockerd", |_| ());
    let archive = utf8(&rig.scratch.path("image.tar"));
    let mut tar = Command::new("tar");
    Outcome::of(tar.arg("-C").arg(rig.root()).args(["-cf", &archive, "."])).must_succeed("tar");
    let docker = Docker::start(&rig);
    let host = format!("unix://{}", docker.socket);
    stand_in(&rig, "docker", &format!("exec {}", real("docker")));
    let stasis = |arguments: &[&str]| {
        let mut command = Command::new(stasis_program());
        command.args(arguments).env("DOCKER_HOST", &host);
        rig.run(command.env("STASIS_RUN_DIR", rig.scratch.path("stasis")))
    };
    docker.call(&rig, &["import", &archive, "counts:1"]).must_succeed("docker import");
    let (name, shown) = (name(), format!("{}:/shown", rig.scratch.path("shown").display()));
    let run = ["run", "-d", "--name", &name, "--network", "none", "-v", &shown, "counts:1"];
    let run = [&run[..], &["/bin/sh", "-c", COUNTS]].concat();
    docker.call(&rig, &run).must_succeed("docker run");
    let before = rig.counts_on(0);
    let ends = || drop(docker.call(&rig, &["rm", "-f", &name]));
    let said = stasis(&["ps", "--containers"]).must_succeed("stasis ps").stdout;
    let line = said.lines().find(|line| line.contains(&name)).unwrap_or_default();
    assert!(line.contains("docker") && line.contains("yes"), "{said}");
    let tried = stasis(&["dump", "--container", &name, "--dry-run"]).must_succeed("a dry run");
    assert!(tried.stdout.contains("frozen"), "{}", tried.stdout);
    let before = rig.counts_on(before);
    stasis(&["dump", "--container", &name, "--leave-running"]).must_succeed("stasis dump");
    rig.counts_on(before);
    let said = stasis(&["dump", "--container", &name]).must_succeed("stasis dump").stdout;
    let before = rig.count().expect("a count");
    let line = said.lines().find_map(|line| line.strip_prefix("it comes back by: "));
    let line = line.expect("a command").to_owned();
    let started = collected(|| rig.run(Command::new("sh").arg("-c").arg(&line)));
    // It is another's criu by now: then it is refused, and nothing happens to it.
    let criu = rig.scratch.path("path/criu");
    fs::rename(&criu, rig.scratch.path("path/criu.ours")).expect("rename");
    fs::copy("/bin/true", &criu).expect("copy");
    let refused = stasis(&["dump", "--container", &name, "--leave-running"]);
    started.must_succeed("docker start");
    rig.counts_on(before);
    ends();
    assert!(refused.stderr.contains("which is not stasis"), "{}", refused.stderr);
}
