//! Contents of memory of every kind.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::ptr;

use crate::stage::{Findings, Outcome, Stage, check, pattern};

const PAGE: usize = 4096;

/// A mapping of our own.
pub(crate) struct Region {
    addr: *mut u8,
    len: usize,
}

impl Region {
    /// Maps `len` bytes; `file` with its offset, or anonymous memory.
    pub(crate) fn map(len: usize, prot: i32, flags: i32, file: Option<(&File, i64)>) -> Self {
        let (fd, offset, anonymous) =
            file.map_or((-1, 0, libc::MAP_ANONYMOUS), |(f, o)| (f.as_raw_fd(), o, 0));
        // SAFETY: without MAP_FIXED the kernel picks an address that nothing else uses.
        let addr = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags | anonymous, fd, offset) };
        assert!(addr != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self { addr: addr.cast(), len }
    }

    /// Memory that something else has mapped.
    pub(crate) fn at(addr: *mut u8, len: usize) -> Self {
        Self { addr, len }
    }

    pub(crate) fn addr(&self) -> usize {
        self.addr as usize
    }

    #[allow(clippy::mut_from_ref, reason = "one thread looks at a region at a time")]
    pub(crate) fn bytes(&self) -> &mut [u8] {
        // SAFETY: the region is mapped for the life of the program and only one thread uses it;
        // callers ask for the bytes only while the region can be read and written.
        unsafe { std::slice::from_raw_parts_mut(self.addr, self.len) }
    }

    pub(crate) fn protect(&self, prot: i32) -> std::io::Result<()> {
        // SAFETY: the region is ours and no reference to its bytes is alive.
        check(unsafe { libc::mprotect(self.addr.cast(), self.len, prot) }).map(drop)
    }

    pub(crate) fn advise(&self, advice: i32) -> std::io::Result<()> {
        // SAFETY: the advice used here does not take contents away.
        check(unsafe { libc::madvise(self.addr.cast(), self.len, advice) }).map(drop)
    }

    pub(crate) fn unmap(self) -> std::io::Result<()> {
        // SAFETY: the region is ours; it is taken, so no reference to its bytes is alive.
        check(unsafe { libc::munmap(self.addr.cast(), self.len) }).map(drop)
    }
}

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

struct Files {
    private: Region,
    private_later: Region,
    shared: Region,
    shared_path: std::path::PathBuf,
}

impl Files {
    fn new(stage: &Stage) -> Self {
        let open = |name: &str, seed| {
            let path = stage.path(name);
            fs::write(&path, pattern(seed, 16 * PAGE)).expect("write the file to map");
            let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
            (path, file)
        };
        let (_, file) = open("mapped-private", 11);
        let private = Region::map(16 * PAGE, RW, libc::MAP_PRIVATE, Some((&file, 0)));
        let later = Region::map(4 * PAGE, RW, libc::MAP_PRIVATE, Some((&file, 8 * 4096)));
        // One page of sixteen differs from the file: by a byte; another has been read only.
        private.bytes()[3 * PAGE] ^= 0xff;
        std::hint::black_box(private.bytes()[5 * PAGE]);
        later.bytes()[PAGE..2 * PAGE].fill(0);
        let (shared_path, file) = open("mapped-shared", 12);
        let shared = Region::map(16 * PAGE, RW, libc::MAP_SHARED, Some((&file, 0)));
        shared.bytes()[7 * PAGE..8 * PAGE].copy_from_slice(&pattern(13, PAGE));
        Self { private, private_later: later, shared, shared_path }
    }

    fn verify(&self, found: &mut Findings) {
        let mut expected = pattern(11, 16 * PAGE);
        let mut later = expected[8 * PAGE..12 * PAGE].to_vec();
        expected[3 * PAGE] ^= 0xff;
        later[PAGE..2 * PAGE].fill(0);
        found.must("private file mapping", self.private.bytes() == expected);
        found.must("private file mapping at an offset", self.private_later.bytes() == later);

        let mut expected = pattern(12, 16 * PAGE);
        expected[7 * PAGE..8 * PAGE].copy_from_slice(&pattern(13, PAGE));
        found.must("shared file mapping", self.shared.bytes() == expected);
        self.shared.bytes()[0] = 77;
        let on_disk = fs::read(&self.shared_path).unwrap_or_default();
        found.same("shared file mapping writes to its file", &Some(&77), &on_disk.first());
        found.must("file behind a shared mapping", on_disk[1..] == expected[1..]);
    }
}

