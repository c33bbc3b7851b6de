//! Marks change when what they cover does, and only then; values that need no question to the
//! process are what the process itself would say.

#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::num::NonZeroU64;

use ids::HostPid;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use stasis_collector::{Collector, InProcess, InTask, Inventory, Look};

/// This very process, as the kernel's structures have it.
fn own(collector: &mut Collector) -> (InProcess, InTask) {
    let pid = HostPid::own();
    let tid = kernel::process::own_thread();
    let mut inventory: Inventory = collector.inventory(&[pid]).unwrap();
    let process = inventory.processes.remove(&pid).unwrap();
    let thread = process.threads[&tid].in_task.unwrap();
    (*process.in_process.unwrap(), thread)
}

fn thread_mark(collector: &mut Collector) -> NonZeroU64 {
    own(collector).1.mark.unwrap()
}

#[test]
fn marks_of_a_thread_change_with_what_they_cover() {
    let mut collector = Collector::with_bpf().unwrap();
    let mut last = thread_mark(&mut collector);
    assert_eq!(last, thread_mark(&mut collector));
    let changes: [(&str, fn()); 6] = [
        ("umask", || {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o011));
        }),
        ("groups", || {
            // The groups of this thread: the library has a call for all threads.
            let groups = [1u32, 2, 3].map(nix::unistd::Gid::from_raw);
            nix::unistd::setgroups(&groups).unwrap();
        }),
        ("affinity", || {
            let mut set = nix::sched::CpuSet::new();
            set.set(0).unwrap();
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
        }),
        ("reset on fork", || {
            let tid = nix::unistd::gettid().to_string();
            let chrt = ["--reset-on-fork", "--other", "--pid", "0", &tid];
            assert!(std::process::Command::new("chrt").args(chrt).status().unwrap().success());
        }),
        ("no new privileges", || nix::sys::prctl::set_no_new_privs().unwrap()),
        ("user", || {
            let uid = nix::unistd::Uid::from_raw;
            nix::unistd::setresuid(uid(0), uid(0), uid(12)).unwrap();
        }),
    ];
    for (what, change) in changes {
        change();
        let mark = thread_mark(&mut collector);
        assert_ne!(last, mark, "{what}");
        last = mark;
    }
}

#[test]
fn marks_of_a_process_change_with_what_they_cover() {
    let mut collector = Collector::with_bpf().unwrap();
    let first = own(&mut collector).0.mark.unwrap();
    assert_eq!(first, own(&mut collector).0.mark.unwrap());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft - 1, hard).unwrap();
    assert_ne!(first, own(&mut collector).0.mark.unwrap());
}

#[test]
fn marks_of_mappings_change_with_them() {
    let mut collector = Collector::with_bpf().unwrap();
    // A child that does nothing, so that its mappings stay.
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = HostPid::from(&child);
    let mark = |collector: &mut Collector| {
        let inventory = collector.inventory(&[pid]).unwrap();
        inventory.processes[&pid].in_process.as_ref().unwrap().mappings_mark.unwrap()
    };
    let asleep = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap();
        text.contains("nanosleep")
    };
    while !asleep() {
        std::thread::yield_now();
    }
    let first = mark(&mut collector);
    assert_eq!(first, mark(&mut collector));
    let earlier = collector.take_tree(pid, &mut Inventory::default(), Look::Now).unwrap();
    let again = collector.take_tree(pid, &mut earlier.clone(), Look::Now).unwrap();
    assert_eq!(earlier, again);
    child.kill().unwrap();
    child.wait().unwrap();

    let before = own(&mut collector).0.mappings_mark;
    // Large enough to get a mapping of its own.
    let mapped = std::hint::black_box(vec![1u8; 64 << 20]);
    let after = own(&mut collector).0.mappings_mark;
    assert!(before.is_some() && before != after);
    drop(mapped);
}

#[test]
fn what_the_kernel_knows_is_what_the_process_would_say() {
    let mut collector = Collector::with_bpf().unwrap();
    let (process, thread) = own(&mut collector);
    assert_eq!(process.dumpable == 1, nix::sys::prctl::get_dumpable().unwrap());
    assert!(!process.child_subreaper && !process.timers && !process.thp_restricted);
    assert_eq!(
        thread.settings.timer_slack,
        u64::try_from(nix::sys::prctl::get_timerslack().unwrap()).unwrap()
    );
    assert_eq!(process.actions.len(), 64);

    nix::sys::prctl::set_child_subreaper(true).unwrap();
    nix::sys::prctl::set_thp_disable(true).unwrap();
    nix::sys::prctl::set_timerslack(70_000).unwrap();
    nix::unistd::alarm::set(1000);
    let (process, thread) = own(&mut collector);
    assert!(process.child_subreaper && process.timers && process.thp_restricted);
    assert_eq!(thread.settings.timer_slack, 70_000);
    nix::unistd::alarm::cancel();
    assert!(!own(&mut collector).0.timers);
}
