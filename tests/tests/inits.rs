//! Trees in namespaces of their own whose root is born into them: the init of a pid namespace, and processes in a
//! time namespace. The program that makes the namespaces stays outside; what is dumped is its child.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Rig, Scratch, Workload, built_program,
    children_of, stasis_program, wait_until,
};

fn start(family: &str) -> Rig {
    Rig::start(family, 1)
}

/// The numbers of a process in each pid namespace, ours first.
fn numbers(pid: i32) -> Vec<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// What all below a process, and it, are called in the innermost namespace.
fn inside(machine: &Machine, root: i32) -> BTreeSet<i32> {
    let all = machine.descendants().into_iter().map(numbers).filter(|levels| levels.len() > 1);
    let found: BTreeSet<i32> = all.filter_map(|levels| levels.last().copied()).collect();
    assert!(numbers(root).last() == Some(&1), "the root is {:?}", numbers(root));
    found
}

#[test]
fn an_init_natively() {
    let rig = start("init");
    rig.check();
}

#[test]
fn an_init_comes_back_with_the_numbers_inside() {
    let rig = start("init");
    let before = inside(&rig.machine, rig.root);
    assert!(before.len() > 4, "{before:?}");
    rig.dump(Engine::Stasis);
    let root = rig.restore(Engine::Stasis);
    assert_eq!(inside(&rig.machine, root), before);
    rig.check();
    // With init all have ended.
    rig.machine.await_no_children();
}

/// A pid namespace that others have for themselves, too, as containers of a pod do.
struct OfOthers {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
    first: i32,
    root: i32,
}

impl OfOthers {
    fn start() -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let workload = Workload::start("init_of_others", scratch.path("work"));
        let children = children_of(workload.pid());
        let is_first = |pid: &&i32| numbers(**pid).last() == Some(&1);
        let first = *children.iter().find(is_first).expect("the first process");
        let root = *children.iter().find(|pid| !is_first(pid)).expect("another");
        Self { machine, scratch, workload, first, root }
    }

    fn dump(&self, by: Engine, more: &[&str]) -> Outcome {
        let mut command = by.dump_command(self.root, &self.scratch.path("images"), Dump::ENDING);
        Outcome::of(command.args(more))
    }

    /// Its name in the images.
    fn external(&self) -> String {
        let link = std::fs::read_link(format!("/proc/{}/ns/pid", self.first)).expect("a namespace");
        format!("{}:of others", link.to_str().expect("a number").replace(":[", "["))
    }

    /// With the namespace as an open file.
    fn restore(&self, by: Engine) -> Outcome {
        let restore = by.restore_command(&self.scratch.path("images"), Dump::ENDING);
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"namespace=$0; exec "$@" 9<"$namespace""#]);
        shell.arg(format!("/proc/{}/ns/pid", self.first)).arg(restore.get_program());
        shell.args(restore.get_args()).args(["--inherit-fd", "fd[9]:of others"]);
        Outcome::of(&mut shell)
    }

    fn must_be_right(&self) {
        std::fs::write(self.workload.path("go"), "").expect("say so");
        let result = self.workload.path("result");
        wait_until(Duration::from_secs(30), || result.exists());
        let told = std::fs::read_to_string(result).unwrap_or_else(|error| error.to_string());
        assert_eq!(told, "PASS\n", "{}", self.workload.log());
    }
}

#[test]
fn a_pid_namespace_of_others_is_given() {
    let case = OfOthers::start();
    let refused = case.dump(Engine::Stasis, &[]);
    assert!(!refused.success && refused.stderr.contains("--external 'pid["), "{}", refused.stderr);
    case.dump(Engine::Stasis, &["--external", &case.external()]).must_succeed("dump");
    let images = case.scratch.path("images");
    let missing = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!missing.success && missing.stderr.contains("--external pid["), "{}", missing.stderr);
    let mut restore = Engine::Stasis.restore_command(&images, Dump::ENDING);
    restore.args(["--external", &format!("pid[of others]:/proc/{}/ns/pid", case.first)]);
    Outcome::of(&mut restore).must_succeed("restore");
    case.must_be_right();
    // The namespace ends with its first process.
    case.machine.await_no_children();
}