/// A heap by `brk` that the allocator knows nothing of would disturb it: only its place is asked.
fn program_break() -> usize {
    // SAFETY: an increment of 0 only asks.
    unsafe { libc::sbrk(0) as usize }
}

struct Anonymous {
    filled: Region,
    holes: Region,
    shared: Region,
    read_only: Region,
    no_access: Region,
    code: Region,
}

impl Anonymous {
    fn new() -> Self {
        let filled = Region::map(8 << 20, RW, libc::MAP_PRIVATE, None);
        filled.bytes().copy_from_slice(&pattern(1, 8 << 20));
        // Every third page written, every ninth with zeros, the rest never touched.
        let holes = Region::map(3 << 20, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE, None);
        for index in (0..holes.len / PAGE).step_by(3) {
            let byte = if index % 9 == 0 { 0 } else { 0x5a };
            holes.bytes()[index * PAGE..(index + 1) * PAGE].fill(byte);
        }
        let shared = Region::map(1 << 20, RW, libc::MAP_SHARED, None);
        shared.bytes()[..512 << 10].copy_from_slice(&pattern(2, 512 << 10));
        let read_only = Region::map(4 * PAGE, RW, libc::MAP_PRIVATE, None);
        read_only.bytes().copy_from_slice(&pattern(3, 4 * PAGE));
        read_only.protect(libc::PROT_READ).expect("mprotect");
        let no_access = Region::map(4 * PAGE, RW, libc::MAP_PRIVATE, None);
        no_access.bytes().copy_from_slice(&pattern(4, 4 * PAGE));
        no_access.protect(libc::PROT_NONE).expect("mprotect");
        let code = Region::map(PAGE, RW, libc::MAP_PRIVATE, None);
        // mov eax, 42; ret
        code.bytes()[..6].copy_from_slice(&[0xb8, 42, 0, 0, 0, 0xc3]);
        code.protect(libc::PROT_READ | libc::PROT_EXEC).expect("mprotect");
        Self { filled, holes, shared, read_only, no_access, code }
    }

    fn verify(&self, found: &mut Findings) {
        found.must("private anonymous memory", self.filled.bytes() == pattern(1, 8 << 20));
        for (index, page) in self.holes.bytes().chunks(PAGE).enumerate() {
            let byte = if index % 3 == 0 && index % 9 != 0 { 0x5a } else { 0 };
            found.must("memory with holes", page.iter().all(|b| *b == byte));
        }
        let shared = self.shared.bytes();
        found.must("shared anonymous memory", shared[..512 << 10] == pattern(2, 512 << 10));
        found.must("its untouched part", shared[512 << 10..].iter().all(|b| *b == 0));
        found.must("read-only memory", self.read_only.bytes() == pattern(3, 4 * PAGE));
        if found.works("unlock memory", self.no_access.protect(libc::PROT_READ)).is_some() {
            found.must("memory without access", self.no_access.bytes() == pattern(4, 4 * PAGE));
        }
        // SAFETY: the page holds a whole function of this signature, and is executable.
        let answer =
            unsafe { std::mem::transmute::<*mut u8, extern "C" fn() -> i32>(self.code.addr) };
        found.same("code made at run time", &42, &answer());
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let anonymous = Anonymous::new();
    let files = Files::new(stage);
    let heap: Vec<Vec<u8>> = (0..200).map(|n| pattern(100 + n, 1 + 97 * n as usize)).collect();
    // SAFETY: the allocator copes with a break that others moved (it looks before it grows).
    unsafe { libc::sbrk(64 << 10) };
    let stack: [u8; 8 << 10] = {
        let mut bytes = [0; 8 << 10];
        bytes.copy_from_slice(&pattern(5, 8 << 10));
        bytes
    };
    let stack = std::hint::black_box(stack);
    let end_of_heap = program_break();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("program break", &end_of_heap, &program_break());
    anonymous.verify(&mut found);
    files.verify(&mut found);
    for (n, block) in heap.iter().enumerate() {
        found.must("heap", *block == pattern(100 + n as u64, 1 + 97 * n));
    }
    found.must("stack", stack[..] == pattern(5, 8 << 10));
    let more: Vec<u8> = vec![1; 100 << 10];
    found.same("heap grows on", &(100 << 10), &more.iter().map(|b| usize::from(*b)).sum());
    found.outcome()
}
