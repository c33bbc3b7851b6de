//! Restores as a whole: killed in the middle, right after the dump, and whose child the root is.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use stasis_tests::faults::{Random, SHAPES};
use stasis_tests::killed_restores::{RestoreRig, RestoreVictim};
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Scratch, Services, Workload, built_program,
    stasis_program, wait_until,
};

/// Afterwards all live or nobody does, and what was told is so; what `make faults` does at length.
#[test]
fn all_that_restores_killed_at_random_instants() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    let mut random = Random::new(0x5eed);
    for shape in SHAPES.iter().filter(|shape| ["threads", "processes"].contains(&shape.name)) {
        let random = random.another();
        let mut rig = RestoreRig::start(&machine, &scratch, &mut services, shape, false, random);
        for victim in RestoreVictim::ALL {
            rig.kill(victim, if victim == RestoreVictim::Service { 6 } else { 12 });
        }
        rig.end();
    }
}

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

/// The test is the parent of the target.
fn ended(scratch: &Scratch) -> (Workload, std::path::PathBuf) {
    let workload = Workload::start("pulse", scratch.path("work"));
    let images = scratch.path("images");
    let dumped = Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    let said = [workload.pid().to_string(), std::process::id().to_string()];
    assert!(said.iter().all(|word| dumped.stderr.contains(word)), "{}", dumped.stderr);
    (workload, images)
}

#[test]
fn a_parent_that_does_not_wait_for_the_ended_root_is_named() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let (workload, images) = ended(&scratch);
    let restored = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!restored.success, "restored beside a zombie");
    let ours = std::process::id().to_string();
    for word in ["zombie", &workload.pid().to_string(), &ours] {
        assert!(restored.stderr.contains(word), "{word} is not in: {}", restored.stderr);
    }
}

#[test]
fn a_parent_that_waits_late_is_waited_for() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (workload, images) = ended(&scratch);
    let mut restore = Engine::Stasis.restore_command(&images, Dump::ENDING);
    let mut restore = restore.stdout(Stdio::null()).spawn().expect("start the restore");
    // It has the directory open once it has begun.
    let begun = || {
        let path = format!("/proc/{}/wchan", restore.id());
        std::fs::read_to_string(path).is_ok_and(|at| at.contains("poll"))
    };
    assert!(wait_until(std::time::Duration::from_secs(20), begun), "it does not wait");
    waitpid(Pid::from_raw(workload.pid()), None).expect("wait for the target");
    assert!(restore.wait().expect("wait").success(), "not restored");
    workload.check().expect("the program's own check");
    machine.end_tree(workload.pid());
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

/// The signal that it asked for at its parent's death comes from the parent that it has then.
#[test]
fn a_root_with_a_parent_death_signal_outlives_the_restorer() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let program = with_parent_death_signal(&scratch);
    for (round, engine) in [Engine::Stasis, Engine::CriuFace].into_iter().enumerate() {
        let images = scratch.path(&format!("images-{round}"));
        engine.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
        machine.await_no_children();
        engine.restore(&images, Dump::ENDING).must_succeed("restore");
        // The restorer has ended, and the signal would have come with that.
        let ended =
            waitpid(Pid::from_raw(program.pid()), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        assert_eq!(ended, Ok(nix::sys::wait::WaitStatus::StillAlive), "by {engine:?}");
        let again = scratch.path(&format!("again-{round}"));
        engine.dump(program.pid(), &again, Dump::RUNNING_ON).must_succeed("dump what lives");
    }
    // A parent that waits for it is its parent: with that one it goes.
    let images = scratch.path("images-foreground");
    Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let mut restore = Engine::Stasis.command("restore");
    let mut restore = restore.arg("-D").arg(&images).spawn().expect("start the restore");
    assert!(wait_until(std::time::Duration::from_secs(20), || program.is_alive()), "not back");
    let parent = || parent_of(program.pid()) == i32::try_from(restore.id()).ok();
    assert!(wait_until(std::time::Duration::from_secs(20), parent), "another parent");
    let runs = || runs_program(program.pid(), "sleep");
    assert!(wait_until(std::time::Duration::from_secs(20), runs), "it does not run");
    restore.kill().expect("kill the restore");
    restore.wait().expect("wait");
    let gone = || !program.is_alive();
    assert!(wait_until(std::time::Duration::from_secs(10), gone), "it outlives its parent");
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// Whether it has left the restorer behind: it is traced by nobody.
fn runs_program(pid: i32, name: &str) -> bool {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    exe.file_name() == Path::new(name).file_name() && status.contains("TracerPid:\t0")
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

/// The command that restores, under a hard limit of open files.
fn restore_under(limit: usize, images: &Path) -> Outcome {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={limit}:{limit}")).arg(stasis_program());
    Outcome::of(command.args(["restore", "--detach", "-D"]).arg(images))
}

fn set_limit(pid: i32, limit: usize) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:{limit}")]);
    Outcome::of(&mut command).must_succeed("set the limit of open files");
}

/// Where each descriptor of a process leads, by its number; of what has no path, of which kind it is.
fn descriptors(pid: i32) -> Vec<(usize, std::path::PathBuf)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let link = std::fs::read_link(entry.path()).ok()?;
            let kind = link.to_str()?.split('[').next()?;
            Some((number, std::path::PathBuf::from(kind)))
        })
        .collect();
    found.sort();
    found
}

