//! Contexts of asynchronous I/O: where their rings stand, events that nobody has taken, counters that requests ring, and
//! requests that come without end.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, eventually, pattern};

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const POLL: u16 = 5;
const BLOCK: usize = 4096;
/// `IOCB_FLAG_RESFD`.
const RING_BELL: u32 = 1;

/// `struct iocb`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    data: u64,
    key: u32,
    how: u32,
    operation: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    request_flags: u32,
    bell: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    more: i64,
}

/// A context, called by the address of its ring.
struct Context(u64);

impl Context {
    fn new(requests: u32) -> Self {
        let mut number = 0_u64;
        // SAFETY: the kernel writes the number to this place.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, requests, &raw mut number) };
        assert_eq!(made, 0, "io_setup: {}", std::io::Error::last_os_error());
        Self(number)
    }

    fn submit(&self, request: &Request) -> std::io::Result<()> {
        let mut list = [std::ptr::from_ref(request)];
        // SAFETY: the kernel reads one request; its buffer outlives it by the caller's care.
        check(unsafe {
            libc::syscall(libc::SYS_io_submit, self.0, 1_usize, list.as_mut_ptr()) as i32
        })
        .map(|_| ())
    }

    /// Up to so many events, waiting for `least`.
    fn take(&self, least: usize, most: usize) -> Vec<Event> {
        let mut events = vec![Event::default(); most];
        let none = std::ptr::null_mut::<libc::timespec>();
        // SAFETY: the kernel writes at most as many as there is room for.
        let taken = unsafe {
            libc::syscall(libc::SYS_io_getevents, self.0, least, most, events.as_mut_ptr(), none)
        };
        events.truncate(usize::try_from(taken).expect("io_getevents"));
        events
    }

    /// The ring's count of events, its head and its tail.
    fn ring(&self) -> [u32; 3] {
        // SAFETY: the ring begins with eight numbers, and stays mapped.
        [1, 2, 3].map(|at| unsafe { (self.0 as *const u32).add(at).read_volatile() })
    }
}

/// A write of one byte to `/dev/null` that is told as `data`.
fn write_one(context: &Context, null: &File, data: u64) {
    let request = Request {
        data,
        operation: PWRITE,
        file: null.as_raw_fd().cast_unsigned(),
        buffer: b"x".as_ptr() as u64,
        bytes: 1,
        ..Request::default()
    };
    submit(context, &request);
}

/// Submits where the kernel has room for it: each processor keeps a part of a context's for itself, and the process may have been
/// moved to another.
fn submit(context: &Context, request: &Request) {
    let is_full = |done: &std::io::Result<()>| {
        done.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
    };
    let mut done = context.submit(request);
    if is_full(&done) {
        let this = Pid::from_raw(0);
        let all = sched_getaffinity(this).expect("get the processors");
        for at in (0..CpuSet::count()).filter(|at| all.is_set(*at).unwrap_or(false)) {
            let mut one = CpuSet::new();
            one.set(at).expect("a processor");
            sched_setaffinity(this, &one).expect("move to a processor");
            done = context.submit(request);
            if !is_full(&done) {
                break;
            }
        }
        sched_setaffinity(this, &all).expect("go where it likes");
    }
    done.expect("io_submit");
}

fn null() -> File {
    OpenOptions::new().write(true).open("/dev/null").expect("open /dev/null")
}

/// Contexts that are new, have been used, have events waiting, and whose rings have gone round.
struct Contexts {
    null: File,
    /// With the events that wait in each.
    all: Vec<(Context, u64)>,
    rings: Vec<[u32; 3]>,
}

impl Contexts {
    /// `full` has as many events waiting as there is room for.
    fn new(full: bool) -> Self {
        let null = null();
        let mut all = Vec::new();
        // How many requests, how many are completed, and how many of these are taken.
        for (requests, completed, taken) in
            [(1, 0, 0), (1, 5, 5), (1, 100, 30), (64, 300, 250), (1000, 2100, 100), (3, 127, 127)]
        {
            let context = Context::new(requests);
            let mut told = 0;
            for data in 0..completed {
                write_one(&context, &null, data);
                if told < taken {
                    told += context.take(1, 1).len() as u64;
                }
            }
            all.push((context, completed - taken));
        }
        if full {
            let context = Context::new(1);
            let mut count = 0;
            let request = |data| Request {
                data,
                operation: PWRITE,
                file: null.as_raw_fd().cast_unsigned(),
                buffer: b"x".as_ptr() as u64,
                bytes: 1,
                ..Request::default()
            };
            while context.submit(&request(count)).is_ok() {
                count += 1;
            }
            assert!(count > 60, "only {count} requests");
            all.push((context, count));
        }
        let rings = all.iter().map(|(context, _)| context.ring()).collect();
        Self { null, all, rings }
    }

    fn verify(&self, found: &mut Findings) {
        for ((context, waiting), ring) in self.all.iter().zip(&self.rings) {
            let name = format!("context of {} events", ring[0]);
            found.same(&name, ring, &context.ring());
            // More is asked for and given behind what waits, until there is no room.
            let mut more = 0;
            while more < 3 && *waiting < 60 {
                write_one(context, &self.null, 1_000_000 + more);
                more += 1;
            }
            let events = context.take(0, 5000);
            found.same(&format!("{name}: waiting"), &(waiting + more), &(events.len() as u64));
            let data = |at: u64| events.get(at as usize).map_or(0, |event| event.data);
            let last = waiting.saturating_sub(1);
            found.same(&format!("{name}: in a row"), &last, &(data(last).wrapping_sub(data(0))));
            found.must(&format!("{name}: results"), events.iter().all(|event| event.result == 1));
            for at in 0..more {
                found.same(&format!("{name}: new"), &(1_000_000 + at), &data(waiting + at));
            }
            // All of the ring can be used, over and over.
            for data in 0..400 {
                write_one(context, &self.null, data);
                found.same(&format!("{name}: goes on"), &1, &context.take(1, 1).len());
            }
        }
    }
}