fn given(by: Engine, to: Engine) {
    let case = OfOthers::start();
    case.dump(by, &["--external", &case.external()]).must_succeed("dump");
    case.restore(to).must_succeed("restore");
    case.must_be_right();
}

#[test]
fn a_pid_namespace_of_others_is_inherited() {
    given(Engine::CriuFace, Engine::CriuFace);
}

#[test]
fn a_pid_namespace_of_others_is_inherited_by_a_criu_peer() {
    given(Engine::CriuFace, Engine::Criu);
}

#[test]
fn a_pid_namespace_of_others_comes_from_a_criu_peer() {
    given(Engine::Criu, Engine::CriuFace);
}

/// A restore would make the user namespace anew.
#[test]
fn a_pid_namespace_of_another_owner_is_not_given() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut command = Command::new("unshare");
    let script = "setsid sh -c ': > there; exec sleep 1000' & wait";
    command.args(["-Urpf", "sh", "-c", script]).current_dir(scratch.path(""));
    let program = Program::start(&mut command, &scratch.path("log"));
    let is_there = || scratch.path("there").exists();
    assert!(wait_until(Duration::from_secs(20), is_there), "it does not start");
    let root = children_of(children_of(program.pid())[0])[0];
    let link = std::fs::read_link(format!("/proc/{root}/ns/pid")).expect("a namespace");
    let name = format!("{}:there", link.to_str().expect("a number").replace(":[", "["));
    let mut dump = Engine::Stasis.dump_command(root, &scratch.path("images"), Dump::RUNNING_ON);
    let refused = Outcome::of(dump.args(["--external", &name]));
    let is_named = refused.stderr.contains("it would not be the owner");
    assert!(!refused.success && is_named, "{}", refused.stderr);
    machine.end_all();
}

#[test]
fn an_init_runs_on() {
    let rig = start("init");
    let dumped = Engine::Stasis.dump(rig.root, &rig.images(), Dump::RUNNING_ON);
    dumped.must_succeed("dump");
    rig.check();
}

#[test]
fn a_restored_init_is_told_by_its_number_outside() {
    let rig = start("init");
    rig.dump(Engine::Stasis);
    let restored = Engine::Stasis.restore(&rig.images(), Dump::ENDING).must_succeed("restore");
    let told: i32 = restored.stdout.trim().parse().expect("a pid");
    assert_eq!(numbers(told), [told, 1]);
    kill(Pid::from_raw(told), Signal::SIGKILL).expect("end it");
    rig.machine.await_no_children();
    rig.restore(Engine::Stasis);
    rig.check();
}

/// A child that has ended, if one has.
fn waited() -> nix::Result<Option<Pid>> {
    waitpid(None, Some(WaitPidFlag::WNOHANG)).map(|status| status.pid())
}

/// Whatever instant it is killed at, all live or nobody does.
#[test]
fn a_killed_restore_of_an_init_leaves_nothing() {
    let rig = start("init");
    let before = inside(&rig.machine, rig.root).len();
    rig.dump(Engine::Stasis);
    for round in 0..12_u64 {
        let mut restore = Engine::Stasis.restore_command(&rig.images(), Dump::ENDING);
        let mut restore = restore.spawn().expect("restore");
        std::thread::sleep(Duration::from_millis(7 * round));
        restore.kill().expect("kill the restore");
        restore.wait().expect("wait");
        let settled = wait_until(Duration::from_secs(20), || {
            // What has come to this process by its end.
            while let Ok(Some(_)) = waited() {}
            let there = rig.machine.descendants();
            let inside = there.iter().filter(|pid| numbers(**pid).len() > 1).count();
            there.is_empty() || inside == before && there.len() == before
        });
        assert!(settled, "round {round}: {:?}", rig.machine.descendants());
        rig.machine.end_all();
    }
    rig.restore(Engine::Stasis);
    rig.check();
}

