//! Control groups: a tree goes back into its own, which are made again if they are gone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use stasis_tests::{
    Collector, Dump, Engine, Machine, Program, Scratch, Services, Workload, groups_of, wait_until,
};

/// A group that is gone at the end of the test.
struct Group(PathBuf);

impl Group {
    /// In the hierarchy that is mounted at `mount`.
    fn new(mount: &Path, name: &str) -> Self {
        let group = Self(mount.join(format!("stasis-test-{}-{name}", std::process::id())));
        group.make();
        group
    }

    fn make(&self) {
        fs::create_dir(&self.0).expect("make a control group");
    }

    fn take_in(&self, id: i32, file: &str) {
        fs::write(self.0.join(file), id.to_string()).expect("move into the control group");
    }

    /// Its path as `/proc/PID/cgroup` has it.
    fn path(&self) -> String {
        format!("/{}", self.0.file_name().expect("a name").to_string_lossy())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its tasks have been ended, and may take a moment.
        wait_until(Duration::from_secs(10), || stasis_tests::remove_group(&self.0));
    }
}

/// Where hierarchies are mounted: `cgroup2`, and that of the first version with a controller.
fn mount_of(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let has = option.is_empty() || words[3].split(',').any(|word| word == option);
        (words[2] == kind && has).then(|| words[1].into())
    })
}

/// What a test does to a hierarchy: its mount, and a setting with two values (the other is not the default).
#[derive(Clone)]
struct Hierarchy {
    mount: PathBuf,
    setting: &'static str,
    value: &'static str,
}

/// Those of this machine, at least one.
fn hierarchies() -> Vec<Hierarchy> {
    let v1 = mount_of("cgroup", "cpu").map(|mount| Hierarchy {
        mount,
        setting: "cpu.cfs_quota_us",
        value: "20000",
    });
    let v2 = mount_of("cgroup2", "").map(|mount| Hierarchy {
        mount,
        setting: "cgroup.max.descendants",
        value: "7",
    });
    let found: Vec<_> = v1.into_iter().chain(v2).collect();
    assert!(!found.is_empty(), "no hierarchy of control groups is mounted");
    found
}

