//! A process and its child that hold one thing together. Each may be checkpointed: the child alone, when the
//! parent is outside, or both.
//!
//! The parent writes `DIR/child`, the child's number. When it is told to check, the child gives it a sign
//! through what they share.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigHandler, Signal, kill};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check};

/// Runs both: the child gives `sign` when it is told to, and `has_come` says whether the parent has it.
fn both(stage: &Stage, sign: impl FnOnce(), has_come: impl FnMut() -> bool) -> Outcome {
    both_with(stage, &mut (), |()| sign(), |()| {}, has_come)
}

/// The same with something that the child uses and the parent lets go of.
fn both_with<T>(
    stage: &Stage,
    thing: &mut T,
    sign: impl FnOnce(&mut T),
    let_go: impl FnOnce(&mut T),
    mut has_come: impl FnMut() -> bool,
) -> Outcome {
    // A child that a checkpoint ends leaves its number at once.
    // SAFETY: nothing handles the signal.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }.expect("ignore");
    let child = crate::tree::child(stage, "one", || {
        nix::unistd::setsid().map_err(|errno| errno.to_string())?;
        stage.publish("child", &std::process::id().to_string());
        while !stage.path("give").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        sign(thing);
        // It is there until it is ended, as is what it holds.
        loop {
            nix::unistd::pause();
        }
    });
    let_go(thing);
    while !stage.path("child").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("no sign before it was given", !has_come());
    stage.publish("give", "");
    let until = Instant::now() + Duration::from_secs(20);
    let mut come = has_come();
    while !come && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
        come = has_come();
    }
    found.must("the child's sign comes", come);
    found.works("end the child", kill(child, Signal::SIGKILL));
    found.outcome()
}

fn is_readable(file: impl AsFd) -> bool {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).expect("poll");
    polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

pub(crate) fn pipe(stage: &Stage) -> Outcome {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe");
    let mut writer = Some(File::from(writer));
    let sign = |writer: &mut Option<File>| {
        writer.as_mut().expect("the end").write_all(b"x").expect("write");
    };
    // The parent has the end that reads alone.
    both_with(stage, &mut writer, sign, |writer| drop(writer.take()), || is_readable(&reader))
}

pub(crate) fn fifo(stage: &Stage) -> Outcome {
    let path = stage.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let mut fifo = OpenOptions::new().read(true).write(true).open(path).expect("open");
    let reader = fifo.try_clone().expect("dup");
    both(stage, || fifo.write_all(b"x").expect("write"), || is_readable(&reader))
}

pub(crate) fn socket(stage: &Stage) -> Outcome {
    // Both hold both ends.
    let (one, other) = UnixDatagram::pair().expect("socketpair");
    both(stage, || assert_eq!(one.send(b"x").expect("send"), 1), || is_readable(&other))
}

pub(crate) fn eventfd(stage: &Stage) -> Outcome {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("eventfd");
    both(stage, || assert_eq!(event.write(3).expect("write"), 8), || is_readable(&event))
}

pub(crate) fn timerfd(stage: &Stage) -> Outcome {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).expect("timerfd");
    let soon = Expiration::OneShot(Duration::from_millis(1).into());
    let sign = || timer.set(soon, TimerSetTimeFlags::empty()).expect("set the timer");
    both(stage, sign, || is_readable(&timer))
}

pub(crate) fn epoll(stage: &Stage) -> Outcome {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let event = EventFd::from_value(1).expect("eventfd");
    let ready = EpollEvent::new(EpollFlags::EPOLLIN, 7);
    both(stage, || epoll.add(&event, ready).expect("add"), || is_readable(&epoll.0))
}

pub(crate) fn memory(stage: &Stage) -> Outcome {
    let region = Region::map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, None);
    // SAFETY: the region is a page long, aligned, and lives as long as this function; both processes
    // reach its first word by atomic operations only.
    let word = unsafe { &*(region.addr() as *const AtomicU32) };
    both(stage, || word.store(7, Ordering::SeqCst), || word.load(Ordering::SeqCst) == 7)
}

pub(crate) fn system_v(stage: &Stage) -> Outcome {
    crate::sysv::shared(stage, |stage, word| {
        both(stage, || word.store(7, Ordering::SeqCst), || word.load(Ordering::SeqCst) == 7)
    })
}

pub(crate) fn deleted(stage: &Stage) -> Outcome {
    let path = stage.path("gone");
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("open");
    std::fs::remove_file(path).expect("remove");
    let written = || file.metadata().expect("stat").len() == 3;
    both(stage, || file.write_all_at(b"abc", 0).expect("write"), written)
}

