//! Trees with user namespaces below that of their root, as programs make them that sandbox others: unshare(1), bwrap(1). What is
//! compared is what the machine's root sees of every process before and afterwards. These tests need root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ids::HostPid;
use kernel::namespaces::id;
use kernel::sched::{Scheduling, io_priority, scheduling, set_io_priority, set_scheduling};
use kernel::user_namespaces::owner_of;
use nix::sched::{CloneFlags, unshare};
use stasis_tests::{
    Dump, Engine, Machine, Outcome, Program, Scratch, children_of, require, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);
const KINDS: [&str; 8] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"];

/// A tree whose first process is the program, in a session of its own.
struct Tree {
    machine: Machine,
    scratch: Scratch,
    program: Program,
}

impl Tree {
    /// Starts a program, whose tree has `processes` when all is there; the last of it then writes the file `there` below the
    /// directory that it is told (`$STAGE`).
    fn start(arguments: &[&str], processes: usize) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let stage = scratch.path("stage");
        fs::create_dir(&stage).expect("mkdir");
        std::os::unix::fs::chown(&stage, Some(1234), Some(1234)).expect("chown");
        fs::set_permissions(&stage, fs::Permissions::from_mode(0o777)).expect("chmod");
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]).env("STAGE", &stage);
        let program = Program::start(&mut command, &scratch.path("log"));
        let tree = Self { machine, scratch, program };
        let is_there =
            || tree.scratch.path("stage/there").exists() && tree.processes().len() == processes;
        let said = || fs::read_to_string(tree.scratch.path("log")).unwrap_or_default();
        assert!(wait_until(PATIENCE, is_there), "{}", said());
        // Some may have been born and not executed their programs yet.
        let stands = || {
            let before = tree.seen();
            std::thread::sleep(Duration::from_millis(200));
            before == tree.seen()
        };
        assert!(wait_until(PATIENCE, stands), "it does not come to stand");
        tree
    }

    fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.program.pid()];
        let mut nth = 0;
        while let Some(&pid) = all.get(nth) {
            all.extend(children_of(pid));
            nth += 1;
        }
        all
    }

    /// Dumped, ended and restored all is as it was, and the last process goes on.
    fn carried(&self) {
        let before = self.seen();
        let images = self.scratch.path("images");
        // What is shared on this machine a sandbox receives.
        let outside = ["--external", "mnt[]:m"];
        let mut dump = Engine::Stasis.dump_command(self.program.pid(), &images, Dump::ENDING);
        Outcome::of(dump.args(outside)).must_succeed("dump");
        self.machine.await_no_children();
        // Who started the tree says there how it ended.
        fs::write(self.scratch.path("log"), "").expect("empty the log");
        let mut restore = Engine::Stasis.restore_command(&images, Dump::ENDING);
        Outcome::of(restore.args(outside)).must_succeed("restore");
        let after = self.seen();
        let pairs = before.iter().zip(&after).filter(|(one, two)| one != two);
        let differ: Vec<_> = pairs.map(|(one, two)| format!("{one}\n{two}")).collect();
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        assert_eq!(before.len(), after.len(), "{before:#?}\n{after:#?}");
        fs::write(self.scratch.path("stage/go"), "go\n").expect("say so");
        let result = self.scratch.path("stage/result");
        wait_until(PATIENCE, || result.exists());
        let told = fs::read_to_string(result).unwrap_or_else(|error| error.to_string());
        let log = fs::read_to_string(self.scratch.path("log")).unwrap_or_default();
        assert_eq!(told, "PASS\n", "{log}");
        self.machine.end_all();
    }

    /// What can be seen of all processes, namespaces by the order in which they come.
    fn seen(&self) -> Vec<String> {
        let mut known = Vec::new();
        let mut lines = Vec::new();
        for pid in self.processes() {
            let told = see(pid, pid == self.program.pid(), &mut known, &mut lines);
            // One that was about to end has; then it has not come to stand.
            lines.extend(told.err().map(|error| format!("{pid}: {error}")));
        }
        lines
    }
}

fn number(known: &mut Vec<u64>, namespace: u64) -> usize {
    let place = known.iter().position(|it| *it == namespace);
    place.unwrap_or_else(|| {
        known.push(namespace);
        known.len() - 1
    })
}

