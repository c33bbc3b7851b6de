//! io_urings: counts that libraries keep, completions that nobody has taken, submissions that nobody has made, what is
//! registered, rings that a child shares, a thread that waits, and requests that come without end.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{ForkResult, fork};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, pattern};

const CQSIZE: u32 = 1 << 3;
const COOP_TASKRUN: u32 = 1 << 8;
const SQE128: u32 = 1 << 10;
const CQE32: u32 = 1 << 11;
const SINGLE_ISSUER: u32 = 1 << 12;
const DEFER_TASKRUN: u32 = 1 << 13;
const NO_SQARRAY: u32 = 1 << 16;

const POLL_ADD: u8 = 6;
const TIMEOUT: u8 = 11;
const ACCEPT: u8 = 13;
const READ: u8 = 22;
const MSG_RING: u8 = 40;
const FIXED_FILE: u8 = 1;
const NO_COMPLETION: u8 = 1 << 6;
const GETEVENTS: u32 = 1;
const BLOCK: usize = 4096;

/// A submission.
#[derive(Clone, Copy, Default)]
struct Request {
    operation: u8,
    flags: u8,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    more: u32,
    data: u64,
}

/// A ring as liburing has it: with counts of its own, which it never asks the kernel for.
pub(crate) struct Ring {
    fd: i32,
    flags: u32,
    entries: u32,
    completions: u32,
    queues: Region,
    submissions: Region,
    /// Where head and tail of both queues, the order and the completions are.
    at: [usize; 6],
    filled: u32,
    submitted: u32,
    taken: u32,
}

impl Ring {
    pub(crate) fn new(entries: u32, completions: u32, flags: u32) -> Self {
        // `struct io_uring_params`, by its words.
        let mut words = [0_u32; 30];
        (words[1], words[2]) = (completions, flags | CQSIZE);
        // SAFETY: the kernel reads and writes the parameters.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, words.as_mut_ptr()) };
        let fd = check(fd as i32).expect("io_uring_setup");
        let at = [words[10], words[11], words[20], words[21], words[16], words[25]];
        let at = at.map(|at| at as usize);
        let (sqe, cqe) =
            (if flags & SQE128 != 0 { 128 } else { 64 }, if flags & CQE32 != 0 { 32 } else { 16 });
        let order = if flags & NO_SQARRAY != 0 { 0 } else { at[4] + entries as usize * 4 };
        let bytes = order.max(at[5] + completions as usize * cqe);
        // SAFETY: the descriptor has just been made; it is never closed.
        let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let queues = Region::map(bytes, rw, libc::MAP_SHARED, Some((&file, 0)));
        let submissions =
            Region::map(entries as usize * sqe, rw, libc::MAP_SHARED, Some((&file, 0x1000_0000)));
        let (filled, submitted, taken) = (0, 0, 0);
        Self { fd, flags, entries, completions, queues, submissions, at, filled, submitted, taken }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the ring stays mapped, and has a word there.
        unsafe { &*((self.queues.addr() + at) as *const AtomicU32) }
    }

    fn put(&mut self, request: Request) {
        let index = (self.filled & (self.entries - 1)) as usize;
        let bytes = if self.flags & SQE128 != 0 { 128 } else { 64 };
        let mut words = [0_u64; 8];
        words[0] = u64::from(request.operation)
            | u64::from(request.flags) << 8
            | u64::from(request.fd.cast_unsigned()) << 32;
        words[1] = request.offset;
        words[2] = request.address;
        words[3] = u64::from(request.length) | u64::from(request.more) << 32;
        words[4] = request.data;
        let place = (self.submissions.addr() + index * bytes) as *mut [u64; 8];
        // SAFETY: the place is inside of the mapping.
        unsafe { place.write_volatile(words) };
        if self.flags & NO_SQARRAY == 0 {
            self.word(self.at[4] + index * 4).store(index as u32, Ordering::Relaxed);
        }
        self.filled = self.filled.wrapping_add(1);
        self.word(self.at[1]).store(self.filled, Ordering::Release);
    }

