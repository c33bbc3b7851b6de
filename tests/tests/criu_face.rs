//! The `criu` face: CRIU's options, defaults, exit codes, log and statistics files.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use stasis_tests::{
    Dump, Engine, Machine, Outcome, Scratch, Workload, built_program, stasis_program,
};

const RUNNING_ON: Dump<'_> = Dump::RUNNING_ON;

fn criu(arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new(built_program("criu")).args(arguments))
}

#[test]
fn stasis_is_criu_by_a_word_or_by_its_name() {
    let version = criu(&["--version"]).must_succeed("criu --version").stdout;
    let mut by_word = Command::new(stasis_program());
    let mut by_name = Command::new(stasis_program());
    for command in [by_word.arg("criu"), by_name.arg0("criu")] {
        let outcome = Outcome::of(command.arg("--version")).must_succeed("--version");
        assert_eq!(outcome.stdout, version);
    }
}

#[test]
fn its_version_is_one_that_callers_accept() {
    let outcome = criu(&["--version"]).must_succeed("criu --version");
    let version = outcome.stdout.lines().find_map(|line| line.strip_prefix("Version: "));
    let (major, minor) = version.expect("a line of the version").split_once('.').expect("dots");
    let minor = minor.split('.').next().expect("a number");
    let number = (major.parse::<u32>().expect("major"), minor.parse::<u32>().expect("minor"));
    assert!(number >= (4, 2), "{number:?}");
    criu(&["check"]).must_succeed("criu check");
}

#[test]
fn options_that_are_not_supported_are_refused_by_name() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let pid = workload.pid().to_string();
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("mkdir");
    let dir = images.to_str().expect("UTF-8");
    for option in ["--lsm-profile=x", "--lazy-pages", "--stream", "--no-such-option"] {
        let outcome = criu(&["dump", "-t", &pid, "-D", dir, option]);
        assert!(!outcome.success, "{option} was accepted");
        let log = std::fs::read_to_string(images.join("dump.log")).unwrap_or_default();
        let said = outcome.stderr + &outcome.stdout + &log;
        assert!(
            said.contains(option.trim_start_matches('-').trim_end_matches("=x")),
            "{option} is not named: {said}"
        );
    }
    workload.check().expect("the program's own check");
}

/// What the image says a machine must have is looked at where that is asked for, and named where it is missing.
#[test]
fn a_restore_may_ask_for_the_processor_of_the_dump() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("still", scratch.path("work"));
    let pid = workload.pid().to_string();
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("mkdir");
    let dir = images.to_str().expect("UTF-8");
    criu(&["dump", "-t", &pid, "-D", dir, "--cpu-cap=cpu"]).must_succeed("dump");
    machine.await_no_children();
    criu(&["cpuinfo", "check", "-D", dir, "--cpu-cap"]).must_succeed("check");
    let image = images.join("cpuinfo.img");
    let own = std::fs::read(&image).expect("an image of the processor");
    // The form, which is 2, and then the first word of features.
    let mut other = own.clone();
    let first = own.windows(3).position(|bytes| bytes == [0x28, 2, 0x30]).expect("a word") + 3;
    other[first] ^= 2;
    std::fs::write(&image, &other).expect("write");
    for words in [&["cpuinfo", "check"][..], &["restore", "-d"]] {
        let words = [words, &["-D", dir, "--cpu-cap=none,cpu"]].concat();
        let outcome = criu(&words);
        assert!(
            !outcome.success && outcome.stderr.contains("word 0 of its features"),
            "{outcome:?}"
        );
        assert!(outcome.stderr.contains("--cpu-cap"), "a remedy: {outcome:?}");
    }
    std::fs::write(&image, &other[..own.len() / 2]).expect("write");
    let outcome = criu(&["cpuinfo", "check", "-D", dir]);
    assert!(!outcome.success && outcome.stderr.contains("cpuinfo.img"), "{outcome:?}");
    std::fs::write(&image, &own).expect("write");
    criu(&["restore", "-d", "-D", dir, "--cpu-cap"]).must_succeed("restore");
    workload.check().expect("the program's own check");
}