/// How a process is scheduled, and its I/O priority.
fn scheduled(pid: i32) -> (Scheduling, u32) {
    let pid = HostPid::new(pid).expect("a number");
    (scheduling(pid).expect("scheduling"), io_priority(pid).expect("I/O priority"))
}

fn see(pid: i32, is_root: bool, known: &mut Vec<u64>, lines: &mut Vec<String>) -> io::Result<()> {
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let mut say = |what: &str, value: String| lines.push(format!("{pid} {what}: {value}"));
    for kind in KINDS {
        let namespace = File::open(path(&format!("ns/{kind}")))?;
        let own = number(known, namespace.metadata()?.ino());
        let owner = owner_of(&namespace).and_then(id).ok();
        let owner = owner.map(|owner| number(known, owner));
        say(kind, format!("{own} of {owner:?}"));
    }
    let told = [
        "Name",
        "Umask",
        "PPid",
        "Uid",
        "Gid",
        "Groups",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    ];
    for line in fs::read_to_string(path("status"))?.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if told.contains(&name) && !(is_root && name == "PPid") {
            say(name, value.trim().to_owned());
        }
    }
    for name in ["uid_map", "gid_map", "setgroups", "oom_score_adj"] {
        say(name, fs::read_to_string(path(name)).unwrap_or_default());
    }
    say("scheduling", format!("{:?}", scheduled(pid)));
    for name in ["cwd", "root", "exe"] {
        say(name, fs::read_link(path(name))?.display().to_string());
    }
    // What is mounted on the machine is other tests' business.
    let own = fs::read_link("/proc/self/ns/mnt").expect("a link");
    if fs::read_link(path("ns/mnt"))? == own {
        return Ok(());
    }
    // Those of one place are in the order of placing; of others the order is nobody's business.
    let mounts = fs::read_to_string(path("mountinfo"))?;
    let mut mounts: Vec<&str> =
        mounts.lines().filter(|line| !line.contains("/stasis-test.")).collect();
    mounts.sort_by_key(|line| line.split(' ').nth(4));
    for line in mounts {
        let words: Vec<&str> = line.split(' ').collect();
        let dash = words.iter().position(|word| *word == "-").expect("a separator");
        // Sizes of file systems of the machine may change meanwhile.
        let of_file_system = if words[dash + 1] == "tmpfs" { words[dash + 3] } else { "" };
        let kinds = &words[dash + 1..dash + 3];
        say("mount", format!("{:?} {} {kinds:?} {of_file_system}", &words[3..6], words.len()));
    }
    Ok(())
}

/// Counts, has a file in memory and waits to be told to look at it. `$1` is where.
const INSIDE: &str = r#"
memory=$1
mkdir "$memory/directory" && echo contents > "$memory/directory/file" && chmod 640 "$memory/directory/file"
exec 7< "$memory/directory/file"
before=$(id; ls -ln "$memory/directory"; cat /proc/self/uid_map)
mkfifo "$STAGE/go"
exec 8<> "$STAGE/go"
: > "$STAGE/there"
read -r go <&8
after=$(id; ls -ln "$memory/directory"; cat /proc/self/uid_map)
read -r line <&7
if [ "$before" = "$after" ] && [ "$line" = contents ] && [ "$(cat "$memory/directory/file")" = contents ]; then
    echo PASS
else
    printf '%s\n%s\n%s\n' "$before" "$after" "$line"
fi > "$STAGE/.result"
mv "$STAGE/.result" "$STAGE/result"
read -r go <&8
"#;

const USER: [&str; 6] = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "--", "env"];

fn needs(program: &str) {
    require!(std::path::Path::new("/usr/bin").join(program).exists(), "there is no {program}");
}

#[test]
fn mounts_of_a_user() {
    let script =
        format!("mount -t tmpfs -o mode=755,nosuid memory /mnt && set -- /mnt || exit 1\n{INSIDE}");
    Tree::start(&[&USER[..], &["unshare", "-Urm", "sh", "-c", &script]].concat(), 1).carried();
}

