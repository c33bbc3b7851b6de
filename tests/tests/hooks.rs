//! Action scripts: at CRIU's points, in its order, with its environment and its exit codes. Needs root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use stasis_tests::{
    Dump, Engine, Machine, Outcome, Program, Scratch, Workload, children_of, wait_until,
};

/// Says what it is told and what it sees: its name, the point, whether it was told the root, how that
/// one is, whether there are images, where it works, and whether it has a descriptor that is not its
/// business. In the end it does what it was told to do at a point.
const SCRIPT: &str = r#"#!/bin/sh
told=no
[ "$CRTOOLS_INIT_PID" = "$TARGET" ] && told=root
state=absent
if read -r _ _ found _ < /proc/$TARGET/stat; then
    state=runs
    [ "$found" = t ] && state=frozen
fi 2>/dev/null
images=none
[ -e "$CRTOOLS_IMAGE_DIR/inventory.img" ] && images=whole
work=elsewhere
[ "$(pwd -P)" = "$WORK" ] && work=there
leak=
[ -e /proc/$$/fd/9 ] && leak=' leak'
echo "${0##*/} $CRTOOLS_SCRIPT_ACTION $told $state $images $work$leak" >> "$HEARD"
echo "words at $CRTOOLS_SCRIPT_ACTION"
[ "$CRTOOLS_SCRIPT_ACTION" = "$AT" ] && eval "$DO"
exit 0
"#;

struct Case {
    scratch: Scratch,
    workload: Workload,
    /// The root of the tree: the workload, unless it is said otherwise.
    pid: i32,
    engine: Engine,
}

impl Case {
    fn new(engine: Engine) -> Self {
        let scratch = Scratch::new();
        let first = scratch.path("first");
        fs::write(&first, SCRIPT).expect("write the script");
        fs::set_permissions(&first, fs::Permissions::from_mode(0o755)).expect("chmod");
        symlink(&first, scratch.path("second")).expect("symlink");
        let workload = Workload::start("still", scratch.path("target"));
        fs::create_dir(scratch.path("work")).expect("mkdir");
        let pid = workload.pid();
        Self { scratch, workload, pid, engine }
    }

    fn images(&self) -> PathBuf {
        self.scratch.path("images")
    }

    /// With both scripts, of which the second is to do something at a point; and with a descriptor that
    /// whoever started it has left open.
    fn with_scripts(&self, command: &Command, at: &str, what: &str) -> Command {
        let mut whole = Command::new("sh");
        whole.args(["-c", r#"exec 9</dev/null; exec "$@""#, "sh"]);
        whole.arg(command.get_program()).args(command.get_args());
        whole.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        for script in ["first", "second"] {
            whole.arg("--action-script").arg(self.scratch.path(script));
        }
        let work = self.scratch.path("work").canonicalize().expect("a path");
        whole.arg("--work-dir").arg(&work);
        whole.env("WORK", work).env("HEARD", self.scratch.path("heard"));
        whole.env("TARGET", self.pid.to_string()).env("AT", at).env("DO", what);
        whole
    }

    fn dump(&self, how: Dump<'_>, at: &str, what: &str) -> Outcome {
        let command = self.engine.dump_command(self.pid, &self.images(), how);
        self.with_log(&mut self.with_scripts(&command, at, what), "dump.log")
    }

    /// With the log in what it said.
    fn with_log(&self, command: &mut Command, log: &str) -> Outcome {
        let outcome = Outcome::of(command);
        Outcome { stderr: outcome.stderr + &self.log(log), ..outcome }
    }

    fn restore(&self, at: &str, what: &str) -> Outcome {
        let command = self.engine.restore_command(&self.images(), Dump::ENDING);
        self.with_log(&mut self.with_scripts(&command, at, what), "restore.log")
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.scratch.path("work").join(name)).unwrap_or_default()
    }

    /// Whether the tree is there, and nobody traces it.
    fn runs(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.workload.pid()));
        self.workload.program().is_alive()
            && status.is_ok_and(|text| text.contains("TracerPid:\t0\n"))
    }

    /// What the scripts said, once for both: the one that was named last comes first.
    fn heard(&self) -> Vec<String> {
        let file = self.scratch.path("heard");
        let text = fs::read_to_string(&file).unwrap_or_default();
        fs::remove_file(file).ok();
        let mut said = Vec::new();
        for both in text.lines().collect::<Vec<_>>().chunks(2) {
            let [second, first] = both else { panic!("only one was started: {text}") };
            let second = second.strip_prefix("second ").expect("the second comes first");
            assert_eq!(Some(second), first.strip_prefix("first "), "{text}");
            said.push(second.to_owned());
        }
        said
    }
}

