//! The command line: what people and scripts see.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload, stasis_program};

const RUNNING_ON: Dump<'_> = Dump::RUNNING_ON;

fn stasis(arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new(stasis_program()).args(arguments))
}

#[test]
fn check_says_what_the_kernel_can_do() {
    let _machine = Machine::prepare();
    let text = stasis(&["check"]).must_succeed("stasis check").stdout;
    assert!(text.lines().count() > 5, "{text}");
    let json = stasis(&["check", "--json"]).must_succeed("stasis check --json").stdout;
    let _: Value = serde_json::from_str(&json).expect("JSON");
}

#[test]
fn ps_names_a_process_of_ours() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let text = stasis(&["ps"]).must_succeed("stasis ps").stdout;
    let pid = workload.pid().to_string();
    let line = text.lines().find(|line| line.split_whitespace().any(|word| word == pid));
    assert!(line.is_some_and(|line| line.contains("stasis-workloa")), "{text}");
}

#[test]
fn show_tells_of_processes_memory_files_and_sizes() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("tree", scratch.path("work"));
    let images = scratch.path("images");
    let dump = Engine::Stasis.dump(workload.pid(), &images, RUNNING_ON).must_succeed("dump");
    assert!(!dump.stdout.contains('\r') && !dump.stderr.contains('\r'), "progress in a pipe");
    let images = images.to_str().expect("UTF-8");
    let text = stasis(&["show", images]).must_succeed("show").stdout;
    for word in [workload.pid().to_string().as_str(), "stasis-workloa", "shared"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    let json = stasis(&["show", images, "--json"]).must_succeed("show --json").stdout;
    let shown: Value = serde_json::from_str(&json).expect("JSON");
    assert!(shown.is_object(), "{shown}");
    workload.check().expect("the program's own check");
}

/// The command, with programs and what it takes in places of a test's own.
struct Bare {
    pins: PathBuf,
    cache: PathBuf,
}

impl Bare {
    fn new(scratch: &Scratch, name: &str) -> Self {
        let pins = format!("/sys/fs/bpf/stasis-test-{name}-{}", std::process::id()).into();
        Self { pins, cache: scratch.path("cache") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(stasis_program());
        command.args(arguments);
        command.env("STASIS_BPF_DIR", &self.pins).env("STASIS_CACHE_DIR", &self.cache);
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments)).must_succeed("stasis")
    }

    fn kept(&self) -> Value {
        serde_json::from_str(&self.run(&["programs", "--json"]).stdout).expect("JSON")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.pins).ok();
    }
}

#[test]
fn checkpoints_are_verified_and_removed() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("memory", scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, RUNNING_ON).must_succeed("dump");
    let path = images.to_str().expect("a path");
    let text = stasis(&["verify", path]).must_succeed("verify").stdout;
    assert!(text.contains("as they were written"), "{text}");
    let pages = images.join("pre-copy/pages-1.img");
    let mut bytes = std::fs::read(&pages).expect("read");
    bytes[5 << 20] ^= 4;
    std::fs::write(&pages, bytes).expect("write");
    let outcome = stasis(&["verify", "--json", path]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    let found: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!((&found["sound"], &found["damages"][1]), (&Value::Bool(false), &Value::Null));
    let damage = &found["damages"][0];
    assert!(damage["path"].as_str().is_some_and(|it| it.ends_with("pages-1.img")), "{found}");
    assert!(damage["what"].as_str().is_some_and(|it| it.contains("from 4194304")), "{found}");
    stasis(&["rm", path]).must_succeed("rm");
    assert!(!images.exists());
    let gone = stasis(&["rm", path]);
    assert!(gone.code == Some(1) && gone.stderr.contains("images"), "{}", gone.stderr);
}

#[test]
fn programs_are_loaded_shown_and_removed() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let bare = Bare::new(&scratch, "verb");
    assert!(bare.run(&["programs"]).stdout.contains("nothing"));
    let shown = bare.run(&["programs", "--load"]).stdout;
    assert!(shown.contains(bare.pins.to_str().expect("UTF-8")), "{shown}");
    assert!(shown.contains("of this version") && shown.contains("of this kernel"), "{shown}");
    let check = Outcome::of(&mut bare.command(&["check"]));
    assert!(check.stdout.ends_with(&shown), "{}", check.stdout);
    let check = Outcome::of(&mut bare.command(&["check", "--json"]));
    let check: Value = serde_json::from_str(&check.stdout).expect("JSON");
    assert_eq!(check["programs"], bare.kept());
    let removed = bare.run(&["programs", "--remove"]).stdout;
    assert_eq!(removed, "removed 1 set of programs and 1 file of offsets\n");
    assert!(bare.run(&["programs"]).stdout.contains("nothing"));
    assert!(!bare.pins.exists());
    let none = Outcome::of(&mut bare.command(&["programs", "--load", "--bpf-dir", "none"]));
    assert!(!none.success && none.stderr.contains("remedy"), "{}", none.stderr);
}

