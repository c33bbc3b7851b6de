//! Trees in mount namespaces of their own. These tests need root.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Scratch, Workload, children_of, require,
    wait_until,
};

fn dump(engine: Engine, pid: i32, images: &Path, how: Dump<'_>) -> Outcome {
    let mut command = engine.dump_command(pid, images, how);
    Outcome::of(command.args([
        "--external",
        "mnt[/stage]:STAGE",
        "--external",
        "mnt[/memory]:MEMORY",
    ]))
}

fn restore(engine: Engine, images: &Path, work: &Path) -> Outcome {
    let mut command = engine.restore_command(images, Dump::ENDING);
    let stage = format!("mnt[STAGE]:{}", work.display());
    let memory = "mnt[MEMORY]:/dev/shm";
    command.args(["--external", &stage, "--external", memory]);
    Outcome::of(command.arg("--root").arg(work.join("root")))
}

fn carried(family: &str, by: Engine, to: Engine) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let workload = Workload::start(family, work.clone());
    dump(by, workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    restore(to, &images, &work).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("{family} is not what it was: {what}");
    }
}

#[test]
fn overlays_are_made_of_their_layers_again() {
    carried("overlays", Engine::Stasis, Engine::Stasis);
}

#[test]
fn overlays_of_layers_outside_are_made_again() {
    carried("overlays_outside", Engine::Stasis, Engine::Stasis);
}

/// Who has rights in a user namespace only could have directories of the machine shown that it may not see.
#[test]
fn overlays_of_a_user_namespace_get_no_layers_of_the_outside() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    for layer in ["hidden/low", "hidden/lower", "over"] {
        fs::create_dir_all(scratch.path(layer)).expect("mkdir");
    }
    let script = "mount -t overlay over -o lowerdir=$PWD/hidden/low:$PWD/hidden/lower over && \
                  mount -t tmpfs memory hidden && : > there; exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["-rmf", "setsid", "sh", "-c", script]);
    let program = Program::start(command.current_dir(scratch.path("")), &scratch.path("log"));
    let is_there = || scratch.path("there").exists();
    assert!(wait_until(Duration::from_secs(20), is_there), "it does not start");
    let first = children_of(program.pid())[0];
    let outcome = Engine::Stasis.dump(first, &scratch.path("images"), Dump::ENDING);
    assert!(!outcome.success && outcome.stderr.contains("over (overlay)"), "{}", outcome.stderr);
    drop(machine);
}

/// Something in memory that is mounted below a directory, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(place: PathBuf) -> Self {
        fs::create_dir_all(&place).expect("mkdir");
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, &place, Some("tmpfs"), flags, none).expect("mount");
        Self(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

/// What is mounted in a volume is taken from the volume; what is watched in layers is watched again; and a daemon keeps its socket.
#[test]
fn volumes_bring_along_what_is_mounted_in_them() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let mounted = Mounted::at(work.join("volume/inner"));
    fs::write(mounted.0.join("kept"), "before, ").expect("write");
    let workload = Workload::start("volumes", work.clone());
    let collector = Collector::start(&scratch.path("collector"));
    for how in [Dump::RUNNING_ON, Dump::ENDING] {
        fs::remove_dir_all(&images).ok();
        let how = Dump { collector: Some(&collector), ..how };
        let mut command = Engine::Stasis.dump_command(workload.pid(), &images, how);
        for place in ["mnt[/stage]:STAGE", "mnt[/memory]:MEMORY", "mnt[/bound]:VOLUME"] {
            command.args(["--external", place]);
        }
        Outcome::of(&mut command).must_succeed("dump");
    }
    drop(collector);
    machine.await_no_children();
    let restore = |volume: &Path| {
        let mut command = Engine::Stasis.restore_command(&images, Dump::ENDING);
        for (name, path) in
            [("STAGE", &*work), ("MEMORY", Path::new("/dev/shm")), ("VOLUME", volume)]
        {
            command.arg("--external").arg(format!("mnt[{name}]:{}", path.display()));
        }
        Outcome::of(command.arg("--root").arg(work.join("root")))
    };
    // Where nothing is mounted nothing is made up.
    let other = scratch.path("other");
    fs::create_dir_all(other.join("inner")).expect("mkdir");
    let refused = restore(&other);
    let said = |what: &str| refused.stderr.contains(what);
    assert!(!refused.success && said("nothing is mounted at"), "{}", refused.stderr);
    assert!(said("--external 'mnt[VOLUME/inner]:PATH'"), "{}", refused.stderr);
    restore(&work.join("volume")).must_succeed("restore");
    workload.check().expect("the program's own check");
    let seen = fs::read_to_string(mounted.0.join("new")).expect("what was written inside");
    assert_eq!(seen, "inside");
}