/// Settings of one line for each device, and those that are hardly ever other than usual.
#[test]
fn rare_settings_come_back() {
    let disk = format!("{}:0", nix::sys::stat::major(fs::metadata("/").expect("stat").dev()));
    let (read, write) = (format!("{disk} 1000000"), format!("{disk} 500"));
    type Settings<'s> = &'s [(&'s str, &'s str)];
    let settings: [(&str, &str, Settings<'_>); 3] = [
        (
            "cgroup",
            "blkio",
            &[
                ("blkio.throttle.read_bps_device", &read),
                ("blkio.throttle.write_iops_device", &write),
            ],
        ),
        ("cgroup", "memory", &[("memory.kmem.tcp.limit_in_bytes", "922337203683328")]),
        ("cgroup2", "", &[("cgroup.pressure", "0")]),
    ];
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("still", scratch.path("work"));
    let images = scratch.path("images");
    let mut set = Vec::new();
    for (kind, controller, settings) in settings {
        let Some(mount) = mount_of(kind, controller) else { continue };
        let group = Group::new(&mount, "rare");
        group.take_in(workload.pid(), "cgroup.procs");
        // Not every machine has such a setting, or a disk that can be told.
        let is_set = |(file, value): &&(&str, &str)| {
            let file = group.0.join(file);
            let written = fs::write(&file, value);
            written.is_ok() && fs::read_to_string(file).is_ok_and(|now| now.trim() == *value)
        };
        let settings: Vec<_> = settings.iter().filter(is_set).collect();
        set.push((group, settings));
    }
    assert!(set.iter().any(|(_, settings)| !settings.is_empty()), "none of them is there");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    set.iter().for_each(|(group, _)| fs::remove_dir(&group.0).expect("remove the control group"));
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    for (group, (file, value)) in
        set.iter().flat_map(|(group, settings)| settings.iter().map(move |it| (group, it)))
    {
        assert_eq!(fs::read_to_string(group.0.join(file)).expect(file).trim(), *value, "{file}");
    }
    workload.check().expect("the program's own check");
    machine.end_all();
}

fn goes_back(by: Engine, to: Engine, how: Dump<'_>) {
    for Hierarchy { mount, setting, value } in hierarchies() {
        for remove in [false, true] {
            let machine = Machine::prepare();
            let scratch = Scratch::new();
            let images = scratch.path("images");
            let group = Group::new(&mount, "one");
            fs::write(group.0.join(setting), value).expect("set it");
            // As it is handed to a user.
            let list = group.0.join("cgroup.procs");
            std::os::unix::fs::chown(&list, Some(54321), Some(54321)).expect("chown");
            fs::set_permissions(&list, fs::Permissions::from_mode(0o604)).expect("chmod");
            let workload = Workload::start("still", scratch.path("work"));
            group.take_in(workload.pid(), "cgroup.procs");
            let before = groups_of(workload.pid());
            assert!(before.contains(&group.path()), "{before}");
            by.dump(workload.pid(), &images, how).must_succeed("dump");
            if how.collector.is_none() {
                machine.await_no_children();
            } else {
                machine.end_tree(workload.pid());
            }
            if remove {
                fs::remove_dir(&group.0).expect("remove the control group");
            } else {
                // One that is there is left as it is.
                fs::write(group.0.join(setting), "max")
                    .or_else(|_| fs::write(group.0.join(setting), "-1"))
                    .expect("set it otherwise");
            }
            to.restore(&images, Dump::ENDING).must_succeed("restore");
            assert_eq!(before, groups_of(workload.pid()));
            let set = fs::read_to_string(group.0.join(setting)).expect("read it");
            assert_eq!(set.trim() == value, remove, "{setting} is {set}");
            // CRIU writes this down of the first version alone.
            if by != Engine::Criu || group.0.join("tasks").exists() {
                let list = fs::metadata(&list).expect("stat");
                assert_eq!((list.uid(), list.gid(), list.mode() & 0o7777), (54321, 54321, 0o604));
            }
            workload.check().expect("the program's own check");
            machine.end_all();
        }
    }
}

#[test]
fn a_tree_goes_back() {
    goes_back(Engine::Stasis, Engine::Stasis, Dump::ENDING);
}

#[test]
fn a_tree_goes_back_by_the_programs() {
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump { collector: Some(&collector), cross_check: true, ..Dump::ENDING };
    goes_back(Engine::Stasis, Engine::Stasis, how);
}

#[test]
fn criu_peer_takes_it_back() {
    goes_back(Engine::Stasis, Engine::Criu, Dump::ENDING);
}

#[test]
fn criu_peer_hands_it_over() {
    goes_back(Engine::Criu, Engine::CriuFace, Dump::ENDING);
}

/// Dumps a workload in a group of its own and restores it with arguments.
fn with_arguments(
    arguments: &[&str],
    prepare: impl Fn(&Group),
    check: impl Fn(stasis_tests::Outcome, &Group, i32, &str),
) {
    for Hierarchy { mount, .. } in hierarchies() {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let images = scratch.path("images");
        let group = Group::new(&mount, "two");
        let workload = Workload::start("still", scratch.path("work"));
        let outside = groups_of(workload.pid());
        group.take_in(workload.pid(), "cgroup.procs");
        Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
        machine.await_no_children();
        prepare(&group);
        let mut command = Engine::Stasis.restore_command(&images, Dump::ENDING);
        let outcome = stasis_tests::Outcome::of(command.args(arguments));
        check(outcome, &group, workload.pid(), &outside);
        machine.end_all();
    }
}

/// What a dump is given beside the usual.
type Arguments<'a> = &'a dyn Fn(&Workload) -> Vec<String>;

/// What CRIU's options say to a dump: which groups are described, so that a restore makes them again. The
/// tree is in `outer/in`, and `outer/beside` is nobody's.
fn described(by: Engine, to: Engine) {
    for Hierarchy { mount, .. } in hierarchies() {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let outer = Group::new(&mount, "outer");
        let (inner, beside) = (Group(outer.0.join("in")), Group(outer.0.join("beside")));
        let root = |workload: &Workload| {
            let groups = groups_of(workload.pid());
            let line = groups.lines().find(|line| line.ends_with("/in")).expect("its group");
            let name = line.split(':').nth(1).expect("a hierarchy");
            format!("{name}:{}", outer.path())
        };
        let none = |_: &Workload| Vec::new();
        let ignored = |_: &Workload| vec!["--manage-cgroups=ignore".to_owned()];
        let whole = |workload: &Workload| vec!["--cgroup-root".to_owned(), root(workload)];
        let cases: [(Arguments<'_>, bool, bool); 3] =
            [(&none, true, false), (&whole, true, true), (&ignored, false, false)];
        for (number, (arguments, is_made, and_beside)) in cases.into_iter().enumerate() {
            fs::create_dir_all(&outer.0).expect("make a control group");
            inner.make();
            beside.make();
            let images = scratch.path(&format!("images-{number}"));
            let workload = Workload::start("still", scratch.path(&format!("work-{number}")));
            inner.take_in(workload.pid(), "cgroup.procs");
            let before = groups_of(workload.pid());
            let mut dump = by.dump_command(workload.pid(), &images, Dump::ENDING);
            stasis_tests::Outcome::of(dump.args(arguments(&workload))).must_succeed("dump");
            machine.await_no_children();
            for group in [&inner, &beside, &outer] {
                fs::remove_dir(&group.0).expect("remove the control group");
            }
            let outcome = to.restore(&images, Dump::ENDING);
            assert_eq!(outcome.success, is_made, "case {number}: {}", outcome.stderr);
            assert_eq!(beside.0.exists(), and_beside, "case {number}");
            assert_eq!(inner.0.exists(), is_made, "case {number}");
            if is_made {
                assert_eq!(groups_of(workload.pid()), before);
                workload.check().expect("the program's own check");
            }
            machine.end_all();
            for group in [&inner, &beside] {
                let is_gone = || fs::remove_dir(&group.0).is_ok() || !group.0.exists();
                assert!(wait_until(Duration::from_secs(10), is_gone));
            }
        }
    }
}

#[test]
fn a_dump_describes_what_it_is_asked_to() {
    described(Engine::CriuFace, Engine::Stasis);
}

#[test]
fn criu_peer_makes_what_is_described() {
    described(Engine::CriuFace, Engine::Criu);
}

#[test]
fn criu_peer_describes_what_it_is_asked_to() {
    described(Engine::Criu, Engine::CriuFace);
}

#[test]
fn groups_to_describe_have_to_be_there() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("still", scratch.path("work"));
    for (root, said) in
        [(":/no/such/one", "mkdir"), ("nothing:/", "no hierarchy has this controller")]
    {
        let mut dump =
            Engine::CriuFace.dump_command(workload.pid(), &scratch.path("images"), Dump::ENDING);
        let outcome = stasis_tests::Outcome::of(dump.args(["--cgroup-root", root]));
        assert!(!outcome.success);
        let log = fs::read_to_string(scratch.path("images").join("dump.log")).expect("a log");
        assert!(log.contains(said) && log.contains(root), "{log}");
    }
    workload.check().expect("it runs on");
}

#[test]
fn it_may_stay_where_the_restore_is() {
    let remove = |group: &Group| fs::remove_dir(&group.0).expect("remove");
    with_arguments(&["--cgroups", "ignore"], remove, |outcome, group, pid, outside| {
        outcome.must_succeed("restore");
        assert_eq!(groups_of(pid), outside);
        assert!(!group.0.exists(), "a group was made that is to be ignored");
    });
}

#[test]
fn one_that_is_gone_or_there_may_be_an_error() {
    let remove = |group: &Group| fs::remove_dir(&group.0).expect("remove");
    with_arguments(&["--cgroups", "none"], remove, |outcome, group, _, _| {
        assert!(!outcome.success);
        let name = group.0.to_string_lossy();
        assert!(outcome.stderr.contains(&*name), "{}", outcome.stderr);
        assert!(!group.0.exists());
    });
    with_arguments(
        &["--cgroups", "strict"],
        |_| {},
        |outcome, group, _, _| {
            assert!(!outcome.success);
            let name = group.0.to_string_lossy();
            assert!(outcome.stderr.contains(&*name), "{}", outcome.stderr);
        },
    );
}

/// A restore that fails when all is there takes them away again; of one that is killed then the next command does.
#[test]
fn those_that_a_failed_restore_has_made_go_with_it() {
    for (Hierarchy { mount, .. }, end) in
        hierarchies().into_iter().flat_map(|it| [(it.clone(), "exit 1"), (it, "kill -9 $PPID")])
    {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let (images, run_dir) = (scratch.path("images"), scratch.path("run"));
        let outer = Group::new(&mount, "failing");
        let inner = Group(outer.0.join("in"));
        inner.make();
        let workload = Workload::start("still", scratch.path("work"));
        inner.take_in(workload.pid(), "cgroup.procs");
        Engine::CriuFace.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
        machine.await_no_children();
        for group in [&inner, &outer] {
            fs::remove_dir(&group.0).expect("remove the control group");
        }
        let (script, made) = (scratch.path("script"), scratch.path("made"));
        let text = format!(
            "#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = post-restore ] || exit 0\n[ -d {} ] && touch {}\n{end}\n",
            inner.0.display(),
            made.display()
        );
        fs::write(&script, text).expect("write a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
        let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
        restore.arg("--action-script").arg(&script).env("STASIS_RUN_DIR", &run_dir);
        let outcome = stasis_tests::Outcome::of(&mut restore);
        assert!(!outcome.success && made.exists(), "{}", outcome.stderr);
        if end != "exit 1" {
            let mut next = std::process::Command::new(stasis_tests::stasis_program());
            next.arg("ps").env("STASIS_RUN_DIR", &run_dir);
            stasis_tests::Outcome::of(&mut next).must_succeed("ps");
        }
        assert!(!inner.0.exists() && !outer.0.exists(), "{end}");
        assert_eq!(fs::read_dir(run_dir.join("undo")).map_or(0, Iterator::count), 0);
        machine.end_all();
    }
}

#[test]
fn another_root_takes_its_place() {
    let name = format!("/stasis-test-{}-other", std::process::id());
    with_arguments(
        &["--cgroup-root", &name],
        |_| {},
        |outcome, _, pid, _| {
            outcome.must_succeed("restore");
            assert!(groups_of(pid).contains(&name), "{}", groups_of(pid));
            // In every hierarchy; removed when its task has ended.
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            )
            .expect("end it");
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).ok();
            let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
            for line in mounts.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                if words[2].starts_with("cgroup") {
                    drop(Group(Path::new(words[1]).join(&name[1..])));
                }
            }
        },
    );
}

