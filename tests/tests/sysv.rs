//! System V shared memory in the namespace of the test: what becomes of it while the tree is away, and what is in the way
//! of its return. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use kernel::sysv::Owner;
use kernel::sysv::segments::{self, Attached, Segment};
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload, wait_until};

/// The place in the kernel's table that an id stands for.
const PLACES: i32 = 1 << 15;

/// A workload with a segment that has a key, and its images; the segment goes in the end.
struct Case {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
    /// The one with a key, then those that go with the tree.
    ids: Vec<i32>,
}

fn remove(id: i32) -> bool {
    segments::remove(id).is_ok()
}

/// How many have a segment attached, if it is there.
fn attached(id: i32) -> Option<u64> {
    Segment::read(id).ok().map(|found| found.attached)
}

/// Makes one that is in the way.
fn make(id: i32, key: u32) -> i32 {
    let owner = Owner { key, mode: 0o600, ..Owner::default() };
    assert!(Segment::make(id, &owner, 4096, 0).expect("make a segment"), "the id {id} is not free");
    id
}

impl Case {
    /// The tree is dumped and has ended.
    fn new() -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let workload = Workload::start("sysv_memory", scratch.path("work"));
        let text = fs::read_to_string(workload.path("ids")).expect("ids");
        let ids = text.split(' ').map(|id| id.parse().expect("an id")).collect();
        Engine::Stasis
            .dump(workload.pid(), &scratch.path("images"), Dump::ENDING)
            .must_succeed("dump");
        machine.await_no_children();
        Self { machine, scratch, workload, ids }
    }

    fn restore(&self) -> Outcome {
        Engine::Stasis.restore(&self.scratch.path("images"), Dump::ENDING)
    }

    /// The restore fails with these words, and nothing of the tree is there.
    fn refused(&self, words: &[&str]) {
        let outcome = self.restore();
        assert!(!outcome.success, "it was restored");
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
        }
        self.machine.await_no_children();
    }

    fn comes_back(&self) {
        self.restore().must_succeed("restore");
        self.workload.check().expect("the program's own check");
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        remove(self.ids[0]);
    }
}

#[test]
fn what_has_a_key_stays_and_is_taken_over() {
    let case = Case::new();
    let all = [0, 1, 2].map(|index| attached(case.ids[index]));
    assert_eq!(
        all,
        [Some(0), None, None],
        "the kernel keeps the first, the others go with the tree"
    );
    case.comes_back();
}

#[test]
fn what_is_gone_is_made_with_its_id_and_key() {
    let case = Case::new();
    assert!(remove(case.ids[0]));
    case.comes_back();
}

#[test]
fn conflicts_are_named() {
    let case = Case::new();
    let [id, private] = [case.ids[0], case.ids[1]];
    let there = Segment::read(id).expect("the kernel keeps it");
    let key = there.owner.key;

    let held = Attached::attach(&there, false).expect("attach");
    let own = std::process::id();
    case.refused(&[
        &format!("segment {id} is still there"),
        &format!("process {own} has attached"),
    ]);
    drop(held);

    assert!(remove(id));
    let other = make((id + 7 * PLACES) & i32::MAX, key);
    case.refused(&[&format!("segment {other}, made by process {own}, has its key {key:#x}")]);
    assert!(remove(other));

    let other = make((private + 3 * PLACES) & i32::MAX, 0);
    case.refused(&[
        &format!("segment {other}, made by process {own}, has its id {private}"),
        &format!("ipcrm -m {other}"),
    ]);
    assert_eq!(attached(id), None, "what was made for the tree has gone");
    assert!(remove(other));
    case.comes_back();
}

/// A restore that is killed when it has made a segment leaves none behind: the next command removes it.
#[test]
fn a_killed_restore_leaves_none() {
    let case = Case::new();
    assert!(remove(case.ids[0]));
    let script = case.scratch.path("script");
    let text =
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-restore ] && kill -9 $PPID\nexit 0\n";
    fs::write(&script, text).expect("write the script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command: Command = Engine::Stasis.command("criu");
    command.args(["restore", "-d", "--action-script"]).arg(&script).arg("-D");
    let outcome = Outcome::of(command.arg(case.scratch.path("images")));
    assert!(!outcome.success, "the script has killed it");
    // Its copies end as it does.
    let unused = || attached(case.ids[0]).is_none_or(|count| count == 0);
    assert!(wait_until(Duration::from_secs(20), unused), "somebody has it attached");
    assert!(attached(case.ids[0]).is_some(), "the kernel keeps it");
    case.machine.await_no_children();
    Outcome::of(Engine::Stasis.command("check").arg("--json")).must_succeed("the next command");
    assert_eq!(attached(case.ids[0]), None, "it is left behind");
    case.comes_back();
}
