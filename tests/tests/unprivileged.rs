//! Who is not root dumps and restores his own programs with CAP_CHECKPOINT_RESTORE alone (`criu --unprivileged`). These
//! tests need root, which they give up.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::OFlag;
use stasis_tests::{Dump, Engine, Machine, Outcome, Program, Scratch, built_program, wait_until};

const USER: u32 = 54_322;
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of the user's, with the capabilities (of `setpriv`), and with nothing else of root's.
fn of_user(capabilities: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=54322", "--regid=54322", "--clear-groups"]);
    command.arg(format!("--inh-caps=-all{capabilities}"));
    command.arg(format!("--ambient-caps=-all{capabilities}"));
    command.arg("--").arg(program).env("STASIS_BPF_DIR", "none");
    command
}

/// Where the user has programs and images of his own.
struct Place {
    machine: Machine,
    scratch: Scratch,
    criu: PathBuf,
    workload: PathBuf,
}

impl Place {
    fn new() -> Self {
        let (machine, scratch) = (Machine::prepare(), Scratch::new());
        let copied = |name: &str| {
            let path = scratch.path(name);
            fs::copy(built_program(name), &path).expect("copy");
            path
        };
        let (criu, workload) = (copied("criu"), copied("stasis-workload"));
        let directory = criu.parent().expect("a directory");
        fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("chmod");
        for name in ["work", "images"] {
            fs::create_dir(scratch.path(name)).expect("mkdir");
            chown(scratch.path(name), Some(USER), Some(USER)).expect("chown");
        }
        Self { machine, scratch, criu, workload }
    }

    fn start(&self, family: &str) -> Program {
        self.start_by(family, |workload| workload)
    }

    /// The same; `change` says what starts it.
    fn start_by(&self, family: &str, change: impl FnOnce(Command) -> Command) -> Program {
        let (work, log) = (self.scratch.path("work"), self.scratch.path("work/log"));
        File::create(&log).expect("make the log");
        chown(&log, Some(USER), Some(USER)).expect("chown");
        let mut workload = of_user("", &self.workload);
        workload.arg(family).arg(&work);
        let program = Program::start(&mut change(workload), &log);
        let stands = wait_until(PATIENCE, || work.join("ready").exists());
        assert!(stands, "{family}: {}", fs::read_to_string(&log).unwrap_or_default());
        program
    }

    /// What `criu` of the user does, and its log.
    fn criu(&self, arguments: &[&str]) -> (Outcome, String) {
        // Yama may leave a process to its parents.
        let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        let capabilities = match yama.trim() {
            "" | "0" => ",+checkpoint_restore",
            _ => ",+checkpoint_restore,+sys_ptrace",
        };
        let mut command = of_user(capabilities, &self.criu);
        let outcome = Outcome::of(
            command.args(arguments).arg("-D").arg(self.scratch.path("images")).args(["-o", "log"]),
        );
        (outcome, fs::read_to_string(self.scratch.path("images/log")).unwrap_or_default())
    }

    fn dump(&self, pid: i32) -> (Outcome, String) {
        self.criu(&["dump", "--unprivileged", "-t", &pid.to_string()])
    }

    /// The program goes on, and finds all as it was.
    fn passes(&self, family: &str) {
        let work = self.scratch.path("work");
        let read = |name: &str| fs::read_to_string(work.join(name)).unwrap_or_default();
        fs::write(work.join("go"), "").expect("say so");
        wait_until(PATIENCE, || work.join("result").exists());
        assert_eq!(read("result"), "PASS\n", "{family}: {}", read("log"));
    }

    fn restore(&self) -> (Outcome, String) {
        self.criu(&["restore", "--unprivileged", "-d"])
    }
}

fn carried(family: &str) {
    let place = Place::new();
    let program = place.start(family);
    let (dumped, log) = place.dump(program.pid());
    assert!(dumped.success, "{family}: {log}");
    place.machine.await_no_children();
    let (restored, log) = place.restore();
    assert!(restored.success, "{family}: {log}");
    let process = fs::metadata(format!("/proc/{}", program.pid())).expect("the process");
    assert_eq!(process.uid(), USER);
    place.passes(family);
}

macro_rules! carried {
    ($($family:ident)*) => {
        mod carried {
            $(
                #[test]
                fn $family() {
                    super::carried(stringify!($family));
                }
            )*
        }
    };
}

carried! { pipes eventfds threads timers signals ghosts memfd mappings files waits }

/// Which file a Unix socket is bound to the kernel tells with a capability alone.
#[test]
fn what_takes_another_right_is_named() {
    let place = Place::new();
    let program = place.start("unix_sockets");
    let (refused, log) = place.dump(program.pid());
    assert!(!refused.success && log.contains("CAP_NET_ADMIN"), "{log}");
    place.passes("unix_sockets");
}

/// Root's processes may not be looked into: that one of them has the other end of a pipe is told by the pipe, and by a restore, which cannot
/// join it again.
#[test]
fn a_pipe_of_somebody_who_may_not_be_looked_into() {
    let place = Place::new();
    let (reads, writes) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let end = format!("/proc/{}/fd/{}", std::process::id(), reads.as_raw_fd());
    let program = place.start_by("timers", |workload| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$@\" <{end}"), "sh"]).arg(workload.get_program());
        shell.args(workload.get_args());
        for (name, value) in workload.get_envs() {
            shell.env(name, value.expect("a value"));
        }
        shell
    });
    let (dumped, log) = place.dump(program.pid());
    assert!(
        dumped.success && log.contains("there are processes that may not be looked into"),
        "{log}"
    );
    place.machine.await_no_children();
    let (restored, log) = place.restore();
    assert!(restored.success && log.contains("a pipe that was shared is made anew"), "{log}");
    place.passes("timers");
    drop((reads, writes));
}

#[test]
fn without_the_option_it_takes_more() {
    let place = Place::new();
    let program = place.start("pipes");
    let mut command = of_user(",+checkpoint_restore", &place.criu);
    command.args(["dump", "-t", &program.pid().to_string(), "-D"]);
    let refused = Outcome::of(command.arg(place.scratch.path("images")));
    assert!(!refused.success && refused.stderr.contains("--unprivileged"), "{}", refused.stderr);
    place.machine.end_tree(program.pid());
}

#[test]
fn programs_of_others_are_refused() {
    let place = Place::new();
    // One of root's, whose images the user may read.
    let program = Program::start(Command::new("sleep").arg("600"), &place.scratch.path("log"));
    let images = place.scratch.path("images");
    let is_there = || {
        fs::read_to_string(format!("/proc/{}/comm", program.pid())).is_ok_and(|it| it == "sleep\n")
    };
    assert!(wait_until(PATIENCE, is_there), "it does not start");
    let (refused, log) = place.dump(program.pid());
    assert!(!refused.success && log.contains("ermission"), "{log}");
    fs::remove_file(images.join("log")).expect("the log of it");
    Engine::CriuFace.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
    place.machine.await_no_children();
    for entry in fs::read_dir(&images).expect("list") {
        chown(entry.expect("list").path(), Some(USER), Some(USER)).expect("chown");
    }
    let (refused, log) = place.restore();
    assert!(!refused.success, "{log}");
    assert!(log.contains("its users are not those of who restores"), "{log}");
    place.machine.await_no_children();
}
