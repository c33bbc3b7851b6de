//! What a tree holds together with a process outside of it: it is refused by name if a restore would cut
//! it in two, whichever source the inventory comes from, and carried if the tree holds both.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Scratch, Snapshot, Workload, wait_until,
};

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

/// What memory is shared by, and nobody could be born with again.
#[test]
fn memory_that_nobody_could_be_born_with() {
    by_both(|how, scratch| {
        let is_neither = ["memory", "(CLONE_VM)", "neither its parent nor", "by its parent"];
        refused("unsupported-memory_apart", &is_neither, how, scratch);
        let is_elsewhere = ["memory", "(CLONE_VM)", "the uts namespace", "first process"];
        refused("unsupported-memory_elsewhere", &is_elsewhere, how, scratch);
    });
}

fn names_in(directory: &Path, begin: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("list").flatten();
    let names = entries.map(|entry| entry.file_name().into_string().expect("a name"));
    let mut names: Vec<String> = names.filter(|name| name.starts_with(begin)).collect();
    names.sort();
    names
}

/// Memory that processes have together is stored once, also by what changed of it.
#[test]
fn memory_of_several_processes_is_stored_once() {
    by_both(|how, scratch| {
        let workload = Workload::start("shared_memory", scratch.path("work"));
        let dump = |name: &str, how: Dump<'_>, more: &[&str]| {
            let images = scratch.path(name);
            let mut command = Engine::Stasis.dump_command(workload.pid(), &images, how);
            command.env("STASIS_RUN_DIR", scratch.path("run")).args(more);
            Outcome::of(&mut command).must_succeed(name);
        };
        let on = Dump { leave_running: true, ..how };
        dump("first", on, &["--track"]);
        let first = scratch.path("first");
        let first = first.to_str().expect("a path");
        dump("second", how, &["--parent", first]);
        for images in ["first", "second"] {
            let images = scratch.path(images);
            // That of all who share, and that of the one who was forked.
            assert_eq!(names_in(&images, "mm-").len(), 2, "{images:?}");
            assert_eq!(names_in(&images, "pagemap-").len(), 3, "with that of shared memory");
            assert_eq!(names_in(&images, "ids-").len(), 7);
        }
        let sizes = ["first", "second"].map(|name| stored(&scratch.path(name)));
        const MIB: u64 = 1 << 20;
        // Six are the program's own, and six those of the one who was forked.
        assert!((12 * MIB..20 * MIB).contains(&sizes[0]) && sizes[1] < 4 * MIB, "{sizes:?}");
        for name in names_in(&scratch.path("second"), "ids-") {
            let number = name.trim_start_matches("ids-").trim_end_matches(".img");
            await_end(number.parse().expect("a pid"));
        }
        Engine::Stasis.restore(&scratch.path("second"), Dump::ENDING).must_succeed("restore");
        workload.check().expect("the program's own check");
    });
}

/// Bytes of pages that a checkpoint holds itself, those that were copied early included.
fn stored(images: &Path) -> u64 {
    let inside =
        |dir: &std::path::PathBuf| Some(dir.join("pre-copy")).filter(|early| early.exists());
    std::iter::successors(Some(images.to_owned()), inside)
        .flat_map(|dir| names_in(&dir, "pages-").into_iter().map(move |name| dir.join(name)))
        .map(|file| file.metadata().expect("stat").len())
        .sum()
}

/// Images that say of a process that it has memory which it cannot have.
#[test]
fn memory_that_cannot_be_shared_in_images() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("shared_memory_beside", scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    // A head of twelve bytes; then tags and numbers in turns: memory, descriptors, directories, signal handlers.
    const MEMORY: usize = 13;
    const HANDLERS: usize = 19;
    let number = |name: &str, at| fs::read(images.join(name)).expect("read")[at];
    let has_image = |name: &String, kind: &str| images.join(name.replace("ids", kind)).exists();
    let ids = names_in(&images, "ids-");
    let root = format!("ids-{}.img", workload.pid());
    let sharer = ids.iter().rfind(|name| !has_image(name, "mm")).expect("one who shares");
    let lender = ids.iter().find(|name| has_image(name, "mm") && **name != root);
    let lender = lender.expect("one who has the memory");
    assert_eq!(number(sharer, MEMORY), number(lender, MEMORY));
    assert_ne!(number(&root, MEMORY), number(lender, MEMORY));
    let copy = scratch.path("copy");
    let changed = |what: &str, change: &dyn Fn(), words: &[&str]| {
        fs::remove_dir_all(&copy).ok();
        let mut command = std::process::Command::new("cp");
        Outcome::of(command.arg("-a").args([&images, &copy])).must_succeed("copy");
        fs::remove_file(copy.join("stasis-manifest")).expect("remove");
        change();
        let outcome = Engine::Stasis.restore(&copy, Dump::ENDING);
        assert!(!outcome.success, "{what}: it was restored");
        for word in words {
            assert!(
                outcome.stderr.contains(word),
                "{what}: {word:?} is not in: {}",
                outcome.stderr
            );
        }
        machine.await_no_children();
    };
    let set = |name: &str, at: usize, to: u8| {
        let mut bytes = fs::read(copy.join(name)).expect("read");
        bytes[at] = to;
        fs::write(copy.join(name), bytes).expect("write");
    };
    let give = |from: &str, to: &str, kind: &str| {
        let image = |name: &str| name.replace("ids", kind);
        fs::copy(images.join(image(from)), copy.join(image(to))).expect("copy");
    };
    let mm = sharer.replace("ids", "mm");
    changed("nobody's", &|| set(sharer, MEMORY, 100), &[&mm, "missing"]);
    changed("with pages", &|| give(lender, sharer, "pagemap"), &["has pages", "that of process"]);
    let both = || {
        give(lender, sharer, "mm");
        give(lender, sharer, "pagemap");
    };
    changed("of its own as well", &both, &["shares its address space with process"]);
    let of_root = number(&root, MEMORY);
    let apart = ["memory or signal handlers", "by one parent"];
    let no_kin = || {
        set(sharer, MEMORY, of_root);
        set(sharer, HANDLERS, 100);
    };
    changed("of one who is no kin", &no_kin, &apart);
    let handlers = number(lender, HANDLERS);
    let alone = ["shares its signal handlers with process"];
    changed("handlers without memory", &|| set(&root, HANDLERS, handlers), &alone);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
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
