//! Locks of every kind, shared and one's own, one that is waited for; leases; a lease that is being broken.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::files::fcntl;
use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check};

/// A file of its own, with something in it.
fn create(path: &Path) -> File {
    std::fs::write(path, vec![7; 200]).expect("write");
    OpenOptions::new().read(true).write(true).open(path).expect("open")
}

fn flock(file: &impl AsRawFd, how: i32) {
    // SAFETY: takes integers.
    check(unsafe { libc::flock(file.as_raw_fd(), how) }).expect("flock");
}

/// Sets a lock on `len` bytes from `start` on.
fn range(file: &File, command: i32, kind: i32, start: i64, len: i64) -> std::io::Result<i32> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: the kernel reads and writes a `struct flock`.
    check(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) })
}

/// The locks that a process holds by a descriptor, as the kernel shows them: in an order of their own.
fn locks(pid: Pid, fd: RawFd) -> Vec<String> {
    let path = format!("/proc/{pid}/fdinfo/{fd}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = text.lines().filter_map(|line| line.strip_prefix("lock:"));
    let mut lines: Vec<String> =
        lines.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    lines
}

/// A child that does something and then waits for its end.
fn child(work: impl FnOnce()) -> Pid {
    // SAFETY: the program has one thread here, so the child may use everything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            work();
            loop {
                nix::unistd::pause();
            }
        }
    }
}

/// Waits until a process has so many locks by a descriptor.
fn await_locks(pid: Pid, fd: RawFd, count: usize) {
    while locks(pid, fd).len() < count {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Waits until a process waits for a lock.
fn await_waiter(pid: Pid) {
    let is_it = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"->") && words.get(5) == Some(&pid.to_string().as_str())
    };
    while !std::fs::read_to_string("/proc/locks").expect("read").lines().any(is_it) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let shared = create(&stage.path("flock"));
    let ranges = create(&stage.path("ranges"));
    // The process has the file by another open file, too: to close either is to lose its locks.
    let other = File::open(stage.path("ranges")).expect("open");
    let open_file = create(&stage.path("ofd"));
    let leased = {
        create(&stage.path("lease"));
        File::open(stage.path("lease")).expect("open")
    };
    range(&ranges, libc::F_SETLK, libc::F_WRLCK, 10, 10).expect("lock");
    range(&other, libc::F_SETLK, libc::F_RDLCK, 100, 0).expect("lock");
    flock(&leased, libc::LOCK_SH);
    fcntl(leased.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK);
    // Inherited, and taken by the child; its own, of the same file as the parent's.
    let holder = child(|| {
        flock(&shared, libc::LOCK_EX);
        range(&open_file, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 50).expect("lock");
        range(&open_file, libc::F_OFD_SETLK, libc::F_RDLCK, 60, 1).expect("lock");
        range(&ranges, libc::F_SETLK, libc::F_RDLCK, 50, 5).expect("lock");
    });
    await_locks(holder, ranges.as_raw_fd(), 1);
    // It ends when it has what it waits for.
    let waiter = child(|| {
        let got = range(&ranges, libc::F_SETLKW, libc::F_WRLCK, 15, 1);
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(i32::from(got.is_err())) }
    });
    await_waiter(waiter);
    let all = || {
        let files = [&shared, &ranges, &other, &open_file, &leased].map(AsRawFd::as_raw_fd);
        [Pid::this(), holder].map(|pid| files.map(|fd| locks(pid, fd)))
    };
    let before = all();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("locks", &before, &all());
    let lease = fcntl(leased.as_raw_fd(), libc::F_GETLEASE, 0);
    found.same("lease", &libc::F_RDLCK, &lease);
    let again = File::open(stage.path("flock")).expect("open");
    // SAFETY: takes integers.
    let taken = unsafe { libc::flock(again.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) };
    found.must("nobody else has the lock", taken < 0);
    found.works("unlock", range(&ranges, libc::F_SETLK, libc::F_UNLCK, 10, 10));
    found.same("waiter", &Ok(WaitStatus::Exited(waiter, 0)), &waitpid(waiter, None));
    found.works("end", nix::sys::signal::kill(holder, Signal::SIGKILL));
    found.works("wait", waitpid(holder, None));
    found.outcome()
}

