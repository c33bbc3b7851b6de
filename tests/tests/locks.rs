//! File locks that others have by now, and the option by which CRIU's callers ask for locks.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload};

fn start(scratch: &Scratch, kind: &str) -> Workload {
    std::fs::create_dir_all(scratch.path("work")).expect("make the directory");
    std::fs::write(scratch.path("work").join("kind"), kind).expect("write");
    Workload::start("locks_one", scratch.path("work"))
}

/// Takes all of a file.
fn take(file: &File, kind: &str) {
    use nix::fcntl::{FcntlArg, fcntl};
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match kind {
        "flock" => file.try_lock().expect("flock"),
        "shared" => file.try_lock_shared().expect("flock"),
        "posix" => drop(fcntl(file, FcntlArg::F_SETLK(&lock)).expect("lock")),
        "ofd" => drop(fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("lock")),
        // That it is open is enough.
        "lease" => {}
        kind => panic!("{kind}"),
    }
}

fn contended(workload: &Workload) -> File {
    let path = workload.path("contended");
    OpenOptions::new().read(true).write(true).open(path).expect("open")
}

/// A lock that another program has taken meanwhile: the restore says who, and nothing of the tree comes to
/// life; when it is free the restore is as good as ever.
fn taken_meanwhile(kind: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = start(&scratch, kind);
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let file = contended(&workload);
    take(&file, kind);
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!refused.success, "{kind}");
    let holder = format!("process {} (", std::process::id());
    assert!(refused.stderr.contains(&holder), "{kind}: {}", refused.stderr);
    let object = format!("by descriptor {}", 3);
    assert!(refused.stderr.contains(&object), "{kind}: {}", refused.stderr);
    machine.await_no_children();
    assert!(!workload.program().is_alive(), "{kind}: somebody lives");
    drop(file);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().unwrap_or_else(|what| panic!("{kind}: {what}"));
}

#[test]
fn a_flock_that_another_has() {
    taken_meanwhile("flock");
}

#[test]
fn a_lock_of_a_process_that_another_has() {
    taken_meanwhile("posix");
}

#[test]
fn a_lock_of_an_open_file_that_another_has() {
    taken_meanwhile("ofd");
}

#[test]
fn a_lease_on_a_file_that_another_has_open() {
    taken_meanwhile("lease");
}

/// As above, of a lock that nothing but a mapping keeps.
#[test]
fn a_flock_of_a_mapping_that_another_has() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("locks_of_mapping_alone", scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let file = contended(&workload);
    take(&file, "flock");
    let refused = Engine::Stasis.restore(&images, Dump::ENDING);
    assert!(!refused.success, "restored with a lock that another has");
    for word in ["exclusive flock of mapping", &format!("process {} (", std::process::id())] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
    }
    machine.await_no_children();
    drop(file);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
}

/// Locks of others that go together with the tree's are no obstacle.
#[test]
fn a_shared_lock_that_others_have_too() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = start(&scratch, "shared");
    let file = contended(&workload);
    take(&file, "shared");
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    workload.check().expect("the program's own check");
    assert!(file.as_raw_fd() >= 0, "it is held until here");
}

/// The face refuses what CRIU's callers have not asked for, and says by which option they ask.
#[test]
fn locks_are_asked_for_as_of_criu() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = start(&scratch, "flock");
    let images = scratch.path("images");
    std::fs::create_dir(&images).expect("make the directory");
    let pid = workload.pid().to_string();
    let face = |words: &[&str]| {
        let mut command = Engine::CriuFace.command(words[0]);
        Outcome::of(command.arg("-D").arg(&images).args(&words[1..]))
    };
    let refused = face(&["dump", "-t", &pid]);
    assert!(!refused.success && refused.stderr.contains("--file-locks"), "{}", refused.stderr);
    assert!(workload.program().is_alive());
    face(&["dump", "-t", &pid, "-l"]).must_succeed("dump");
    machine.await_no_children();
    // As CRIU restores it without: the lock is left out, and the log says so.
    let file = contended(&workload);
    take(&file, "flock");
    let without = face(&["restore", "-d"]).must_succeed("restore");
    assert!(without.stderr.contains("--file-locks"), "{}", without.stderr);
    machine.end_tree(workload.pid());
    drop(file);
    face(&["restore", "-d", "--file-locks"]).must_succeed("restore");
    workload.check().expect("the program's own check");
}
