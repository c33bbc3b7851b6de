//! A job of a shell on a terminal, with `--shell-job`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use stasis_tests::{Dump, Engine, Machine, Scratch, built_program, wait_until};

/// What the shell does: runs the program as its foreground job, then, when that was ended by the
/// dump, the restore in the same place.
const SHELL: &str = r#"
set -m
"$WORKLOAD" terminal "$DIR"
touch "$DIR/ended"
while [ ! -e "$DIR/restore" ]; do sleep 0.02; done
eval "$RESTORE"
touch "$DIR/over"
"#;

fn quoted(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}' ", word.to_string_lossy())).collect()
}

fn job(by: Engine, to: Engine) {
    const JOB: Dump<'_> = Dump { shell_job: true, ..Dump::ENDING };
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let dir = scratch.path("work");
    std::fs::create_dir(&dir).expect("mkdir");
    let images = scratch.path("images");
    let terminal = openpty(None, None).expect("a pseudo terminal");
    for end in [&terminal.master, &terminal.slave] {
        // The job must not inherit the ends that belong to the test.
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("close on exec");
    }
    let mut restore = to.command("restore");
    restore.arg("-D").arg(&images).arg("--shell-job");
    if to == Engine::Criu {
        restore.args(["-v4", "-o", "restore.log"]);
    }
    let slave = || Stdio::from(terminal.slave.try_clone().expect("dup"));
    let mut shell = Command::new("setsid")
        .args(["--ctty", "bash", "-c", SHELL])
        .env("WORKLOAD", built_program("stasis-workload"))
        .env("DIR", &dir)
        .env("RESTORE", quoted(&restore))
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .expect("start the shell");
    drop(terminal.slave);
    // Somebody must read what is written to the terminal.
    let mut master = File::from(terminal.master);
    let screen = std::thread::spawn(move || {
        let mut text = Vec::new();
        // The end of a terminal is an error; what came before it counts.
        master.read_to_end(&mut text).ok();
        String::from_utf8_lossy(&text).into_owned()
    });
    let file = |name: &str| dir.join(name);
    let appears = |path: &Path| wait_until(Duration::from_secs(20), || path.exists());
    assert!(appears(&file("ready")), "the job does not stand");
    let pid = std::fs::read_to_string(file("ready")).expect("read").parse().expect("a pid");

    let without = by.dump(pid, &scratch.path("refused"), Dump::default());
    assert!(!without.success, "a job was dumped without --shell-job");
    let remedy = by == Engine::Criu || without.stderr.contains("shell-job");
    assert!(remedy, "no remedy: {}", without.stderr);

    by.dump(pid, &images, JOB).must_succeed("dump");
    assert!(appears(&file("ended")), "the shell does not see its job ended");
    std::fs::write(file("restore"), "").expect("write");
    let back = || {
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe == built_program("stasis-workload"))
    };
    if !wait_until(Duration::from_secs(20), || back() || file("over").exists()) || !back() {
        shell.kill().and_then(|()| shell.wait()).expect("end the shell");
        panic!("the job is not back: {}", screen.join().expect("join"));
    }
    std::fs::write(file("go"), "").expect("write");
    assert!(appears(&file("result")), "no answer from the job");
    assert!(appears(&file("over")), "the restore does not end with its job");
    let result = std::fs::read_to_string(file("result")).expect("read");
    shell.wait().expect("wait for the shell");
    assert_eq!(result, "PASS\n");
    let screen = screen.join().expect("join");
    assert!(screen.contains("from the job"), "{screen}");
}

#[test]
fn a_job_of_a_shell() {
    job(Engine::Stasis, Engine::Stasis);
}

#[test]
fn a_job_through_the_criu_face() {
    job(Engine::CriuFace, Engine::CriuFace);
}

#[test]
fn a_job_restored_by_criu_peer() {
    job(Engine::Stasis, Engine::Criu);
}

#[test]
fn a_job_dumped_by_criu_peer() {
    job(Engine::Criu, Engine::Stasis);
}

#[test]
fn a_job_carried_by_criu_peer_alone() {
    job(Engine::Criu, Engine::Criu);
}

/// A job of a session whose leader is outside of the pid namespace: its number reads 0 in there. It
/// joins the session of whoever restores it, be that another such one or an ordinary one.
#[test]
fn a_job_of_a_session_outside_of_the_pid_namespace() {
    const IN_THE_NAMESPACE: &str = r#"
        sleep 1000 < /dev/null > /dev/null 2>&1 &
        pid=$!
        [ "$(cut -d ' ' -f 5,6 /proc/$pid/stat)" = '0 0' ]
        for restore in '' setsid; do
            "$STASIS" dump $pid -D "$DIR/images$restore" --shell-job
            ! kill -0 $pid
            $restore "$STASIS" restore -D "$DIR/images$restore" --shell-job --detach
            kill -0 $pid
        done
        kill -9 $pid
    "#;
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("")).expect("mkdir");
    let shell = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "bash", "-eux", "-c", IN_THE_NAMESPACE])
        .env("STASIS", built_program("stasis"))
        .env("DIR", scratch.path(""))
        .stdin(Stdio::null())
        .output()
        .expect("start a shell");
    assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
}

/// What the target does once it is told: its reads find the end, its writes fail.
const HUNG_UP: &str = r#"
read go < "$DIR/fifo"
read line; read=$?
echo something; write=$?
echo "$read $write" > "$DIR/result"
"#;

/// A job that outlived its terminal comes back with a terminal that has hung up, wherever it is
/// restored.
#[test]
fn a_terminal_that_has_hung_up() {
    const JOB: Dump<'_> = Dump { shell_job: true, ..Dump::ENDING };
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let dir = scratch.path("work");
    std::fs::create_dir(&dir).expect("mkdir");
    let fifo = dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let terminal = openpty(None, None).expect("a pseudo terminal");
    for end in [&terminal.master, &terminal.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("close on exec");
    }
    let slave = || Stdio::from(terminal.slave.try_clone().expect("dup"));
    #[allow(clippy::zombie_processes, reason = "the machine waits for it: it is another one later")]
    // The shell may take the terminal for its own: then a hang-up would end it.
    let job = Command::new("env")
        .args(["--ignore-signal=HUP", "setsid", "bash", "-c", HUNG_UP])
        .env("DIR", &dir)
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .expect("start the job");
    let pid = i32::try_from(job.id()).expect("a pid");
    let wchan = format!("/proc/{pid}/wchan");
    let waits = || std::fs::read_to_string(&wchan).is_ok_and(|at| at.contains("partner"));
    assert!(wait_until(Duration::from_secs(20), waits), "the job does not wait");
    drop(terminal);

    let images = scratch.path("images");
    Engine::Stasis.dump(pid, &images, JOB).must_succeed("dump");
    machine.end_tree(pid);
    // Nowhere near a terminal.
    let mut restore = Command::new("setsid");
    restore.arg("--wait").arg(stasis_tests::stasis_program());
    restore.args(["restore", "--detach", "--shell-job", "-D"]).arg(&images);
    stasis_tests::Outcome::of(&mut restore).must_succeed("restore");
    std::fs::write(&fifo, "go\n").expect("write to the fifo");
    let result = dir.join("result");
    let answered = || std::fs::read_to_string(&result).is_ok_and(|text| text.ends_with('\n'));
    assert!(wait_until(Duration::from_secs(20), answered), "no answer from the job");
    assert_eq!(std::fs::read_to_string(&result).expect("read"), "1 1\n");
}