const DUMP: [&str; 2] = ["pre-dump root runs none there", "post-dump root frozen whole there"];
const RESTORE: [&str; 4] = ["pre-restore", "post-restore", "pre-resume", "post-resume"];

fn points(heard: &[String]) -> Vec<&str> {
    heard.iter().filter_map(|line| line.split(' ').next()).collect()
}

/// Which points there are, in which order, and what the scripts are told and see.
fn told(engine: Engine) {
    let machine = Machine::prepare();
    let case = Case::new(engine);
    case.dump(Dump::RUNNING_ON, "", "").must_succeed("dump");
    assert_eq!(case.heard(), DUMP);
    assert!(case.runs());
    // They are told each time anew, and there are images now.
    fs::remove_dir_all(case.images()).expect("remove the images");
    case.dump(Dump::ENDING, "", "").must_succeed("dump");
    assert_eq!(case.heard(), DUMP);
    machine.await_no_children();
    assert!(case.log("dump.log").contains("words at post-dump"), "{}", case.log("dump.log"));

    case.restore("", "").must_succeed("restore");
    let heard = case.heard();
    assert_eq!(points(&heard), RESTORE);
    assert_eq!(heard[0], "pre-restore no absent whole there");
    // Before post-resume tasks of ours are traced, and CRIU's wait. It no longer tells of the images then.
    assert!(heard[1..].iter().all(|line| line.contains(" root ")), "{heard:?}");
    assert!(heard.iter().all(|line| line.ends_with(" there")), "{heard:?}");
    assert!(heard[3].starts_with("post-resume root runs "), "{heard:?}");
    case.workload.check().expect("the program's own check");
}

/// Has a script say what is in the pidfile.
const PIDFILE: &str = r#"echo "$CRTOOLS_SCRIPT_ACTION $(cat restored.pid)" >> "$HEARD.pid""#;

/// The pidfile is written when the scripts at post-restore have agreed, before the tree is let go.
fn told_of_the_pid(engine: Engine) {
    let machine = Machine::prepare();
    let case = Case::new(engine);
    case.dump(Dump::ENDING, "", "").must_succeed("dump");
    machine.await_no_children();
    for (at, found) in [("post-restore", String::new()), ("pre-resume", case.pid.to_string())] {
        let mut command = engine.restore_command(&case.images(), Dump::ENDING);
        command.args(["--pidfile", "restored.pid"]);
        let restored = case.with_log(&mut case.with_scripts(&command, at, PIDFILE), "restore.log");
        restored.must_succeed("restore");
        let heard = fs::read_to_string(case.scratch.path("heard.pid")).expect("what was in it");
        assert!(
            heard.lines().all(|line| line.trim_end() == format!("{at} {found}").trim_end()),
            "{heard}"
        );
        fs::remove_file(case.scratch.path("heard.pid")).expect("remove");
        fs::remove_file(case.scratch.path("work/restored.pid")).expect("the pidfile");
        machine.end_tree(case.pid);
    }
}

/// Has a script leave a process running, and say which.
const LEAVE: &str = r#"sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >> "$HEARD.left""#;

/// A restore that waits for the tree is told the same before it waits. It waits for nothing that scripts
/// have left running.
fn told_when_attached(engine: Engine) {
    let machine = Machine::prepare();
    let case = Case::new(engine);
    case.dump(Dump::ENDING, "", "").must_succeed("dump");
    machine.await_no_children();
    case.heard();
    let mut command = engine.command("restore");
    command.arg("-D").arg(case.images()).args(["-v4", "-o", "restore.log"]);
    let mut command = case.with_scripts(&command, "post-restore", LEAVE);
    let mut restore = command.spawn().expect("start a restore");
    let last = || {
        case.scratch.path("heard").exists() && {
            let text = fs::read_to_string(case.scratch.path("heard")).unwrap_or_default();
            text.contains("first post-resume")
        }
    };
    assert!(wait_until(Duration::from_secs(60), last), "{}", case.log("restore.log"));
    assert_eq!(points(&case.heard()), RESTORE);
    assert!(restore.try_wait().expect("wait").is_none(), "it waits for the tree");
    let left = fs::read_to_string(case.scratch.path("heard.left")).expect("what scripts have left");
    let awaited = children_of(restore.id().cast_signed());
    assert_eq!(left.lines().count(), 2);
    assert!(
        !left.lines().any(|pid| awaited.iter().any(|child| child.to_string() == pid)),
        "{left}"
    );
    case.workload.check().expect("the program's own check");
    assert!(restore.wait().expect("wait").success());
}