#[test]
fn bare_dumps_at_once_share_the_programs_of_the_first() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let bare = Bare::new(&scratch, "bare");
    let workloads = ["pipes", "tree", "threads"]
        .map(|name| (name, Workload::start(name, scratch.path(&format!("work-{name}")))));
    for round in 0..2 {
        std::thread::scope(|scope| {
            for (name, workload) in &workloads {
                let (bare, scratch) = (&bare, &scratch);
                scope.spawn(move || {
                    let images = scratch.path(&format!("images-{name}-{round}"));
                    let pid = workload.pid().to_string();
                    let images = images.to_str().expect("UTF-8");
                    let arguments =
                        ["dump", &pid, "-D", images, "--leave-running", "--cross-check"];
                    let dump = bare.run(&arguments);
                    assert!(!dump.stderr.contains("/proc"), "{}", dump.stderr);
                });
            }
        });
        let kept = bare.kept();
        assert_eq!(kept["pinned"].as_array().map(Vec::len), Some(1), "{kept}");
        assert_eq!(kept["pinned"][0]["used"], true, "{kept}");
    }
    for (name, workload) in &workloads {
        workload.check().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_command_killed_while_it_loads_programs_leaves_all_or_nothing() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let bare = Bare::new(&scratch, "killed");
    // As far as it comes in so long a time.
    for millis in (0..400).step_by(20) {
        let mut load = bare.command(&["programs", "--load"]);
        let mut child = load.stdout(Stdio::null()).spawn().expect("start stasis");
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().expect("kill it");
        child.wait().expect("wait for it");
        let sets = bare.kept()["pinned"].as_array().map_or(0, Vec::len);
        if sets > 0 {
            // Whole: the next one has nothing to do.
            let made = |bare: &Bare| std::fs::read_dir(&bare.pins).expect("the pins").count();
            let before = made(&bare);
            bare.run(&["programs", "--load"]);
            assert_eq!(made(&bare), before);
            bare.run(&["programs", "--remove"]);
        }
    }
    bare.run(&["programs", "--load"]);
    let names = std::fs::read_dir(&bare.pins).expect("the pins");
    let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names.len(), 1, "nothing of those that were killed: {names:?}");
}

#[test]
fn the_bpf_file_system_is_mounted_once_where_nobody_has() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let script = "while umount /sys/fs/bpf 2>/dev/null; do :; done\n\
                  \"$0\" programs --load & \"$0\" programs --load & \"$0\" programs --load & wait\n\
                  \"$0\" programs --json\n\
                  grep -c ' /sys/fs/bpf bpf ' /proc/self/mounts >&2";
    let mut unshared = Command::new("unshare");
    unshared.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(stasis_program());
    unshared.env("STASIS_CACHE_DIR", scratch.path("cache"));
    let outcome = Outcome::of(&mut unshared).must_succeed("three at once");
    assert_eq!(outcome.stderr.trim(), "1", "{outcome:?}");
    assert_eq!(outcome.stdout.matches("of this version").count(), 3, "{outcome:?}");
    assert!(outcome.stdout.contains("\"used\": true"), "{outcome:?}");
}

#[test]
fn without_the_right_to_load_programs_it_is_said_why_proc_is_read() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let bare = Bare::new(&scratch, "user");
    let workload = Workload::start("pipes", scratch.path("work"));
    // Root, but for what it takes.
    let without = |arguments: &[&str]| {
        let command = bare.command(arguments);
        let mut without = Command::new("setpriv");
        without.args(["--bounding-set", "-bpf,-perfmon,-sys_admin"]);
        without.arg(command.get_program()).args(command.get_args());
        let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        Outcome::of(without.envs(set).env("STASIS_LOG", "info"))
    };
    let images = scratch.path("images");
    let (pid, images) = (workload.pid().to_string(), images.to_str().expect("UTF-8"));
    let dump = without(&["dump", &pid, "-D", images, "--leave-running"]).must_succeed("dump");
    assert!(dump.stderr.contains("inventories come from /proc, slower"), "{}", dump.stderr);
    assert!(dump.stderr.contains("CAP_BPF"), "{}", dump.stderr);
    workload.check().expect("the program's own check");
    let load = without(&["programs", "--load"]);
    assert!(!load.success && load.stderr.contains("CAP_BPF"), "{}", load.stderr);
    assert!(without(&["programs"]).must_succeed("programs").stdout.contains("nothing"));
    assert!(!bare.pins.exists() && !bare.cache.exists());
}