/// One process, with a lock of each kind.
pub(crate) fn plain(stage: &Stage) -> Outcome {
    let names = ["flock", "posix", "ofd", "lease"];
    let mut files = names.map(|name| create(&stage.path(name)));
    // A lease to write would be broken by CRIU, which opens what it dumps.
    files[3] = File::open(stage.path("lease")).expect("open");
    flock(&files[0], libc::LOCK_SH);
    range(&files[1], libc::F_SETLK, libc::F_WRLCK, 10, 10).expect("lock");
    range(&files[1], libc::F_SETLK, libc::F_RDLCK, 100, 0).expect("lock");
    range(&files[2], libc::F_OFD_SETLK, libc::F_RDLCK, 0, 50).expect("lock");
    fcntl(files[3].as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK);
    let all = || [0, 1, 2, 3].map(|nth: usize| locks(Pid::this(), files[nth].as_raw_fd()));
    let before = all();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("how many", &[1, 2, 1, 1], &[0, 1, 2, 3].map(|nth: usize| before[nth].len()));
    found.same("locks", &before, &all());
    found.outcome()
}

/// flock(2) works on whatever is open.
pub(crate) fn elsewhere(stage: &Stage) -> Outcome {
    let (reader, _writer) = nix::unistd::pipe().expect("pipe");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("pair");
    let files: [OwnedFd; 5] = [
        File::open("/dev/null").expect("open").into(),
        File::open(stage.dir()).expect("open").into(),
        nix::sys::eventfd::EventFd::new().expect("eventfd").into(),
        reader,
        socket.into(),
    ];
    // The device is everybody's, and so is the inode that all event files have.
    for (nth, file) in files.iter().enumerate() {
        flock(file, if nth == 0 || nth == 2 { libc::LOCK_SH } else { libc::LOCK_EX });
    }
    // Pipes and sockets have other inodes after a restore.
    let kinds = |fd| {
        let locks = locks(Pid::this(), fd).into_iter();
        locks.map(|lock| lock.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let all = || [0, 1, 2, 3, 4].map(|nth: usize| kinds(files[nth].as_raw_fd()));
    let before = all();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("there are locks", before.iter().all(|locks| locks.len() == 1));
    found.same("locks", &before, &all());
    found.outcome()
}

/// Leases that others wait for.
pub(crate) fn breaking(stage: &Stage) -> Outcome {
    // SAFETY: to ignore a signal runs no code of ours.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }.expect("ignore");
    let leased = |name: &str, writes: bool, by_whom: i32| {
        drop(create(&stage.path(name)));
        let file =
            OpenOptions::new().read(true).write(writes).open(stage.path(name)).expect("open");
        let kind = if writes { libc::F_WRLCK } else { libc::F_RDLCK };
        fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind);
        let mut open = OpenOptions::new();
        let open = if by_whom == libc::O_RDONLY { open.read(true) } else { open.write(true) };
        let error =
            open.custom_flags(libc::O_NONBLOCK).open(stage.path(name)).expect_err("the lease");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        file
    };
    let files = [
        leased("to-read", true, libc::O_RDONLY),
        leased("to-nothing", true, libc::O_WRONLY),
        leased("read-to-nothing", false, libc::O_WRONLY),
    ];
    let all = || {
        [0, 1, 2].map(|nth: usize| {
            let file = &files[nth];
            (fcntl(file.as_raw_fd(), libc::F_GETLEASE, 0), locks(Pid::this(), file.as_raw_fd()))
        })
    };
    let before = all();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same(
        "targets",
        &[libc::F_RDLCK, libc::F_UNLCK, libc::F_UNLCK],
        &[0, 1, 2].map(|nth: usize| before[nth].0),
    );
    found.same("leases", &before, &all());
    found.outcome()
}

/// A lease on a file that has no name any more.
pub(crate) fn deleted_lease(stage: &Stage) -> Outcome {
    let file = create(&stage.path("deleted"));
    std::fs::remove_file(stage.path("deleted")).expect("unlink");
    fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK);
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("lease", &libc::F_WRLCK, &fcntl(file.as_raw_fd(), libc::F_GETLEASE, 0));
    found.outcome()
}