    /// Submits what has been put there; how many the kernel has taken.
    fn submit(&mut self, least: u32) -> u32 {
        let count = self.filled.wrapping_sub(self.submitted);
        let taken = self.enter(count, least, if least > 0 { GETEVENTS } else { 0 });
        let taken = taken.expect("io_uring_enter") as u32;
        self.submitted = self.submitted.wrapping_add(taken);
        taken
    }

    fn enter(&self, submit: u32, least: u32, flags: u32) -> std::io::Result<i32> {
        // SAFETY: requests' buffers outlive them by the callers' care.
        check(unsafe {
            libc::syscall(libc::SYS_io_uring_enter, self.fd, submit, least, flags, 0, 0) as i32
        })
    }

    /// Takes a completion: its data and its result.
    fn take(&mut self) -> Option<(u64, i32)> {
        if self.word(self.at[3]).load(Ordering::Acquire) == self.taken {
            return None;
        }
        let bytes = if self.flags & CQE32 != 0 { 32 } else { 16 };
        let index = (self.taken & (self.completions - 1)) as usize;
        let place = (self.queues.addr() + self.at[5] + index * bytes) as *const u64;
        // SAFETY: the place is inside of the mapping.
        let (data, result) = unsafe { (place.read_volatile(), place.add(1).read_volatile()) };
        self.taken = self.taken.wrapping_add(1);
        self.word(self.at[2]).store(self.taken, Ordering::Release);
        Some((data, result as i32))
    }

    fn nothing(&mut self, data: u64, flags: u8) {
        self.put(Request { data, flags, ..Request::default() });
    }

    /// Goes on for so many requests, each of which is completed and taken.
    fn use_for(&mut self, count: u64) {
        for data in 0..count {
            self.nothing(data, 0);
            if (data + 1) % u64::from(self.entries) == 0 || data + 1 == count {
                self.submit(0);
                while self.take().is_some() {}
            }
        }
    }

    fn register(&self, what: u32, argument: *const i32, count: u32) -> std::io::Result<i32> {
        // SAFETY: the callers hand over what the kernel reads.
        check(unsafe {
            libc::syscall(libc::SYS_io_uring_register, self.fd, what, argument, count) as i32
        })
    }
}

/// What a ring was made like, and what has happened to it.
#[derive(Clone, Copy, Debug)]
struct Before {
    entries: u32,
    completions: u32,
    flags: u32,
    /// Requests that were completed and taken.
    used: u64,
    /// Those that were completed and not taken.
    unread: u32,
    /// Those that were not submitted.
    unsubmitted: u32,
    /// Those that asked for no completion.
    silent: u32,
    /// Completions that another ring has sent.
    sent: u32,
}

const PLAIN: Before = Before {
    entries: 8,
    completions: 16,
    flags: 0,
    used: 0,
    unread: 0,
    unsubmitted: 0,
    silent: 0,
    sent: 0,
};

const RINGS: [Before; 12] = [
    Before { flags: SINGLE_ISSUER, ..PLAIN },
    Before { flags: SINGLE_ISSUER | NO_SQARRAY, used: 1003, unread: 5, unsubmitted: 3, ..PLAIN },
    Before {
        flags: SINGLE_ISSUER | DEFER_TASKRUN,
        used: 20,
        silent: 7,
        unread: 14,
        unsubmitted: 2,
        ..PLAIN
    },
    PLAIN,
    Before { used: 1_000_003, unread: 5, unsubmitted: 3, ..PLAIN },
    Before { used: 21, unread: 16, unsubmitted: 8, ..PLAIN },
    Before { used: 14, unread: 7, flags: NO_SQARRAY, ..PLAIN },
    Before { used: 77, unread: 9, flags: SQE128 | CQE32 | COOP_TASKRUN, unsubmitted: 2, ..PLAIN },
    Before { entries: 1, completions: 2, used: 3, unread: 2, unsubmitted: 1, ..PLAIN },
    Before { used: 40, silent: 333, unread: 6, ..PLAIN },
    Before { used: 40, sent: 90, unread: 6, ..PLAIN },
    Before {
        entries: 4096,
        completions: 8192,
        used: 10_000,
        unread: 8000,
        unsubmitted: 4096,
        ..PLAIN
    },
];