#[test]
fn overlays_of_unknown_layers_are_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("overlays_relative", scratch.path("work"));
    let outcome = dump(Engine::Stasis, workload.pid(), &scratch.path("images"), Dump::RUNNING_ON);
    let said = |what: &str| outcome.stderr.contains(what);
    assert!(!outcome.success && said("mount /lay/over (overlay)"), "{}", outcome.stderr);
    assert!(
        said("relative paths") && said("--external 'mnt[/lay/over]:NAME'"),
        "{}",
        outcome.stderr
    );
}

/// The queues of an IPC namespace of the tree's own, with their messages, are files in a mount namespace of its own.
#[test]
fn queues_are_mounted() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let workload = Workload::start("mqueue_mounted", work.clone());
    let collector = Collector::start(&scratch.path("collector"));
    for how in [Dump::RUNNING_ON, Dump::ENDING] {
        let how = Dump { collector: Some(&collector), ..how };
        fs::remove_dir_all(&images).ok();
        dump(Engine::Stasis, workload.pid(), &images, how).must_succeed("dump");
    }
    drop(collector);
    machine.await_no_children();
    restore(Engine::Stasis, &images, &work).must_succeed("restore");
    workload.check().expect("the program's own check");
}

/// A restore mounts the queues of the tree's IPC namespace.
#[test]
fn mounts_of_the_queues_of_others_are_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("mqueue_mounted_before", scratch.path("work"));
    let (pid, images) = (workload.pid(), scratch.path("images"));
    let outcome = dump(Engine::Stasis, pid, &images, Dump::RUNNING_ON);
    assert!(!outcome.success && outcome.stderr.contains("mount /over (mqueue)"));
    let remedy = "--external 'mnt[/over]:NAME'";
    assert!(
        outcome.stderr.contains("another IPC namespace") && outcome.stderr.contains(remedy),
        "{}",
        outcome.stderr
    );
    let mut command = Engine::Stasis.dump_command(pid, &images, Dump::RUNNING_ON);
    for place in ["mnt[/stage]:STAGE", "mnt[/memory]:MEMORY", "mnt[/over]:NAME"] {
        command.args(["--external", place]);
    }
    Outcome::of(&mut command).must_succeed("dump with the remedy");
    workload.check().expect("the program's own check");
}

#[test]
fn namespaces_of_an_init_have_its_proc() {
    of_init("mounts_of_init");
}

#[test]
fn namespaces_below_an_init_have_their_own_proc() {
    of_init("mounts_nested_proc_of_init");
}

/// Whoever looks for something in an `autofs` finds it after a restore.
#[test]
fn automounters_go_on() {
    for (by, to) in [(Engine::Stasis, Engine::Stasis), (Engine::CriuFace, Engine::CriuFace)] {
        carried("automounts", by, to);
    }
    of_init("automounts_of_init");
}

/// A block device over a file, until it is dropped.
struct Disk(String);

impl Disk {
    fn make(file: &Path) -> Self {
        let said = |command: &mut Command| {
            let outcome = Outcome::of(command).must_succeed("make a disk");
            outcome.stdout.trim().to_owned()
        };
        File::create(file).and_then(|made| made.set_len(16 << 20)).expect("make a file");
        said(Command::new("mkfs.ext4").arg("-q").arg(file));
        Self(said(Command::new("losetup").args(["--find", "--show"]).arg(file)))
    }

    fn number(&self) -> u64 {
        fs::metadata(&self.0).expect("stat").rdev()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = Command::new("losetup").arg("--detach").arg(&self.0).status();
        gone.expect("losetup");
    }
}

