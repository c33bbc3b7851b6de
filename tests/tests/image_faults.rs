//! Images that are not as they were written: a restore says so in one error, and nobody of it is left.
//!
//! Each image of a checkpoint is taken away, cut, given another number to begin with and values that cannot be, and
//! exchanged for that of another run of the same program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stasis_tests::faults::Random;
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Scratch, Workload, directories_of_group,
    remove_group, wait_until,
};

/// What becomes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Missing,
    Empty,
    CutInTheHead,
    CutInTheMiddle,
    CutAtTheEnd,
    Longer,
    OtherKind,
    /// Some bytes, anywhere behind its head.
    Values,
    OfAnotherRun,
}

const FAULTS: [Fault; 9] = [
    Fault::Missing,
    Fault::Empty,
    Fault::CutInTheHead,
    Fault::CutInTheMiddle,
    Fault::CutAtTheEnd,
    Fault::Longer,
    Fault::OtherKind,
    Fault::Values,
    Fault::OfAnotherRun,
];

/// Two checkpoints of a program.
struct Pair {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
    other: Workload,
    random: Random,
}

impl Pair {
    fn of(family: &str) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let other = Workload::start(family, scratch.path("other"));
        let by_programs = ["io_uring", "semaphore", "mqueue_", "userfaults"]
            .iter()
            .any(|it| family.starts_with(it));
        dump(&machine, &other, &scratch.path("of-other"), by_programs);
        let workload = Workload::start(family, scratch.path("work"));
        dump(&machine, &workload, &scratch.path("images"), by_programs);
        fs::write(workload.path("restored"), "").expect("say so");
        Self { machine, scratch, workload, other, random: Random::new(0x1_3a6e) }
    }

    fn images(&self) -> PathBuf {
        self.scratch.path("images")
    }

    /// The files that both programs have made, and how long they are.
    fn made(&self) -> BTreeMap<PathBuf, u64> {
        let files = |stage| {
            let stage = self.scratch.path(stage);
            names(&stage).into_iter().map(move |name| stage.join(name))
        };
        let long = |file: PathBuf| {
            let bytes = fs::metadata(&file).expect("stat").len();
            (file, bytes)
        };
        ["work", "other"].into_iter().flat_map(files).map(long).collect()
    }

    /// Removes what another program than there was has made since, and cut off what it has said: it would be taken for what this one does.
    fn forget(&self, made: &BTreeMap<PathBuf, u64>) {
        for file in self.made().into_keys() {
            match made.get(&file) {
                None => fs::remove_file(&file).expect("remove"),
                Some(bytes) if file.ends_with("log") => {
                    let log = fs::File::options().write(true).open(&file).expect("open the log");
                    log.set_len(*bytes).expect("cut it");
                }
                Some(_) => {}
            }
        }
    }

    /// Without faults. The other does, too, for what the kernel keeps of a tree that is away.
    fn both_come_back(self) {
        fs::write(self.other.path("restored"), "").expect("say so");
        for (workload, images) in [(self.workload, "images"), (self.other, "of-other")] {
            Engine::Stasis
                .restore(&self.scratch.path(images), Dump::ENDING)
                .must_succeed("restore");
            let groups = directories_of_group(&format!("stasis-test-ns-{}", workload.pid()));
            workload.check().expect("the program's own check");
            // What those make that have cgroup namespaces.
            self.machine.end_all();
            for group in groups {
                let removed = || remove_group(&group);
                assert!(wait_until(Duration::from_secs(10), removed), "{}", group.display());
            }
        }
    }

    /// The bytes of an image with a fault; `None` for no image. `None` outside if it is as it was then.
    fn faulty(&mut self, name: &str, fault: Fault) -> Option<Option<Vec<u8>>> {
        let bytes = fs::read(self.images().join(name)).expect("read");
        let length = bytes.len();
        let faulty = match fault {
            Fault::Missing => return Some(None),
            Fault::Empty => Vec::new(),
            Fault::CutInTheHead => bytes[..length.min(3)].to_vec(),
            Fault::CutInTheMiddle => bytes[..length / 2].to_vec(),
            Fault::CutAtTheEnd => bytes[..length.saturating_sub(1)].to_vec(),
            Fault::Longer => [&bytes[..], &[0; 5]].concat(),
            Fault::OtherKind => {
                let mut other = bytes.clone();
                other.iter_mut().take(8).for_each(|byte| *byte ^= 0x5a);
                other
            }
            Fault::Values => {
                let mut other = bytes.clone();
                for _ in 0..4 {
                    let place = 8 + self.number(length.saturating_sub(8).max(1));
                    if let Some(byte) = other.get_mut(place) {
                        *byte ^= 1 << self.number(8);
                    }
                }
                other
            }
            Fault::OfAnotherRun => fs::read(of_kind(&self.scratch.path("of-other"), name)?).ok()?,
        };
        (faulty != bytes).then_some(Some(faulty))
    }

    fn number(&mut self, below: usize) -> usize {
        let nanoseconds = self.random.below(Duration::from_nanos(below as u64));
        usize::try_from(nanoseconds.as_nanos()).map_or(0, |number| number.min(below - 1))
    }

    /// Restores a copy of the checkpoint in which one image has a fault.
    fn restored(&mut self, name: &str, fault: Fault, with_manifest: bool) -> Option<Outcome> {
        let faulty = self.faulty(name, fault)?;
        let copy = self.scratch.path("copy");
        fs::remove_dir_all(&copy).ok();
        fs::create_dir(&copy).expect("mkdir");
        for file in names(&self.images()) {
            if file != name && (with_manifest || file != MANIFEST) {
                fs::copy(self.images().join(&file), copy.join(&file)).expect("copy");
            }
        }
        if let Some(bytes) = faulty {
            fs::write(copy.join(name), bytes).expect("write");
        }
        Some(Engine::Stasis.restore(&copy, Dump::ENDING))
    }
}