/// What CRIU carries, too.
pub(crate) fn plain(stage: &Stage) -> Outcome {
    let contexts = Contexts::new(false);
    stage.ready_then_wait();
    let mut found = Findings::default();
    contexts.verify(&mut found);
    found.outcome()
}

/// A file that is read past the page cache.
struct Direct {
    file: File,
    buffers: Region,
    bell: OwnedFd,
    context: Context,
    rounds: u64,
}

impl Direct {
    const AT_ONCE: usize = 8;
    const BLOCKS: usize = 64;

    fn new(stage: &Stage) -> Self {
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
        // SAFETY: takes integers.
        let bell = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) }).expect("eventfd");
        // SAFETY: it has just been made, and nobody else has it.
        let bell = unsafe { std::os::fd::FromRawFd::from_raw_fd(bell) };
        Self { file, buffers, bell, context: Context::new(32), rounds: 0 }
    }

    /// Reads some blocks, with so many requests in flight, and looks at each.
    fn round(&mut self) {
        let first = (self.rounds as usize * Self::AT_ONCE) % Self::BLOCKS;
        self.buffers.bytes().fill(0xee);
        for at in 0..Self::AT_ONCE {
            let request = Request {
                data: at as u64,
                request_flags: RING_BELL,
                operation: PREAD,
                file: self.file.as_raw_fd().cast_unsigned(),
                buffer: (self.buffers.addr() + at * BLOCK) as u64,
                bytes: BLOCK as u64,
                offset: ((first + at) * BLOCK) as i64,
                bell: self.bell.as_raw_fd().cast_unsigned(),
                ..Request::default()
            };
            submit(&self.context, &request);
        }
        let mut seen = 0_u32;
        while seen.count_ones() < Self::AT_ONCE as u32 {
            for event in self.context.take(1, Self::AT_ONCE) {
                assert_eq!(event.result, BLOCK as i64, "{event:?}");
                assert_eq!(seen & 1 << event.data, 0, "{event:?} came twice");
                seen |= 1 << event.data;
            }
        }
        let whole = pattern(9, Self::BLOCKS * BLOCK);
        let expected = &whole[first * BLOCK..(first + Self::AT_ONCE) * BLOCK];
        assert!(self.buffers.bytes() == expected, "round {}: other blocks", self.rounds);
        // The bell is rung when the event is there.
        let mut rung = 0;
        let all = Self::AT_ONCE as u64;
        let complete = eventually(|| {
            let mut count = [0; 8];
            if nix::unistd::read(&self.bell, &mut count).is_ok() {
                rung += u64::from_ne_bytes(count);
            }
            rung >= all
        });
        assert!(complete && rung == all, "{rung} bells in round {}", self.rounds);
        self.rounds += 1;
    }
}

/// Contexts with all that can be in them, and one that is used all the while.
pub(crate) fn run(stage: &Stage) -> Outcome {
    let contexts = Contexts::new(true);
    let mut direct = Direct::new(stage);
    // A thread that waits for events that do not come before the check.
    let (sender, receiver) = std::sync::mpsc::channel();
    let waited = Context::new(10);
    let number = waited.0;
    let waiter = std::thread::spawn(move || {
        sender.send(()).expect("say so");
        Context(number).take(2, 10).len()
    });
    receiver.recv().expect("the thread");
    let kept = null();
    stage.ready_then_wait_and(|| {
        for _ in 0..50 {
            direct.round();
        }
    });
    let mut found = Findings::default();
    direct.round();
    contexts.verify(&mut found);
    for data in 0..2 {
        write_one(&waited, &kept, data);
    }
    found.same("events that were waited for", &Ok(2), &waiter.join().map_err(|_| "panicked"));
    found.outcome()
}

/// A request that waits for something to happen.
pub(crate) fn waiting(stage: &Stage) -> Outcome {
    let context = Context::new(4);
    let (reader, writer) = nix::unistd::pipe().expect("pipe");
    let request = Request {
        data: 77,
        operation: POLL,
        file: reader.as_raw_fd().cast_unsigned(),
        buffer: libc::POLLIN.unsigned_abs().into(),
        ..Request::default()
    };
    submit(&context, &request);
    stage.ready_then_wait();
    let mut found = Findings::default();
    nix::unistd::write(&writer, b"x").expect("write");
    let events = context.take(1, 1);
    found.same("event", &Some(77), &events.first().map(|event| event.data));
    found.outcome()
}

/// A child that has inherited the mapping of a ring, and no context.
pub(crate) fn inherited(stage: &Stage) -> Outcome {
    let context = Context::new(4);
    let child = crate::tree::child(stage, "inherits", || {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    });
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("no events", &0, &context.take(0, 4).len());
    found.works("end the child", nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL));
    found.works("wait for it", nix::sys::wait::waitpid(child, None));
    found.outcome()
}

/// A ring that the program has written over.
pub(crate) fn overwritten(stage: &Stage) -> Outcome {
    let context = Context::new(4);
    let [events, head, _] = context.ring();
    // SAFETY: the head of the ring, which a program may write.
    unsafe { (context.0 as *mut u32).add(2).write_volatile(events + 7) };
    stage.ready_then_wait();
    // SAFETY: as above.
    unsafe { (context.0 as *mut u32).add(2).write_volatile(head) };
    let mut found = Findings::default();
    found.same("no events", &0, &context.take(0, 4).len());
    found.outcome()
}