/// Either tells the other's processor, and they write the same.
#[test]
fn an_image_of_the_processor_is_that_of_criu_peer() {
    let scratch = Scratch::new();
    let dirs = ["ours", "criu"].map(|name| scratch.path(name));
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).expect("mkdir"));
    let engines = [Engine::CriuFace, Engine::Criu];
    let run = |engine: Engine, action: &str, dir: &Path| {
        let mut command = engine.command("cpuinfo");
        Outcome::of(command.args([action, "--cpu-cap=all", "-D"]).arg(dir)).must_succeed(action);
    };
    for (engine, dir) in engines.into_iter().zip(&dirs) {
        run(engine, "dump", dir);
    }
    for (engine, dir) in
        engines.into_iter().flat_map(|engine| dirs.iter().map(move |dir| (engine, dir)))
    {
        run(engine, "check", dir);
    }
    let [one, other] = dirs.map(|dir| std::fs::read(dir.join("cpuinfo.img")).expect("read"));
    assert_eq!(one, other);
}

/// A program that holds descriptor 3, and ends when it is asked to.
fn holder(of: &Path) -> std::process::Child {
    let script =
        format!("exec 3>>{}; while [ ! -e {0}.end ]; do sleep 0.1; done; echo x >&3", of.display());
    let mut command = Command::new("sh");
    let quiet = std::process::Stdio::null;
    command.args(["-c", &script]).stdin(quiet()).stdout(quiet()).stderr(quiet());
    command.process_group(0).spawn().expect("start a shell")
}

/// The name of an open device has been taken away, and another node of the device has it.
#[test]
fn a_device_is_found_by_another_node_if_that_will_do() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let node = scratch.path("null");
    let make = || {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))
            .expect("mknod");
    };
    make();
    let mut program = holder(&node);
    std::thread::sleep(std::time::Duration::from_millis(200));
    std::fs::hard_link(&node, scratch.path("second")).expect("link");
    std::fs::remove_file(&node).expect("remove");
    make();
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("mkdir");
    let (dir, pid) = (images.to_str().expect("UTF-8"), program.id().to_string());
    let dump = ["dump", "-t", &pid, "-D", dir, "-j", "--leave-running"];
    let refused = criu(&dump);
    assert!(!refused.success && refused.stderr.contains("null"), "{refused:?}");
    criu(&[&dump[..], &["--evasive-devices"]].concat()).must_succeed("dump");
    std::fs::write(scratch.path("null.end"), "").expect("write");
    assert!(program.wait().expect("wait").success());
    std::fs::remove_file(scratch.path("null.end")).expect("remove");
    criu(&["restore", "-d", "-j", "-D", dir]).must_succeed("restore");
    std::fs::write(scratch.path("null.end"), "").expect("write");
}

/// Who may read and write a file is compared, unless that is left out; what else has changed is refused all the same.
#[test]
fn permissions_may_have_changed_if_that_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let file = scratch.path("file");
    std::fs::write(&file, "").expect("write");
    let mut program = holder(&file);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("mkdir");
    let (dir, pid) = (images.to_str().expect("UTF-8"), program.id().to_string());
    let shown =
        criu(&["dump", "-t", &pid, "-D", dir, "-j", "--display-stats"]).must_succeed("dump");
    assert!(shown.stdout.contains("Displaying dump stats:\nFreezing time: "), "{shown:?}");
    program.wait().expect("wait");
    machine.await_no_children();
    let change = |mode| {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("chmod");
    };
    change(0o600);
    let restore = ["restore", "-d", "-j", "-D", dir];
    let refused = criu(&restore);
    assert!(!refused.success && refused.stderr.contains("chmod 644"), "{refused:?}");
    change(0o2600);
    let any = [&restore[..], &["--skip-file-rwx-check", "--display-stats"]].concat();
    assert!(!criu(&any).success);
    change(0o600);
    let shown = criu(&any).must_succeed("restore");
    assert!(shown.stdout.contains("Restore time: "), "{shown:?}");
    std::fs::write(scratch.path("file.end"), "").expect("write");
    let is_written = || std::fs::read(&file).is_ok_and(|text| text == b"x\n");
    assert!(stasis_tests::wait_until(std::time::Duration::from_secs(10), is_written));
}

/// CRIU takes them without a word, and its callers give them.
#[test]
fn options_that_mean_nothing_to_a_command_are_named() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let pid = workload.pid().to_string();
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("mkdir");
    let dir = images.to_str().expect("UTF-8");
    for line in
        ["dump --restore-detached --leave-running", "dump --pidfile=x -R", "check --shell-job"]
    {
        let mut words: Vec<&str> = line.split(' ').collect();
        let option = words[1].split('=').next().expect("an option");
        let said = format!("option {option} does nothing for {}", words[0]);
        if words[0] == "dump" {
            words.extend(["-t", &pid, "-D", dir]);
        }
        let outcome = criu(&words).must_succeed(line);
        assert!(outcome.stderr.contains(&said), "{line}: {}", outcome.stderr);
        assert!(!images.join("x").exists());
    }
    workload.check().expect("it runs on");
}