/// What a script that fails does, at each point.
fn refused(engine: Engine) {
    let machine = Machine::prepare();
    let case = Case::new(engine);
    let outcome = case.dump(Dump::ENDING, "pre-dump", "exit 7");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(points(&case.heard()), ["pre-dump"]);
    assert!(!case.images().join("inventory.img").exists());
    assert!(
        case.log("dump.log").lines().any(|line| line.contains("Error") && line.contains("cript"))
    );
    assert!(case.runs());

    for what in ["exit 7", "kill -9 $$"] {
        let outcome = case.dump(Dump::ENDING, "post-dump", what);
        assert_eq!(outcome.code, Some(255), "{what}: {outcome:?}");
        assert_eq!(case.heard(), DUMP);
        assert!(case.images().join("inventory.img").exists(), "the images stay");
        assert!(case.runs());
        fs::remove_dir_all(case.images()).expect("remove the images");
    }

    case.dump(Dump::ENDING, "", "").must_succeed("dump");
    case.heard();
    machine.await_no_children();
    for (index, point) in RESTORE[..2].iter().enumerate() {
        let outcome = case.restore(point, "exit 7");
        assert_eq!(outcome.code, Some(1), "{point}: {outcome:?}");
        assert_eq!(points(&case.heard()), RESTORE[..=index]);
        machine.await_no_children();
    }
    for point in &RESTORE[2..] {
        case.restore(point, "exit 7").must_succeed(point);
        assert_eq!(points(&case.heard()), RESTORE);
        assert!(case.runs(), "{point}: it was not restored");
        machine.end_tree(case.workload.pid());
    }
}

/// A tree whose root has namespaces of its own has two more points, at which it can still be refused.
fn told_of_namespaces(engine: Engine) {
    let machine = Machine::prepare();
    let mut case = Case::new(engine);
    machine.end_tree(case.workload.pid());
    let mut command = Command::new("unshare");
    let program =
        Program::start(command.args(["--uts", "sleep", "1000"]), &case.scratch.path("log"));
    case.pid = program.pid();
    let link = |process: &str| fs::read_link(format!("/proc/{process}/ns/uts")).expect("a link");
    let there = || link(&program.pid().to_string()) != link("self");
    assert!(wait_until(Duration::from_secs(60), there), "it has no namespace of its own");
    case.dump(Dump::ENDING, "", "").must_succeed("dump");
    assert_eq!(points(&case.heard()), ["pre-dump", "post-dump"]);
    machine.await_no_children();
    let all = ["pre-restore", "setup-namespaces", "post-setup-namespaces"];
    for (index, point) in all.iter().enumerate() {
        let outcome = case.restore(point, "exit 7");
        assert_eq!(outcome.code, Some(1), "{point}: {outcome:?}");
        assert_eq!(points(&case.heard()), all[..=index]);
        machine.await_no_children();
    }
    case.restore("", "").must_succeed("restore");
    let heard = case.heard();
    assert_eq!(points(&heard), [&all[..], &RESTORE[1..]].concat());
    assert!(heard[1..].iter().all(|line| line.contains(" root ")), "{heard:?}");
    machine.end_tree(case.pid);
}

/// What brings a network up that comes back empty: the device is down, and its connections are not there yet.
const BRINGS_UP: &str = r#"#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = setup-namespaces ] || exit 0
{
    nsenter --net=/proc/$CRTOOLS_INIT_PID/ns/net sh -c 'ip -o link show lo; wc -l < /proc/net/tcp'
    nsenter --net=/proc/$CRTOOLS_INIT_PID/ns/net ip link set lo up
    for kind in net uts ipc pid mnt; do
        readlink /proc/$CRTOOLS_INIT_PID/ns/$kind
    done
    echo $CRTOOLS_INIT_PID
} > "$HEARD"
"#;

