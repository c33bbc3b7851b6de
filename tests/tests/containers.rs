//! Containers of runc, which calls the `criu` that is first on PATH: here ours, and CRIU's to see that the tests are right.
//!
//! Each container counts, in a variable of its shell and in a file: a count that goes on from where it was is the same
//! shell.

mod container;
mod container_kills;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use container::{Container, PATIENCE, utf8};
use serde_json::{Value, json};
use stasis_tests::{Dump, Engine, Outcome, Services, children_of, stasis_program, wait_until};

fn comes_back(engine: Engine) {
    Container::start(engine, |_| ()).goes_on("images", &[]);
}

#[test]
fn a_container_comes_back() {
    comes_back(Engine::CriuFace);
}

fn runs_on(engine: Engine) {
    let container = Container::start(engine, |_| ());
    let before = container.count().expect("a count");
    container.checkpoint("images", &["--leave-running"]).must_succeed("runc checkpoint");
    container.counts_on(before);
    container.goes_on("more", &[]);
}

#[test]
fn a_container_runs_on() {
    runs_on(Engine::CriuFace);
}

fn has_a_file_system_in_memory(engine: Engine) {
    let container = Container::counting(engine, "/mem", |config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/mem", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}));
        config["root"]["readonly"] = json!(true);
    });
    container.goes_on("images", &[]);
}

#[test]
fn a_container_has_a_file_system_in_memory() {
    has_a_file_system_in_memory(Engine::CriuFace);
}

