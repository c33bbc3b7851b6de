//! eventfd, timerfd, signalfd and epoll, with their counts, times and watched files.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::files::fcntl;
use crate::stage::{Findings, Outcome, Stage};

fn event_files() -> [EventFd; 2] {
    let new = |count, flags| EventFd::from_value_and_flags(count, flags).expect("eventfd");
    [new(5, EfdFlags::EFD_NONBLOCK), new(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)]
}

fn verify_event_files(found: &mut Findings, [counter, empty]: &[EventFd; 2]) {
    found.same("counter", &Ok(5), &counter.read());
    found.same("counter is empty", &Err(nix::Error::EAGAIN), &counter.read());
    found.same("empty", &Err(nix::Error::EAGAIN), &empty.read());
    found.same("write", &Ok(8), &empty.write(9));
    found.same("read", &Ok(9), &empty.read());
}

struct Timers {
    far: TimerFd,
    fired: TimerFd,
    idle: TimerFd,
    since: Instant,
}

fn interval(start: Duration, every: Duration) -> Expiration {
    Expiration::IntervalDelayed(TimeSpec::from_duration(start), TimeSpec::from_duration(every))
}

impl Timers {
    fn new() -> Self {
        let new = |clock| TimerFd::new(clock, TimerFlags::TFD_NONBLOCK).expect("timerfd");
        let none = TimerSetTimeFlags::empty();
        let far = new(ClockId::CLOCK_BOOTTIME);
        far.set(interval(Duration::from_secs(1000), Duration::from_secs(3)), none).expect("set");
        let fired = new(ClockId::CLOCK_REALTIME);
        let once = Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(1)));
        fired.set(once, none).expect("set");
        std::thread::sleep(Duration::from_millis(5));
        let idle = new(ClockId::CLOCK_MONOTONIC);
        Self { far, fired, idle, since: Instant::now() }
    }

    fn verify(&self, found: &mut Findings) {
        match self.far.get() {
            Ok(Some(Expiration::IntervalDelayed(left, every))) => {
                found.same("interval", &Duration::from_secs(3), &every.into());
                let left = Duration::from(left);
                let most = Duration::from_millis(1_000_020);
                let least = most.saturating_sub(self.since.elapsed() + Duration::from_millis(40));
                found.must(&format!("time left: {left:?}"), (least..=most).contains(&left));
            }
            other => found.must(&format!("far timer: {other:?}"), false),
        }
        found.must("idle timer", matches!(self.idle.get(), Ok(None)));
        let mut expirations = [0; 8];
        let read = nix::unistd::read(&self.fired, &mut expirations);
        found.same("fired timer", &(Ok(8), 1), &(read, u64::from_ne_bytes(expirations)));
    }
}

struct Watch {
    epoll: Epoll,
    outer: Epoll,
    reader: std::fs::File,
    writer: std::fs::File,
    event: EventFd,
    spent: EventFd,
}

impl Watch {
    fn new() -> Self {
        let (reader, writer): (OwnedFd, OwnedFd) = nix::unistd::pipe().expect("pipe");
        let new = || EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).expect("eventfd");
        let (event, spent) = (new(), new());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
        let add = |epoll: &Epoll, file: &dyn AsFd, flags, data| {
            epoll.add(file.as_fd(), EpollEvent::new(flags, data)).expect("epoll add");
        };
        add(&epoll, &reader, EpollFlags::EPOLLIN, 0xaaaa_bbbb_cccc_dddd);
        add(&epoll, &event, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 2);
        add(&epoll, &spent, EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 3);
        // Spend the one shot: it stays registered and reports nothing until it is armed again.
        spent.write(1).expect("write");
        let mut events = [EpollEvent::empty(); 4];
        assert_eq!(epoll.wait(&mut events, EpollTimeout::ZERO), Ok(1));
        let outer = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
        add(&outer, &epoll.0, EpollFlags::EPOLLIN, 4);
        Self { epoll, outer, reader: reader.into(), writer: writer.into(), event, spent }
    }

    fn ready(epoll: &Epoll) -> Vec<u64> {
        let mut events = [EpollEvent::empty(); 8];
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or_default();
        let mut data: Vec<u64> = events[..count].iter().map(EpollEvent::data).collect();
        data.sort_unstable();
        data
    }

    fn verify(&mut self, found: &mut Findings) {
        found.same("nothing is ready", &Vec::<u64>::new(), &Self::ready(&self.epoll));
        found.works("write", self.writer.write_all(b"x"));
        found.same("the outer one sees it", &vec![4], &Self::ready(&self.outer));
        found.same("the pipe is ready", &vec![0xaaaa_bbbb_cccc_dddd], &Self::ready(&self.epoll));
        found.works("write", self.event.write(1));
        let both = vec![2, 0xaaaa_bbbb_cccc_dddd];
        found.same("the event is ready", &both, &Self::ready(&self.epoll));
        found.works("read", self.reader.read_exact(&mut [0]));
        found.same("an edge is told once", &Vec::<u64>::new(), &Self::ready(&self.epoll));
        let mut again = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 5);
        found.works("arm the one shot again", self.epoll.modify(&self.spent, &mut again));
        found.same("the one shot", &vec![5], &Self::ready(&self.epoll));
        found.works("remove", self.epoll.delete(&self.event));
    }
}

fn descriptor_flags(files: &[&dyn AsFd]) -> Vec<(i32, i32, i32)> {
    let flags = |file: &&dyn AsFd| {
        let fd = file.as_fd().as_raw_fd();
        (fd, fcntl(fd, libc::F_GETFL, 0), fcntl(fd, libc::F_GETFD, 0))
    };
    files.iter().map(flags).collect()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let events = event_files();
    let timers = Timers::new();
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGUSR1);
    mask.add(Signal::SIGUSR2);
    mask.thread_block().expect("block");
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK).expect("signalfd");
    raise(Signal::SIGUSR1).expect("raise");
    let mut watch = Watch::new();
    let flags = |watch: &Watch| {
        let files: [&dyn AsFd; 6] =
            [&events[0], &events[1], &timers.far, &signals, &watch.epoll.0, &watch.outer.0];
        descriptor_flags(&files)
    };
    let before = flags(&watch);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("flags", &before, &flags(&watch));
    verify_event_files(&mut found, &events);
    timers.verify(&mut found);
    let pending = signals.read_signal().ok().flatten().map(|s| s.ssi_signo);
    found.same("pending signal", &Some(libc::SIGUSR1 as u32), &pending);
    found.same("no other", &None, &signals.read_signal().ok().flatten().map(|s| s.ssi_signo));
    raise(Signal::SIGUSR2).expect("raise");
    let next = signals.read_signal().ok().flatten().map(|s| s.ssi_signo);
    found.same("next signal", &Some(libc::SIGUSR2 as u32), &next);
    watch.verify(&mut found);
    found.outcome()
}