#[test]
fn the_gateway_has_the_same_modes() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    for Hierarchy { mount, setting, value } in hierarchies() {
        let group = Group::new(&mount, "rest");
        fs::write(group.0.join(setting), value).expect("set it");
        let workload = Workload::start("still", scratch.path("work"));
        let outside = groups_of(workload.pid());
        group.take_in(workload.pid(), "cgroup.procs");
        let before = groups_of(workload.pid());
        services.checkpoint(workload.pid(), "k", false).expect("checkpoint");
        machine.end_tree(workload.pid());
        fs::remove_dir(&group.0).expect("remove the control group");
        let restore =
            |mode: &str| services.job("/v1/restores", &json!({"directory": "k", "cgroups": mode}));
        let error = restore("none").expect_err("the group has gone").to_string();
        assert!(error.contains(&group.path()), "{error}");
        assert!(!group.0.exists());
        restore("ignore").expect("restore");
        assert_eq!(groups_of(workload.pid()), outside);
        machine.end_tree(workload.pid());
        assert!(!group.0.exists());
        restore("soft").expect("restore");
        assert_eq!(groups_of(workload.pid()), before);
        let set = fs::read_to_string(group.0.join(setting)).expect("read it");
        assert_eq!(set.trim(), value);
        machine.end_tree(workload.pid());
        fs::remove_dir_all(services.checkpoints().join("k")).expect("remove the checkpoint");
        fs::remove_dir_all(scratch.path("work")).expect("remove the workload's directory");
    }
}

