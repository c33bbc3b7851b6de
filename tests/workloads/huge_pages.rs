//! Memory of no file in huge pages that are set aside (`MAP_HUGETLB`).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::sys::wait::{WaitStatus, waitpid};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, pattern};
use crate::tree::child;

const HUGE: usize = 2 << 20;
const SIZE: i32 = libc::MAP_HUGETLB | 21 << libc::MAP_HUGE_SHIFT;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// How the kernel tells of a mapping: the size of its pages, and whether it is of huge ones.
fn told(region: &Region) -> Option<(String, bool)> {
    let text = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let start = format!("{:x}-", region.addr());
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
    let size = lines.find_map(|line| line.strip_prefix("KernelPageSize:"))?.trim().to_owned();
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"))?;
    Some((size, flags.split_whitespace().any(|flag| flag == "ht")))
}

fn map(pages: usize, flags: i32) -> Region {
    Region::map(pages * HUGE, RW, flags | SIZE, None)
}

/// A memfd of huge pages: a hole, written through a mapping, sealed, and mapped privately as well.
struct Memfd {
    file: File,
    shared: Region,
    private: Region,
}

impl Memfd {
    fn new() -> Self {
        let flags = libc::MFD_HUGETLB | 21 << libc::MAP_HUGE_SHIFT | libc::MFD_ALLOW_SEALING;
        let file = crate::memfd::make(c"huge", flags);
        file.set_len(3 * HUGE as u64).expect("set its size");
        let shared = Region::map(3 * HUGE, RW, libc::MAP_SHARED, Some((&file, 0)));
        shared.bytes()[HUGE..2 * HUGE].copy_from_slice(&pattern(5, HUGE));
        let private = Region::map(2 * HUGE, RW, libc::MAP_PRIVATE, Some((&file, HUGE as i64)));
        private.bytes()[HUGE..].copy_from_slice(&pattern(6, HUGE));
        crate::files::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK);
        Self { file, shared, private }
    }

    fn verify(&self, found: &mut Findings) {
        found.must("the memfd", self.shared.bytes()[HUGE..2 * HUGE] == pattern(5, HUGE));
        found.must("its hole", self.shared.bytes()[..HUGE].iter().all(|byte| *byte == 0));
        found.must("what is the file's", self.private.bytes()[..HUGE] == pattern(5, HUGE));
        found.must("what is its own", self.private.bytes()[HUGE..] == pattern(6, HUGE));
        let seals = crate::files::fcntl(self.file.as_raw_fd(), libc::F_GET_SEALS, 0);
        found.same("seals", &libc::F_SEAL_SHRINK, &seals);
        let size = self.file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        found.same("size of the memfd", &(3 * HUGE as u64), &size);
        self.shared.bytes()[7] = 9;
        let mut byte = [0];
        found.works("read the memfd", self.file.read_exact_at(&mut byte, 7));
        found.same("what the mapping wrote", &9, &byte[0]);
        for region in [&self.shared, &self.private] {
            found.same("pages of the memfd", &Some(("2048 kB".to_owned(), true)), &told(region));
        }
    }
}

/// A System V segment of huge pages with an odd size, of which a part is attached once more and one is gone.
pub(crate) fn sysv(stage: &Stage) -> Outcome {
    let flags = libc::SHM_HUGETLB | 21 << libc::MAP_HUGE_SHIFT | libc::IPC_CREAT | 0o600;
    // SAFETY: takes integers.
    let id = check(unsafe { libc::shmget(libc::IPC_PRIVATE, 2 * HUGE + 100, flags) });
    let id = id.expect("shmget");
    stage.publish("ids", &id.to_string());
    let attach = || {
        // SAFETY: at a place that the kernel chooses.
        let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        assert_ne!(at.addr(), usize::MAX, "shmat: {}", std::io::Error::last_os_error());
        Region::at(at.cast(), 3 * HUGE)
    };
    let (whole, part) = (attach(), attach());
    whole.bytes()[HUGE..2 * HUGE].copy_from_slice(&pattern(8, HUGE));
    // Behind what was asked for: the last page is there, whole.
    whole.bytes()[3 * HUGE - 1] = 55;
    // SAFETY: the first page of the second attachment, which nothing refers to.
    check(unsafe { libc::munmap(part.addr() as *mut _, HUGE) }).expect("munmap");
    let part = Region::at((part.addr() + HUGE) as *mut u8, 2 * HUGE);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for region in [&whole, &part] {
        found.same("pages of a segment", &Some(("2048 kB".to_owned(), true)), &told(region));
    }
    found.must("the segment", whole.bytes()[HUGE..2 * HUGE] == pattern(8, HUGE));
    found.must("its second attachment", part.bytes()[..HUGE] == pattern(8, HUGE));
    found.must("what was not written", whole.bytes()[..HUGE].iter().all(|byte| *byte == 0));
    found.same("the end of its last page", &55, &whole.bytes()[3 * HUGE - 1]);
    part.bytes()[3] = 77;
    found.same("what is written to one", &77, &whole.bytes()[HUGE + 3]);
    // SAFETY: takes integers.
    let removed = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    found.same("the segment has its id", &0, &removed);
    found.outcome()
}

pub(crate) fn memfd(stage: &Stage) -> Outcome {
    let memfd = Memfd::new();
    stage.ready_then_wait();
    let mut found = Findings::default();
    memfd.verify(&mut found);
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let private = map(3, libc::MAP_PRIVATE);
    private.bytes()[HUGE..2 * HUGE].copy_from_slice(&pattern(1, HUGE));
    let read_only = map(1, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    read_only.bytes().copy_from_slice(&pattern(2, HUGE));
    read_only.protect(libc::PROT_READ).expect("mprotect");
    let shared = map(2, libc::MAP_SHARED);
    shared.bytes()[HUGE..].copy_from_slice(&pattern(3, HUGE));
    let untouched = map(1, libc::MAP_SHARED);
    let of_child = pattern(4, HUGE);
    let pid = child(stage, "child", || {
        private.bytes()[..HUGE].copy_from_slice(&of_child);
        stage.publish("child-stands", "");
        stage.wait();
        let mut found = Findings::default();
        found.must("the child's own page", private.bytes()[..HUGE] == of_child);
        found.must("what it was born with", private.bytes()[HUGE..2 * HUGE] == pattern(1, HUGE));
        while shared.bytes()[0] != 7 {
            std::thread::yield_now();
        }
        shared.bytes()[1] = 8;
        found.outcome()
    });
    while !stage.path("child-stands").exists() {
        std::thread::yield_now();
    }
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (what, region) in [
        ("private", &private),
        ("read only", &read_only),
        ("shared", &shared),
        ("untouched", &untouched),
    ] {
        let told = told(region);
        found.same(&format!("pages of what is {what}"), &Some(("2048 kB".to_owned(), true)), &told);
    }
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    found.must("private memory", private.bytes()[HUGE..2 * HUGE] == pattern(1, HUGE));
    found.must("what only the child wrote", zero(&private.bytes()[..HUGE]));
    found.must("read-only memory", read_only.bytes() == pattern(2, HUGE));
    found.must("shared memory", shared.bytes()[HUGE..] == pattern(3, HUGE));
    found.must("untouched memory", zero(untouched.bytes()));
    shared.bytes()[0] = 7;
    found.same("the child", &Ok(WaitStatus::Exited(pid, 0)), &waitpid(pid, None));
    found.same("what the child wrote to shared memory", &8, &shared.bytes()[1]);
    found.outcome()
}
