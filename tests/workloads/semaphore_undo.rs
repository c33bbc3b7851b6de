//! System V semaphores with operations that the end of a thread undoes (`SEM_UNDO`).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::stage::{Findings, Outcome, Stage, check, eventually};
use crate::tree::child;

const UNDONE: i32 = libc::SEM_UNDO;
/// What the semaphores are at first.
const FIRST: [u16; 4] = [5, 32_767, 20_000, 0];

/// Adds to a semaphore; takes what is not there only if it may wait for it.
fn add(set: i32, semaphore: u16, by: i16, flags: i32) -> std::io::Result<i32> {
    let mut operation = libc::sembuf { sem_num: semaphore, sem_op: by, sem_flg: flags as i16 };
    // SAFETY: the operation outlives the call.
    check(unsafe { libc::semop(set, &raw mut operation, 1) })
}

fn values(set: i32) -> [u16; 4] {
    let mut values = [0; 4];
    // SAFETY: the set has so many.
    check(unsafe { libc::semctl(set, 0, libc::GETALL, values.as_mut_ptr()) })
        .expect("read the set");
    values
}

fn make() -> i32 {
    // SAFETY: takes integers, and as many values as the set has.
    unsafe {
        let set = check(libc::semget(libc::IPC_PRIVATE, 4, 0o600)).expect("semget");
        check(libc::semctl(set, 0, libc::SETALL, FIRST.as_ptr())).expect("set the values");
        set
    }
}

fn remove(set: i32) {
    // SAFETY: takes integers.
    check(unsafe { libc::semctl(set, 0, libc::IPC_RMID) }).expect("remove the set");
}

fn wait_for(stage: &Stage, name: &str) {
    while !stage.path(name).exists() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// In an IPC namespace of its own, whose sets are in the images.
pub(crate) fn in_namespace(stage: &Stage) -> Outcome {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC).expect("unshare");
    // One operation in a call.
    std::fs::write("/proc/sys/kernel/sem", "32000\t1024000000\t1\t32000").expect("set a limit");
    run(stage)
}

/// In the namespace of who starts it: what is undone when it is dumped and ended has to be done again.
pub(crate) fn run(stage: &Stage) -> Outcome {
    let (set, given_back) = (make(), make());
    stage.publish("sets", &format!("{set} {given_back}"));
    let threads = child(stage, "threads", || threads(stage, (set, given_back)));
    wait_for(stage, "threads-stand");
    // Takes the last of the first semaphore.
    let one = child(stage, "one", || {
        add(set, 0, -1, UNDONE | libc::IPC_NOWAIT).expect("semop");
        stage.publish("one-stands", "");
        wait_for(stage, "end-one");
        Ok(())
    });
    wait_for(stage, "one-stands");
    let waiter = child(stage, "waiter", || {
        stage.publish("waiter-stands", "");
        add(set, 0, -1, UNDONE)
            .map(drop)
            .map_err(|error| format!("wait for a semaphore: {error}"))?;
        stage.publish("waiter-has-it", "");
        wait_for(stage, "end-waiter");
        Ok(())
    });
    wait_for(stage, "waiter-stands");
    let before = values(set);
    stage.ready_then_wait();

    let mut found = Findings::default();
    let ends = |name: &str, pid: Pid, found: &mut Findings| {
        stage.publish(name, "");
        found.same(name, &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
    };
    found.same("what they were at", &[0, 32_760, 20_105, 2], &before);
    found.same("what they are at", &before, &values(set));
    found.same("what was given back", &FIRST, &values(given_back));
    found.must("the last one is still taken", !stage.path("waiter-has-it").exists());
    stage.publish("end-thread", "");
    found.must("a thread ends", eventually(|| values(set)[2] == 20_005));
    ends("end-one", one, &mut found);
    found
        .must("who waits gets what is undone", eventually(|| stage.path("waiter-has-it").exists()));
    ends("end-waiter", waiter, &mut found);
    found.same("what one process had", &[1, 32_760, 20_005, 2], &values(set));
    ends("end-threads", threads, &mut found);
    found.same("all is undone", &FIRST, &values(set));
    found.same("nothing was to be undone there", &FIRST, &values(given_back));
    remove(set);
    remove(given_back);
    found.outcome()
}

/// Threads that have in common what is to be undone, and one that has something for itself.
fn threads(stage: &Stage, (set, given_back): (i32, i32)) -> Outcome {
    add(given_back, 1, -9, UNDONE).expect("semop");
    add(given_back, 1, 9, UNDONE).expect("semop");
    add(set, 0, -3, UNDONE).expect("semop");
    add(set, 1, -7, UNDONE).expect("semop");
    add(set, 2, 5, UNDONE).expect("semop");
    add(set, 3, 2, UNDONE).expect("semop");
    let (standing, own_ends, all_end) =
        (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let common = scope.spawn(|| {
            add(set, 0, -1, UNDONE).expect("semop");
            standing.fetch_add(1, Ordering::SeqCst);
            wait(&all_end);
        });
        let own = scope.spawn(|| {
            // SAFETY: takes an integer.
            check(unsafe { libc::unshare(libc::CLONE_SYSVSEM) }).expect("unshare");
            add(set, 2, 100, UNDONE).expect("semop");
            standing.fetch_add(1, Ordering::SeqCst);
            wait(&own_ends);
        });
        assert!(eventually(|| standing.load(Ordering::SeqCst) == 2), "the threads stand");
        stage.publish("threads-stand", "");
        wait_for(stage, "end-thread");
        own_ends.store(true, Ordering::SeqCst);
        own.join().expect("a thread");
        wait_for(stage, "end-threads");
        all_end.store(true, Ordering::SeqCst);
        common.join().expect("a thread");
    });
    Ok(())
}

