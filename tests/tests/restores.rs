//! Restores as a whole: right after the dump, whose child the root is, and what could not come back.

use std::process::Command;

use stasis_tests::{
    Dump, Engine, Machine, Outcome, Program, Scratch, Services, Workload, built_program,
    stasis_program, wait_until,
};

/// The target is a shell's child, as is whoever dumps and restores it.
const AT_ONCE: &str = r#"
setsid "$WORKLOAD" dirty "$DIR" </dev/null >"$DIR.log" 2>&1 &
while [ ! -e "$DIR/ready" ]; do sleep 0.02; done
echo $! > "$DIR/pid"
"$STASIS" dump $! -D "$DIR/images" && "$STASIS" restore -D "$DIR/images" --detach
"#;

/// A tree with much memory takes a while to end.
#[test]
fn a_restore_right_after_the_dump() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    for round in 0..4 {
        let dir = scratch.path(&format!("round-{round}"));
        std::fs::create_dir(&dir).expect("mkdir");
        let mut shell = Command::new("bash");
        shell
            .args(["-c", AT_ONCE])
            .env("WORKLOAD", built_program("stasis-workload"))
            .env("STASIS", stasis_program())
            .env("STASIS_WORKLOAD_MIB", "400")
            .env("STASIS_WORKLOAD_RATE", "1")
            .env("DIR", &dir);
        Outcome::of(&mut shell).must_succeed("a dump and a restore at once");
        let pid = std::fs::read_to_string(dir.join("pid")).expect("read");
        machine.end_tree(pid.trim().parse().expect("a pid"));
        std::fs::remove_dir_all(dir.join("images")).expect("remove");
    }
}

fn with_parent_death_signal(scratch: &Scratch) -> Program {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "sleep", "1000"]);
    let program = Program::start(&mut command, &scratch.path("log"));
    let sleeps = || {
        std::fs::read_to_string(format!("/proc/{}/comm", program.pid()))
            .is_ok_and(|name| name == "sleep\n")
    };
    assert!(wait_until(std::time::Duration::from_secs(10), sleeps), "setpriv does not start");
    program
}

/// The signal that it asked for at its parent's death would come as soon as the restore ends.
#[test]
fn a_root_with_a_parent_death_signal_is_not_left_by_its_parent() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let program = with_parent_death_signal(&scratch);
    let images = scratch.path("images");
    Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!refused.success, "its parent ends, and it is killed");
    for word in ["PR_SET_PDEATHSIG", "--detach"] {
        assert!(refused.stderr.contains(word), "{word} is not in: {}", refused.stderr);
    }
    let mut restore = Engine::Stasis.command("restore");
    let mut restore = restore.arg("-D").arg(&images).spawn().expect("start the restore");
    let runs = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()));
        status.is_ok_and(|text| text.contains("Name:\tsleep\n") && text.contains("TracerPid:\t0\n"))
    };
    assert!(wait_until(std::time::Duration::from_secs(20), runs), "it does not run");
    machine.end_tree(program.pid());
    restore.kill().ok();
    restore.wait().ok();
}

/// To the kernel a parent is a thread, and the service's threads come and go.
#[test]
fn a_root_with_a_parent_death_signal_is_the_child_of_a_thread_that_stays() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let program = with_parent_death_signal(&scratch);
    services.checkpoint(program.pid(), "root", false).expect("a checkpoint");
    machine.end_tree(program.pid());
    services.restore("root").expect("a restore");
    let tasks = format!("/proc/{}/task", services.pid("restorer"));
    let parent = std::fs::read_dir(tasks).expect("list").flatten().find(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_whitespace().any(|child| child == program.pid().to_string())
    });
    let parent = parent.expect("it is the service's child").path().join("comm");
    assert_eq!(std::fs::read_to_string(parent).expect("read"), "parent\n");
}

/// Its files would not fit beside their numbers: said before it is ended.
#[test]
fn a_tree_whose_files_the_restore_has_no_room_for() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let size = [("STASIS_WORKLOAD_COUNT", "500")];
    let workload = Workload::start_with("many_files", scratch.path("work"), &size);
    let images = scratch.path("images");
    let mut command = Command::new("prlimit");
    command.arg("--nofile=1200:1200").arg(stasis_program()).arg("dump");
    let refused = Outcome::of(command.arg(workload.pid().to_string()).arg("-D").arg(&images));
    assert!(!refused.success, "dumped to its end");
    assert!(refused.stderr.contains("ulimit -n"), "{}", refused.stderr);
    assert!(!images.exists(), "a refused dump leaves no directory");
    workload.check().expect("the program's own check");
    machine.end_tree(workload.pid());
}