/// What the unread completion with this number says.
fn told(number: u32) -> (u64, i32) {
    (u64::from(number) << 40 | 0xabc, 0)
}

fn make(before: &Before) -> Ring {
    let mut ring = Ring::new(before.entries, before.completions, before.flags);
    ring.use_for(before.used);
    for _ in 0..before.silent {
        ring.nothing(0, NO_COMPLETION);
        ring.submit(0);
    }
    if before.sent > 0 {
        let mut by = Ring::new(1, 2, 0);
        for data in 0..before.sent {
            let to = Request {
                operation: MSG_RING,
                fd: ring.fd,
                offset: data.into(),
                ..Request::default()
            };
            by.put(to);
            by.submit(0);
            by.take().expect("the completion of what was sent");
            assert_eq!(ring.take(), Some((data.into(), 0)));
        }
        // Nobody else has it.
        // SAFETY: the descriptor is the ring's own.
        drop(unsafe { OwnedFd::from_raw_fd(by.fd) });
        by.queues.unmap().expect("unmap");
        by.submissions.unmap().expect("unmap");
    }
    for number in 0..before.unread {
        ring.nothing(told(number).0, 0);
        ring.submit(0);
    }
    for number in 0..before.unsubmitted {
        ring.nothing(told(number).0 + 1, 0);
    }
    ring
}

fn verify(ring: &mut Ring, before: &Before, found: &mut Findings) {
    let name = format!("{before:?}");
    let taken = |ring: &mut Ring| std::iter::from_fn(|| ring.take()).collect::<Vec<_>>();
    let unread: Vec<_> = (0..before.unread).map(told).collect();
    found.must(&format!("{name}: completions that waited"), taken(ring) == unread);
    if before.unsubmitted > 0 {
        found.same(&format!("{name}: submissions"), &before.unsubmitted, &ring.submit(0));
        let late: Vec<_> =
            (0..before.unsubmitted).map(told).map(|(data, result)| (data + 1, result)).collect();
        found.must(&format!("{name}: their completions"), taken(ring) == late);
    }
    // All of it can be used, over and over.
    for round in 0..40 {
        for data in 0..u64::from(before.entries) {
            ring.nothing(data, 0);
        }
        found.same(&format!("{name}: round {round}"), &before.entries, &ring.submit(0));
        let all: Vec<_> = (0..u64::from(before.entries)).map(|data| (data, 0)).collect();
        found.must(&format!("{name}: completions of round {round}"), taken(ring) == all);
    }
}

/// A file that is registered, and an eventfd that is told of completions.
struct Registered {
    ring: Ring,
    bell: OwnedFd,
    _files: [File; 2],
}

impl Registered {
    const WORDS: &str = "what is registered";

    fn new(stage: &Stage) -> Self {
        let path = stage.path("registered");
        std::fs::write(&path, Self::WORDS).expect("write");
        let files = [File::open(&path).expect("open"), File::open("/dev/zero").expect("open")];
        let mut ring = Ring::new(4, 8, 0);
        ring.use_for(9);
        let numbers = [files[1].as_raw_fd(), -1, files[0].as_raw_fd(), -1];
        ring.register(2, numbers.as_ptr(), 4).expect("register files");
        // SAFETY: takes integers.
        let bell = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) }).expect("eventfd");
        // SAFETY: it has just been made.
        let bell = unsafe { OwnedFd::from_raw_fd(bell) };
        ring.register(4, &bell.as_raw_fd(), 1).expect("register an eventfd");
        Self { ring, bell, _files: files }
    }

    fn verify(&mut self, found: &mut Findings) {
        let mut room = [0_u8; 64];
        let rung = || {
            let mut count = [0; 8];
            nix::unistd::read(&self.bell, &mut count).map(|_| u64::from_ne_bytes(count))
        };
        found.must("nobody rings the bell", rung().is_err());
        for (place, expected) in [(2, Self::WORDS.len() as i32), (0, 64), (1, -libc::EBADF)] {
            self.ring.put(Request {
                operation: READ,
                flags: FIXED_FILE,
                fd: place,
                address: room.as_mut_ptr() as u64,
                length: 64,
                data: 5,
                ..Request::default()
            });
            self.ring.submit(1);
            found.same(
                &format!("registered in place {place}"),
                &Some((5, expected)),
                &self.ring.take(),
            );
            if place == 2 {
                let words = &room[..Self::WORDS.len()];
                found.must("words", words == Self::WORDS.as_bytes());
            }
            let mut count = [0; 8];
            let rung = nix::unistd::read(&self.bell, &mut count).map(|_| u64::from_ne_bytes(count));
            found.same("bells", &Ok(1), &rung);
        }
    }
}