/// All but two of the numbers that its limit allows are in use, and the restore has no more.
#[test]
fn a_process_with_as_many_open_files_as_it_may_have() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let size = [("STASIS_WORKLOAD_COUNT", "500")];
    let workload = Workload::start_with("many_files", scratch.path("work"), &size);
    let pid = workload.pid();
    let open = descriptors(pid);
    let highest = open.last().expect("descriptors").0;
    let limit = (open.len() + 2).max(highest + 1);
    set_limit(pid, limit);
    let images = scratch.path("images");
    Engine::Stasis.dump(pid, &images, Dump::ENDING).must_succeed("dump");
    machine.end_tree(pid);
    restore_under(limit, &images).must_succeed("restore under the limit of the process");
    let now = descriptors(pid);
    assert_eq!(open.len(), now.len());
    assert!(open.iter().zip(&now).all(|(before, after)| before.0 == after.0), "other numbers");
    workload.check().expect("the program's own check");
    machine.end_tree(pid);
}

/// Files that are written to and removed, as temporary ones are; two descriptors lead to each.
const DELETED: &str = r#"
for file in $(seq 150); do
    exec {number}<>"$DIR/$file"
    echo $file >&$number
    exec {other}<"$DIR/$file"
    rm "$DIR/$file"
done
exec sleep 1000
"#;

/// Those of a process with deleted files are numbered without a gap, so that none is left for the restore.
#[test]
fn a_process_with_as_many_deleted_files_open_as_it_may_have() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let dir = scratch.path("work");
    std::fs::create_dir(&dir).expect("mkdir");
    let mut command = Command::new("bash");
    command.args(["-c", DELETED]).env("DIR", &dir);
    let program = Program::start(&mut command, &scratch.path("log"));
    let pid = program.pid();
    // Programs read their locale by a descriptor more when they start.
    let sleeps = || runs_program(pid, "sleep") && descriptors(pid).len() == 303;
    assert!(wait_until(std::time::Duration::from_secs(20), sleeps), "it does not stand");
    let open = descriptors(pid);
    let limit = (open.len() + 2).max(open.last().expect("descriptors").0 + 1);
    set_limit(pid, limit);
    let images = scratch.path("images");
    Engine::Stasis.dump(pid, &images, Dump::ENDING).must_succeed("dump");
    machine.end_tree(pid);
    restore_under(limit, &images).must_succeed("restore under the limit of the process");
    assert_eq!(open, descriptors(pid));
    let read = |number: usize| std::fs::read(format!("/proc/{pid}/fd/{number}")).expect("read");
    let last = open.last().expect("descriptors").0;
    assert_eq!((read(last), read(last - 1)), (b"150\n".to_vec(), b"150\n".to_vec()));
    assert!(std::fs::read_dir(&dir).expect("list").next().is_none(), "a name is left");
    machine.end_tree(pid);
}

/// Four processes with a hundred files each.
const FILES_OF_FOUR: &str = r#"
for process in 1 2 3 4; do
    (
        for file in $(seq 100); do
            : > "$DIR/$process-$file"
            exec {number}<>"$DIR/$process-$file"
        done
        exec sleep 1000
    ) &
done
wait
"#;

