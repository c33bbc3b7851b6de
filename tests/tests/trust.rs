//! What a restore opens is what was dumped: a user who exchanges what his program held, between dump and
//! restore, gets nothing that he could not open himself, and other versions of programs are refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use stasis_tests::{
    Dump, Engine, Machine, Outcome, Program, Scratch, Workload, built_program, wait_until,
};

/// The user of the workload `held`.
const USER: u32 = 54_321;

/// A program of a user that holds something, dumped and ended.
struct Held {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
}

impl Held {
    fn dumped(what: &str) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        open_to_all(scratch.path("").as_path());
        let workload = Workload::start_with("held", scratch.path("work"), &[("HELD", what)]);
        let held = Self { machine, scratch, workload };
        Engine::Stasis.dump(held.workload.pid(), &held.images(), Dump::ENDING).must_succeed("dump");
        held.machine.await_no_children();
        held
    }

    fn images(&self) -> PathBuf {
        self.scratch.path("images")
    }

    /// The directory that the user can do anything in, and what the program held in it.
    fn place(&self) -> PathBuf {
        self.workload.path("home/box")
    }

    fn thing(&self) -> PathBuf {
        self.place().join("thing")
    }

    /// Done by the user himself.
    fn by_user(&self, command: &str) {
        let mut user = Command::new("setpriv");
        user.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}")).arg("--clear-groups");
        user.args(["sh", "-ec", command]).current_dir(self.workload.path("home"));
        Outcome::of(&mut user).must_succeed(command);
    }

    /// Somebody else's directory, with a thing in it that looks like the user's and that he cannot open.
    fn others(&self, what: &str) -> PathBuf {
        let place = self.scratch.path("others");
        let thing = place.join("thing");
        fs::create_dir(&place).expect("mkdir");
        match what {
            "directory" => fs::create_dir(&thing).expect("mkdir"),
            "fifo" => {
                let mode = nix::sys::stat::Mode::from_bits_truncate(0o640);
                nix::unistd::mkfifo(&thing, mode).expect("mkfifo");
            }
            "socket" => drop(std::os::unix::net::UnixListener::bind(&thing).expect("bind")),
            _ => fs::write(&thing, "a root's secret\n").expect("write"),
        }
        let mode = if what == "directory" { 0o755 } else { 0o640 };
        fs::set_permissions(&thing, fs::Permissions::from_mode(mode)).expect("chmod");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).expect("chmod");
        place
    }

    fn restored(&self, options: &[&str]) -> Outcome {
        let mut command = Engine::Stasis.restore_command(&self.images(), Dump::ENDING);
        Outcome::of(command.args(options))
    }

    /// The restore fails, says why and for which process, and leaves nobody.
    fn refused(&self, words: &[&str]) {
        let outcome = self.restored(&[]);
        assert!(!outcome.success, "it was restored");
        let whose = format!("process {}, ", self.workload.pid());
        for word in words.iter().copied().chain([&*whose]) {
            assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
        }
        self.machine.await_no_children();
    }

    fn comes_back(&self, options: &[&str]) {
        self.restored(options).must_succeed("restore");
        self.workload.check().expect("the program's own check");
    }
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// What would show that somebody was at a file or directory.
fn state(path: &Path) -> (u64, u64, u32, u32, i64, i64) {
    let now = fs::symlink_metadata(path).expect("stat");
    (now.ino(), now.size(), now.mode(), now.uid(), now.mtime_nsec(), now.ctime_nsec())
}

/// Links and other files in the place of what was held: each is refused and leaves no trace.
fn attacked(what: &str) {
    let held = Held::dumped(what);
    let others = held.others(what);
    let other = others.join("thing");
    let before = (state(&others), state(&other));
    let untouched = |how: &str| {
        assert_eq!(
            before,
            (state(&others), state(&other)),
            "{how}: the other's file is not as it was"
        );
    };
    // The socket of a program that has ended is a name that anybody may have taken away.
    if what != "socket" {
        held.by_user(&format!("mv box/thing kept; ln -s {} box/thing", other.display()));
        held.refused(&["symbolic link", "home/box/thing", "--trust-paths"]);
        untouched("a link");
        held.by_user("rm box/thing; mv kept box/thing");
    }
    held.by_user(&format!("mv box kept; ln -s {} box", others.display()));
    held.refused(&["symbolic link", "home/box"]);
    untouched("a link above");
    held.by_user("rm box; mv kept box");
    if !matches!(what, "directory" | "socket") {
        held.by_user("mv box/thing kept");
        fs::hard_link(&other, held.thing())
            .expect("as the user may, without fs.protected_hardlinks");
        held.refused(&["another file", &format!("user {USER}"), "--trust-paths"]);
        fs::remove_file(held.thing()).expect("unlink");
        held.by_user("mv kept box/thing");
    }
    held.comes_back(&[]);
}

