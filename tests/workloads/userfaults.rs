//! Memory whose faults the program serves itself (userfaultfd(2)).

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, eventually};

const PAGE: usize = 4096;
const API: libc::c_ulong = 0xc018_aa3f;
const REGISTER: libc::c_ulong = 0xc020_aa00;
const COPY: libc::c_ulong = 0xc028_aa03;
const ZEROPAGE: libc::c_ulong = 0xc020_aa04;
const MISSING: u64 = 1;
const WRITE_PROTECT: u64 = 2;

fn call<const N: usize>(fd: &OwnedFd, request: libc::c_ulong, mut words: [u64; N]) -> i32 {
    // SAFETY: each request has a structure of so many words, which the kernel checks.
    unsafe { libc::ioctl(fd.as_raw_fd(), request, words.as_mut_ptr()) }
}

fn make(flags: i32, features: Option<u64>) -> OwnedFd {
    // SAFETY: takes an integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = check(i32::try_from(fd).expect("a descriptor")).expect("userfaultfd");
    // SAFETY: it has just been opened.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(features) = features {
        check(call(&fd, API, [0xaa, features, 0])).expect("ask for features");
    }
    fd
}

fn register(fd: &OwnedFd, region: &Region, modes: u64) {
    let (start, bytes) = (region.addr() as u64, region.bytes().len() as u64);
    check(call(fd, REGISTER, [start, bytes, modes, 0])).expect("register");
}

fn memory(pages: usize) -> Region {
    let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    Region::map(pages * PAGE, libc::PROT_READ | libc::PROT_WRITE, how, None)
}

fn byte(region: &Region, page: usize) -> u8 {
    // SAFETY: inside the region; who serves it answers.
    unsafe { ((region.addr() + page * PAGE) as *const u8).read_volatile() }
}

fn put(region: &Region, page: usize, value: u8) {
    // SAFETY: as above.
    unsafe { ((region.addr() + page * PAGE) as *mut u8).write_volatile(value) };
}

/// What the page map says of each page: whether it is there.
fn there(region: &Region) -> Vec<bool> {
    use std::os::unix::fs::FileExt;
    let map = fs::File::open("/proc/self/pagemap").expect("open the page map");
    let pages = region.bytes().len() / PAGE;
    let first = region.addr() as u64 / PAGE as u64 * 8;
    let mut entries = vec![0; pages * 8];
    map.read_exact_at(&mut entries, first).expect("read the page map");
    entries.chunks(8).map(|entry| entry[7] & 0xc0 != 0).collect()
}

fn flags_of(region: &Region) -> String {
    let mut text = String::new();
    let mut smaps = fs::File::open("/proc/self/smaps").expect("open smaps");
    smaps.read_to_string(&mut text).expect("read smaps");
    let start = format!("{:x}-", region.addr());
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    lines.find(|line| line.starts_with("VmFlags")).expect("flags").to_owned()
}

/// Serves faults: each page is filled with its number. Pages that are asked for are counted.
struct Server {
    fd: OwnedFd,
    start: u64,
    asked: Mutex<Vec<u64>>,
    /// Nothing is answered.
    waits: AtomicBool,
    ends: AtomicBool,
}

impl Server {
    fn run(&self) {
        while !self.ends.load(Ordering::SeqCst) {
            let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&self.fd), PollFlags::POLLIN)];
            if poll(&mut polled, PollTimeout::from(20_u8)).unwrap_or(0) == 0 {
                continue;
            }
            let mut message = [0u64; 4];
            // SAFETY: a message has 32 bytes.
            let got = unsafe {
                libc::read(self.fd.as_raw_fd(), message.as_mut_ptr().cast(), size_of_val(&message))
            };
            if got != 32 {
                continue;
            }
            assert_eq!(message[0] & 0xff, 0x12, "a fault");
            let page = message[2] & !(PAGE as u64 - 1);
            let number = (page - self.start) / PAGE as u64;
            self.asked.lock().expect("no panic").push(number);
            if !self.waits.load(Ordering::SeqCst) {
                self.answer(page);
            }
        }
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().expect("no panic").clone()
    }

    fn answer(&self, page: u64) {
        let content = vec![((page - self.start) / PAGE as u64) as u8 + 100; PAGE];
        let source = content.as_ptr() as u64;
        // It may be there by now.
        call(&self.fd, COPY, [page, source, PAGE as u64, 0, 0]);
    }
}

