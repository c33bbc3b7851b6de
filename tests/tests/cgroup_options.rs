//! CRIU's options that say what of control groups is described, and where they are found. Needs root and control groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload, require, wait_until};

/// A group that is gone at the end.
struct Group(PathBuf);

impl Group {
    fn new(mount: &Path, name: &str) -> Self {
        let group = mount.join(format!("stasis-options-{}-{name}", std::process::id()));
        fs::create_dir(&group).expect("make a control group");
        Self(group)
    }

    fn take_in(&self, workload: &Workload) {
        let pid = workload.pid().to_string();
        fs::write(self.0.join("cgroup.procs"), pid).expect("move it there");
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().expect("a name").to_string_lossy())
    }

    fn remove(&self) {
        let gone = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        assert!(wait_until(Duration::from_secs(10), gone), "{}", self.0.display());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        assert!(wait_until(Duration::from_secs(10), gone) || std::thread::panicking());
    }
}

/// A mount that is gone at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(place: &Path, kind: &str, options: &str) -> Self {
        fs::create_dir_all(place).expect("make a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, "-o", options, "none"]).arg(place);
        Outcome::of(&mut mount).must_succeed("mount");
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Outcome::of(Command::new("umount").arg("-l").arg(&self.0)));
    }
}

fn mount_of(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let has = option.is_empty() || words[3].split(',').any(|word| word == option);
        (words[2] == kind && has).then(|| words[1].into())
    })
}

fn groups_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("control groups")
}

/// Dumps with some arguments and ends it.
fn dump(workload: &Workload, machine: &Machine, images: &Path, arguments: &[&str]) {
    let mut dump = Engine::CriuFace.dump_command(workload.pid(), images, Dump::ENDING);
    Outcome::of(dump.args(arguments)).must_succeed("dump");
    machine.end_tree(workload.pid());
}

#[test]
fn only_hierarchies_that_are_named_are_described() {
    let (v1, v2) = (mount_of("cgroup", "cpu"), mount_of("cgroup2", ""));
    require!(v1.is_some() && v2.is_some(), "both versions of control groups are mounted");
    let (v1, v2) = (v1.expect("cpu"), v2.expect("cgroup2"));
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let groups = [Group::new(&v1, "named"), Group::new(&v2, "named")];
    let workload = Workload::start("still", scratch.path("work"));
    groups.iter().for_each(|group| group.take_in(&workload));
    dump(&workload, &machine, &scratch.path("images"), &["--cgroup-dump-controller", "cpu"]);
    groups.iter().for_each(Group::remove);
    Engine::CriuFace.restore(&scratch.path("images"), Dump::ENDING).must_succeed("restore");
    assert!(groups[0].0.exists() && !groups[1].0.exists());
    let now = groups_of(workload.pid());
    assert_eq!(now.lines().filter(|line| line.ends_with(&groups[0].name())).count(), 1, "{now}");
    workload.check().expect("the program's own check");
    machine.end_all();
}

#[test]
fn a_controller_that_there_is_none_of_is_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("still", scratch.path("work"));
    let images = scratch.path("images");
    for (option, value, said) in [
        ("--cgroup-dump-controller", "nothing", "no hierarchy has this controller"),
        ("--cgroup-yard", "/no/such/yard", "mount each hierarchy"),
        ("--cgroup-props", "cpu: shares", "the name of a controller"),
        ("--cgroup-props-file", "/no/such/file", "/no/such/file"),
    ] {
        let mut dump = Engine::CriuFace.dump_command(workload.pid(), &images, Dump::ENDING);
        assert!(!Outcome::of(dump.args([option, value])).success, "{option}");
        let log = fs::read_to_string(images.join("dump.log")).expect("a log");
        assert!(log.contains(said), "{option}: {log}");
    }
    workload.check().expect("it runs on");
}

#[test]
fn settings_are_those_that_are_listed() {
    let mount = mount_of("cgroup", "cpu");
    require!(mount.is_some(), "the cpu controller of the first version is mounted");
    let mount = mount.expect("cpu");
    let by_file = |scratch: &Scratch, text: &str| {
        fs::write(scratch.path("props"), text).expect("write");
        vec!["--cgroup-props-file".to_owned(), scratch.path("props").display().to_string()]
    };
    for (strategy, quota) in [("replace", "-1"), ("merge", "20000")] {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let text = format!(
            "\"cpu\":\n - \"strategy\": \"{strategy}\"\n - \"properties\": [\"cpu.shares\"]\n"
        );
        let by_word = vec!["--cgroup-props".to_owned(), text.clone()];
        for arguments in [by_word, by_file(&scratch, &text)] {
            let group = Group::new(&mount, "props");
            fs::write(group.0.join("cpu.cfs_quota_us"), "20000").expect("set it");
            fs::write(group.0.join("cpu.shares"), "500").expect("set it");
            let work = scratch.path("work");
            let workload = Workload::start("still", work.clone());
            group.take_in(&workload);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            dump(&workload, &machine, &scratch.path("images"), &arguments);
            group.remove();
            Engine::CriuFace.restore(&scratch.path("images"), Dump::ENDING).must_succeed("restore");
            let set = |name: &str| fs::read_to_string(group.0.join(name)).expect("read it");
            assert_eq!(set("cpu.shares").trim(), "500");
            assert_eq!(set("cpu.cfs_quota_us").trim(), quota, "{strategy}");
            workload.check().expect("the program's own check");
            machine.end_all();
            group.remove();
            fs::remove_dir_all(work).expect("remove the workload's directory");
            fs::remove_dir_all(scratch.path("images")).expect("remove the images");
        }
    }
}

#[test]
fn groups_are_found_in_a_yard() {
    let mount = mount_of("cgroup2", "");
    require!(mount.is_some(), "the second version of control groups is mounted");
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let yard = scratch.path("yard");
    let _unified = Mounted::new(&yard.join("unified"), "cgroup2", "rw");
    let group = Group::new(&mount.expect("cgroup2"), "yard");
    let workload = Workload::start("still", scratch.path("work"));
    group.take_in(&workload);
    let before = groups_of(workload.pid());
    let (images, yard) = (scratch.path("images"), yard.display().to_string());
    dump(&workload, &machine, &images, &["--cgroup-yard", &yard]);
    group.remove();
    let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
    Outcome::of(restore.args(["--cgroup-yard", &yard])).must_succeed("restore");
    assert_eq!(groups_of(workload.pid()), before);
    workload.check().expect("the program's own check");
    machine.end_all();
}

/// A hierarchy that is mounted nowhere any more.
#[test]
fn what_is_mounted_nowhere_is_found_all_the_same() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let name = format!("none,name=stasis-options-{}", std::process::id());
    let mounted = || Mounted::new(&scratch.path("hierarchy"), "cgroup", &name);
    let mount = mounted();
    let group = Group::new(&mount.0, "nowhere");
    let workload = Workload::start("still", scratch.path("work"));
    group.take_in(&workload);
    let before = groups_of(workload.pid());
    drop(mount);
    for leave in [true, false] {
        let images = scratch.path(&format!("images-{leave}"));
        dump(&workload, &machine, &images, &[]);
        if !leave {
            let _mount = mounted();
            group.remove();
        }
        Engine::CriuFace.restore(&images, Dump::ENDING).must_succeed("restore");
        assert_eq!(groups_of(workload.pid()), before, "{leave}");
    }
    workload.check().expect("the program's own check");
    machine.end_all();
    let _mount = mounted();
    group.remove();
}