/// A ring that is used all the while, on a file that is read past the page cache.
struct Direct {
    file: File,
    buffers: Region,
    ring: Ring,
    rounds: u64,
}

impl Direct {
    const AT_ONCE: usize = 8;
    const BLOCKS: usize = 64;

    fn new(stage: &Stage, flags: u32) -> Self {
        let path = stage.path("blocks");
        std::fs::write(&path, pattern(9, Self::BLOCKS * BLOCK)).expect("write");
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .or_else(|_| File::open(&path))
            .expect("open");
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let buffers = Region::map(Self::AT_ONCE * BLOCK, rw, libc::MAP_PRIVATE, None);
        Self { file, buffers, ring: Ring::new(16, 32, flags), rounds: 0 }
    }

    /// Reads some blocks, with so many requests in flight, and looks at each.
    fn round(&mut self) {
        let first = (self.rounds as usize * Self::AT_ONCE) % Self::BLOCKS;
        self.buffers.bytes().fill(0xee);
        for at in 0..Self::AT_ONCE {
            self.ring.put(Request {
                operation: READ,
                fd: self.file.as_raw_fd(),
                address: (self.buffers.addr() + at * BLOCK) as u64,
                length: BLOCK as u32,
                offset: ((first + at) * BLOCK) as u64,
                data: at as u64,
                ..Request::default()
            });
        }
        assert_eq!(self.ring.submit(0), Self::AT_ONCE as u32, "all are taken");
        let mut seen = 0_u32;
        while seen.count_ones() < Self::AT_ONCE as u32 {
            while let Some((data, result)) = self.ring.take() {
                assert_eq!(result, BLOCK as i32, "request {data}");
                assert_eq!(seen & 1 << data, 0, "request {data} came twice");
                seen |= 1 << data;
            }
            let left = Self::AT_ONCE as u32 - seen.count_ones();
            if left > 0 {
                // Some of them may be here by now; a stop must not be seen.
                self.ring.enter(0, 1, GETEVENTS).expect("wait");
            }
        }
        let whole = pattern(9, Self::BLOCKS * BLOCK);
        let expected = &whole[first * BLOCK..(first + Self::AT_ONCE) * BLOCK];
        assert!(self.buffers.bytes() == expected, "round {}: other blocks", self.rounds);
        self.rounds += 1;
    }
}

/// Rings with all that can be in them, and one that is used all the while.
pub(crate) fn run(stage: &Stage) -> Outcome {
    let mut rings: Vec<_> = RINGS.iter().map(|before| (make(before), before)).collect();
    let mut registered = Registered::new(stage);
    let mut direct = [0, SINGLE_ISSUER | DEFER_TASKRUN].map(|flags| Direct::new(stage, flags));
    // A thread that waits for completions that do not come before the check.
    let waited = Ring::new(4, 8, 0);
    let fd = waited.fd;
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        sender.send(()).expect("say so");
        // SAFETY: no buffers.
        check(unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, 0, 2, GETEVENTS, 0, 0) as i32 })
            .map_err(|error| error.to_string())
    });
    receiver.recv().expect("the thread");
    stage.ready_then_wait_and(|| {
        for _ in 0..50 {
            direct.iter_mut().for_each(Direct::round);
        }
    });
    let mut found = Findings::default();
    direct.iter_mut().for_each(Direct::round);
    for (ring, before) in &mut rings {
        verify(ring, before, &mut found);
    }
    registered.verify(&mut found);
    let mut waited = waited;
    waited.nothing(1, 0);
    waited.submit(0);
    std::thread::sleep(std::time::Duration::from_millis(50));
    found.must("it waits for two", !waiter.is_finished());
    waited.nothing(2, 0);
    waited.submit(0);
    found.same(
        "completions that were waited for",
        &Ok(Ok(0)),
        &waiter.join().map_err(|_| "panicked"),
    );
    found.outcome()
}