/// What goes into a frozen group would stop there, and the restore with it.
#[test]
fn a_frozen_group_is_refused() {
    let Some(mount) = mount_of("cgroup2", "") else { panic!("no cgroup2 is mounted") };
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let group = Group::new(&mount, "frozen");
    let workload = Workload::start("still", scratch.path("work"));
    group.take_in(workload.pid(), "cgroup.procs");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    fs::write(group.0.join("cgroup.freeze"), "1").expect("freeze");
    let outcome = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!outcome.success);
    let remedy = format!("echo 0 > {}", group.0.join("cgroup.freeze").display());
    assert!(outcome.stderr.contains(&remedy), "{}", outcome.stderr);
    machine.await_no_children();
    fs::write(group.0.join("cgroup.freeze"), "0").expect("thaw");
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}

/// A thread that is elsewhere than its process, which the first version allows.
#[test]
fn a_group_that_allows_too_few_tasks_is_said_before_a_process_is_made() {
    let machine = Machine::prepare();
    let mount = mount_of("cgroup", "pids").or_else(|| mount_of("cgroup2", ""));
    let mount = mount.expect("this test needs the pids controller");
    let scratch = Scratch::new();
    let workload = Workload::start("many_threads", scratch.path("work"));
    let (pid, images) = (workload.pid(), scratch.path("images"));
    Engine::Stasis.dump(pid, &images, Dump::ENDING).must_succeed("dump");
    machine.end_tree(pid);
    let group = Group::new(&mount, "few");
    let restore = || {
        const INSIDE: &str = "echo $$ > \"$0/cgroup.procs\"; exec \"$@\"";
        let command = Engine::Stasis.restore_command(&images, Dump::ENDING);
        let mut inside = std::process::Command::new("bash");
        inside.args(["-c", INSIDE]).arg(&group.0).arg(command.get_program());
        inside.args(command.get_args());
        let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        stasis_tests::Outcome::of(inside.envs(set))
    };
    fs::write(group.0.join("pids.max"), "10").expect("limit the group");
    let said = restore().stderr;
    let (_, remedy) = said.split_once("its pids.max is 10; echo ").expect(&said);
    let enough = remedy.split(' ').next().expect("a number");
    // What is said to be enough is.
    fs::write(group.0.join("pids.max"), enough).expect("limit the group");
    restore().must_succeed("restore");
    workload.check().expect("the program's own check");
    machine.end_tree(pid);
}