/// Its overlay is of directories of the machine: inside, their paths lead to others. Each round is dumped by one and restored by the
/// other.
fn has_an_overlay(engine: Engine, rounds: &[(Engine, Engine)]) {
    let container = Container::prepare(engine);
    let root = container.bundle().join("rootfs");
    let outside = |name: &str| container.scratch.path(name);
    let inside = |name: &str| root.join(outside(name).strip_prefix("/").expect("absolute"));
    for name in ["low", "upper", "worked"] {
        fs::create_dir_all(outside(name)).expect("mkdir");
        fs::create_dir_all(inside(name)).expect("mkdir");
    }
    fs::write(outside("low").join("which"), "outside").expect("write");
    fs::write(inside("low").join("which"), "inside").expect("write");
    container.configured("/tmp", |config| {
        let [low, upper, work] = ["low", "upper", "worked"].map(outside);
        let options = [
            format!("lowerdir={}", low.display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        let overlay = json!({"destination": "/mem", "type": "overlay", "source": "overlay", "options": options});
        mounts.push(overlay);
        config["root"]["readonly"] = json!(false);
    });
    container.runc(&["run", "--detach", container.id()]).must_succeed("runc run");
    let shown = || format!("/proc/{}/root/mem", container.pid().expect("its first process"));
    let mut before = container.counts_on(0);
    for (round, (from, to)) in rounds.iter().enumerate() {
        let (images, file) = (format!("images-{round}"), format!("file-{round}"));
        container.calls(*from);
        container.checkpoint(&images, &[]).must_succeed("runc checkpoint");
        container.calls(*to);
        container.restore(&images, &[]).must_succeed("runc restore");
        before = container.counts_on(before);
        let which = fs::read_to_string(format!("{}/which", shown())).expect("read");
        assert_eq!(which, "outside");
        fs::write(format!("{}/{file}", shown()), "new").expect("write");
        assert!(outside("upper").join(&file).exists(), "it is written to another place");
    }
}

#[test]
fn a_container_has_an_overlay() {
    let round = (Engine::CriuFace, Engine::CriuFace);
    has_an_overlay(Engine::CriuFace, &[round, round]);
}

/// First what was written is copied while it runs, then the rest: there is nothing like it with CRIU on a kernel without
/// soft-dirty bits.
#[test]
fn a_container_is_copied_ahead() {
    let container = Container::start(Engine::CriuFace, |_| ());
    container.checkpoint("ahead", &["--pre-dump"]).must_succeed("runc checkpoint --pre-dump");
    let before = container.counts_on(container.count().expect("a count"));
    container
        .checkpoint("images", &["--parent-path", "../ahead"])
        .must_succeed("runc checkpoint --parent-path");
    container.restore("images", &[]).must_succeed("runc restore");
    container.counts_on(before);
}

/// It has a user namespace of its own, and may not search the directory that the engine works in.
#[test]
fn a_container_has_a_user_namespace() {
    const ROOT: u32 = 100_000;
    let container = Container::prepare(Engine::CriuFace);
    // The engine makes its mounts as who is root inside.
    let directory = container.scratch.path("");
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut chown = Command::new("chown");
    chown.args(["-Rh", &format!("{ROOT}:{ROOT}")]).arg(container.bundle());
    Outcome::of(&mut chown).must_succeed("chown");
    container.configured("/tmp", |config| {
        let map = json!([{"containerID": 0, "hostID": ROOT, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.push(json!({"type": "user"}));
    });
    container.runc(&["run", "--detach", container.id()]).must_succeed("runc run");
    container.counts_on(0);
    container.goes_on("images", &[]);
    let pid = container.pid().expect("a pid");
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("uid_map");
    assert!(map.split_whitespace().eq(["0", "100000", "65536"]), "{map}");
}

/// It is in the pid namespace of others, as the containers of a pod may be.
fn shares_a_pid_namespace(engine: Engine) {
    let container = Container::prepare(engine);
    let mut holder = Command::new("unshare");
    // Whoever comes to it is not waited for.
    let first = "$SIG{CHLD} = 'IGNORE'; sleep while 1";
    holder.args(["--pid", "--fork", "--kill-child", "perl", "-e", first]);
    let mut holder = holder.stdin(Stdio::null()).spawn().expect("unshare");
    let first = || children_of(i32::try_from(holder.id()).expect("a pid")).first().copied();
    assert!(wait_until(PATIENCE, || first().is_some()));
    let namespace = format!("/proc/{}/ns/pid", first().expect("the first process"));
    container.configured("/tmp", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|one| one["type"] != "pid");
        namespaces.push(json!({"type": "pid", "path": namespace}));
    });
    container.runc(&["run", "--detach", container.id()]).must_succeed("runc run");
    container.counts_on(0);
    container.goes_on("images", &[]);
    let pid = container.pid().expect("a pid");
    let of = |path: &str| fs::read_link(path).expect("a namespace");
    assert_eq!(of(&format!("/proc/{pid}/ns/pid")), of(&namespace));
    container.runc(&["delete", "--force", container.id()]).must_succeed("runc delete");
    holder.kill().expect("kill");
    holder.wait().expect("wait");
}

#[test]
fn a_container_shares_a_pid_namespace() {
    shares_a_pid_namespace(Engine::CriuFace);
}

/// What it has mounted of control groups: where, and what of the hierarchy.
fn control_groups(container: &Container) -> Vec<(String, String)> {
    let pid = container.pid().expect("a pid");
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
    let groups = table.lines().filter(|line| line.contains(" - cgroup"));
    let words = groups.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    words.map(|words| (words[4].clone(), words[3].clone())).collect()
}

/// The control groups that it sees are below its own.
fn sees_its_own_control_groups(engine: Engine) {
    let container = Container::start(engine, |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({"type": "cgroup"}));
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["type"] != "cgroup");
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    });
    let before = control_groups(&container);
    assert!(before.iter().any(|(_, root)| root.ends_with(container.id())), "{before:?}");
    container.goes_on("images", &["--manage-cgroups-mode", "soft"]);
    assert_eq!(control_groups(&container), before);
}

#[test]
fn a_container_sees_its_own_control_groups() {
    sees_its_own_control_groups(Engine::CriuFace);
}

/// What an engine hands a terminal to: it takes the master that comes over a socket.
struct Console(UnixListener);

impl Console {
    fn listen(container: &Container) -> Self {
        let path = container.scratch.path("console");
        fs::remove_file(&path).ok();
        Self(UnixListener::bind(path).expect("listen"))
    }

    fn master(&self) -> File {
        let (socket, _) = self.0.accept().expect("accept");
        let heard = kernel::passing::receive(&socket, &mut [0; 4096]).expect("a message");
        File::from(heard.into_iter().next().expect("a descriptor"))
    }
}

/// It has a terminal, which is mounted on /dev/console, too; the engine is handed the master anew.
fn has_a_terminal(engine: Engine) {
    let container = Container::prepare(engine);
    let console = Console::listen(&container);
    let socket = container.scratch.path("console");
    let with_console = ["--console-socket", utf8(&socket)];
    container.configured("/tmp", |config| config["process"]["terminal"] = json!(true));
    container
        .runc(&[&["run", "--detach"], &with_console[..], &[container.id()]].concat())
        .must_succeed("runc run");
    let former = console.master();
    let before = container.counts_on(0);
    container.checkpoint("images", &[]).must_succeed("runc checkpoint");
    drop(former);
    container.restore("images", &with_console).must_succeed("runc restore");
    let mut master = console.master();
    container.counts_on(before);
    container
        .runc(&["exec", container.id(), "sh", "-c", "echo heard > /dev/console"])
        .must_succeed("runc exec");
    let mut heard = [0; 5];
    master.read_exact(&mut heard).expect("read");
    assert_eq!(&heard, b"heard");
}