/// A ring that a child uses as well, with the memory of both.
pub(crate) fn shared(stage: &Stage) -> Outcome {
    let mut ring = Ring::new(8, 16, 0);
    ring.use_for(1234);
    let (reader, writer) = nix::unistd::pipe().expect("pipe");
    let (answers, answer) = nix::unistd::pipe().expect("pipe");
    let (filled, submitted, taken) = (ring.filled, ring.submitted, ring.taken);
    let child = crate::tree::child(stage, "uses it", || {
        let mut told = [0];
        nix::unistd::read(&reader, &mut told).expect("wait for the parent");
        (ring.filled, ring.submitted, ring.taken) = (filled + 1, submitted + 1, taken + 1);
        ring.nothing(71, 0);
        ring.submit(0);
        let seen = ring.take();
        nix::unistd::write(&answer, &[u8::from(seen == Some((71, 0)))]).expect("answer");
        Findings::default().outcome()
    });
    stage.ready_then_wait();
    let mut found = Findings::default();
    ring.nothing(70, 0);
    ring.submit(0);
    found.same("the parent's", &Some((70, 0)), &ring.take());
    nix::unistd::write(&writer, b"x").expect("write");
    let mut said = [0];
    File::from(answers).read_exact(&mut said).expect("the child's answer");
    found.same("the child's", &1, &said[0]);
    (ring.filled, ring.submitted, ring.taken) = (filled + 2, submitted + 2, taken + 2);
    ring.nothing(72, 0);
    ring.submit(0);
    found.same("the parent's again", &Some((72, 0)), &ring.take());
    found.works("the child", nix::sys::wait::waitpid(child, None));
    found.outcome()
}

/// Holds a ring with something that is not carried, and uses it in the end.
fn refused(stage: &Stage, ring: &mut Ring) -> Outcome {
    stage.ready_then_wait();
    let mut found = Findings::default();
    ring.nothing(7, 0);
    ring.submit(0);
    let all: Vec<_> = std::iter::from_fn(|| ring.take()).collect();
    found.must("it goes on", all.contains(&(7, 0)));
    found.outcome()
}

/// A request that waits for something to happen.
pub(crate) fn waiting(stage: &Stage) -> Outcome {
    let (reader, _writer) = nix::unistd::pipe().expect("pipe");
    let mut ring = Ring::new(4, 8, 0);
    let more = libc::POLLIN.unsigned_abs().into();
    ring.put(Request {
        operation: POLL_ADD,
        fd: reader.as_raw_fd(),
        more,
        data: 1,
        ..Request::default()
    });
    ring.submit(0);
    refused(stage, &mut ring)
}

/// A request that waits for somebody to connect.
pub(crate) fn accepting(stage: &Stage) -> Outcome {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let mut ring = Ring::new(4, 8, 0);
    ring.put(Request {
        operation: ACCEPT,
        fd: listener.as_raw_fd(),
        data: 1,
        ..Request::default()
    });
    ring.submit(0);
    refused(stage, &mut ring)
}

/// A request that waits for a time.
pub(crate) fn timeout(stage: &Stage) -> Outcome {
    let long = libc::timespec { tv_sec: 100_000, tv_nsec: 0 };
    let mut ring = Ring::new(4, 8, 0);
    let address = std::ptr::from_ref(&long) as u64;
    ring.put(Request {
        operation: TIMEOUT,
        fd: -1,
        address,
        length: 1,
        data: 1,
        ..Request::default()
    });
    ring.submit(0);
    refused(stage, &mut ring)
}

