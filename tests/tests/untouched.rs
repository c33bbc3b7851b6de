//! A checkpoint that lets its target run on leaves no trace in it: all of `/proc/PID` reads the
//! same before and after.

use std::time::Duration;

use stasis_tests::{Collector, Dump, Engine, Machine, Scratch, Snapshot, Workload, wait_until};

/// A snapshot once the program has come to rest: its threads may still be starting, and the first
/// look itself may change a thing or two (name caches).
fn settled(pid: i32) -> Snapshot {
    let mut before = Snapshot::of(pid);
    let rests = wait_until(Duration::from_secs(10), || {
        std::thread::sleep(Duration::from_millis(100));
        let now = Snapshot::of(pid);
        let same = before.differences(&now).is_empty();
        before = now;
        same
    });
    assert!(rests, "the program does not come to rest");
    before
}

fn no_trace(family: &str, by: Engine) {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let before = settled(workload.pid());
    for images in ["first", "second"] {
        let how = Dump { leave_running: true, ..Dump::default() };
        by.dump(workload.pid(), &scratch.path(images), how).must_succeed("dump");
        let found = before.differences(&Snapshot::of(workload.pid()));
        assert!(found.is_empty(), "the {images} dump left traces:\n{}", found.join("\n"));
    }
    workload.check().expect("the program's own check");
}

#[test]
fn a_dump_leaves_no_trace() {
    no_trace("still", Engine::Stasis);
}

#[test]
fn a_dump_by_the_criu_face_leaves_no_trace() {
    no_trace("still", Engine::CriuFace);
}

/// The same for every process of a tree whose members sleep and look for work: everything but
/// where they are in their sleep.
#[test]
fn a_dump_leaves_no_mapping_or_descriptor_in_a_tree() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("tree", scratch.path("work"));
    let look = || -> Vec<String> {
        let mut pids = machine.descendants();
        pids.sort_unstable();
        let text = |pid: &i32, name: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
        };
        let files = |pid: &i32| {
            let list = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
            let mut names: Vec<_> = list.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            format!("{names:?}")
        };
        pids.iter().map(|pid| format!("{pid}\n{}{}", text(pid, "maps"), files(pid))).collect()
    };
    let before = look();
    let how = Dump { leave_running: true, ..Dump::default() };
    Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how).must_succeed("dump");
    assert_eq!(before, look());
    workload.check().expect("the program's own check");
}

/// Memory that a family has shared since it forked is still shared after a dump, whether it was copied
/// while the family ran or while it stood still.
#[test]
fn a_dump_does_not_multiply_the_memory_of_a_family() {
    const KIB: u64 = 1024;
    for (mib, programs) in [(3, false), (3, true), (80, true)] {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let collector = programs.then(|| Collector::start(&scratch.path("collector")));
        let settings = [("STASIS_WORKLOAD_MIB", &*mib.to_string()), ("STASIS_WORKLOAD_COUNT", "3")];
        let workload = Workload::start_with("many_processes", scratch.path("work"), &settings);
        let anonymous = || -> u64 {
            let sums = machine.descendants().into_iter().filter_map(|pid| {
                let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
                program.ends_with("stasis-workload").then_some(())?;
                let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
                let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?;
                line.trim().trim_end_matches(" kB").parse::<u64>().ok()
            });
            sums.sum()
        };
        let before = anonymous();
        assert!(before >= mib * KIB && before < (mib + 6) * KIB, "{before} KiB is not shared");
        for images in ["first", "second"] {
            let how = Dump { collector: collector.as_ref(), ..Dump::RUNNING_ON };
            let images = scratch.path(images);
            Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
        }
        let after = anonymous();
        assert!(after < before + KIB, "{mib} MiB: {before} KiB have become {after}");
        workload.check().expect("the program's own check");
    }
}
