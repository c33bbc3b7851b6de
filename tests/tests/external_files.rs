//! Open files that a dump leaves to the outside, and a restore is handed (`--external`, `--inherit-fd`).

use std::fs::{self, File};
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use stasis_tests::{Dump, Engine, Machine, Outcome, Program, Scratch, children_of, wait_until};

/// A shell with a child that has `input` as its standard input and waits; and the child.
fn waits_with(input: &Path, scratch: &Scratch) -> (Program, i32) {
    let script = format!("sleep 600 <>'{}'; true", input.display());
    let program = Program::start(Command::new("sh").args(["-c", &script]), &scratch.path("log"));
    let mut child = None;
    let is_there = || {
        child = children_of(program.pid()).first().copied();
        child.is_some_and(|child| {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            name.trim() == "sleep"
        })
    };
    assert!(wait_until(Duration::from_secs(30), is_there), "no child");
    (program, child.expect("a child"))
}

fn input_of(pid: i32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/fd/0")).expect("the link")
}

/// The tree is dumped with what is called `name` left to the outside, and brought back with `other` in its place. Without
/// that it is refused, and `said` is told.
fn left_to_the_outside(
    (machine, scratch): (&Machine, &Scratch),
    (pid, child, name): (i32, i32, &str),
    other: RawFd,
    said: &[&str],
) {
    let images = scratch.path("images");
    let log = |name: &str| fs::read_to_string(images.join(name)).expect("the log");
    let dump = |name: &[&str]| {
        let mut dump = Engine::CriuFace.dump_command(pid, &images, Dump::ENDING);
        Outcome::of(dump.args(name)).success
    };
    assert!(dump(&["--external", name]), "{}", log("dump.log"));
    machine.await_end(&[pid, child]);
    let restore = |options: &[&str]| {
        let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
        Outcome::of(restore.args(options)).success
    };
    assert!(!restore(&[]), "restored: {}", log("restore.log"));
    assert!(said.iter().all(|word| log("restore.log").contains(word)), "{}", log("restore.log"));
    let handed = format!("fd[{other}]:{name}");
    assert!(restore(&["--inherit-fd", &handed]), "{}", log("restore.log"));
}

#[test]
fn a_file_that_is_left_to_the_outside() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    for name in ["one", "two"] {
        fs::write(scratch.path(name), name).expect("write");
    }
    let (program, child) = waits_with(&scratch.path("one"), &scratch);
    let told = fs::read_to_string(format!("/proc/{child}/fdinfo/0")).expect("fdinfo");
    let mount = told.lines().find_map(|line| line.strip_prefix("mnt_id:")).expect("a mount");
    let mount: u32 = mount.trim().parse().expect("a number");
    let inode = fs::metadata(scratch.path("one")).expect("stat").ino();
    // Its path does not matter.
    fs::remove_file(scratch.path("one")).expect("unlink");
    let name = format!("file[{mount:x}:{inode:x}]");
    let two = File::open(scratch.path("two")).expect("open");
    let other = nix::unistd::dup(two.as_fd()).expect("dup").into_raw_fd();
    let tree = (program.pid(), child, &*name);
    left_to_the_outside((&machine, &scratch), tree, other, &["--inherit-fd", &name]);
    assert_eq!(input_of(child), scratch.path("two"));
}

/// A master that nobody inherits, and the path of its slave.
fn terminal() -> (PtyMaster, std::path::PathBuf) {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("ptmx");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("unlock");
    let path = ptsname_r(&master).expect("the name").into();
    (master, path)
}

#[test]
fn a_terminal_that_is_left_to_the_outside() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let ((_first, one), (_second, two)) = (terminal(), terminal());
    let (program, child) = waits_with(&one, &scratch);
    let stat = fs::metadata(&one).expect("stat");
    let name = format!("tty[{:x}:{:x}]", stat.rdev(), stat.dev());
    let handed = File::options().read(true).write(true).open(&two).expect("open");
    let handed = nix::unistd::dup(handed.as_fd()).expect("dup").into_raw_fd();
    let tree = (program.pid(), child, &*name);
    left_to_the_outside((&machine, &scratch), tree, handed, &["terminal"]);
    assert_eq!(input_of(child), two);
}