/// Mounts a file system in memory below a directory of root alone, in a namespace that stands for the machine's: what is mounted here is of
/// nobody else's business. Where it is.
fn mounted_out_of_reach(scratch: &Scratch) -> PathBuf {
    let hidden = scratch.path("hidden");
    let place = hidden.join("place");
    fs::create_dir_all(&place).expect("mkdir");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).expect("chmod");
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let shown = place.to_str().expect("text");
    for words in [&["--make-rprivate", "/"][..], &["-t", "tmpfs", "memory", shown]] {
        assert!(Command::new("mount").args(words).status().expect("mount").success());
    }
    place
}

/// A sandbox has copies of what is mounted on the machine, also below directories that nobody in it may go to, as engines of containers have
/// theirs.
#[test]
fn mounts_in_directories_of_root_alone() {
    let scratch = Scratch::new();
    mounted_out_of_reach(&scratch);
    mounts_of_a_user();
}

/// A container of the machine may have ended meanwhile.
#[test]
fn a_mount_of_the_machine_that_is_gone_is_named_and_can_be_left_out() {
    let scratch = Scratch::new();
    let place = mounted_out_of_reach(&scratch);
    let tree =
        Tree::start(&["unshare", "-Urm", "sh", "-c", &format!("set -- $STAGE\n{INSIDE}")], 1);
    let images = scratch.path("images");
    let outside = ["--external", "mnt[]:m"];
    let mut dump = Engine::Stasis.dump_command(tree.program.pid(), &images, Dump::ENDING);
    Outcome::of(dump.args(outside)).must_succeed("dump");
    tree.machine.await_no_children();
    assert!(Command::new("umount").arg(&place).status().expect("umount").success());
    fs::remove_dir(&place).expect("rmdir");
    let restore = |engine: Engine, more: &[&str]| {
        let mut restore = engine.restore_command(&images, Dump::ENDING);
        Outcome::of(restore.args(outside).args(more))
    };
    let refused = restore(Engine::Stasis, &[]);
    let said = "what it comes from, outside of the tree, is not there any more";
    assert!(!refused.success && refused.stderr.contains(said), "{}", refused.stderr);
    assert!(refused.stderr.contains(place.to_str().expect("text")), "{}", refused.stderr);
    let left_out = ["--skip-mnt", place.to_str().expect("text")];
    restore(Engine::CriuFace, &left_out).must_succeed("restore");
    tree.machine.end_all();
}

#[test]
fn mounts_of_root() {
    let script = format!("mount -t tmpfs -o gid=0 memory /mnt && set -- /mnt || exit 1\n{INSIDE}");
    let below = format!("unshare -Urm sh -c '{}'; :", script.replace('\'', "'\\''"));
    Tree::start(&["sh", "-c", &below], 2).carried();
}

/// With a child of its own, and one in a session of its own, in the pid namespace; its first process waits for both.
fn with_children(memory: &str) -> String {
    format!("(sleep 1000 & setsid sleep 1000 &\n set -- {memory}\n{INSIDE})\n:")
}

#[test]
fn pids_of_root() {
    let script = with_children("$STAGE");
    Tree::start(&["unshare", "-Urpf", "sh", "-c", &script], 5).carried();
}

/// What nobody may give himself in a user namespace: all of them have it from the machine's root.
#[test]
fn priorities_from_outside() {
    let script = with_children("$STAGE");
    let tree = Tree::start(&["unshare", "-Urpf", "sh", "-c", &script], 5);
    for (place, pid) in (0_i32..).zip(tree.processes()) {
        let task = HostPid::new(pid).expect("a number");
        let nice = -3 - place;
        // SCHED_FIFO, of every other one.
        let (policy, priority) =
            if place % 2 == 1 { (1, 7 + place.unsigned_abs()) } else { (0, 0) };
        set_scheduling(task, &Scheduling { policy, nice, priority, ..Scheduling::default() })
            .expect("schedule");
        // The real-time class.
        set_io_priority(task, 1 << 13 | 3).expect("I/O priority");
        assert_eq!((scheduled(pid).0.nice, scheduled(pid).1), (nice, 1 << 13 | 3));
    }
    tree.carried();
}

