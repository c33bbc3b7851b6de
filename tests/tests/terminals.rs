//! Programs that have terminals of their own, and terminals that a restore must not give them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{PtyMaster, posix_openpt, ptsname_r};
use stasis_tests::rpc::{Client, Message, kind, request};
use stasis_tests::{Collector, Dump, Engine, Machine, Scratch, Workload, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server of tmux, with what runs in its first window.
struct Tmux {
    socket: PathBuf,
    pid: i32,
}

impl Tmux {
    /// Without eBPF, what waits in a terminal refuses a dump.
    fn start(scratch: &Scratch, program: &str) -> Self {
        std::fs::create_dir_all(scratch.path("")).expect("mkdir");
        let socket = scratch.path("tmux");
        let mut tmux = Self { socket, pid: 0 };
        tmux.ask(&["-f", "/dev/null", "new-session", "-d", "-x", "60", "-y", "10", program]);
        let pid = tmux.ask(&["display-message", "-p", "#{pid}"]);
        tmux.pid = pid.trim().parse().expect("a pid");
        tmux
    }

    fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(words).env("TERM", "screen").stdin(Stdio::null());
        let output = command.output().expect("tmux, which this test needs");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    fn shows(&self, text: &str) {
        let mut screen = String::new();
        let shown = wait_until(PATIENCE, || {
            screen = self.ask(&["capture-pane", "-p"]);
            screen.contains(text)
        });
        assert!(shown, "{text:?} is not on the screen:\n{screen}");
    }
}

/// Dumped running on, dumped to its end, restored, and still usable.
fn tmux_carries_on(program: &str, typed: [&[&str]; 3], shown: [&str; 3]) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let tmux = Tmux::start(&scratch, program);
    tmux.keys(typed[0]);
    tmux.shows(shown[0]);
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    Engine::Stasis.dump(tmux.pid, &scratch.path("first"), how).must_succeed("dump");
    tmux.keys(typed[1]);
    tmux.shows(shown[1]);
    let terminal = tmux.ask(&["display-message", "-p", "#{pane_tty} #{pane_pid}"]);
    let images = scratch.path("second");
    Engine::Stasis
        .dump(tmux.pid, &images, Dump { leave_running: false, ..how })
        .must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    tmux.shows(shown[1]);
    tmux.keys(typed[2]);
    tmux.shows(shown[2]);
    assert_eq!(tmux.ask(&["display-message", "-p", "#{pane_tty} #{pane_pid}"]), terminal);
    tmux.ask(&["kill-server"]);
}

#[test]
fn a_shell_in_tmux() {
    tmux_carries_on(
        "PS1='> ' sh",
        [
            &["x=4", "Enter", "echo $((x+3))", "Enter"],
            &["sleep 1000", "Enter"],
            // It is a job in the foreground, and control characters reach it.
            &["C-c", "", "echo $((x+5))", "Enter"],
        ],
        ["7", "sleep 1000", "9"],
    );
}

#[test]
fn vim_in_tmux() {
    tmux_carries_on(
        "vim -u NONE -n",
        [&["ione", "Escape"], &["otwo", "Escape"], &["othree", "Escape"]],
        ["one", "two", "three"],
    );
}

/// A number that somebody else has by now: refused with who that is, and nothing of theirs is touched.
#[test]
fn a_number_that_somebody_has() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("ptys_plain", scratch.path("work"));
    let images = scratch.path("images");
    let number = terminal_of(workload.pid());
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let taken = take(number);
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!refused.success, "it has two owners");
    for word in [format!("/dev/pts/{number} is another terminal"), std::process::id().to_string()] {
        assert!(refused.stderr.contains(&word), "{word:?} is not in: {}", refused.stderr);
    }
    drop(taken);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}

/// The number of the terminal whose slave a process has open.
fn terminal_of(pid: i32) -> u32 {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let mut links = links.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links
        .find_map(|link| link.strip_prefix("/dev/pts").ok()?.to_str()?.parse().ok())
        .expect("a terminal")
}