/// With a root of its own, of which the stage comes from outside.
#[test]
fn mounts_of_proc_are_in_their_groups_again() {
    let rig = start("init_proc_groups");
    let mut dump = Engine::Stasis.dump_command(rig.root, &rig.images(), Dump::ENDING);
    Outcome::of(dump.args(["--external", "mnt[/stage]:STAGE"])).must_succeed("dump");
    rig.machine.await_no_children();
    let work = rig.scratch.path("work");
    let mut restore = Engine::Stasis.restore_command(&rig.images(), Dump::ENDING);
    restore.arg("--external").arg(format!("mnt[STAGE]:{}", work.display()));
    Outcome::of(restore.arg("--root").arg(work.join("root"))).must_succeed("restore");
    rig.check();
}

#[test]
fn groups_of_proc_natively() {
    start("init_proc_groups").check();
}

#[test]
fn clocks_natively() {
    start("init_clocks").check();
}

#[test]
fn clocks_go_on() {
    start("init_clocks").carried(Engine::Stasis, Engine::Stasis);
}

#[test]
fn clocks_restored_by_criu_peer() {
    start("init_clocks").carried(Engine::Stasis, Engine::Criu);
}

#[test]
fn clocks_dumped_by_criu_peer() {
    start("init_clocks").carried(Engine::Criu, Engine::Stasis);
}

/// As people make some below a program that has none: a shell's `command` ends in `sleep 1000`. All are called what they were, and
/// the innermost sees itself in the `/proc` that it has, if it has one.
fn carried_below_a_shell(command: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{command} sleep 1000; :")]);
    let program = Program::start(&mut shell, &scratch.path("log"));
    let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let all = || {
        let found = machine.descendants().into_iter();
        found.map(|pid| (numbers(pid), name(pid))).collect::<BTreeSet<_>>()
    };
    let innermost = || all().into_iter().map(|(levels, _)| levels).max_by_key(Vec::len);
    let is_there = || {
        let found = all();
        found.iter().any(|(levels, name)| levels.len() > 1 && name == "sleep\n")
    };
    assert!(wait_until(Duration::from_secs(10), is_there), "{:?}", all());
    let shown = || {
        let pid = innermost().expect("somebody")[0];
        let path = format!("/proc/{pid}/root/proc/1/comm");
        let first = std::fs::read_to_string(path).map_err(|error| error.kind());
        // Whether somebody in there can make user namespaces.
        let mut makes = Command::new("nsenter");
        makes.args(["--user", "--target", &pid.to_string(), "unshare", "--user", "true"]);
        (first, Outcome::of(&mut makes).success)
    };
    let before = (all(), shown());
    let images = scratch.path("images");
    // What is shared on this machine a sandbox receives.
    let outside = ["--external", "mnt[]:m"];
    let mut dump = Engine::Stasis.dump_command(program.pid(), &images, Dump::ENDING);
    Outcome::of(dump.args(outside)).must_succeed("dump");
    machine.await_no_children();
    let mut restore = Engine::Stasis.restore_command(&images, Dump::ENDING);
    Outcome::of(restore.args(outside)).must_succeed("restore");
    assert_eq!((all(), shown()), before);
    machine.end_tree(program.pid());
}

#[test]
fn a_namespace_of_unshare_comes_back_below_a_shell() {
    carried_below_a_shell("unshare --pid --fork --mount-proc");
}

#[test]
fn namespaces_in_a_namespace_come_back_below_a_shell() {
    carried_below_a_shell("unshare --pid --fork unshare --pid --fork --mount-proc");
}

#[test]
fn a_sandbox_of_bubblewrap_comes_back_below_a_shell() {
    carried_below_a_shell("bwrap --bind / / --unshare-pid --proc /proc --dev /dev");
}

/// Nobody can make user namespaces in there: how many there may be is a setting of the namespace around it, in which there is nobody.
#[test]
fn a_sandbox_without_user_namespaces_stays_one() {
    carried_below_a_shell(
        "bwrap --bind / / --unshare-user --unshare-pid --disable-userns --proc /proc --dev /dev",
    );
}