#[test]
fn what_the_kernel_does_not_allow_is_said_with_the_right_that_is_missing() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let (pid, images) = (workload.pid().to_string(), scratch.path("images"));
    let images_named = images.to_str().expect("UTF-8");
    for (without, named) in [
        ("-sys_ptrace", "stasis runs without CAP_SYS_PTRACE; run it as root, where root has"),
        (
            "-sys_admin,-checkpoint_restore,-bpf,-perfmon",
            "stasis runs without CAP_CHECKPOINT_RESTORE",
        ),
    ] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", without]).arg(stasis_program());
        command.args(["dump", &pid, "-D", images_named, "--leave-running"]);
        let outcome = Outcome::of(&mut command);
        assert_eq!(outcome.code, Some(1), "{without}: {}", outcome.stderr);
        let said = outcome.stderr;
        assert!(said.contains("not permitted") || said.contains("denied"), "{without}: {said}");
        assert!(said.contains(named), "{without}: {said}");
        assert!(!images.exists());
    }
    // The first process of a machine cannot come back, whoever asks.
    let outcome = stasis(&["dump", "1", "-D", images_named]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("it is the init of this machine"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("dump the trees below it"), "{}", outcome.stderr);
    assert!(!images.exists());
    workload.check().expect("it runs on");
}

#[test]
fn bad_use_ends_with_a_status_of_its_own() {
    for arguments in [&["dump"][..], &["restore"], &["no-such-command"], &["dump", "x", "-D", "y"]]
    {
        let outcome = stasis(arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.is_empty());
    }
    let outcome = stasis(&["show", "/nonexistent/checkpoint"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("/nonexistent/checkpoint"), "{}", outcome.stderr);
}

/// What an option does not do is refused by its name, with who does it.
#[test]
fn what_cannot_be_external_is_refused_by_name() {
    let of_dump = ["file[1b:2]", "tty[8803:5]", "net[4026531840]:outside", "veth[eth0]:v0"];
    for value in of_dump {
        let told = stasis(&["dump", "1", "-D", "/nowhere", "--external", value]);
        assert!(!told.success && told.stderr.contains("criu dump"), "{value}: {}", told.stderr);
        assert!(told.stderr.contains(value), "{value}: {}", told.stderr);
    }
    for value in ["unix[7]", "file[1b:2]", "veth[eth0]:v0"] {
        let told = stasis(&["restore", "-D", "/nowhere", "--external", value]);
        assert!(!told.success && told.stderr.contains("--ext-unix-sk"), "{value}: {}", told.stderr);
    }
}

#[test]
fn who_is_not_root_is_told_so_at_once() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    const USER: u32 = 54_321;
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    // Where the user can reach it.
    let program = scratch.path("stasis");
    std::fs::copy(stasis_program(), &program).expect("copy");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, open.clone()).expect("chmod");
    std::fs::set_permissions(program.parent().expect("a directory"), open).expect("chmod");
    let images = scratch.path("closed");
    std::fs::create_dir(&images).expect("make");
    std::fs::set_permissions(&images, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    let (images, own) = (images.to_str().expect("UTF-8"), std::process::id().to_string());
    for arguments in [
        &["dump", &own, "-D", "/tmp/stasis never"][..],
        &["restore", "-D", "/nonexistent"],
        &["ps"],
        &["programs"],
        &["untrack", &own],
        &["check"],
        &["show", images],
        &["list", images],
        &["diff", images, images],
        &["verify", images],
        &["rm", images],
        &["unlock", images],
        &["criu", "dump", "-t", &own, "-D", "/nonexistent"],
        &["criu", "pre-dump", "-t", &own, "-D", "/nonexistent"],
        &["criu", "restore", "-D", "/nonexistent"],
        &["criu", "check"],
    ] {
        let mut command = Command::new(&program);
        command.args(arguments).uid(USER).gid(USER).current_dir("/");
        let outcome = Outcome::of(&mut command);
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {}", outcome.stderr);
        let said = outcome.stderr.replace('\n', " ");
        let quoted = arguments.join(" ").replace("/tmp/stasis never", "'/tmp/stasis never'");
        let remedy = format!("run as root: sudo {} {quoted}", program.display());
        assert!(said.contains(&remedy), "{arguments:?}: {said}");
        let first = outcome.stderr.lines().next().unwrap_or_default();
        let root = first.contains("this takes root, or at least CAP_SYS_PTRACE and")
            || first.contains("Permission denied");
        assert!(root, "{arguments:?}: {said}");
    }
    assert!(!std::path::Path::new("/tmp/stasis never").exists());
}

#[test]
fn what_a_killed_dump_left_is_shown_and_cleared_by_the_next() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let (images, left) = (scratch.path("images"), scratch.path(".images.stasis-tmp-1-0"));
    std::fs::create_dir(&left).expect("make");
    std::fs::write(left.join("pages-1.img"), vec![1; 100_000]).expect("write");
    let shown = stasis(&["show", images.to_str().expect("UTF-8")]);
    assert_eq!(shown.code, Some(1));
    assert!(shown.stderr.contains("was left by a dump that was killed"), "{}", shown.stderr);
    Engine::Stasis.dump(workload.pid(), &images, RUNNING_ON).must_succeed("dump");
    assert!(!left.exists());
    // A checkpoint hides no other.
    let outcome = Engine::Stasis.dump(workload.pid(), &images.join("below"), RUNNING_ON);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("lies inside the checkpoint"), "{}", outcome.stderr);
    workload.check().expect("it runs on");
}
