//! Memory that changes in every way there is, all the while: a thread writes, gives back, moves,
//! maps anew, shrinks and grows, closes and opens, guards, and forks, and checks a region after each step.
//!
//! What every page must hold is kept beside it: 0 for a page of zeros, [`GUARDED`] for one that is in a guard
//! region, else the number that stands at both of its ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::stage::{Outcome, Stage, check};

const PAGE: usize = 4096;
/// Pages of a region: two huge ones and a little more.
const PAGES: usize = 1030;
const REGIONS: usize = 16;
const GUARDED: u64 = u64::MAX;
/// Linux 6.13; without them, nothing is guarded.
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn map(at: usize, pages: usize, flags: i32) -> usize {
    // SAFETY: without MAP_FIXED a place that nothing else uses; with it, a region of ours.
    let got = unsafe { libc::mmap(at as *mut _, pages * PAGE, RW, ANONYMOUS | flags, -1, 0) };
    assert!(got != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    got as usize
}

struct Region {
    at: usize,
    /// What each page holds.
    pages: Vec<u64>,
}

impl Region {
    fn new(index: usize) -> Self {
        let region = Self { at: map(0, PAGES, 0), pages: vec![0; PAGES] };
        let advice =
            if index.is_multiple_of(2) { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        region.advise(0, PAGES, advice);
        region
    }

    fn words(&self, page: usize) -> [*mut u64; 2] {
        let start = self.at + page * PAGE;
        [start as *mut u64, (start + PAGE - 8) as *mut u64]
    }

    fn write(&mut self, page: usize, stamp: u64) {
        if self.pages[page] == GUARDED {
            return;
        }
        for word in self.words(page) {
            // SAFETY: inside the region, which only this thread uses.
            unsafe { word.write_volatile(stamp) };
        }
        self.pages[page] = stamp;
    }

    fn advise(&self, page: usize, pages: usize, advice: i32) {
        let at = (self.at + page * PAGE) as *mut libc::c_void;
        // SAFETY: inside the region, of which there are no references.
        let done = unsafe { libc::madvise(at, pages * PAGE, advice) };
        // A kernel without huge pages does not know the advice for them.
        assert!(done == 0 || advice != libc::MADV_DONTNEED, "madvise");
    }

    /// Guards pages, or takes guards away.
    fn guard(&mut self, page: usize, pages: usize, advice: i32) {
        let at = (self.at + page * PAGE) as *mut libc::c_void;
        // SAFETY: inside the region, of which there are no references.
        if unsafe { libc::madvise(at, pages * PAGE, advice) } != 0 {
            return;
        }
        for held in &mut self.pages[page..page + pages] {
            match (advice, *held) {
                (MADV_GUARD_INSTALL, _) => *held = GUARDED,
                (_, GUARDED) => *held = 0,
                _ => {}
            }
        }
    }

    fn protect(&self, rights: i32) -> Result<(), String> {
        // SAFETY: the region is ours, and nobody looks at it while it is closed.
        check(unsafe { libc::mprotect(self.at as *mut _, self.pages.len() * PAGE, rights) })
            .map(drop)
            .map_err(|error| format!("mprotect: {error}"))
    }

    fn remap(&mut self, pages: usize, to: Option<usize>) -> Result<(), String> {
        let bytes = self.pages.len() * PAGE;
        let old = self.at as *mut libc::c_void;
        let got = match to {
            // SAFETY: both places are ours, and there are no references.
            Some(to) => unsafe {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                libc::mremap(old, bytes, pages * PAGE, flags, to as *mut libc::c_void)
            },
            // SAFETY: as above.
            None => unsafe { libc::mremap(old, bytes, pages * PAGE, libc::MREMAP_MAYMOVE) },
        };
        if got == libc::MAP_FAILED {
            return Err(format!("mremap: {}", std::io::Error::last_os_error()));
        }
        self.at = got as usize;
        self.pages.resize(pages, 0);
        Ok(())
    }

    fn verify(&self) -> Result<(), String> {
        let mut before = 0;
        for (page, &stamp) in self.pages.iter().enumerate() {
            // It takes a call to find out, so of each guard region the first page is looked at.
            let begins = stamp == GUARDED && before != GUARDED;
            before = stamp;
            if begins && is_readable(self.at + page * PAGE) {
                return Err(format!("page {page} is not guarded"));
            }
            if stamp == GUARDED {
                continue;
            }
            for word in self.words(page) {
                // SAFETY: inside the region.
                let found = unsafe { word.read_volatile() };
                if found != stamp {
                    return Err(format!("page {page} holds {found}, not {stamp}"));
                }
            }
        }
        Ok(())
    }
}

fn is_readable(at: usize) -> bool {
    let mut word = 0u64;
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: 8 };
    // SAFETY: no arguments; the kernel writes the word at most.
    unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) > 0
    }
}