#[test]
fn a_container_has_a_terminal() {
    has_a_terminal(Engine::CriuFace);
}

/// A dump of its first process, by nobody's engine.
fn dump_of_init(container: &Container) -> Outcome {
    let pid = container.pid().and_then(|pid| i32::try_from(pid).ok()).expect("its first process");
    Engine::Stasis.dump(pid, &container.scratch.path("unasked"), Dump::ENDING)
}

/// What has been executed in it from outside is no part of the tree, and would end with it: it runs on, and all else.
#[test]
fn a_container_that_was_entered_does_not_end() {
    let container = Container::start(Engine::CriuFace, |_| ());
    let more =
        "echo $$ > /tmp/pid; j=0; while :; do j=$((j+1)); echo $j > /tmp/second; sleep 0.02; done";
    let written = container.scratch.path("entered");
    let exec = ["exec", "--detach", "--pid-file", utf8(&written), container.id(), "sh", "-c", more];
    container.runc(&exec).must_succeed("runc exec");
    let entered = fs::read_to_string(&written).expect("its number");
    let second = container.bundle().join("rootfs/tmp/second");
    let count = || fs::read_to_string(&second).ok().and_then(|text| text.trim().parse().ok());
    assert!(wait_until(PATIENCE, || count().is_some_and(|count: u64| count > 3)));
    let refused = container.checkpoint("images", &[]);
    assert!(!refused.success && refused.stderr.contains("has entered"), "{}", refused.stderr);
    // Nobody is lost where all run on.
    container.checkpoint("images", &["--leave-running"]).must_succeed("checkpoint");
    fs::remove_dir_all(container.scratch.path("images")).expect("remove");
    let first = container.count().expect("a count");
    let mut before = None;
    // It is empty now and then.
    assert!(
        wait_until(PATIENCE, || count().is_some_and(|count| count > *before.get_or_insert(count)))
    );
    container.counts_on(first);
    // It is ours to wait for, as it would be the engine's: before that its namespace, and so the container, cannot end.
    let number = entered.trim().parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), nix::sys::signal::Signal::SIGKILL)
        .expect("kill");
    let zombie = || {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    assert!(wait_until(PATIENCE, zombie));
    let dumped = dump_of_init(&container);
    let own = format!("have its parent, process {}, wait for it", std::process::id());
    assert!(!dumped.success && dumped.stderr.contains(&own), "{}", dumped.stderr);
    container.machine.reap();
    container.goes_on("images", &[]);
}

/// What looks whether a container is well enters it again and again, each time for a moment.
#[test]
fn a_container_with_health_checks() {
    let container = Container::start(Engine::CriuFace, |_| ());
    let check = &["exec", "--detach", container.id(), "sh", "-c", "echo > /tmp/checked; sleep 0.4"];
    let checked = container.bundle().join("rootfs/tmp/checked");
    for round in 0..4 {
        fs::remove_file(&checked).ok();
        container.runc(check).must_succeed("runc exec");
        assert!(wait_until(PATIENCE, || checked.exists()), "it was not checked");
        let images = format!("images-{round}");
        container.checkpoint(&images, &["--leave-running"]).must_succeed("checkpoint");
    }
    container.counts_on(container.count().expect("a count"));
    // Whoever has not ended by then, or is not waited for, keeps the container's groups from being removed.
    let checks = || {
        container.machine.reap();
        let line = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline"));
        let checks =
            |line: &str| ["/tmp/checked", "sleep\x000.4"].iter().any(|it| line.contains(it));
        let all = container.machine.descendants();
        all.into_iter().any(|pid| line(pid).is_ok_and(|line| checks(&line)))
    };
    assert!(wait_until(PATIENCE, || !checks()), "a check does not end");
    container.machine.reap();
}

/// `stasis` with where these containers are.
fn stasis(container: &Container, arguments: &[&str]) -> Outcome {
    let at = |name: &str| container.scratch.path(name);
    let mut command = Command::new(stasis_program());
    command.args(arguments).env("STASIS_RUN_DIR", at("run"));
    command.env("STASIS_RUNC_STATE", at("state")).env("STASIS_CRUN_STATE", at("none"));
    command.env("STASIS_CONTAINERD_STATE", at("of-containerd"));
    // Who uses Docker on this machine is not asked.
    Outcome::of(command.env("DOCKER_HOST", "unix:///none"))
}