#[test]
fn pids_and_mounts_of_a_user() {
    let script = format!("mount -t tmpfs memory /mnt || exit 1; {}", with_children("/mnt"));
    let command = ["unshare", "-Urpfm", "--mount-proc", "sh", "-c", &script];
    Tree::start(&[&USER[..], &command].concat(), 5).carried();
}

#[test]
fn two_of_them_in_one_tree() {
    let script = "unshare -Urpf sleep 1000 & : > \"$STAGE/there\"; exec unshare -Urpf sh -c \"$0\"";
    let inside = with_children("$STAGE");
    Tree::start(&["sh", "-c", script, &inside], 7).carried();
}

#[test]
fn a_sandbox_of_bubblewrap() {
    needs("bwrap");
    let script = "exec bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-net --unshare-cgroup --ro-bind / / --bind \"$STAGE\" \"$STAGE\" --proc /proc \
                  --dev /dev --tmpfs /mnt sh -c \"$0\"";
    Tree::start(&["sh", "-c", script, &with_children("/mnt")], 6).carried();
}

/// A user's --dev takes a second user namespace: one to mount it in, and one with the user's own number.
#[test]
fn a_sandbox_of_bubblewrap_of_a_user() {
    needs("bwrap");
    let script = "exec bwrap --unshare-all --ro-bind / / --bind \"$STAGE\" \"$STAGE\" --proc /proc --dev /dev --tmpfs /mnt sh -c \"$0\"";
    let inside = with_children("/mnt");
    Tree::start(&[&USER[..], &["sh", "-c", script, &inside]].concat(), 6).carried();
}

/// Its first process leads a session, as that of a sandbox mostly does.
#[test]
fn a_sandbox_of_bubblewrap_in_a_session_of_its_own() {
    needs("bwrap");
    let script = "exec bwrap --unshare-all --new-session --ro-bind / / --bind \"$STAGE\" \"$STAGE\" --proc /proc --dev /dev --tmpfs /mnt sh -c \"$0\"";
    let inside = with_children("/mnt");
    Tree::start(&["sh", "-c", script, &inside], 6).carried();
    Tree::start(&[&USER[..], &["sh", "-c", script, &inside]].concat(), 6).carried();
}

/// Has things of System V and clocks of its own, and looks at them again when it is told to.
const OWN_THINGS: &str = r#"
ipcmk -M 5000 -p 640 > /dev/null && ipcmk -S 3 > /dev/null && ipcmk -Q > /dev/null || exit 1
ipcrm -S "$(ipcs -s | awk '/^0x/ { print $1 }')"
ipcmk -S 7 -p 600 > /dev/null
see() { ipcs -m; ipcs -s; ipcs -q; ipcs -l; }
before=$(see)
mkfifo "$STAGE/go"
exec 8<> "$STAGE/go"
: > "$STAGE/there"
read -r go <&8
after=$(see)
up=$(cut -d. -f1 /proc/uptime)
if [ "$before" = "$after" ] && [ "$up" -gt 1000000 ]; then echo PASS; else printf '%s\n%s\n%s\n' "$up" "$before" "$after"; fi > "$STAGE/.result"
mv "$STAGE/.result" "$STAGE/result"
read -r go <&8
"#;

#[test]
fn ipc_and_time_of_a_user() {
    let unshare =
        ["unshare", "-UriT", "--boottime", "1000000", "--monotonic", "500", "sh", "-c", OWN_THINGS];
    Tree::start(&[&USER[..], &unshare].concat(), 1).carried();
    Tree::start(&unshare, 1).carried();
}

/// The first process of a pid namespace has gone on into a user namespace below the one that the pid namespace belongs to.
#[test]
fn pids_of_the_namespace_around() {
    let inside = with_children("$STAGE");
    let command = ["unshare", "-Urpf", "unshare", "-U", "sh", "-c", &inside];
    Tree::start(&[&USER[..], &command].concat(), 5).carried();
}

#[test]
fn threads_in_pids_of_the_namespace_around() {
    with_threads(&[&USER[..], &["unshare", "-Urpf", "unshare", "-Ur"]].concat(), 2);
}

/// Has for its root a directory about a process that has ended since, as the sandbox of Chromium has it: nothing is in there.
const IN_NOTHING: &str = r#"
import os, signal
stage = os.open(os.environ["STAGE"], os.O_RDONLY)
child = os.fork()
if child == 0:
    signal.pause()
