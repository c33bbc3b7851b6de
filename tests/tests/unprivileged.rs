//! Who is not root dumps and restores his own programs with CAP_CHECKPOINT_RESTORE alone (`criu --unprivileged`). These
//! tests need root, which they give up.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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
        let (work, log) = (self.scratch.path("work"), self.scratch.path("work/log"));
        File::create(&log).expect("make the log");
        chown(&log, Some(USER), Some(USER)).expect("chown");
        let program = Program::start(of_user("", &self.workload).arg(family).arg(&work), &log);
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

#[test]
fn without_the_option_it_takes_more() {
    let place = Place::new();
    let program = place.start("pipes");
    let (refused, _) = place.criu(&["dump", "-t", &program.pid().to_string()]);
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if matches!(yama.trim(), "" | "0") {
        assert!(
            !refused.success && refused.stderr.contains("--unprivileged"),
            "{}",
            refused.stderr
        );
    }
    place.machine.end_tree(program.pid());
}

#[test]
fn programs_of_others_are_refused() {
    let place = Place::new();
    let (refused, log) = place.dump(std::process::id().cast_signed());
    assert!(!refused.success && log.contains("Error"), "{log}");
    // One of root's, whose images the user may read.
    let program = Program::start(Command::new("sleep").arg("600"), &place.scratch.path("log"));
    let images = place.scratch.path("images");
    let is_there = || {
        fs::read_to_string(format!("/proc/{}/comm", program.pid())).is_ok_and(|it| it == "sleep\n")
    };
    assert!(wait_until(PATIENCE, is_there), "it does not start");
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