/// Those of the list that have this id.
fn listed(list: &Value, id: &str) -> Vec<Value> {
    let all = list["containers"].as_array().expect("containers");
    all.iter().filter(|one| one["id"] == id).cloned().collect()
}

/// By its name stasis finds it, has runc checkpoint it, and says how it comes back.
#[test]
fn a_container_is_dumped_by_its_name() {
    let container = Container::start(Engine::CriuFace, |_| ());
    let said = stasis(&container, &["ps", "--containers", "--json"]).must_succeed("stasis ps");
    let list = serde_json::from_str(&said.stdout).expect("JSON");
    let [one] = &listed(&list, container.id())[..] else { panic!("{list}") };
    assert_eq!((one["engine"].as_str(), one["state"].as_str()), (Some("runc"), Some("running")));
    assert_eq!((one["pid"].as_i64(), &one["checkpointable"]), (container.pid(), &json!(true)));
    let said = stasis(&container, &["ps", "--containers"]).must_succeed("stasis ps").stdout;
    assert!(
        said.lines().any(|line| line.contains(container.id()) && line.contains("yes")),
        "{said}"
    );

    let images = container.scratch.path("images");
    let dump = ["dump", "--container", container.id(), "-D", utf8(&images)];
    let before = container.count().expect("a count");
    let state = || container.runc(&["state", container.id()]).must_succeed("runc state").stdout;
    let was = state();
    let tried = ["dump", "--container", container.id(), "--dry-run", "--json"];
    let tried = stasis(&container, &tried).must_succeed("a dry run").stdout;
    let tried: Value = serde_json::from_str(&tried).expect("JSON");
    assert_eq!(tried["pid"].as_i64(), container.pid(), "{tried}");
    assert!(tried["image_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{tried}");
    assert_eq!((state(), images.exists()), (was, false));
    let taken = container.bundle();
    let taken = ["dump", "--container", container.id(), "--dry-run", "-D", utf8(&taken)];
    let refused = stasis(&container, &taken);
    assert!(!refused.success && refused.stderr.contains("make directory"), "{}", refused.stderr);
    let before = container.counts_on(before);
    stasis(&container, &[&dump[..], &["--leave-running"]].concat()).must_succeed("stasis dump");
    container.counts_on(before);
    assert!(images.join("inventory.img").is_file() && images.join("stats-dump").is_file());
    // What is there is neither written to nor taken away.
    let again = stasis(&container, &dump);
    assert!(
        !again.success && again.stderr.contains("remedy: name a directory"),
        "{}",
        again.stderr
    );
    assert!(images.join("inventory.img").is_file());

    let before = container.counts_on(before);
    let images = container.scratch.path("more");
    let dump = ["dump", "--container", container.id(), "-D", utf8(&images)];
    let said = stasis(&container, &dump).must_succeed("stasis dump").stdout;
    assert!(container.pid().is_none(), "runc knows that it has ended");
    let line = said.lines().find_map(|line| line.strip_prefix("it comes back by: "));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(line.expect("a command")).current_dir(container.bundle());
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(shell.status().expect("run sh").success(), "{said}");
    let after = container.counts_on(before);
    assert!(after < before + 2000, "counted {before} before, {after} after");
}

/// A checkpoint that fails says why, leaves nothing, and the container runs on.
#[test]
fn a_container_that_is_not_dumped_runs_on() {
    let container = Container::start(Engine::CriuFace, |_| ());
    let images = container.scratch.path("images");
    let dump = |name: &str| {
        let said = stasis(&container, &["dump", "--container", name, "-D", utf8(&images)]);
        assert!(!said.success && !images.exists(), "{}{}", said.stdout, said.stderr);
        said.stderr
    };
    for name in ["none", "../state", "-h", "", "/"] {
        let said =
            stasis(&container, &["dump", &format!("--container={name}"), "-D", utf8(&images)]);
        assert!(!said.success && said.stderr.contains("no container"), "{}", said.stderr);
    }
    let before = container.count().expect("a count");
    let state = container.scratch.path("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("chmod");
    let said = dump(container.id());
    assert!(said.contains("others than root can change it"), "{said}");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("chmod");
    container.counts_on(before);
}

/// A name that containers of two engines have names neither, until the engine is said.
#[test]
fn a_name_of_two_containers_is_refused() {
    let container = Container::start(Engine::CriuFace, |_| ());
    // As containerd has runc keep what is in its namespace `lab`.
    let other = container.scratch.path("of-containerd/lab");
    fs::create_dir_all(&other).expect("mkdir");
    let path = container.bundle().join("config.json");
    let mut config: Value =
        serde_json::from_slice(&fs::read(&path).expect("the configuration")).expect("JSON");
    config["linux"]["cgroupsPath"] = json!(format!("/{}-other", container.id()));
    config["process"]["args"] = json!(["sleep", "1000"]);
    fs::write(&path, config.to_string()).expect("write the configuration");
    let runc = |arguments: &[&str]| {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(&other).args(arguments).current_dir(container.bundle());
        runc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(runc.status().expect("run runc").success(), "runc {arguments:?}");
    };
    runc(&["run", "--detach", container.id()]);
    let images = container.scratch.path("images");
    let dump = ["dump", "--container", container.id(), "-D", utf8(&images), "--leave-running"];
    let said = stasis(&container, &dump).stderr;
    for whose in ["containerd (namespace lab, id ", "runc (id ", "--engine"] {
        assert!(said.contains(whose), "{said}");
    }
    assert!(!images.exists());
    // The parent of its first process is no daemon that would call us.
    let said = stasis(&container, &[&dump[..], &["--engine", "containerd"]].concat());
    assert!(!said.success && !images.exists(), "{}", said.stdout);
    let before = container.count().expect("a count");
    stasis(&container, &[&dump[..], &["--engine", "runc"]].concat()).must_succeed("stasis dump");
    container.counts_on(before);
    runc(&["delete", "--force", container.id()]);
}

/// The same by the services.
#[test]
fn a_container_is_dumped_by_the_services() {
    let container = Container::start(Engine::CriuFace, |_| ());
    let mut services = Services::start(&container.scratch.path("services"));
    services.set("STASIS_RUNC_STATE", utf8(&container.scratch.path("state")));
    services.set("DOCKER_HOST", "unix:///none");
    services.kill("dumper");
    services.start_again("dumper");
    let list = services.call("GET", "/v1/containers", None).body;
    let [one] = &listed(&list, container.id())[..] else { panic!("{list}") };
    assert_eq!((one["pid"].as_i64(), &one["checkpointable"]), (container.pid(), &json!(true)));
    let asked = |directory: &str, stays: bool| json!({"container": container.id(), "directory": directory, "leave_running": stays});
    let before = container.count().expect("a count");
    let job = services.job("/v1/checkpoints", &asked("first", true));
    let job = job.unwrap_or_else(|error| panic!("{error}\n{}", services.logs()));
    assert_eq!(job["container"], container.id());
    assert_eq!(job["checkpointed"]["engine"], "runc");
    assert!(job["checkpointed"]["frozen_us"].as_u64().is_some_and(|time| time > 0), "{job}");
    let images = services.checkpoints().join("first");
    assert_eq!(job["checkpointed"]["images"], utf8(&images));
    let before = container.counts_on(before);
    services.job("/v1/checkpoints", &asked("gone", true)).expect("a checkpoint");
    let removed = services.call("DELETE", "/v1/checkpoints/gone", None);
    assert_eq!(removed.status, 204, "with what the engine has put there: {}", removed.text);
    let failed = services.job("/v1/checkpoints", &asked("first", true)).expect_err("it is there");
    assert_eq!(failed["field"], "directory");
    let tried = json!({"container": container.id(), "dry_run": true});
    let tried = services.job("/v1/checkpoints", &tried).expect("a dry run");
    assert_eq!((&tried["kind"], &tried["container"]), (&json!("dry_run"), &json!(container.id())));
    assert!(tried["dump"]["frozen_us"].as_u64().is_some_and(|frozen| frozen > 0), "{tried}");
    let before = container.counts_on(before);
    for (field, body) in [
        ("link_remap", json!({"container": "x", "leave_running": true, "link_remap": true})),
        ("container", json!({"container": "x", "pid": 7, "leave_running": true})),
        ("engine", json!({"pid": 7, "engine": "runc", "leave_running": true})),
        ("engine", json!({"container": "x", "engine": "lxc", "leave_running": true})),
    ] {
        let answer = services.call("POST", "/v1/checkpoints", Some(&body.to_string()));
        assert_eq!((answer.status, &answer.body["field"]), (422, &json!(field)), "{body}");
    }
    let failed =
        services.job("/v1/checkpoints", &json!({"container": "none", "leave_running": true}));
    let failed = failed.expect_err("there is none");
    assert_eq!(failed["field"], "container", "{failed}");
    let job = services.job("/v1/checkpoints", &asked("second", false)).expect("a checkpoint");
    let back = job["checkpointed"]["restore"].as_str().expect("a command");
    assert!(back.contains("runc --root"), "{back}");
    let images = services.checkpoints().join("second");
    fs::rename(images, container.scratch.path("images")).expect("rename");
    container.restore("images", &["--file-locks"]).must_succeed("runc restore");
    container.counts_on(before);
    // What the engine does not say, our log does: that it cannot be carried.
    let exec = ["exec", "--detach", container.id(), "sleep", "1000"];
    container.runc(&exec).must_succeed("runc exec");
    let refused = services.job("/v1/checkpoints", &asked("entered", false));
    let refused = refused.expect_err("somebody has entered");
    assert_eq!(refused["code"], "refused", "{refused}");
    let page = services.call("GET", "/metrics", None).text;
    for line in [
        r#"stasis_dumps_total{outcome="done",target="container"} 3"#,
        r#"stasis_dump_frozen_seconds_count{target="container"} 3"#,
        r#"stasis_dump_failures_total{fault="user",reason="invalid",target="container"} 1"#,
        r#"stasis_dump_failures_total{fault="user",reason="refused",target="container"} 1"#,
        r#"stasis_dump_failures_total{fault="product",reason="failed",target="container"} 0"#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

/// Its images are counted as those of a process are, and it is not stopped for what has no room.
#[test]
fn a_container_without_room_is_refused_and_runs_on() {
    let container = Container::start(Engine::CriuFace, |_| ());
    let mut services = Services::start(&container.scratch.path("services"));
    services.set("STASIS_RUNC_STATE", utf8(&container.scratch.path("state")));
    services.set("DOCKER_HOST", "unix:///none");
    for (name, value) in [("STASIS_KEEP_FREE", "1024T"), ("STASIS_MOST_CHECKPOINTS", "1")] {
        services.set(name, value);
        services.kill("dumper");
        services.start_again("dumper");
        let asked = |directory: &str| {
            let body =
                json!({"container": container.id(), "directory": directory, "leave_running": true});
            services.job("/v1/checkpoints", &body)
        };
        if name == "STASIS_MOST_CHECKPOINTS" {
            asked("one").expect("there is room for one");
        }
        let before = container.count().expect("a count");
        let refused = asked("never").expect_err("there is no room");
        assert_eq!(refused["code"], "no_room", "{refused}");
        assert!(!services.checkpoints().join("never").exists());
        container.counts_on(before);
        services.set("STASIS_KEEP_FREE", "1M");
    }
}

/// That the same is so of CRIU.
mod criu_peer {
    use super::*;

    #[test]
    fn a_pid_namespace_is_shared() {
        shares_a_pid_namespace(Engine::Criu);
    }

    #[test]
    fn a_container_comes_back() {
        comes_back(Engine::Criu);
    }

    /// Of a network namespace that comes back empty (`--empty-ns`) CRIU writes no image.
    #[test]
    fn a_container_comes_back_by_the_other_one() {
        // In a form that CRIU can freeze.
        let container = Container::start(Engine::Criu, |_| ());
        for (from, to) in [(Engine::Criu, Engine::CriuFace), (Engine::CriuFace, Engine::Criu)] {
            let before = container.count().expect("a count");
            let images = format!("{from:?}");
            container.calls(from);
            container.checkpoint(&images, &[]).must_succeed("runc checkpoint");
            container.calls(to);
            container.restore(&images, &[]).must_succeed("runc restore");
            container.counts_on(before);
        }
    }

    #[test]
    fn a_container_runs_on() {
        runs_on(Engine::Criu);
    }

    #[test]
    fn a_container_has_a_file_system_in_memory() {
        has_a_file_system_in_memory(Engine::Criu);
    }

    #[test]
    fn a_container_has_an_overlay() {
        let rounds = [(Engine::Criu, Engine::CriuFace), (Engine::CriuFace, Engine::Criu)];
        has_an_overlay(Engine::Criu, &rounds);
    }

    #[test]
    fn a_container_sees_its_own_control_groups() {
        sees_its_own_control_groups(Engine::Criu);
    }

    #[test]
    fn a_container_has_a_terminal() {
        has_a_terminal(Engine::Criu);
    }
}