/// A restore mounts it again from the device that it is given, be that another one by now.
fn disks(by: Engine, to: Engine) {
    let machine = Machine::prepare();
    require!(Path::new("/dev/loop-control").exists(), "the kernel has no loop devices");
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let disk = Disk::make(&scratch.path("disk"));
    fs::create_dir(&work).expect("mkdir");
    fs::write(work.join("disk"), disk.number().to_string()).expect("write");
    let workload = Workload::start("disks", work.clone());
    let refused = dump(by, workload.pid(), &images, Dump::RUNNING_ON);
    assert!(!refused.success);
    let mut command = by.dump_command(workload.pid(), &images, Dump::ENDING);
    let number = disk.number();
    let device = format!("dev[{}/{}]:DISK", libc::major(number), libc::minor(number));
    for external in ["mnt[/stage]:STAGE", "mnt[/memory]:MEMORY", &device] {
        command.args(["--external", external]);
    }
    Outcome::of(&mut command).must_succeed("dump");
    machine.await_no_children();
    let missing = restore(Engine::Stasis, &images, &work);
    assert!(missing.stderr.contains("--external 'dev[DISK]:/dev/DEVICE'"), "{}", missing.stderr);
    let mut command = to.restore_command(&images, Dump::ENDING);
    let stage = format!("mnt[STAGE]:{}", work.display());
    for external in [&stage, "mnt[MEMORY]:/dev/shm", &format!("dev[DISK]:{}", disk.0)] {
        command.args(["--external", external]);
    }
    command.arg("--root").arg(work.join("root"));
    Outcome::of(&mut command).must_succeed("restore");
    workload.check().expect("the program's own check");
    machine.end_all();
}

#[test]
fn a_disk_is_given() {
    disks(Engine::Stasis, Engine::Stasis);
    disks(Engine::CriuFace, Engine::CriuFace);
}

#[test]
fn an_automounter_that_runs_on_goes_on() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("automounts", scratch.path("work"));
    let images = scratch.path("images");
    dump(Engine::Stasis, workload.pid(), &images, Dump::RUNNING_ON).must_succeed("dump");
    workload.check().expect("the program's own check");
}

/// What is dumped is the child of the workload.
fn of_init(family: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let workload = Workload::start(family, work.clone());
    let root = children_of(workload.pid())[0];
    dump(Engine::Stasis, root, &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    restore(Engine::Stasis, &images, &work).must_succeed("restore");
    fs::write(workload.path("go"), "").expect("say so");
    let result = workload.path("result");
    wait_until(Duration::from_secs(30), || result.exists());
    let told = fs::read_to_string(result).unwrap_or_else(|error| error.to_string());
    assert_eq!(told, "PASS\n", "{}", workload.log());
}

/// The names that a dump has given files in the directory that is the root of the tree.
fn given(work: &Path) -> usize {
    let entries = fs::read_dir(work.join("root")).expect("list").flatten();
    entries.filter(|it| it.file_name().to_string_lossy().starts_with("link_remap.")).count()
}

fn dump_with_links(pid: i32, images: &Path, how: Dump<'_>) -> Command {
    let mut command = Engine::CriuFace.dump_command(pid, images, how);
    command.args(["--link-remap", "--external", "mnt[/stage]:STAGE"]);
    command.args(["--external", "mnt[/memory]:MEMORY"]);
    command
}

/// A name in a mount namespace of the tree's own goes with the dump, or with the restore.
#[test]
fn files_that_lost_their_names_are_given_others() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let workload = Workload::start("mounts_links", work.clone());
    let mut running_on = dump_with_links(workload.pid(), &scratch.path("1"), Dump::RUNNING_ON);
    Outcome::of(&mut running_on).must_succeed("dump");
    assert_eq!(given(&work), 0, "nobody needs them");
    let mut ending = dump_with_links(workload.pid(), &images, Dump::ENDING);
    Outcome::of(&mut ending).must_succeed("dump");
    machine.await_no_children();
    assert_eq!(given(&work), 1, "a restore needs it");
    restore(Engine::Stasis, &images, &work).must_succeed("restore");
    workload.check().expect("carried");
    assert_eq!(given(&work), 0);
}

/// Names that a killed dump has left go with the next command, outside of that namespace.
#[test]
fn a_killed_dump_leaves_no_names_in_another_namespace() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let (run_dir, work) = (scratch.path("run"), scratch.path("work"));
    let workload = Workload::start("mounts_links", work.clone());
    let script = scratch.path("stop");
    let text = "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-dump ] && kill -9 $PPID\nexit 0\n";
    fs::write(&script, text).expect("write a script");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&script, executable).expect("make it executable");
    let mut dump = dump_with_links(workload.pid(), &scratch.path("1"), Dump::ENDING);
    let dump = dump.arg("--action-script").arg(&script).env("STASIS_RUN_DIR", &run_dir);
    assert!(!Outcome::of(dump).success && workload.program().is_alive());
    assert_eq!(given(&work), 1, "it was killed with links made");
    let mut next = Engine::Stasis.command("ps");
    Outcome::of(next.env("STASIS_RUN_DIR", &run_dir)).must_succeed("stasis ps");
    workload.check().expect("nothing is left");
}

/// What is mounted from now on by this test and its programs is mounted for nobody else.
fn own_mounts() {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none).expect("share nothing");
}