/// Completions that there is no room for.
pub(crate) fn overflow(stage: &Stage) -> Outcome {
    let mut ring = Ring::new(4, 4, 0);
    for data in 0..9 {
        ring.nothing(data, 0);
        ring.submit(0);
    }
    stage.ready_then_wait();
    let mut found = Findings::default();
    let mut all = Vec::new();
    while all.len() < 9 {
        all.extend(std::iter::from_fn(|| ring.take()));
        ring.enter(0, 0, GETEVENTS).expect("ask for more");
    }
    found.same("all of them", &(0..9).map(|data| (data, 0)).collect::<Vec<_>>(), &all);
    found.outcome()
}

/// Buffers that are registered.
pub(crate) fn buffers(stage: &Stage) -> Outcome {
    let mut ring = Ring::new(4, 8, 0);
    let memory = Region::map(BLOCK, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, None);
    let vector = [memory.addr(), BLOCK];
    ring.register(0, vector.as_ptr().cast(), 1).expect("register buffers");
    refused(stage, &mut ring)
}

/// A thread of the kernel's that submits.
pub(crate) fn polled(stage: &Stage) -> Outcome {
    let mut ring = Ring::new(4, 8, 1 << 1);
    stage.ready_then_wait();
    ring.nothing(7, 0);
    ring.enter(1, 1, GETEVENTS | 1 << 1).expect("wake it");
    let mut found = Findings::default();
    found.same("it goes on", &Some((7, 0)), &ring.take());
    found.outcome()
}

/// The number of a ring in place of its descriptor.
pub(crate) fn numbered(stage: &Stage) -> Outcome {
    let mut ring = Ring::new(4, 8, 0);
    // `struct io_uring_rsrc_update`: any place; the descriptor.
    let update = [u32::MAX, 0, ring.fd.cast_unsigned(), 0];
    ring.register(20, update.as_ptr().cast(), 1).expect("register the ring");
    refused(stage, &mut ring)
}

/// A registered file that is closed.
pub(crate) fn closed_file(stage: &Stage) -> Outcome {
    let mut ring = Ring::new(4, 8, 0);
    let file = File::open("/dev/zero").expect("open");
    ring.register(2, &file.as_raw_fd(), 1).expect("register files");
    drop(file);
    refused(stage, &mut ring)
}

/// A pipe and an eventfd that are registered with a ring of the own, and with one of a process outside, which has no descriptor of them
/// any more.
pub(crate) fn held_elsewhere(stage: &Stage) -> Outcome {
    let (reads, _writes) = nix::unistd::pipe().expect("pipe");
    let told = nix::sys::eventfd::EventFd::new().expect("eventfd");
    let (hears, says) = nix::unistd::pipe().expect("pipe");
    let register = |ring: &Ring| {
        ring.register(2, &reads.as_raw_fd(), 1).expect("register files");
        ring.register(4, &told.as_fd().as_raw_fd(), 1).expect("register the eventfd");
    };
    let go_on = |forked: nix::Result<ForkResult>| forked.expect("fork").is_child();
    // SAFETY: the program has one thread, so its children may use everything.
    if go_on(unsafe { fork() }) {
        // SAFETY: as above.
        if go_on(unsafe { fork() }) {
            let ring = Ring::new(4, 8, 0);
            register(&ring);
            nix::unistd::write(&says, b"x").expect("tell");
            let close = |from: i32, to: u32| {
                // SAFETY: nothing of what is closed is used again.
                unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) }
            };
            close(3, ring.fd.cast_unsigned() - 1);
            close(ring.fd + 1, u32::MAX);
            nix::unistd::setsid().expect("setsid");
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1000));
            }
        }
        // SAFETY: ends the process; the other one falls to whoever adopts it.
        unsafe { libc::_exit(0) }
    }
    nix::sys::wait::wait().expect("wait");
    nix::unistd::read(&hears, &mut [0]).expect("hear");
    drop((hears, says));
    let ring = Ring::new(4, 8, 0);
    register(&ring);
    stage.ready_then_wait();
    Ok(())
}
