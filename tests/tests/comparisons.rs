//! `stasis list` and `stasis diff`: which checkpoints there are, and what differs between two.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stasis_tests::{Machine, Outcome, Program, Scratch, stasis_program, wait_until};

/// Holds 64 pages of its own of a file; when it is told to go on it changes three of them, opens a file and begins a thread.
const PROGRAM: &str = "
import mmap, os, sys, threading, time
with open(sys.argv[1] + '/data', 'w+b') as data:
    data.truncate(64 * 4096)
    memory = mmap.mmap(data.fileno(), 64 * 4096, flags=mmap.MAP_PRIVATE)
for page in range(64):
    memory[page * 4096] = page + 1
print('ready', flush=True)
while not os.path.exists(sys.argv[1] + '/go'):
    time.sleep(0.01)
for page in (1, 2, 40):
    memory[page * 4096 + 9] = 0xff
opened = open(sys.argv[1] + '/go')
threading.Thread(target=time.sleep, args=(10 ** 6,), daemon=True).start()
print('changed', flush=True)
while True:
    time.sleep(0.01)
";

fn stasis(arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new(stasis_program()).args(arguments))
}

fn said(log: &Path, word: &str) {
    let said = || fs::read_to_string(log).unwrap_or_default();
    let heard = wait_until(Duration::from_secs(30), || said().lines().any(|line| line == word));
    assert!(heard, "{word}: {}", said());
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Two checkpoints of one program, the second an increment of the first.
fn two(scratch: &Scratch) -> Program {
    let log = scratch.path("log");
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).arg(scratch.path("")).current_dir("/");
    let program = Program::start(&mut command, &log);
    said(&log, "ready");
    let pid = program.pid().to_string();
    let (first, second) = (scratch.path("all/one"), scratch.path("all/deeper/two"));
    fs::create_dir_all(scratch.path("all/deeper")).expect("mkdir");
    let dump = ["dump", &pid, "--leave-running", "--track", "-D"];
    let labels = ["--labels", "of=tests,first=yes"];
    stasis(&[&dump[..], &[text(&first)], &labels].concat()).must_succeed("the first dump");
    fs::write(scratch.path("go"), "").expect("say so");
    said(&log, "changed");
    let parent = ["--parent", text(&first)];
    stasis(&[&dump[..], &[text(&second)], &parent].concat()).must_succeed("the second dump");
    program
}

#[test]
fn they_tell_what_there_is_and_what_differs() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let program = two(&scratch);
    let pid = program.pid();
    let (all, first, second) =
        (scratch.path("all"), scratch.path("all/one"), scratch.path("all/deeper/two"));

    let listed = stasis(&["list", text(&all)]).must_succeed("list").stdout;
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].ends_with("deeper/two (after one)"), "{listed}");
    assert!(lines[2].ends_with("one [first=yes, of=tests]"), "{listed}");
    let labelled = |labels: &str| stasis(&["list", text(&all), "--labels", labels]).stdout;
    assert_eq!(labelled("of=tests").lines().count(), 2);
    assert_eq!(labelled("of=others").lines().count(), 1);
    assert_eq!(stasis(&["list", text(&all), "--labels", "of"]).code, Some(2), "no label");
    assert!(lines[1].contains(&pid.to_string()) && lines[1].contains("python3"), "{listed}");
    let json = stasis(&["list", text(&all), "--json"]).must_succeed("list --json").stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["checkpoints"][1]["pid"], pid, "{json}");
    let root = Outcome::of(
        Command::new(stasis_program()).arg("list").env("STASIS_CHECKPOINTS", text(&all)),
    );
    assert_eq!(root.must_succeed("list without a directory").stdout, listed);

    let same = stasis(&["diff", text(&first), text(&first)]).must_succeed("diff").stdout;
    assert!(same.contains("are the same"), "{same}");
    let shown = stasis(&["diff", text(&first), text(&second)]).must_succeed("diff").stdout;
    for part in ["--- ", "+++ ", "\nTasks\n", "\nMemory: ", "\nFiles: file ", "frozen for"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let json = stasis(&["diff", "--json", text(&first), text(&second)]).must_succeed("diff").stdout;
    let found: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(found["same"], false, "{found}");
    let rows = found["memory"]["mappings"].as_array().expect("mappings");
    let data = text(&scratch.path("data")).to_owned();
    let ours = rows.iter().find(|row| row["file"].as_str() == Some(&data));
    let ours = ours.unwrap_or_else(|| panic!("the file's pages: {shown}"));
    let pages = |what: &str| ours[what]["pages"].as_u64();
    assert_eq!((pages("changed"), pages("same")), (Some(3), Some(61)), "{shown}");
    assert_eq!(ours["presence"], "both", "{shown}");
    let opened = found["files"]["opened"].as_array().expect("files");
    let go = text(&scratch.path("go")).to_owned();
    assert!(opened.iter().any(|file| file["what"].as_str() == Some(&go)), "{shown}");
    let came = found["tasks"]["came"].as_array().expect("tasks");
    assert!(came.len() == 1 && came[0]["process"] == pid, "{shown}");
    let parents = &found["after"]["parent_bytes"];
    assert!(parents.as_u64() > Some(60 * 4096), "it is an increment: {found}");
}

#[test]
fn what_cannot_be_read_is_said() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let none = stasis(&["list", text(&scratch.path("none"))]);
    assert!(!none.success && none.stderr.contains("remedy"), "{}", none.stderr);
    let empty = scratch.path("empty");
    fs::create_dir(&empty).expect("mkdir");
    let listed = stasis(&["list", text(&empty)]).must_succeed("list").stdout;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    let no_checkpoint = stasis(&["diff", text(&empty), text(&empty)]);
    assert!(no_checkpoint.stderr.contains("is not a checkpoint"), "{}", no_checkpoint.stderr);

    let closed = scratch.path("closed");
    fs::create_dir(&closed).expect("mkdir");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("chmod");
    let program = scratch.path("stasis");
    fs::copy(stasis_program(), &program).expect("copy");
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=54322", "--regid=54322", "--clear-groups", "--"]);
    let denied = Outcome::of(command.arg(program).args(["list", text(&closed)]));
    assert!(!denied.success && denied.stderr.contains("run as root: sudo"), "{}", denied.stderr);
}