#[test]
fn threads_go_back_each_into_its_own() {
    let Some(mount) = mount_of("cgroup", "cpu") else { return threads_of_v2() };
    threads(&mount, "tasks", |_| {});
}

fn threads_of_v2() {
    let mount = mount_of("cgroup2", "").expect("control groups");
    threads(&mount, "cgroup.threads", |group| {
        fs::write(group.0.join("cgroup.type"), "threaded").expect("make it threaded");
    });
}

fn threads(mount: &Path, file: &str, prepare: impl Fn(&Group)) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let group = Group::new(mount, "thread");
    prepare(&group);
    let workload = Workload::start("threads", scratch.path("work"));
    let mut tids: Vec<i32> = fs::read_dir(format!("/proc/{}/task", workload.pid()))
        .expect("threads")
        .flatten()
        .filter_map(|task| task.file_name().to_str()?.parse().ok())
        .collect();
    tids.sort_unstable();
    let last = *tids.last().expect("a thread");
    assert_ne!(last, workload.pid());
    group.take_in(last, file);
    let of = |tid: i32| {
        let path = format!("/proc/{}/task/{tid}/cgroup", workload.pid());
        fs::read_to_string(path).expect("control groups")
    };
    let before: Vec<String> = tids.iter().map(|tid| of(*tid)).collect();
    assert_ne!(before[0], before[before.len() - 1]);
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    assert_eq!(before, tids.iter().map(|tid| of(*tid)).collect::<Vec<_>>());
    workload.check().expect("the program's own check");
}

/// Sockets that wait, are connected and are not, with what the kernel says of the groups that they were made in.
const OF_SOCKETS: &str = "import socket, sys, time
waiting = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(waiting.getsockname())
server = waiting.accept()[0]
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.bind(('::1', 0))
open(sys.argv[1], 'w').close()
while True:
    client.sendall(b'x'); server.recv(1); time.sleep(0.01)
";

/// The firewall and the programs of control groups choose sockets by the group of who made them.
#[test]
fn sockets_are_of_the_group_that_made_them() {
    let Some(mount) = mount_of("cgroup2", "") else {
        panic!("no control groups of version 2 are mounted");
    };
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let group = Group::new(&mount, "sockets");
    let ready = scratch.path("ready");
    let script = "echo 0 > \"$1/cgroup.procs\" && exec /usr/bin/python3 -c \"$2\" \"$3\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh"]).arg(&group.0).arg(OF_SOCKETS).arg(&ready);
    let program = Program::start(&mut command, &scratch.path("log"));
    assert!(wait_until(Duration::from_secs(10), || ready.exists()), "it is not up");
    let groups = || -> Vec<String> {
        let listed = std::process::Command::new("ss").args(["-Hantup", "--cgroup"]).output();
        let listed = String::from_utf8(listed.expect("ss").stdout).expect("text");
        let is_ours = |line: &&str| line.contains(&format!(",pid={},", program.pid()));
        let group = |line: &str| {
            let word = line.split_whitespace().find(|word| word.starts_with("cgroup:"));
            word.unwrap_or("none").to_owned()
        };
        listed.lines().filter(is_ours).map(group).collect()
    };
    let before = groups();
    assert_eq!(before.len(), 4, "{before:?}");
    assert!(before.iter().all(|it| it.ends_with(&group.path())), "{before:?}");
    let images = scratch.path("images");
    Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    assert_eq!(groups(), before);
    machine.end_all();
}