/// Masters, the last of which has this number.
fn take(number: u32) -> Vec<PtyMaster> {
    let mut all = Vec::new();
    loop {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).expect("open a master");
        let name = ptsname_r(&master).expect("its name");
        let got: u32 = name.rsplit('/').next().and_then(|got| got.parse().ok()).expect("a number");
        all.push(master);
        if got >= number {
            assert_eq!(got, number, "somebody else has it");
            return all;
        }
    }
}

/// A terminal whose other side is outside, and one whose slave others have open too: refused by name.
#[test]
fn sides_outside_of_the_tree() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let pair = nix::pty::openpty(None, None).expect("a pseudo terminal");
    for end in [&pair.master, &pair.slave] {
        // They are the test's own.
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("close on exec");
    }
    let slave = pair.slave.try_clone().expect("dup");
    #[allow(clippy::zombie_processes, reason = "the machine waits for it")]
    let job = Command::new("setsid")
        .args(["sleep", "1000"])
        .stdin(Stdio::from(slave))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start a job");
    let pid = i32::try_from(job.id()).expect("a pid");
    let runs = Path::new("/proc").join(pid.to_string()).join("exe");
    let slept = || std::fs::read_link(&runs).is_ok_and(|exe| exe.ends_with("sleep"));
    assert!(wait_until(PATIENCE, slept), "it does not sleep");
    let refused = Engine::Stasis.dump(pid, &scratch.path("images"), Dump::RUNNING_ON);
    assert!(!refused.success && refused.stderr.contains("terminal outside"), "{}", refused.stderr);
    drop(pair);
    machine.end_tree(pid);
}

/// What a container has for a console: its other side was an engine's, which takes the new one.
#[test]
fn the_master_of_a_console_is_given_to_who_restores() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("mkdir");
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    for end in [&terminal.master, &terminal.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("close on exec");
    }
    let slave = || Stdio::from(terminal.slave.try_clone().expect("dup"));
    let script = r#"stty -echo; : > ready; while read x; do echo "got $x by $(tty)"; done"#;
    let mut program = Command::new("setsid")
        .args(["--ctty", "sh", "-c", script])
        .current_dir(scratch.path(""))
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .expect("start");
    let name = nix::unistd::ttyname(&terminal.slave).expect("its name");
    drop(terminal.slave);
    assert!(wait_until(PATIENCE, || scratch.path("ready").exists()));
    let directory = File::open(&images).expect("open");
    let options = || Message::new().number(1, directory.as_raw_fd().into()).number(9, 4);
    let dump = options().number(2, program.id().into()).bytes(10, b"dump.log");
    let (refused, _) = Client::start().ask(&request(kind::DUMP, &dump)).must_fail(kind::DUMP);
    assert!(refused.contains("outside the tree"), "{refused}");
    let (takes, notify) = (50, 12);
    let dump = dump.number(takes, 1);
    Client::start().ask(&request(kind::DUMP, &dump)).must_succeed(kind::DUMP);
    program.wait().expect("it has been ended");
    machine.await_no_children();
    drop(terminal.master);

    let restore = options().bytes(10, b"restore.log").number(takes, 1).number(notify, 1);
    let mut heard = Client::start().ask(&request(kind::RESTORE, &restore));
    let points = ["pre-restore", "orphan-pts-master", "post-restore", "pre-resume", "post-resume"];
    assert_eq!(heard.points, points);
    let mut master = File::from(heard.passed.pop().expect("a master"));
    heard.must_succeed(kind::RESTORE);
    master.write_all(b"a line\n").expect("type");
    let wanted = format!("got a line by {}\r\n", name.display());
    let mut said = vec![0; wanted.len()];
    master.read_exact(&mut said).expect("read");
    assert_eq!(String::from_utf8_lossy(&said), wanted);
}
