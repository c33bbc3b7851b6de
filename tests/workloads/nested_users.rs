//! User namespaces below that of the tree's root, in which nothing but ids and capabilities is other than around.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use crate::stage::{Findings, Outcome, Stage, check, eventually};
use crate::tree::child;
use crate::users::{open_stage, own};

/// The number of the user namespace of a process.
fn namespace(pid: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/user")).expect("stat").ino()
}

/// Who owns the user namespace of a process.
fn owner(pid: Pid) -> u32 {
    const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
    let namespace = File::open(format!("/proc/{pid}/ns/user")).expect("open");
    let mut owner: libc::uid_t = u32::MAX;
    // SAFETY: the request writes one id to where the pointer points.
    let done = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
    check(done).expect("owner");
    owner
}

fn become_user(user: u32, group: u32, groups: &[u32]) {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).expect("setgroups");
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    setresgid(group, group, group).expect("setresgid");
    setresuid(user, user, user).expect("setresuid");
    nix::sys::prctl::set_dumpable(true).expect("dumpable");
}

fn write(pid: &str, name: &str, text: &str) {
    fs::write(format!("/proc/{pid}/{name}"), text)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// Is there, is taken away, and sees what it saw before.
fn member(stage: &Stage, name: &str, more: impl FnOnce(&mut Findings)) -> Outcome {
    let before = own();
    stage.publish(name, "");
    stage.wait();
    let mut found = Findings::default();
    found.same(name, &before, &own());
    more(&mut found);
    found.outcome()
}

fn await_all(paths: &[PathBuf]) {
    assert!(eventually(|| paths.iter().all(|path| path.exists())), "{paths:?}");
}

/// A user without rights makes one for himself, with a child that is in it as well.
fn of_user(stage: &Stage) -> Outcome {
    become_user(1234, 1235, &[1236, 27]);
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
    write("self", "setgroups", "deny");
    write("self", "gid_map", "0 1235 1");
    write("self", "uid_map", "0 1234 1");
    // SAFETY: these calls take numbers.
    unsafe {
        check(libc::prctl(libc::PR_CAPBSET_DROP, 16, 0, 0, 0)).expect("drop");
        check(libc::prctl(libc::PR_SET_SECUREBITS, 1 << 2, 0, 0, 0)).expect("secure bits");
    }
    let below = child(stage, "below", || {
        member(stage, "below", |found| {
            let parent = nix::unistd::getppid().to_string();
            found.same("the namespace of the parent", &namespace(&parent), &namespace("self"));
            found.must("no rights around", setgroups(&[]).is_err());
            found.works("a host name", unshare(CloneFlags::CLONE_NEWUTS));
            found.works("of its own", nix::unistd::sethostname("nested"));
        })
    });
    member(stage, "of a user", |found| {
        found.must("a host name of others", nix::unistd::sethostname("others").is_err());
        found.same("below", &Ok(WaitStatus::Exited(below, 0)), &waitpid(below, None));
    })
}

/// Nobody has a number in it.
fn without_ids(stage: &Stage) -> Outcome {
    become_user(77, 78, &[]);
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
    member(stage, "without ids", |found| {
        found.same("nobody", &65_534, &nix::unistd::getuid().as_raw());
    })
}

/// With a network and a host name of its own.
fn owning(stage: &Stage) -> Outcome {
    become_user(1234, 1235, &[]);
    let others = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET;
    unshare(CloneFlags::CLONE_NEWUSER | others).expect("unshare");
    let host_name = || nix::unistd::sethostname("of a sandbox");
    host_name().expect("host name");
    let up = "/proc/sys/net/ipv4/ip_default_ttl";
    let before = fs::read(up).ok();
    member(stage, "owning", |found| {
        let name = nix::sys::utsname::uname().expect("uname").nodename().to_owned();
        found.same("host name", &std::ffi::OsString::from("of a sandbox"), &name);
        found.works("another host name", host_name());
        found.same("a setting", &before, &fs::read(up).ok());
        // SAFETY: the call takes numbers.
        let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 1) };
        found.must("a raw socket", raw >= 0);
        for name in ["net", "uts"] {
            found.must(name, crate::users::is_owned(name));
        }
    })
}