/// All together have more than one process of the restore may have.
#[test]
fn processes_that_together_have_more_open_files_than_one_may_have() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let dir = scratch.path("work");
    std::fs::create_dir(&dir).expect("mkdir");
    let mut command = Command::new("bash");
    command.args(["-c", FILES_OF_FOUR]).env("DIR", &dir);
    let program = Program::start(&mut command, &scratch.path("log"));
    let pid = program.pid();
    let tree = || stasis_tests::children_of(pid);
    // Until it sleeps, its libraries are being opened.
    let sleeps = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        runs_program(pid, "sleep") && status.contains("State:\tS")
    };
    let stand = || {
        let tree = tree();
        tree.len() == 4 && tree.iter().all(|pid| sleeps(*pid))
    };
    assert!(wait_until(std::time::Duration::from_secs(20), stand), "they do not stand");
    let tree = tree();
    let before: Vec<_> = tree.iter().map(|pid| descriptors(*pid)).collect();
    assert!(before.iter().all(|open| open.len() >= 100));
    let limit = 256;
    for pid in tree.iter().chain([&pid]) {
        set_limit(*pid, limit);
    }
    let images = scratch.path("images");
    Engine::Stasis.dump(pid, &images, Dump::ENDING).must_succeed("dump");
    machine.end_tree(pid);
    restore_under(limit, &images).must_succeed("restore under the limit of each");
    let now: Vec<_> = tree.iter().map(|pid| descriptors(*pid)).collect();
    assert!(before == now, "other descriptors: {now:?}");
    machine.end_tree(pid);
}

/// A worker whose service ended before it could ask to end with it makes nothing: nobody would know.
#[test]
fn a_worker_without_its_service_restores_nothing() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let (_workload, images) = ended(&scratch);
    let work = serde_json::json!({
        "images_dir": images, "after": "resume", "shell_job": false, "cgroups": "soft",
        "tcp_close": false, "on_behalf_of": null, "records": scratch.path("restores"),
        "labels": {}, "service": 1,
        "keys": {"trust": null, "identities": {"identities": null, "identity_command": null}, "demand": false},
    });
    let mut worker = Command::new(built_program("stasis-restorer"))
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a worker");
    let mut input = worker.stdin.take().expect("its input");
    std::io::Write::write_all(&mut input, work.to_string().as_bytes()).expect("ask it");
    drop(input);
    let output = worker.wait_with_output().expect("wait");
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.contains("service that asked for it has ended"), "{answer}");
    assert!(!scratch.path("restores").exists());
}

/// The program starts itself again for the layout of the tree's memory.
#[test]
fn a_restore_keeps_its_name() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start("still", scratch.path("work"));
    let images = scratch.path("images");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    waitpid(Pid::from_raw(workload.pid()), None).expect("reap");
    let mut restore = Command::new(stasis_program());
    restore.args(["restore", "-D"]).arg(&images).stdout(Stdio::null());
    let mut waiting = restore.spawn().expect("restore");
    let back = wait_until(std::time::Duration::from_secs(10), || workload.program().is_alive());
    assert!(back, "it is not restored");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", waiting.id())).expect("a name");
    assert_eq!(name, "stasis\n");
    workload.check().expect("it is what it was");
    waiting.wait().expect("reap");
}

/// The number of a process stays in use while its group has members; one that was left behind is not of the tree.
#[test]
fn who_is_left_of_a_group_of_the_tree_is_named() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut command = Command::new("sh");
    let pid_file = scratch.path("left");
    command.args(["-c", "(sleep 1000 & echo $! > $0); exec sleep 1001"]).arg(&pid_file);
    let program = Program::start(&mut command, &scratch.path("log"));
    let pid = program.pid();
    let mut left = None;
    assert!(
        wait_until(std::time::Duration::from_secs(20), || {
            left =
                std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
            left.is_some_and(|left| parent_of(left) != Some(pid))
                && runs_program(pid, "sleep")
                && stasis_tests::children_of(pid).is_empty()
        }),
        "nobody was left behind"
    );
    let left: i32 = left.expect("who was left behind");
    let images = scratch.path("images");
    Engine::Stasis.dump(pid, &images, Dump::ENDING).must_succeed("dump");
    machine.await_gone(pid);
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!refused.success, "a number has two owners");
    for words in [format!("process {left} (sleep) is in"), format!("kill {left}")] {
        assert!(refused.stderr.contains(&words), "{words:?} is not in: {}", refused.stderr);
    }
    machine.end_tree(left);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(program.is_alive());
}