os.chroot(f"/proc/{child}/fdinfo")
os.chdir("/")
os.kill(child, 9)
os.waitpid(child, 0)
os.mkfifo("go", dir_fd=stage)
fifo = os.open("go", os.O_RDWR, dir_fd=stage)
os.close(os.open("there", os.O_CREAT | os.O_WRONLY, dir_fd=stage))
os.read(fifo, 3)
found = [path for path in ("/etc", "/proc", "..") if os.path.exists(path)]
result = os.open(".result", os.O_CREAT | os.O_WRONLY, dir_fd=stage)
os.write(result, f"{found}\n".encode() if found else b"PASS\n")
os.rename(".result", "result", src_dir_fd=stage, dst_dir_fd=stage)
os.read(fifo, 3)
"#;

#[test]
fn a_root_of_a_process_that_has_ended() {
    needs("python3");
    Tree::start(&[&USER[..], &["unshare", "-Ur", "python3", "-c", IN_NOTHING]].concat(), 1)
        .carried();
}

/// The same where nobody passes through a user namespace.
#[test]
fn a_root_of_a_process_that_has_ended_for_root() {
    needs("python3");
    Tree::start(&["python3", "-c", IN_NOTHING], 1).carried();
}

/// It is refused before the freeze, by a message that says so, and runs on.
fn refused(arguments: &[&str], processes: usize, what: &str) {
    let tree = Tree::start(arguments, processes);
    let images = tree.scratch.path("images");
    let mut dump = Engine::Stasis.dump_command(tree.program.pid(), &images, Dump::ENDING);
    let outcome = Outcome::of(dump.args(["--external", "mnt[]"]));
    assert!(!outcome.success && outcome.stderr.contains(what), "{}", outcome.stderr);
    assert!(!images.exists());
    assert_eq!(tree.processes().len(), processes);
    tree.machine.end_all();
}

/// Has three threads more, of which each goes on after the restore, and then does what the others do.
const THREADS: &str = r#"
import os, sys, threading, time
stage, go = os.environ["STAGE"], threading.Event()
def see():
    status = open("/proc/thread-self/status").read().splitlines()
    return [line for line in status if line.split(":")[0] in ("NSpid", "Uid", "Gid", "CapEff")]
seen = []
def work():
    before = see()
    ready.wait()
    go.wait()
    seen.append(before == see())
ready = threading.Barrier(4)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
before = see()
ready.wait()
os.mkfifo(stage + "/go")
fifo = os.open(stage + "/go", os.O_RDWR)
open(stage + "/there", "w").close()
os.read(fifo, 3)
go.set()
for thread in threads: thread.join()
with open(stage + "/.result", "w") as result:
    result.write("PASS\n" if seen == [True] * 3 and before == see() else repr((seen, before, see())))
os.rename(stage + "/.result", stage + "/result")
os.read(fifo, 3)
"#;

fn with_threads(command: &[&str], processes: usize) {
    needs("python3");
    Tree::start(&[command, &["python3", "-c", THREADS]].concat(), processes).carried();
}

#[test]
fn threads_of_a_user() {
    with_threads(&[&USER[..], &["unshare", "-Ur"]].concat(), 1);
}

#[test]
fn threads_in_pids_of_a_user() {
    with_threads(&[&USER[..], &["unshare", "-Urpf"]].concat(), 2);
}

/// One pid namespace belongs to the user namespace, and the one around it to that of the machine.
#[test]
fn threads_in_pids_of_several() {
    with_threads(&["unshare", "-pf", "sh", "-c", "unshare -Urpf \"$@\"; :", "sh"], 4);
}

#[test]
fn threads_in_pids_further_down() {
    with_threads(&["unshare", "-Urpf", "sh", "-c", "unshare -pf \"$@\"; :", "sh"], 4);
}