/// In the namespace of who dumps and restores nobody else may notice that something is written there.
#[test]
fn deleted_files_come_back_on_a_read_only_mount() {
    let machine = Machine::prepare();
    own_mounts();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    let workload = Workload::start("ghosts_read_only", scratch.path("work"));
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("carried");
}

/// What a restore could not make again is refused by the dump.
#[test]
fn what_could_not_be_made_where_it_was_is_refused() {
    let _machine = Machine::prepare();
    own_mounts();
    for (family, objects, reason) in [
        ("ghosts_unbindable", "bound/gone too (deleted)", "nothing can be made anew"),
        ("socket_read_only", "socket", "on a mount that is read-only"),
        ("socket_hidden", "socket", "leads to another file"),
    ] {
        let scratch = Scratch::new();
        let workload = Workload::start(family, scratch.path("work"));
        let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::ENDING);
        assert!(!outcome.success, "{family}");
        assert!(outcome.stderr.contains(reason), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(objects), "{}", outcome.stderr);
        workload.check().expect("it runs on");
    }
}

#[test]
fn a_proc_of_a_namespace_below_that_shares_mounts_is_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("mounts_nested_proc_shared", scratch.path("work"));
    let images = scratch.path("images");
    let outcome = dump(Engine::Stasis, workload.pid(), &images, Dump::ENDING);
    assert!(!outcome.success && !images.exists());
    for reason in ["shares mounts with others", "the /proc of another pid namespace"] {
        assert!(outcome.stderr.contains(reason), "{reason}: {}", outcome.stderr);
    }
    workload.check().expect("it runs on");
}

/// A restore makes what was deleted anew: what is open by another way would be another file.
#[test]
fn what_is_open_of_a_deleted_mount_is_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("mounts_deleted_open", scratch.path("work"));
    let images = scratch.path("images");
    let outcome = dump(Engine::Stasis, workload.pid(), &images, Dump::RUNNING_ON);
    assert!(!outcome.success);
    let words = ["/at", "open by a mount of something that has been deleted"];
    assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{}", outcome.stderr);
    workload.check().expect("it runs on");
}

macro_rules! families {
    ($($family:ident)*) => { $(mod $family {
        use super::*;

        #[test]
        fn natively() {
            let _machine = Machine::prepare();
            let scratch = Scratch::new();
            let workload = Workload::start(stringify!($family), scratch.path("work"));
            workload.check().expect("native");
        }

        #[test]
        fn carried() {
            super::carried(stringify!($family), Engine::Stasis, Engine::Stasis);
        }

        #[test]
        fn running_on() {
            let _machine = Machine::prepare();
            let scratch = Scratch::new();
            let workload = Workload::start(stringify!($family), scratch.path("work"));
            let images = scratch.path("images");
            let outcome = dump(Engine::Stasis, workload.pid(), &images, Dump::RUNNING_ON);
            outcome.must_succeed("dump");
            workload.check().expect("it noticed nothing");
        }
    })* };
}

families! { mounts mounts_deleted mounts_nested mounts_nested_proc }

/// Engines mount the file systems of new namespaces read-only as a whole.
#[test]
fn a_file_system_of_the_kernels_stays_read_only() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let script = "mount -t sysfs -o ro,nosuid sysfs /srv; : > there; exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["-mpnf", "--mount-proc", "setsid", "sh", "-c", script]);
    let program = Program::start(command.current_dir(scratch.path("")), &scratch.path("log"));
    let is_there = || scratch.path("there").exists();
    assert!(wait_until(Duration::from_secs(20), is_there), "it does not start");
    let first = children_of(program.pid())[0];
    let mounted = |pid: i32| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
        let mount = mounts.lines().find(|line| line.contains(" /srv ")).map(str::to_owned);
        let file_system = mount.and_then(|mount| Some(mount.split_once(" - ")?.1.to_owned()));
        file_system.expect("the mount")
    };
    let before = mounted(first);
    assert!(before.ends_with("ro"), "{before}");
    let images = scratch.path("images");
    let mut dump = Engine::Stasis.dump_command(first, &images, Dump::ENDING);
    Outcome::of(dump.args(["--external", "mnt[]:m"])).must_succeed("dump");
    machine.await_no_children();
    // Who started it says there how it ended.
    fs::write(scratch.path("log"), "").expect("empty the log");
    let mut restore = Engine::Stasis.restore_command(&images, Dump::ENDING);
    Outcome::of(restore.args(["--external", "mnt[]"])).must_succeed("restore");
    let restored = children_of(std::process::id().cast_signed())[0];
    assert_eq!(mounted(restored), before);
    machine.end_all();
}