pub(crate) fn memfd(stage: &Stage) -> Outcome {
    let file = crate::memfd::make(c"both", 0);
    let written = || file.metadata().expect("stat").len() == 3;
    both(stage, || file.write_all_at(b"abc", 0).expect("write"), written)
}

pub(crate) fn memfd_sealed(stage: &Stage) -> Outcome {
    let file = crate::memfd::make(c"both", libc::MFD_ALLOW_SEALING);
    file.write_all_at(b"abc", 0).expect("write");
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    crate::files::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals);
    let given = stage.path("sign");
    let sign = || {
        let mut three = [0; 3];
        file.read_exact_at(&mut three, 0).expect("read");
        std::fs::write(&given, three).expect("write");
    };
    both(stage, sign, || std::fs::read(&given).is_ok_and(|text| text == b"abc"))
}

/// One that both map and none has open.
pub(crate) fn memfd_mapping(stage: &Stage) -> Outcome {
    let file = crate::memfd::make(c"both", 0);
    file.set_len(4096).expect("set the size");
    let (rights, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let region = Region::map(4096, rights, shared, Some((&file, 0)));
    drop(file);
    let word = crate::memfd::word(&region);
    both(stage, || word.store(7, Ordering::SeqCst), || word.load(Ordering::SeqCst) == 7)
}

/// A log, to which both have the same description.
pub(crate) fn log(stage: &Stage) -> Outcome {
    let path = stage.path("both.log");
    let log = OpenOptions::new().append(true).create_new(true).open(&path).expect("open");
    let came = || std::fs::read(&path).expect("read") == b"child\n";
    both(stage, || (&log).write_all(b"child\n").expect("write"), came)
}

/// A pipe of which both have both ends, as that of a job server.
pub(crate) fn job_server(stage: &Stage) -> Outcome {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe");
    let (reader, writer) = (File::from(reader), File::from(writer));
    (&writer).write_all(b"ab").expect("put tokens");
    let sign = || {
        let mut token = [0];
        (&reader).read_exact(&mut token).expect("take a token");
        assert_eq!(&token, b"a", "each token is there once");
        (&writer).write_all(b"cd").expect("put others");
    };
    let come = || {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the kernel writes one integer, which `bytes` is.
        let told = unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
        check(told).expect("FIONREAD");
        let mut tokens = [0; 3];
        bytes == 3 && (&reader).read_exact(&mut tokens).is_ok() && &tokens == b"bcd"
    };
    both(stage, sign, come)
}

/// Runs with a child made by `clone`, for nothing but to be there.
fn with_sharer(stage: &Stage, child: i32) -> Outcome {
    check(child).expect("clone");
    let child = nix::unistd::Pid::from_raw(child);
    while nix::unistd::getsid(Some(child)) != Ok(child) {
        std::thread::sleep(Duration::from_millis(1));
    }
    stage.publish("child", &child.to_string());
    stage.ready_then_wait();
    let mut found = Findings::default();
    // The test may have ended it.
    found.must(
        "the child is there, or was",
        matches!(kill(child, Signal::SIGKILL), Ok(()) | Err(nix::errno::Errno::ESRCH)),
    );
    found.outcome()
}

/// What such a child does: it must not touch what its parent uses.
extern "C" fn stay(_: *mut libc::c_void) -> libc::c_int {
    // SAFETY: neither call reads or writes memory, but for the error of one that never ends.
    unsafe {
        libc::setsid();
        loop {
            libc::pause();
        }
    }
}

fn clone_with(flags: libc::c_int) -> i32 {
    let stack = Region::map(64 << 10, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, None);
    let top = (stack.addr() + (64 << 10)) as *mut libc::c_void;
    // SAFETY: nothing handles the signal.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }.expect("ignore");
    // SAFETY: the child has a stack of its own, which stays, and does nothing but wait.
    unsafe { libc::clone(stay, top, flags | libc::SIGCHLD, std::ptr::null_mut()) }
}

pub(crate) fn descriptor_table(stage: &Stage) -> Outcome {
    with_sharer(stage, clone_with(libc::CLONE_FILES))
}

pub(crate) fn directories(stage: &Stage) -> Outcome {
    with_sharer(stage, clone_with(libc::CLONE_FS))
}

pub(crate) fn address_space(stage: &Stage) -> Outcome {
    with_sharer(stage, clone_with(libc::CLONE_VM | libc::CLONE_SIGHAND))
}
