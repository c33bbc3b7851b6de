//! What a tree holds together with a process outside of it: it is refused by name if a restore would cut
//! it in two, whichever source the inventory comes from, and carried if the tree holds both.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use stasis_tests::{Collector, Dump, Engine, Machine, Scratch, Snapshot, Workload, wait_until};

fn child_of(workload: &Workload) -> i32 {
    fs::read_to_string(workload.path("child")).expect("child").parse().expect("a pid")
}

/// Waits until a process has gone, and reaps it if it is the test's.
fn await_end(pid: i32) {
    let gone = || {
        waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).ok();
        !Path::new(&format!("/proc/{pid}")).exists()
    };
    assert!(wait_until(Duration::from_secs(30), gone), "process {pid} is still there");
}

/// The child alone is refused, with who else holds the thing; both together are carried.
fn only_together(thing: &str, words: &[&str], how: Dump<'_>, scratch: &Scratch) {
    let family = format!("shared-{thing}");
    let workload = Workload::start(&family, scratch.path("work"));
    let child = child_of(&workload);
    let images = scratch.path("images");
    let before = Snapshot::of(workload.pid());
    let outcome = Engine::Stasis.dump(child, &images, how);
    assert!(!outcome.success, "{family}: one of two was dumped");
    let holder = format!("process {} (", workload.pid());
    let remedy = format!("stasis dump {}", workload.pid());
    for word in [&*holder, &*remedy, "outside the tree"].iter().chain(words) {
        assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!images.exists(), "a refused dump leaves no directory");
    let told = before.differences(&Snapshot::of(workload.pid()));
    let ignored = ["syscall", "wchan", "stat:", "status: - State", "status: + State"];
    let told: Vec<_> =
        told.iter().filter(|line| !ignored.iter().any(|i| line.contains(i))).collect();
    assert!(told.is_empty(), "{told:#?}");
    // The remedy works.
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump both");
    await_end(workload.pid());
    await_end(child);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore both");
    workload.check().expect("the program's own check");
}

/// The child alone is carried, and what it shares with its parent does its work afterwards.
fn apart(thing: &str, how: Dump<'_>, scratch: &Scratch) {
    let workload = Workload::start(&format!("shared-{thing}"), scratch.path("work"));
    let child = child_of(&workload);
    let images = scratch.path("images");
    Engine::Stasis.dump(child, &images, how).must_succeed("dump the child");
    await_end(child);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore the child");
    workload.check().expect("the program's own check");
}

/// By both sources.
fn by_both(test: impl Fn(Dump<'_>, &Scratch)) {
    for programs in [false, true] {
        let _machine = Machine::prepare();
        let scratch = Scratch::new();
        let collector = programs.then(|| Collector::start(&scratch.path("collector")));
        let how = Dump { collector: collector.as_ref(), cross_check: programs, ..Dump::ENDING };
        test(how, &scratch);
    }
}

macro_rules! only_together {
    ($($thing:ident: $($word:literal)*;)*) => { $(
        #[test]
        fn $thing() {
            by_both(|how, scratch| {
                only_together(stringify!($thing), &[$($word),*], how, scratch);
            });
        }
    )* };
}

only_together! {
    pipe: "pipe:[" "descriptor";
    fifo: "/fifo" "descriptor";
    socket: "socket:[";
    eventfd: "anon_inode:[eventfd]";
    timerfd: "anon_inode:[timerfd]";
    epoll: "anon_inode:[eventpoll]";
    memory: "/dev/zero (deleted)" "mapping";
    system_v: "/SYSV00000000 (deleted)" "mapping";
    deleted: "/gone (deleted)";
    memfd: "/memfd:both (deleted)";
    memfd_mapping: "/memfd:both (deleted)" "mapping";
}

#[test]
fn natively() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    for thing in [
        "deleted",
        "epoll",
        "eventfd",
        "fifo",
        "job_server",
        "log",
        "memfd",
        "memfd_mapping",
        "memfd_sealed",
        "memory",
        "pipe",
        "socket",
        "timerfd",
    ] {
        let workload = Workload::start(&format!("shared-{thing}"), scratch.path(thing));
        if let Err(what) = workload.check() {
            panic!("{thing} fails natively: {what}");
        }
    }
}

/// What nobody can write is the same in two places.
#[test]
fn a_memfd_that_is_sealed() {
    by_both(|how, scratch| apart("memfd_sealed", how, scratch));
}

/// A log that others write to as well is opened again by its name.
#[test]
fn a_log() {
    by_both(|how, scratch| apart("log", how, scratch));
}