/// Locks on files of which nothing but mappings is left: exclusive by a private one and by a shared one that is in two pieces, and
/// for all to read.
pub(crate) fn of_mapping(stage: &Stage) -> Outcome {
    let ways = [
        ("private", libc::LOCK_EX, libc::MAP_PRIVATE, libc::PROT_READ),
        ("shared", libc::LOCK_EX, libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE),
        ("readers", libc::LOCK_SH, libc::MAP_SHARED, libc::PROT_READ),
    ];
    let mapped = ways.map(|(name, how, sharing, access)| {
        let file = create(&stage.path(name));
        file.set_len(3 * 4096).expect("set_len");
        flock(&file, how);
        let region = Region::map(3 * 4096, access, sharing, Some((&file, 0)));
        let middle = (region.addr() + 4096) as *mut u8;
        Region::at(middle, 4096).protect(libc::PROT_NONE).expect("mprotect");
        region
    });
    stage.ready_then_wait();
    let mut found = Findings::default();
    for ((name, how, ..), region) in ways.into_iter().zip(mapped) {
        let file = File::open(stage.path(name)).expect("open");
        let attempt = |how: i32| {
            // SAFETY: takes integers.
            let answer = check(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) });
            flock(&file, libc::LOCK_UN);
            answer.is_ok()
        };
        found.must(
            &format!("{name}: mapping"),
            Region::at(region.addr() as *mut u8, 200).bytes() == [7; 200],
        );
        found.must(&format!("{name}: nobody may write"), !attempt(libc::LOCK_EX));
        let may_read = how == libc::LOCK_SH;
        found.must(&format!("{name}: who may read"), attempt(libc::LOCK_SH) == may_read);
        region.unmap().expect("munmap");
        found.must(&format!("{name}: unlocked with its mapping"), attempt(libc::LOCK_EX));
    }
    found.outcome()
}

/// A lock of an open file (OFD) of which nothing but a mapping is left.
pub(crate) fn of_mapping_by_range(stage: &Stage) -> Outcome {
    let path = stage.path("mapped");
    let file = create(&path);
    range(&file, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 0).expect("lock");
    let mapped = Region::map(200, libc::PROT_READ, libc::MAP_PRIVATE, Some((&file, 0)));
    drop(file);
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("mapping", mapped.bytes()[0] == 7);
    found.outcome()
}

/// A lock that a mapping keeps, on a file that others may want to lock.
pub(crate) fn of_mapping_alone(stage: &Stage) -> Outcome {
    let path = stage.path("contended");
    let file = create(&path);
    flock(&file, libc::LOCK_EX);
    let region = Region::map(200, libc::PROT_READ, libc::MAP_SHARED, Some((&file, 0)));
    drop(file);
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("mapping", region.bytes() == [7; 200]);
    found.must("locked", File::open(path).expect("open").try_lock().is_err());
    found.outcome()
}

/// One lock of a kind on a file that others may want to lock: what `DIR/kind` says.
pub(crate) fn one(stage: &Stage) -> Outcome {
    let file = create(&stage.path("contended"));
    let kind = std::fs::read_to_string(stage.path("kind")).expect("read");
    match kind.as_str() {
        "flock" => flock(&file, libc::LOCK_EX),
        "shared" => flock(&file, libc::LOCK_SH),
        "posix" => drop(range(&file, libc::F_SETLK, libc::F_WRLCK, 10, 10).expect("lock")),
        "ofd" => drop(range(&file, libc::F_OFD_SETLK, libc::F_WRLCK, 10, 10).expect("lock")),
        "lease" => drop(fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)),
        kind => panic!("{kind}"),
    }
    let before = locks(Pid::this(), file.as_raw_fd());
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("there is a lock", before.len() == 1);
    found.same("lock", &before, &locks(Pid::this(), file.as_raw_fd()));
    found.outcome()
}