/// In one that is in another, in which nobody is; a host name belongs to that one.
fn in_another(stage: &Stage) -> Outcome {
    become_user(1234, 1235, &[]);
    let around = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWUTS;
    unshare(around).expect("unshare");
    write("self", "setgroups", "deny");
    write("self", "gid_map", "8 1235 1");
    write("self", "uid_map", "9 1234 1");
    nix::unistd::sethostname("around").expect("host name");
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare again");
    write("self", "gid_map", "3 8 1");
    write("self", "uid_map", "4 9 1");
    let seen = || {
        let file = File::open("/proc/self/ns/user").expect("open");
        // SAFETY: the request takes nothing, and gives a descriptor or an error.
        let around = unsafe { libc::ioctl(file.as_raw_fd(), 0xb702) };
        let map = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).expect("read");
        let ids = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        (around, map("uid_map"), map("gid_map"), ids, owner(nix::unistd::getpid()))
    };
    let before = seen();
    let ready = Arc::new(Barrier::new(2));
    let thread = {
        let ready = Arc::clone(&ready);
        std::thread::spawn(move || {
            let before = of_thread();
            ready.wait();
            std::thread::park();
            (before, of_thread())
        })
    };
    ready.wait();
    member(stage, "in another", |found| {
        found.same("what it sees", &before, &seen());
        let name = nix::sys::utsname::uname().expect("uname").nodename().to_owned();
        found.same("host name", &std::ffi::OsString::from("around"), &name);
        found.must("the name of others", nix::unistd::sethostname("mine").is_err());
        thread.thread().unpark();
        let (before, after) = thread.join().expect("a thread");
        found.same("a thread", &before, &after);
    })
}

/// Root has mapped ranges, and somebody of these is in it without rights.
fn of_ranges(stage: &Stage) -> Outcome {
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
    stage.publish("to map", "");
    await_all(&[stage.path("mapped")]);
    become_user(0, 0, &[9]);
    become_user(1007, 1003, &[9, 1001]);
    member(stage, "of ranges", |found| {
        found.must(
            "no right to be root",
            setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err(),
        );
    })
}

/// What a thread has for itself.
fn of_thread() -> Vec<String> {
    let told = ["Pid:", "Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:"];
    let status = fs::read_to_string("/proc/thread-self/status").expect("status");
    let mut lines: Vec<String> = status
        .lines()
        .filter(|line| told.iter().any(|name| line.starts_with(name)))
        .map(str::to_owned)
        .collect();
    // SAFETY: these calls take numbers.
    let (nice, policy) =
        unsafe { (libc::getpriority(libc::PRIO_PROCESS, 0), libc::sched_getscheduler(0)) };
    lines.push(format!("nice {nice} policy {policy}"));
    lines
}

/// Several threads, of which each has something that the others have not, and one more priority than it may take again.
fn of_threads(stage: &Stage) -> Outcome {
    become_user(1234, 1235, &[1236]);
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
    write("self", "setgroups", "deny");
    write("self", "gid_map", "7 1235 1");
    write("self", "uid_map", "7 1234 1");
    let (go, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(4)));
    // SAFETY: takes numbers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let thread = |nth: u64| {
        let (go, ready) = (Arc::clone(&go), Arc::clone(&ready));
        std::thread::spawn(move || {
            let parameter = libc::sched_param { sched_priority: 0 };
            // SAFETY: these calls take numbers, and a structure that outlives the call.
            let set = unsafe {
                match nth {
                    0 => libc::setpriority(libc::PRIO_PROCESS, 0, nice + 1),
                    1 => libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter),
                    _ => libc::prctl(libc::PR_CAPBSET_DROP, 16, 0, 0, 0),
                }
            };
            check(set).expect("set");
            let before = of_thread();
            ready.wait();
            while !go.load(Ordering::Acquire) {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
            (before, of_thread())
        })
    };
    let threads: Vec<_> = (0..3).map(thread).collect();
    ready.wait();
    // The others are less nice than their leader.
    // SAFETY: takes numbers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice + 3) }).expect("nice");
    let of_leader = of_thread();
    member(stage, "of threads", |found| {
        go.store(true, Ordering::Release);
        found.same("the leader", &of_leader, &of_thread());
        for thread in threads {
            let (before, after) = thread.join().expect("a thread");
            found.same("a thread", &before, &after);
        }
        found.must("a new thread", std::thread::spawn(of_thread).join().is_ok());
    })
}