/// A thread serves faults, of which one is in flight and has been read; pages that are there, of zeros and others, and missing.
pub(crate) fn missing(stage: &Stage) -> Outcome {
    const PAGES: usize = 600;
    let region = memory(PAGES);
    (0..PAGES).step_by(7).for_each(|page| put(&region, page, page as u8));
    let fd = make(libc::O_CLOEXEC | libc::O_NONBLOCK, Some(1 << 8));
    register(&fd, &region, MISSING);
    let start = region.addr() as u64;
    check(call(&fd, ZEROPAGE, [start + PAGE as u64, PAGE as u64, 0, 0])).expect("a page of zeros");
    // One that is in use but for nothing, and one that nobody has asked for anything.
    let idle = make(libc::O_CLOEXEC, Some(0));
    let unasked = make(1, None);
    let server = Arc::new(Server {
        fd,
        start,
        asked: Mutex::default(),
        waits: AtomicBool::new(true),
        ends: AtomicBool::new(false),
    });
    let serving = std::thread::spawn({
        let server = Arc::clone(&server);
        move || server.run()
    });
    let address = start as usize + 3 * PAGE;
    // SAFETY: inside the region, which lives until the thread has ended.
    let toucher = std::thread::spawn(move || unsafe { (address as *const u8).read_volatile() });
    assert!(eventually(|| server.asked() == [3]), "the fault is read");
    let before = (there(&region), flags_of(&region));
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("what is there", &before, &(there(&region), flags_of(&region)));
    found.same("a page of zeros", &0, &byte(&region, 1));
    for page in (0..PAGES).step_by(7) {
        found.same("a page that was there", &(page as u8), &byte(&region, page));
    }
    found.must("nobody is asked for those", server.asked().iter().all(|page| *page == 3));
    server.waits.store(false, Ordering::SeqCst);
    // The message of before may have been read before the dump: whoever has been asked answers.
    server.answer(start + 3 * PAGE as u64);
    let touched = toucher.join();
    found.same("the fault in flight", &Some(103), &touched.ok());
    for page in [2, 4, 599] {
        found.same("a missing page", &(page as u8 + 100), &byte(&region, page));
    }
    let asked: Vec<u64> = server.asked().into_iter().filter(|page| *page != 3).collect();
    found.same("missing pages are asked for", &vec![2, 4, 599], &asked);
    let other = memory(2);
    register(&idle, &other, MISSING);
    found.same(
        "the idle one serves",
        &0,
        &call(&idle, ZEROPAGE, [other.addr() as u64, PAGE as u64, 0, 0]),
    );
    found.same("the other can be asked", &0, &call(&unasked, API, [0xaa, 0, 0]));
    server.ends.store(true, Ordering::SeqCst);
    serving.join().expect("the server");
    drop((idle, unasked));
    found.outcome()
}

/// A fault that waits, and nobody has read.
pub(crate) fn unread(stage: &Stage) -> Outcome {
    let region = memory(4);
    // Its number is the lower one, and it is to watch what is made again behind it.
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let fd = make(libc::O_CLOEXEC | libc::O_NONBLOCK, Some(0));
    epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, 5)).expect("watch");
    register(&fd, &region, MISSING);
    let address = region.addr() + PAGE;
    // SAFETY: inside the region, which lives until the thread has ended.
    let toucher = std::thread::spawn(move || unsafe { (address as *const u8).read_volatile() });
    let waits = || {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
        text.is_ok_and(|text| text.contains("pending:\t1"))
    };
    assert!(eventually(waits), "a fault waits");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("the fault waits again", eventually(waits));
    let mut events = [EpollEvent::empty(); 2];
    found.same("who watches it", &Ok(1), &epoll.wait(&mut events, EpollTimeout::ZERO));
    let mut message = [0u64; 4];
    // SAFETY: a message has 32 bytes.
    let got = unsafe { libc::read(fd.as_raw_fd(), message.as_mut_ptr().cast(), 32) };
    found.same("a message", &(32, 0x12), &(got, message[0] & 0xff));
    found.same("of the page", &(address as u64), &(message[2] & !(PAGE as u64 - 1)));
    let content = vec![9u8; PAGE];
    let copied = call(&fd, COPY, [address as u64, content.as_ptr() as u64, PAGE as u64, 0, 0]);
    found.same("the answer", &0, &copied);
    found.same("what was touched", &Some(9), &toucher.join().ok());
    found.outcome()
}

/// A thread waits.
const WAITS: u8 = 1;