#[test]
fn a_restore_that_can_have_no_numbers_given_out_is_refused() {
    needs("python3");
    let command = [&USER[..], &["unshare", "-Urpf", "python3", "-c", THREADS]].concat();
    let tree = Tree::start(&command, 2);
    let images = tree.scratch.path("images");
    // What is shared on this machine a sandbox receives.
    let outside = ["--external", "mnt[]:m"];
    let mut dump = Engine::Stasis.dump_command(tree.program.pid(), &images, Dump::ENDING);
    Outcome::of(dump.args(outside)).must_succeed("dump");
    tree.machine.await_no_children();
    let restore = Engine::Stasis.restore_command(&images, Dump::ENDING);
    let mut there = Command::new("unshare");
    let read_only =
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys || exit 9
exec \"$0\" \"$@\"";
    there.args(["-m", "sh", "-c", read_only]).arg(restore.get_program());
    let refused = Outcome::of(there.args(restore.get_args()).args(outside));
    for word in ["ns_last_pid", "/proc/sys can be written to"] {
        assert!(refused.code == Some(1) && refused.stderr.contains(word), "{}", refused.stderr);
    }
    assert!(!tree.program.is_alive());
}

/// Who is in it is born in the user namespace.
#[test]
fn a_session_of_the_first_process() {
    let inside = with_children("$STAGE");
    Tree::start(&["unshare", "-Urpf", "setsid", "sh", "-c", &inside], 5).carried();
    let below = format!("(sleep 1000; :) & {inside}");
    let command = ["unshare", "-Urpf", "setsid", "sh", "-c", &below];
    Tree::start(&[&USER[..], &command].concat(), 7).carried();
}

/// Of groups whose leaders have ended.
#[test]
fn a_session_of_the_first_process_and_groups_that_nobody_leads() {
    let left = "perl -e 'setpgrp; if (fork == 0) { exec qw(sleep 1000) }'";
    let inside = with_children("$STAGE");
    let scripts =
        [(format!("{left}; {inside}"), 6), (format!("({left}; exec sleep 1000) & {inside}"), 7)];
    for (script, count) in &scripts {
        Tree::start(&["unshare", "-Urpf", "setsid", "sh", "-c", script], *count).carried();
    }
}

#[test]
fn a_session_of_the_first_process_with_other_settings_is_refused() {
    let what = "it is led by the first process of a pid namespace";
    let settings = "echo 500 > /proc/self/oom_score_adj; : > \"$STAGE/there\"; exec ";
    // Further down, too, in sessions and namespaces of their own.
    let adopted = "python3 -c 'import ctypes, os; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); \
                   os.system(\"setsid sh -c \\\"sleep 1000 &\\\"\"); \
                   os.execvp(\"sleep\", [\"sleep\", \"1000\"])' & \
                   sleep 0.5; : > \"$STAGE/there\"; exec sleep 1000";
    let scripts = [
        (format!("({settings} sleep 1000); :"), 3),
        (format!("(({settings} setsid sleep 1000); :) & exec sleep 1000"), 4),
        (
            "(unshare -pf sh -c ': > \"$STAGE/there\"; exec sleep 1000'; :) & exec sleep 1000"
                .into(),
            5,
        ),
        (adopted.into(), 4),
    ];
    for (script, count) in &scripts {
        refused(&["unshare", "-Urpf", "setsid", "sh", "-c", script], *count, what);
    }
}

#[test]
fn pids_further_down() {
    let inside = with_children("$STAGE");
    let below = "unshare -pf sh -c \"$0\"; :";
    Tree::start(&["unshare", "-Urpf", "sh", "-c", below, &inside], 7).carried();
}

#[test]
fn limits_of_ipc_that_are_not_usual_are_refused() {
    let script = "echo 100 > /proc/sys/kernel/msgmni; : > \"$STAGE/there\"; exec sleep 1000";
    refused(&["unshare", "-Uri", "sh", "-c", script], 1, "it has other limits than a new one");
}

/// What shows the machine's processes can only be copied from there.
#[test]
fn a_proc_of_others_is_refused() {
    let tree = Tree::start(&["unshare", "-Urm", "sh", "-c", ": > $STAGE/there; sleep 1000; :"], 2);
    let images = tree.scratch.path("images");
    let outcome = Engine::Stasis.dump(tree.program.pid(), &images, Dump::ENDING);
    for what in ["kind proc cannot be made again", "mounted outside of the tree's namespaces"] {
        assert!(!outcome.success && outcome.stderr.contains(what), "{}", outcome.stderr);
    }
    tree.machine.end_all();
}