/// The first thread has taken ids in it, and the other one has those that it was born with, which have a number as well.
fn of_other_ids(stage: &Stage) -> Outcome {
    unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
    stage.publish("others to map", "");
    await_all(&[stage.path("others mapped")]);
    become_user(0, 0, &[9]);
    let (go, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
    let thread = {
        let (go, ready) = (Arc::clone(&go), Arc::clone(&ready));
        std::thread::spawn(move || {
            let before = of_thread();
            ready.wait();
            while !go.load(Ordering::Acquire) {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
            (before, of_thread())
        })
    };
    ready.wait();
    // SAFETY: takes numbers. The C library's function would change all threads.
    check(unsafe { libc::syscall(libc::SYS_setresuid, 5, 6, 7) } as i32).expect("setresuid");
    let of_leader = of_thread();
    member(stage, "of other ids", |found| {
        go.store(true, Ordering::Release);
        found.same("the leader", &of_leader, &of_thread());
        let (before, after) = thread.join().expect("a thread");
        found.same("the thread", &before, &after);
    })
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    open_stage(stage);
    let user = child(stage, "user", || of_user(stage));
    let nobody = child(stage, "nobody", || without_ids(stage));
    let ranges = child(stage, "ranges", || of_ranges(stage));
    let with = child(stage, "with", || owning(stage));
    let threads = child(stage, "threads", || of_threads(stage));
    let others = child(stage, "others", || of_other_ids(stage));
    let inner = child(stage, "inner", || in_another(stage));
    await_all(&["to map", "others to map"].map(|name| stage.path(name)));
    let map = "0 100000 1000\n1000 300000 70000\n";
    write(&ranges.to_string(), "gid_map", map);
    write(&ranges.to_string(), "uid_map", map);
    write(&others.to_string(), "gid_map", map);
    write(&others.to_string(), "uid_map", map);
    stage.publish("mapped", "");
    stage.publish("others mapped", "");
    let all = [
        "of a user",
        "below",
        "without ids",
        "of ranges",
        "owning",
        "of threads",
        "of other ids",
        "in another",
    ];
    await_all(&all.map(|name| stage.path(name)));
    let before = own();
    let owners = || [user, nobody, ranges].map(owner);
    let of = owners();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("who is around", &before, &own());
    found.same("the owners", &[1234, 77, 0], &of);
    found.same("the owners in the end", &of, &owners());
    found.must("apart", namespace(&user.to_string()) != namespace("self"));
    let all = [
        ("user", user),
        ("nobody", nobody),
        ("ranges", ranges),
        ("with", with),
        ("threads", threads),
        ("others", others),
        ("inner", inner),
    ];
    for (what, pid) in all {
        found.same(what, &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
    }
    found.outcome()
}

/// What is not carried.
pub(crate) fn refused(stage: &Stage) -> Outcome {
    open_stage(stage);
    let owning = child(stage, "owning", || {
        // The next child would make its pid namespace.
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).expect("unshare");
        member(stage, "owning", |_| {})
    });
    let threads = child(stage, "threads", || {
        unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
        // Nobody has a number yet.
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
        stage.publish("to map", "");
        await_all(&[stage.path("mapped")]);
        // SAFETY: takes numbers. The C library's function would change all threads.
        check(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) } as i32).expect("setresuid");
        nix::sys::prctl::set_dumpable(true).expect("dumpable");
        member(stage, "threads", |_| {})
    });
    await_all(&[stage.path("to map")]);
    write(&threads.to_string(), "uid_map", "0 100000 1000\n");
    stage.publish("mapped", "");
    await_all(&["owning", "threads"].map(|name| stage.path(name)));
    stage.ready_then_wait();
    let mut found = Findings::default();
    for pid in [owning, threads] {
        found.same("child", &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
    }
    found.outcome()
}