#[test]
fn log_statistics_and_pid_file_are_where_callers_look() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let images = scratch.path("images");
    Engine::CriuFace.dump(workload.pid(), &images, RUNNING_ON).must_succeed("dump");
    let there = |name: &str| std::fs::metadata(images.join(name)).map_or(0, |m| m.len()) > 0;
    assert!(there("inventory.img") && there("stats-dump") && there("dump.log"));
    workload.check().expect("the program's own check");
    machine.end_all();

    let workload = Workload::start("still", scratch.path("again"));
    let images = scratch.path("images-again");
    Engine::CriuFace.dump(workload.pid(), &images, Dump::default()).must_succeed("dump");
    machine.await_no_children();
    let mut restore = Engine::CriuFace.restore_command(&images, Dump::default());
    Outcome::of(restore.args(["--pidfile", "restored.pid"])).must_succeed("restore");
    let pid = std::fs::read_to_string(pid_file(&images)).expect("the pid file");
    assert_eq!(pid.trim(), workload.pid().to_string());
    let there = |name: &str| std::fs::metadata(images.join(name)).map_or(0, |m| m.len()) > 0;
    assert!(there("stats-restore") && there("restore.log"));
    workload.check().expect("the program's own check");
}

/// Relative names count from the work directory, which is the images' own here.
fn pid_file(images: &Path) -> std::path::PathBuf {
    images.join("restored.pid")
}

/// A log line with "Error" is what callers quote.
#[test]
fn a_failure_says_error_in_the_log() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("unsupported-inotify", scratch.path("work"));
    let images = scratch.path("images");
    let outcome = Engine::CriuFace.dump(workload.pid(), &images, Dump::default());
    assert_eq!(outcome.code, Some(1));
    let log = std::fs::read_to_string(images.join("dump.log")).expect("the log");
    let error = log.lines().find(|line| line.contains("Error"));
    assert!(error.is_some_and(|line| line.contains("inotify")), "{log}");
    workload.check().expect("the program's own check");
}

/// Each of CRIU's names is answered by asking the kernel, or said not to be carried; others are unknown.
#[test]
fn features_are_asked_of_the_kernel_by_name() {
    for feature in
        ["compat_cr", "mnt_id", "fdinfo_lock", "clone3_set_tid", "openat2", "ns_pid", "sk_ns"]
    {
        criu(&["check", "--feature", feature]).must_succeed(feature);
    }
    for (feature, said) in [("uffd", "--lazy-pages"), ("bogus", "no feature bogus")] {
        let outcome = criu(&["check", "--feature", feature]);
        assert!(!outcome.success && outcome.stderr.contains(said), "{feature}: {}", outcome.stderr);
    }
    let all = criu(&["check", "--all"]);
    let lacking = ["feature uffd", "Looks good but some kernel features are missing."];
    for said in lacking {
        assert!(!all.success && all.stderr.contains(said), "{}", all.stderr);
    }
}

#[test]
fn options_come_from_files_too() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("pipes", scratch.path("work"));
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("mkdir");
    let file = scratch.path("criu.conf");
    let text = format!(
        "# a comment\nleave-running\nlog-file \"from a file.log\"\nimages-dir {}\n",
        images.display()
    );
    std::fs::write(&file, text).expect("write");
    let dump = |arguments: &[&str]| {
        let mut command = Command::new(built_program("criu"));
        command.args(["dump", "-t", &workload.pid().to_string()]).args(arguments);
        Outcome::of(command.env("CRIU_CONFIG_FILE", &file))
    };
    dump(&[]).must_succeed("dump by a file of options");
    assert!(images.join("from a file.log").exists());
    dump(&["-o", "said.log"]).must_succeed("dump by a file and an option");
    assert!(images.join("said.log").exists(), "the command line counts more");
    std::fs::write(&file, "leave-running\nroot a b\n").expect("write");
    let outcome = dump(&[]);
    assert!(!outcome.success && outcome.stderr.contains("line 2"), "{}", outcome.stderr);
    workload.check().expect("the program's own check");
}