const MANIFEST: &str = "stasis-manifest";

/// `by_programs` where a dump needs what eBPF programs tell.
fn dump(machine: &Machine, workload: &Workload, images: &Path, by_programs: bool) {
    let collector = by_programs.then(|| Collector::start(&images.with_extension("collector")));
    let how = Dump { collector: collector.as_ref(), ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), images, how).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
}

fn names(directory: &Path) -> Vec<String> {
    let listed = fs::read_dir(directory).expect("list");
    let files = listed.map(|entry| entry.expect("list")).filter(|entry| entry.path().is_file());
    let mut names: Vec<String> =
        files.map(|entry| entry.file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

/// The image of another checkpoint that is of the same kind; of those with numbers, the first.
fn of_kind(other: &Path, name: &str) -> Option<PathBuf> {
    let kind = |name: &str| name.split(|c: char| c.is_ascii_digit()).next().map(str::to_owned);
    let same = |found: &String| kind(found) == kind(name);
    Some(other.join(names(other).into_iter().find(same)?))
}

/// One error, for people.
fn is_one_error(outcome: &Outcome, what: &str) {
    let said = &outcome.stderr;
    assert!(outcome.code == Some(1), "{what}: it ended with {:?}: {said}", outcome.code);
    let errors = said.lines().filter(|line| line.starts_with("stasis: ")).count();
    assert!(errors == 1 && !said.contains("panicked"), "{what}: {said}");
}

/// What was written is known by the manifest: every fault is seen, and which image has it.
fn seen(family: &str) {
    let mut pair = Pair::of(family);
    let mut tried = 0;
    for name in names(&pair.images()) {
        if name == MANIFEST || name == "stats-dump" {
            continue;
        }
        for fault in FAULTS {
            let what = format!("{family}, {name}, {fault:?}");
            let Some(outcome) = pair.restored(&name, fault, true) else { continue };
            assert!(!outcome.success, "{what}: it was restored");
            is_one_error(&outcome, &what);
            assert!(outcome.stderr.contains(&name), "{what}: {}", outcome.stderr);
            pair.machine.await_no_children();
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried} faults were tried");
    pair.both_come_back();
}

/// Images without a manifest, as CRIU writes them: what nobody can know may be restored, as another program than there
/// was; else there is one error, and in either case nothing is left behind.
fn without_manifest(family: &str, rounds: usize) {
    let mut pair = Pair::of(family);
    let made = pair.made();
    let mut refused = 0;
    for name in names(&pair.images()) {
        if name == MANIFEST || name == "stats-dump" {
            continue;
        }
        let values = vec![Fault::Values; rounds];
        for fault in FAULTS.into_iter().filter(|fault| *fault != Fault::Values).chain(values) {
            let what = format!("{family}, {name}, {fault:?}");
            let Some(outcome) = pair.restored(&name, fault, false) else { continue };
            if outcome.success {
                pair.machine.end_all();
                pair.forget(&made);
            } else {
                is_one_error(&outcome, &what);
                refused += 1;
            }
            pair.machine.await_no_children();
        }
    }
    assert!(refused > 50, "{refused} faults were refused");
    pair.both_come_back();
}

macro_rules! seen {
    ($($family:ident)*) => {
        mod seen {
            $(
                #[test]
                fn $family() {
                    super::seen(stringify!($family));
                }
            )*
        }
    };
}

macro_rules! without_manifest {
    ($($family:ident)*) => {
        mod without_manifest {
            $(
                #[test]
                fn $family() {
                    super::without_manifest(stringify!($family), 4);
                }
            )*
        }
    };
}

/// Some have entered pid namespaces of the tree: their first processes end after those, whose dead another process takes
/// away. A restore that fails when all are there must not wait for the one before the other.
#[test]
fn a_failure_with_nested_pid_namespaces_is_told() {
    let mut pair = Pair::of("nested_pids");
    let mut refused = 0;
    for name in names(&pair.images()).into_iter().filter(|name| name.starts_with("core-")) {
        let Some(outcome) = pair.restored(&name, Fault::OfAnotherRun, false) else { continue };
        if outcome.success {
            pair.machine.end_all();
        } else {
            is_one_error(&outcome, &name);
            refused += 1;
        }
        pair.machine.await_no_children();
    }
    assert!(refused > 10, "{refused} faults were refused");
    pair.both_come_back();
}

seen! {
    ghosts memfd memory pipes shared_memory timers unix_sockets tcp networks namespaces sysv_namespace ptys tun mqueue cgroup_namespaces locks
    datagrams_waiting io_uring_shared semaphore_undo semaphore_undo_namespace packet_rings mqueue_messages mqueue_namespace userfaults
}

without_manifest! {
    inotify shared_memory sysv_memory threads unix_sockets networks namespaces sysv_namespace ptys tun mqueue cgroup_namespaces
    datagrams_waiting io_uring_shared semaphore_undo semaphore_undo_namespace packet_rings mqueue_messages mqueue_namespace userfaults
}