fn wait(word: &AtomicBool) {
    while !word.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
}

fn end(child: Pid) {
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("kill");
    waitpid(child, None).expect("wait");
}

/// A process and its child that have in common what is to be undone.
pub(crate) fn shared(stage: &Stage) -> Outcome {
    let set = make();
    add(set, 0, -1, UNDONE).expect("semop");
    let flags = libc::c_long::from(libc::CLONE_SYSVSEM | libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has a copy of all memory, as after fork(2); this program has one thread.
    let made = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if made == 0 {
        loop {
            thread::sleep(Duration::from_secs(1000));
        }
    }
    stage.ready_then_wait();
    end(Pid::from_raw(check(made as i32).expect("clone")));
    remove(set);
    Ok(())
}

/// Two threads that have in common what is to be undone, apart from the leader.
pub(crate) fn apart(stage: &Stage) -> Outcome {
    let set = make();
    let (stands, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: takes an integer.
            check(unsafe { libc::unshare(libc::CLONE_SYSVSEM) }).expect("unshare");
            add(set, 0, -1, UNDONE).expect("semop");
            // Made by this one, it has its list.
            thread::scope(|inner| {
                inner.spawn(|| wait(&over));
                stands.store(true, Ordering::SeqCst);
                wait(&over);
            });
        });
        wait(&stands);
        stage.ready_then_wait();
        over.store(true, Ordering::SeqCst);
    });
    remove(set);
    Ok(())
}

/// More semaphores in a set than are told of.
pub(crate) fn many(stage: &Stage) -> Outcome {
    // SAFETY: takes integers.
    let set = check(unsafe { libc::semget(libc::IPC_PRIVATE, 129, 0o600) }).expect("semget");
    add(set, 128, 1, UNDONE).expect("semop");
    stage.ready_then_wait();
    remove(set);
    Ok(())
}

/// A process that has given up the right to change the set.
pub(crate) fn no_rights(stage: &Stage) -> Outcome {
    without_rights(stage, || {})
}

/// The same, which has all rights in a user namespace below the one that the set belongs to.
pub(crate) fn no_rights_there(stage: &Stage) -> Outcome {
    without_rights(stage, || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).expect("unshare");
    })
}

fn without_rights(stage: &Stage, more: impl FnOnce()) -> Outcome {
    let set = make();
    add(set, 0, -1, UNDONE).expect("semop");
    let waiting = child(stage, "user", || {
        add(set, 0, -1, UNDONE).expect("semop");
        nix::unistd::setresgid(65_534.into(), 65_534.into(), 65_534.into())
            .expect("give up the group");
        nix::unistd::setresuid(65_534.into(), 65_534.into(), 65_534.into()).expect("give up root");
        more();
        loop {
            thread::sleep(Duration::from_secs(1000));
        }
    });
    // (The directory may be closed to it, so that it can write nothing there.)
    let is_user = || {
        std::fs::read_to_string(format!("/proc/{waiting}/status"))
            .is_ok_and(|text| text.contains("Uid:\t65534"))
    };
    assert!(eventually(is_user), "it is a user");
    stage.ready_then_wait();
    end(waiting);
    remove(set);
    Ok(())
}