/// A pipe that lives on without the tree is joined again.
#[test]
fn a_pipe_that_lives_on() {
    by_both(|how, scratch| apart("job_server", how, scratch));
}

/// What is refused is named.
fn refused(family: &str, words: &[&str], how: Dump<'_>, scratch: &Scratch) {
    let workload = Workload::start(family, scratch.path(family));
    let images = scratch.path("images");
    let outcome = Engine::Stasis.dump(workload.pid(), &images, how);
    assert!(!outcome.success, "{family} was dumped");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!images.exists(), "a refused dump leaves no directory");
    workload.check().expect("the program's own check");
}

#[test]
fn directories_that_are_watched() {
    let words = ["F_NOTIFY", "descriptor"];
    by_both(|how, scratch| refused("unsupported-dnotify", &words, how, scratch));
}

/// Only the programs see it.
#[test]
fn sockets_with_what_they_do_not_tell() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    refused("unsupported-multicast_interface", &["IP_MULTICAST_IF"], how, &scratch);
    refused("unsupported-signed_tcp", &["TCP_MD5SIG"], how, &scratch);
}

/// A table that two processes use, by clone(2): one alone is refused, with the other. Only the programs see
/// who is outside.
fn tables(how: Dump<'_>, scratch: &Scratch) {
    for (family, object, flag) in [
        ("shared-table-descriptors", "descriptor table", "CLONE_FILES"),
        ("shared-table-directories", "working directory", "CLONE_FS"),
        ("shared-table-memory", "memory", "CLONE_VM"),
        ("shared-table-memory", "signal handlers", "CLONE_SIGHAND"),
    ] {
        let place = format!("{family}-{flag}");
        let workload = Workload::start(family, scratch.path(&place));
        let child = child_of(&workload);
        let images = scratch.path(&format!("{place}-images"));
        let outcome = Engine::Stasis.dump(child, &images, how);
        assert!(!outcome.success, "{family}: one of two was dumped");
        let shared = format!("shared with process {} outside the tree ({flag})", workload.pid());
        for word in [&*shared, object, &format!("kill {}", workload.pid())] {
            assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
        }
        assert!(!images.exists(), "a refused dump leaves no directory");
        // What is said helps the other one.
        nix::sys::signal::kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL)
            .expect("end");
        assert!(
            wait_until(Duration::from_secs(10), || !Path::new(&format!("/proc/{child}")).exists())
        );
        Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump the other");
        await_end(workload.pid());
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore it");
        workload.check().expect("the program's own check");
    }
}

#[test]
fn tables_of_two_processes() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    tables(Dump { collector: Some(&collector), cross_check: true, ..Dump::ENDING }, &scratch);
}

/// Who takes copies to look at them, as a list of the processes does beside a dump, shares nothing.
#[test]
fn who_looks_is_nobody_outside() {
    by_both(|how, scratch| {
        let how = Dump { collector: how.collector, ..Dump::RUNNING_ON };
        let workload = Workload::start("pipes", scratch.path("work"));
        let pid = ids::HostPid::new(workload.pid()).expect("a pid");
        let target = kernel::pidfd::PidFd::open(pid).expect("pidfd");
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
        let numbers = descriptors.map(|entry| entry.file_name().into_string().expect("a number"));
        let copies: Vec<_> = numbers
            .filter_map(|number| target.get(number.parse().expect("a number")).ok())
            .collect();
        let refused = Engine::Stasis.dump(workload.pid(), &scratch.path("1"), how);
        let me = format!("process {} (", std::process::id());
        assert!(!refused.success && refused.stderr.contains(&me), "{}", refused.stderr);
        let mark = memfd_create("stasis-looks", MFdFlags::MFD_CLOEXEC).expect("memfd");
        Engine::Stasis.dump(workload.pid(), &scratch.path("2"), how).must_succeed("dump");
        drop((mark, copies));
        workload.check().expect("the program's own check");
    });
}

/// What one ring of the tree holds another one outside may hold as well.
#[test]
fn what_a_ring_outside_holds_as_well() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let workload = Workload::start("unsupported-io_uring_held_elsewhere", scratch.path("work"));
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    let outcome = Engine::Stasis.dump(workload.pid(), &scratch.path("images"), how);
    assert!(!outcome.success, "it was dumped");
    for word in ["(pipe:[", "(anon_inode:[eventfd])", "the kernel, or a message"] {
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    workload.check().expect("the program's own check");
}