/// Waits where little is left of a page of the stack; what lies below was never touched.
fn wait_at_the_end_of_a_page(state: &AtomicU8) -> usize {
    let here = std::hint::black_box(0_u8);
    let address = &raw const here as usize;
    if address % PAGE > 1024 {
        return std::hint::black_box(wait_at_the_end_of_a_page(state));
    }
    let little = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    state.store(WAITS, Ordering::SeqCst);
    while state.load(Ordering::SeqCst) == WAITS {
        // SAFETY: reads a time.
        unsafe { libc::nanosleep(&raw const little, std::ptr::null_mut()) };
    }
    address
}

extern "C" fn on_served_stack(state: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: who has made the thread keeps it until that has ended.
    let state = unsafe { &*state.cast::<AtomicU8>() };
    wait_at_the_end_of_a_page(state) as *mut libc::c_void
}

/// The stack of a thread, and the one for signals: nobody may look for room in them, as who would answer stands still as well.
pub(crate) fn stack(stage: &Stage) -> Outcome {
    const PAGES: usize = 256;
    const FOR_SIGNALS: usize = 16;
    let region = memory(PAGES);
    (PAGES - 2..PAGES).for_each(|page| put(&region, page, 0));
    let fd = make(libc::O_CLOEXEC | libc::O_NONBLOCK, Some(0));
    register(&fd, &region, MISSING);
    let server = Arc::new(Server {
        fd,
        start: region.addr() as u64,
        asked: Mutex::default(),
        waits: AtomicBool::new(false),
        ends: AtomicBool::new(false),
    });
    let serving = std::thread::spawn({
        let server = Arc::clone(&server);
        move || server.run()
    });
    let alternate = libc::stack_t {
        ss_sp: region.addr() as *mut libc::c_void,
        ss_flags: 0,
        ss_size: FOR_SIGNALS * PAGE,
    };
    let mut before = libc::stack_t { ss_flags: libc::SS_DISABLE, ..alternate };
    // SAFETY: it is in the region until the other one is there again.
    check(unsafe { libc::sigaltstack(&raw const alternate, &raw mut before) }).expect("set it");
    let state = AtomicU8::new(0);
    // SAFETY: the attributes are made before they are used; stack and argument live until the thread has been joined.
    let thread = unsafe {
        let mut attributes = std::mem::zeroed();
        check(libc::pthread_attr_init(&raw mut attributes)).expect("attributes");
        let start = (region.addr() + FOR_SIGNALS * PAGE) as *mut libc::c_void;
        let bytes = (PAGES - FOR_SIGNALS) * PAGE;
        assert_eq!(libc::pthread_attr_setstack(&raw mut attributes, start, bytes), 0);
        let (mut thread, state) = (0, (&raw const state).cast_mut().cast());
        let made =
            libc::pthread_create(&raw mut thread, &raw const attributes, on_served_stack, state);
        assert_eq!(made, 0);
        thread
    };
    assert!(eventually(|| state.load(Ordering::SeqCst) == WAITS), "the thread waits");
    let asked = server.asked();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("nobody has asked", &asked, &server.asked());
    state.store(WAITS + 1, Ordering::SeqCst);
    let mut waited_at = std::ptr::null_mut();
    // SAFETY: it has been made above.
    found.same("the thread ends", &0, &unsafe { libc::pthread_join(thread, &raw mut waited_at) });
    found.must(
        "it was on its stack",
        (waited_at as usize).wrapping_sub(region.addr()) < PAGES * PAGE,
    );
    // SAFETY: it is that of before.
    check(unsafe { libc::sigaltstack(&raw const before, std::ptr::null_mut()) }).expect("set it");
    server.ends.store(true, Ordering::SeqCst);
    serving.join().expect("the server");
    found.outcome()
}

/// A child has it, too.
pub(crate) fn shared(stage: &Stage) -> Outcome {
    let region = memory(4);
    let fd = make(0, Some(0));
    register(&fd, &region, MISSING);
    let ended = crate::tree::child(stage, "child", || {
        stage.wait();
        Ok(())
    });
    stage.ready_then_wait();
    nix::sys::wait::waitpid(ended, None).expect("wait");
    drop(fd);
    Ok(())
}

/// Shared memory.
pub(crate) fn of_shared(stage: &Stage) -> Outcome {
    let how = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let region = Region::map(4 * PAGE, libc::PROT_READ | libc::PROT_WRITE, how, None);
    let fd = make(0, Some(0));
    register(&fd, &region, MISSING);
    stage.ready_then_wait();
    drop(fd);
    Ok(())
}

/// Write protection.
pub(crate) fn protecting(stage: &Stage) -> Outcome {
    let region = memory(4);
    put(&region, 0, 1);
    let fd = make(0, Some(1));
    register(&fd, &region, MISSING | WRITE_PROTECT);
    stage.ready_then_wait();
    drop(fd);
    Ok(())
}