#[test]
fn an_open_file_exchanged_by_its_user() {
    attacked("file");
}

#[test]
fn a_shared_mapping_exchanged_by_its_user() {
    attacked("shared mapping");
}

#[test]
fn a_private_mapping_exchanged_by_its_user() {
    attacked("private mapping");
}

#[test]
fn a_working_directory_exchanged_by_its_user() {
    attacked("directory");
}

#[test]
fn a_fifo_exchanged_by_its_user() {
    attacked("fifo");
}

#[test]
fn the_directory_of_a_socket_exchanged_by_its_user() {
    attacked("socket");
}

/// Deleted files are made again where they were, but in no directory that the user has led there.
#[test]
fn the_directory_of_a_deleted_file_exchanged_by_its_user() {
    for what in ["ghost", "ghost directory"] {
        let held = Held::dumped(what);
        let others = held.others(what);
        let before = state(&others);
        held.by_user(&format!("mv box kept; ln -s {} box", others.display()));
        held.comes_back(&[]);
        assert_eq!(before, state(&others), "{what}: something was made in it");
    }
}

/// A socket that another made under the name since is not taken away for one who could not do so.
#[test]
fn anothers_socket_stays() {
    let held = Held::dumped("socket");
    held.by_user("rm box/thing");
    chown(held.place(), Some(0), Some(0)).expect("chown");
    let other = std::os::unix::net::UnixListener::bind(held.thing()).expect("bind");
    held.refused(&["another socket", "home/box/thing"]);
    std::os::unix::net::UnixStream::connect(held.thing()).expect("it is there still");
    drop(other);
    fs::remove_file(held.thing()).expect("unlink");
    held.comes_back(&[]);
}

#[test]
fn a_program_exchanged_by_its_user() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    open_to_all(scratch.path("").as_path());
    let place = scratch.path("box");
    fs::create_dir(&place).expect("mkdir");
    let thing = place.join("thing");
    fs::copy(built_program("stasis-workload"), &thing).expect("copy");
    let work = scratch.path("work");
    fs::create_dir(&work).expect("mkdir");
    let mut command = Command::new(&thing);
    command.arg("held").arg(&work).env("HELD", "program");
    let program = Program::start(&mut command, &work.join("log"));
    assert!(wait_until(std::time::Duration::from_secs(60), || work.join("ready").exists()));
    let images = scratch.path("images");
    Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let refused = |words: &[&str]| {
        let outcome = Engine::Stasis.restore(&images, Dump::ENDING);
        assert!(!outcome.success, "it was restored");
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
        }
        machine.await_no_children();
    };
    let kept = scratch.path("kept");
    fs::rename(&thing, &kept).expect("rename");
    symlink(&kept, &thing).expect("link");
    refused(&["symbolic link", "box/thing"]);
    fs::remove_file(&thing).expect("unlink");

    // The same program in another file that the user may not run, and one that he may.
    fs::copy(&kept, &thing).expect("copy");
    fs::set_permissions(&thing, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o700)).expect("chmod");
    refused(&["box/thing"]);
    let mode = fs::metadata(built_program("stasis-workload")).expect("stat").mode();
    fs::set_permissions(&thing, fs::Permissions::from_mode(mode)).expect("chmod");

    // Another program of the same size, by its build id.
    let whole = fs::read(&thing).expect("read");
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = whole.windows(note.len()).position(|bytes| bytes == note);
    let at = at.expect("the linker gives programs build ids of 20 bytes") + note.len();
    let mut other = whole.clone();
    other[at] ^= 1;
    let replace = |bytes: &[u8]| {
        fs::write(place.join("new"), bytes).expect("write");
        fs::set_permissions(place.join("new"), fs::Permissions::from_mode(mode)).expect("chmod");
        fs::rename(place.join("new"), &thing).expect("rename");
    };
    replace(&other);
    refused(&["build id", "--file-validation filesize"]);
    let criu = Engine::CriuFace.restore(&images, Dump::ENDING);
    assert!(!criu.success && criu.stderr.contains("build id"), "{}", criu.stderr);
    // The remedies work.
    replace(&whole);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    machine.end_all();
    replace(&other);
    let mut sizes = Engine::CriuFace.restore_command(&images, Dump::ENDING);
    Outcome::of(sizes.args(["--file-validation", "filesize"])).must_succeed("restore by sizes");
}