/// An empty network is filled by whoever hangs on `setup-namespaces`, before sockets are bound and connected in it.
fn fills_an_empty_network(engine: Engine, shares_pids: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (work, images) = (scratch.path("work"), scratch.path("images"));
    fs::create_dir(&work).expect("mkdir");
    let script = scratch.path("script");
    fs::write(&script, BRINGS_UP).expect("write the script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command = Command::new("unshare");
    command.args(["--net", "--uts", "--ipc"]);
    if !shares_pids {
        command.args(["--pid", "--fork", "--mount-proc", "setsid"]);
    }
    let run = format!(
        "ip link set lo up && exec {} tcp_plain {}",
        stasis_tests::built_program("stasis-workload").display(),
        work.display()
    );
    let program = Program::start(command.args(["sh", "-c", &run]), &scratch.path("log"));
    assert!(wait_until(Duration::from_secs(20), || work.join("ready").exists()), "it is not ready");
    let root = match shares_pids {
        true => program.pid(),
        false => children_of(program.pid())[0],
    };
    let how = Dump { connections: true, ..Dump::ENDING };
    let with_empty = |mut command: Command| {
        command.args(["--empty-ns", "net", "--manage-cgroups=ignore", "--external", "mnt[]"]);
        command
    };
    let dump = Outcome::of(&mut with_empty(engine.dump_command(root, &images, how)));
    let log = |name: &str| fs::read_to_string(images.join(name)).unwrap_or_default();
    assert!(dump.success, "{}", log("dump.log"));
    machine.await_no_children();
    // Who started the tree says there how it ended.
    fs::write(scratch.path("log"), "").expect("empty the log");
    let heard = scratch.path("heard");
    let mut restore = with_empty(engine.restore_command(&images, how));
    restore.arg("--action-script").arg(&script).env("HEARD", &heard);
    restore.arg("--pidfile").arg(scratch.path("pid"));
    let restore = Outcome::of(&mut restore);
    assert!(restore.success, "{}", log("restore.log"));
    let restored = fs::read_to_string(scratch.path("pid")).expect("a pid");
    let heard = fs::read_to_string(heard).expect("what the script saw");
    let lines: Vec<&str> = heard.lines().collect();
    assert!(lines[0].contains("state DOWN"), "it was not empty: {heard}");
    assert_eq!(lines[1], "1", "a socket was there before the network: {heard}");
    let link = |kind: &str| {
        fs::read_link(format!("/proc/{restored}/ns/{kind}")).expect("a link").display().to_string()
    };
    for (line, kind) in lines[2..].iter().zip(["net", "uts", "ipc"]) {
        assert_eq!(**line, link(kind), "another namespace: {heard}");
    }
    assert_eq!(lines[7], restored, "another process was named: {heard}");
    fs::write(work.join("go"), "").expect("say so");
    wait_until(Duration::from_secs(20), || work.join("result").exists());
    let told = fs::read_to_string(work.join("result")).unwrap_or_else(|error| error.to_string());
    assert_eq!(told, "PASS\n", "{}", fs::read_to_string(scratch.path("log")).unwrap_or_default());
}

#[test]
fn scripts_fill_an_empty_network() {
    fills_an_empty_network(Engine::CriuFace, true);
}

#[test]
fn scripts_fill_the_empty_network_of_an_init() {
    fills_an_empty_network(Engine::CriuFace, false);
}

#[test]
fn scripts_are_told_of_namespaces() {
    told_of_namespaces(Engine::CriuFace);
}

#[test]
fn scripts_are_told_at_the_points_of_criu() {
    told(Engine::CriuFace);
}

#[test]
fn a_pidfile_is_written_between_the_scripts_of_criu() {
    told_of_the_pid(Engine::CriuFace);
}

#[test]
fn scripts_are_told_before_a_restore_waits() {
    told_when_attached(Engine::CriuFace);
}

#[test]
fn a_script_that_fails_means_what_it_means_to_criu() {
    refused(Engine::CriuFace);
}

/// The tree stands still for a script, and the account says so.
#[test]
fn the_time_of_a_script_is_in_the_account() {
    let _machine = Machine::prepare();
    let case = Case::new(Engine::CriuFace);
    case.dump(Dump::RUNNING_ON, "post-dump", "sleep 0.2").must_succeed("dump");
    let log = case.log("dump.log");
    let line = log.lines().find(|line| line.contains("frozen for")).expect("a line of the account");
    let step = line.split(", ").find_map(|step| step.strip_prefix("hooks "));
    let took: f64 = step.expect("a step").split(' ').next().expect("ms").parse().expect("a number");
    assert!(took >= 200.0, "{line}");
    case.workload.check().expect("it runs on");
}

/// A pre-dump tells nobody, and says that the option does nothing.
#[test]
fn a_pre_dump_has_no_points() {
    let _machine = Machine::prepare();
    let case = Case::new(Engine::CriuFace);
    fs::create_dir(case.images()).expect("mkdir");
    let mut command = Engine::CriuFace.command("pre-dump");
    command.arg("-t").arg(case.workload.pid().to_string()).arg("-D").arg(case.images());
    let outcome = Outcome::of(&mut case.with_scripts(&command, "", "")).must_succeed("pre-dump");
    assert!(outcome.stderr.contains("--action-script does nothing for pre-dump"), "{outcome:?}");
    assert_eq!(case.heard(), [""; 0]);
}

/// That all of this is what CRIU does.
mod criu_peer {
    use super::*;

    #[test]
    fn tells_scripts_the_same() {
        told(Engine::Criu);
    }

    #[test]
    fn tells_scripts_of_namespaces() {
        told_of_namespaces(Engine::Criu);
    }

    #[test]
    fn has_scripts_fill_an_empty_network() {
        fills_an_empty_network(Engine::Criu, true);
    }

    #[test]
    fn tells_scripts_before_a_restore_waits() {
        told_when_attached(Engine::Criu);
    }

    #[test]
    fn takes_failures_the_same() {
        refused(Engine::Criu);
    }
}