struct Churn {
    regions: Vec<Region>,
    random: u64,
    stamp: u64,
}

impl Churn {
    fn new() -> Self {
        let mut churn = Self {
            regions: (0..REGIONS).map(Region::new).collect(),
            random: 0x9e37_79b9,
            stamp: 0,
        };
        for index in 0..REGIONS {
            for page in 0..PAGES {
                churn.stamp += 1;
                churn.regions[index].write(page, churn.stamp);
            }
        }
        churn
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit as u64) as usize
    }

    fn step(&mut self) -> Result<(), String> {
        let (index, what) = (self.below(REGIONS), self.below(40));
        let len = self.regions[index].pages.len();
        let first = self.below(len);
        let count = 1 + self.below((len - first).min(600));
        let region = &mut self.regions[index];
        match what {
            0..=3 => {
                region.advise(first, count, libc::MADV_DONTNEED);
                let given_back = &mut region.pages[first..first + count];
                given_back.iter_mut().filter(|held| **held != GUARDED).for_each(|held| *held = 0);
            }
            4 => {
                let to = map(0, len, 0);
                region.remap(len, Some(to))?;
            }
            5 => {
                region.at = map(region.at, len, libc::MAP_FIXED);
                region.pages.fill(0);
            }
            6 => {
                region.remap(PAGES / 2 + first / 2, None)?;
                region.remap(PAGES, None)?;
            }
            7 => {
                region.protect(libc::PROT_NONE)?;
                std::thread::sleep(Duration::from_micros(200));
                region.protect(RW)?;
            }
            8 => fork(region)?,
            9 => region.verify()?,
            10 | 11 => region.guard(first, count.min(64), MADV_GUARD_INSTALL),
            12 | 13 => region.guard(first, count, MADV_GUARD_REMOVE),
            _ => {
                for page in first..first + count.min(16) {
                    self.stamp += 1;
                    self.regions[index].write(page, self.stamp);
                }
            }
        }
        let other = self.below(REGIONS);
        self.regions[other].verify().map_err(|error| format!("region {other}: {error}"))
    }
}

/// A child looks at the region, and half of them then execute another program.
fn fork(region: &Region) -> Result<(), String> {
    // SAFETY: the child reads memory, executes a program with constant arguments, or ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let wrong = i32::from(region.verify().is_err());
        let program = c"/bin/true";
        let arguments = [program.as_ptr(), std::ptr::null()];
        // SAFETY: the arguments are strings and end with a null pointer; _exit does not return.
        unsafe {
            if wrong == 0 && region.pages[0].is_multiple_of(2) {
                libc::execv(program.as_ptr(), arguments.as_ptr());
            }
            libc::_exit(wrong);
        }
    }
    let mut status = 0;
    // SAFETY: the status outlives the call.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) }).map_err(|e| format!("wait: {e}"))?;
    if status == 0 { Ok(()) } else { Err(format!("the child ended with status {status}")) }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let done = Arc::new(AtomicBool::new(false));
    let steps = Arc::new(AtomicU64::new(0));
    let mut churn = Churn::new();
    let thread = std::thread::spawn({
        let (done, steps) = (done.clone(), steps.clone());
        move || -> Outcome {
            while !done.load(Ordering::Relaxed) {
                churn.step()?;
                steps.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(50));
            }
            churn.regions.iter().try_for_each(Region::verify)
        }
    });
    stage.ready_then_wait();
    done.store(true, Ordering::Relaxed);
    thread.join().map_err(|_| "the thread panicked".to_owned())??;
    stage.publish("steps", &steps.load(Ordering::Relaxed).to_string());
    Ok(())
}