/// A mapped file without a build id: its contents count, and not which file it is.
#[test]
fn a_mapped_file_with_other_contents() {
    let held = Held::dumped("private mapping");
    held.by_user("cp -p box/thing kept; printf 'what is in it...' > box/thing");
    held.refused(&["something else in it", "--file-validation filesize"]);
    held.by_user("rm box/thing; cat kept > box/thing; chmod 640 box/thing");
    held.comes_back(&[]);
}

/// What is mapped shared is the file itself, and goes on as it is.
#[test]
fn a_shared_mapping_written_to_meanwhile() {
    let held = Held::dumped("shared mapping");
    held.by_user("printf 'written to since' > box/thing");
    held.restored(&[]).must_succeed("restore");
    let check = held.workload.check().expect_err("it has the new contents");
    assert!(check.contains("mapped"), "{check}");
}

/// A log that was renamed away, and another one that the user may write to.
#[test]
fn a_log_of_the_same_name() {
    let held = Held::dumped("log");
    held.by_user("mv box/thing box/old; install -m 600 /dev/null box/thing");
    held.comes_back(&[]);
    assert_eq!(fs::read(held.thing()).expect("read"), b"on");
}

/// A daemon opened its log as root and became another user: it is that file, or none.
#[test]
fn a_log_that_its_process_could_not_open() {
    let held = Held::dumped("root's log");
    held.restored(&[]).must_succeed("restore");
    held.machine.end_all();
    fs::rename(held.thing(), held.place().join("old")).expect("rename");
    fs::write(held.thing(), "").expect("write");
    fs::set_permissions(held.thing(), fs::Permissions::from_mode(0o600)).expect("chmod");
    held.refused(&["another file", "may not open it", "--trust-paths"]);
    held.comes_back(&["--trust-paths"]);
    assert_eq!(fs::read(held.thing()).expect("read"), b"on");
}

/// Links are followed for who says so.
#[test]
fn paths_that_are_trusted() {
    let held = Held::dumped("log");
    fs::rename(held.place(), held.scratch.path("moved")).expect("rename");
    symlink(held.scratch.path("moved"), held.place()).expect("link");
    held.refused(&["symbolic link", "--trust-paths"]);
    held.comes_back(&["--trust-paths"]);
}

/// Whoever may signal tasks sends them the signal by which they say that they are built, all the time: they are let go when
/// they are built, not when he says so.
#[test]
fn a_user_who_signals_his_program_while_it_is_built() {
    /// Of nobody else: who signals all that he may does so to tests beside this one, too.
    const USER: &str = "--reuid=54777";
    const TASKS: usize = 8;
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let of_user = |text: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            USER,
            "--regid=54777",
            "--clear-groups",
            "--",
            "/usr/bin/python3",
            "-c",
            text,
        ]);
        command
    };
    let many = format!(
        "import os, signal, time\nsignal.signal(signal.SIGTRAP, signal.SIG_IGN)\n\
         for _ in range({TASKS} - 1):\n    if os.fork() == 0: break\n\
         while True: time.sleep(0.01)"
    );
    // By tgkill(2), too, which is how tasks say it.
    let hammer = "import ctypes, os, signal, sys
libc, tasks = ctypes.CDLL(None), [int(task) for task in sys.argv[1:]]
while True:
    for wanted in (signal.SIGTRAP, signal.SIGCONT):
        try: os.kill(-1, wanted)
        except ProcessLookupError: pass
        for task in tasks: libc.tgkill(task, task, int(wanted))
";
    let program = Program::start(&mut of_user(&many), &scratch.path("log"));
    let tasks = || {
        let text = fs::read_to_string(format!("/proc/{0}/task/{0}/children", program.pid()));
        let children = text.unwrap_or_default();
        let children = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
        children.chain([program.pid()]).collect::<Vec<i32>>()
    };
    assert!(wait_until(std::time::Duration::from_secs(60), || tasks().len() == TASKS));
    let before = tasks();
    let images = scratch.path("images");
    for round in 0..8 {
        Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
        machine.await_no_children();
        let mut hammer = of_user(hammer);
        hammer.args(before.iter().map(ToString::to_string));
        let hammer = Program::start(&mut hammer, &scratch.path("hammer"));
        let restored = Engine::Stasis.restore(&images, Dump::ENDING);
        let hammer = nix::unistd::Pid::from_raw(hammer.pid());
        nix::sys::signal::kill(hammer, nix::sys::signal::Signal::SIGKILL).expect("kill");
        nix::sys::wait::waitpid(hammer, None).expect("wait");
        restored.must_succeed("restore");
        assert_eq!(tasks(), before, "round {round}");
        for pid in tasks() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
            for none in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "Uid:\t54777"] {
                assert!(status.contains(none), "round {round}: {pid}: {status}");
            }
        }
        fs::remove_dir_all(&images).expect("remove");
    }
    machine.end_all();
}