/// What somebody has set of it is told, and the remedy is one. (Nobody sets `kernel.pid_max` here: of older kernels there is one for all.)
#[test]
fn a_pid_namespace_with_settings_of_its_own_is_refused() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let script = "echo 1 > /proc/sys/vm/memfd_noexec; : > there; exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["-mpf", "--mount-proc", "setsid", "sh", "-c", script]);
    let program = Program::start(command.current_dir(scratch.path("")), &scratch.path("log"));
    assert!(wait_until(Duration::from_secs(20), || scratch.path("there").exists()), "it starts");
    let first = children_of(program.pid())[0];
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    let dump = |images: &str| {
        let mut dump = Engine::Stasis.dump_command(first, &scratch.path(images), how);
        Outcome::of(dump.args(["--external", "mnt[]:m"]))
    };
    let refused = dump("refused");
    let says = |what: &str| refused.stderr.contains(what);
    assert!(!refused.success && says("pid namespace") && says("vm.memfd_noexec"), "{refused:?}");
    let target = first.to_string();
    let around = std::fs::read_to_string("/proc/sys/vm/memfd_noexec").expect("the setting");
    let back = format!("vm.memfd_noexec={}", around.trim());
    let mut remedy = Command::new("nsenter");
    remedy.args(["--target", &target, "--pid", "sysctl", "-w", &back]);
    Outcome::of(&mut remedy).must_succeed("the remedy");
    dump("carried").must_succeed("dump");
    machine.end_all();
}

/// Everything happens in a pid namespace in which stasis itself is.
const INSIDE: &str = r#"
mount -t bpf bpf "$STASIS_BPF_DIR/.." || exit 1
setsid "$WORKLOAD" seccomp "$DIR" </dev/null >"$DIR/log" 2>&1 &
while [ ! -e "$DIR/ready" ]; do sleep 0.02; done
"$STASIS" dump $! -D "$DIR/images" && "$STASIS" restore -D "$DIR/images" --detach || exit 1
touch "$DIR/go"
while [ ! -e "$DIR/result" ]; do sleep 0.02; done
grep PASS "$DIR/result"
"#;

/// The programs tell the numbers that their reader knows. (Filters of system calls cannot be dumped without them.)
#[test]
fn programs_are_used_in_a_pid_namespace_of_stasis_itself() {
    programs_are_used_inside(&[]);
}

/// The programs tell times by the clock of their reader's time namespace.
#[test]
fn programs_are_used_in_a_time_namespace_of_stasis_itself() {
    programs_are_used_inside(&["--time", "--boottime", "86400"]);
}

fn programs_are_used_inside(more: &[&str]) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let dir = scratch.path("work");
    std::fs::create_dir_all(scratch.path("bpf/programs")).expect("mkdir");
    std::fs::create_dir(&dir).expect("mkdir");
    let mut shell = Command::new("timeout");
    shell
        .args(["60", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(more)
        .args(["bash", "-c", INSIDE])
        .env("WORKLOAD", built_program("stasis-workload"))
        .env("STASIS", stasis_program())
        .env("STASIS_BPF_DIR", scratch.path("bpf/programs"))
        .env("STASIS_CROSS_CHECK", "yes")
        .env("DIR", &dir);
    Outcome::of(&mut shell).must_succeed("a dump and a restore inside");
}

/// Processes come and go in it while it is looked at: what is gone stands in nobody's way, and what is born has not come from outside.
#[test]
fn where_processes_are_born_without_pause() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let script = "for k in 1 2 3 4 5 6; do (while :; do (true | cat | wc > /dev/null); done) & done
: > there; exec sleep 1000";
    let mut command = Command::new("unshare");
    command.args(["-mpf", "--mount-proc", "setsid", "sh", "-c", script]);
    let program = Program::start(command.current_dir(scratch.path("")), &scratch.path("log"));
    assert!(wait_until(Duration::from_secs(20), || scratch.path("there").exists()), "it starts");
    let first = children_of(program.pid())[0];
    for nth in 0..8 {
        let images = scratch.path(&format!("images-{nth}"));
        let mut dump = Engine::Stasis.dump_command(first, &images, Dump::RUNNING_ON);
        Outcome::of(dump.args(["--external", "mnt[]:m"])).must_succeed("dump");
    }
    machine.end_all();
}
