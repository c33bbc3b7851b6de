//! Much memory, of which a thread writes random pages at an even rate.
//!
//! `STASIS_WORKLOAD_MIB` and `STASIS_WORKLOAD_RATE` (in MB of touched pages a second) say how much.
//!
//! Which page the n-th write goes to is a function of n, so that nothing but n needs to be kept to
//! know what every page must hold: its index, the number of the last write to it, and random bytes.
//! A copy that mixes pages of two instants does not pass: a page from too early lacks its last
//! write, one from too late has a write that the thread has yet to make.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::many::setting;
use crate::memory::Region;
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, pattern};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// At most this much is made up for when the thread did not run: more would be a burst.
const LAG: Duration = Duration::from_millis(2);

/// Of wrong pages so many are told.
const TOLD: usize = 10;

/// The page that the n-th write goes to (splitmix64).
fn target(n: u64, pages: u64) -> u64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % pages
}

/// What the threads share.
struct Shared {
    region: usize,
    pages: u64,
    /// Pages a second.
    rate: f64,
    written: AtomicU64,
    done: AtomicBool,
    standing: Barrier,
}

impl Shared {
    fn write(&self, n: u64) {
        let page = usize::try_from(target(n, self.pages)).expect("an index");
        let place = self.region + page * PAGE + size_of::<u64>();
        // SAFETY: the word is in the region, aligned, and reached in this way only while the
        // thread runs.
        unsafe { AtomicU64::from_ptr(place as *mut u64) }.store(n + 1, Ordering::Relaxed);
    }

    fn run(&self) {
        pulse::sleep_exactly();
        self.standing.wait();
        let mut owed = 0.0;
        let mut last = Instant::now();
        while !self.done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(50));
            let now = Instant::now();
            owed += (now - last).min(LAG).as_secs_f64() * self.rate;
            last = now;
            while owed >= 1.0 {
                owed -= 1.0;
                // Only this thread counts: one that is stopped between the two goes on there.
                let n = self.written.load(Ordering::Relaxed);
                self.write(n);
                self.written.store(n + 1, Ordering::Relaxed);
            }
        }
    }
}

fn fill(region: &Region) {
    let block = pattern(1, MIB);
    for (number, chunk) in region.bytes().chunks_mut(MIB).enumerate() {
        chunk.copy_from_slice(&block);
        for (index, page) in chunk.chunks_mut(PAGE).enumerate() {
            page[..8].copy_from_slice(&(number * (MIB / PAGE) + index).to_le_bytes());
            page[8..16].fill(0);
        }
    }
}

/// Each page as it must be after so many writes.
fn verify(found: &mut Findings, region: &Region, written: u64) {
    let block = pattern(1, MIB);
    let pages = region.bytes().len() / PAGE;
    let mut last = vec![0_u64; pages];
    for n in 0..written {
        last[usize::try_from(target(n, pages as u64)).expect("an index")] = n + 1;
    }
    let mut wrong = Vec::new();
    for (index, page) in region.bytes().chunks(PAGE).enumerate() {
        let (head, rest) = page.split_at(16);
        let start = index * PAGE % MIB;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        if (word(0), word(8)) != (index as u64, last[index]) {
            let (number, write) = (word(0), word(8));
            wrong.push(format!("page {index} says {number}, write {write}, not {}", last[index]));
        } else if *rest != block[start + 16..start + PAGE] {
            wrong.push(format!("page {index}: its random bytes"));
        }
    }
    let told = wrong.iter().take(TOLD).cloned().collect::<Vec<_>>();
    found.same(&format!("wrong pages of {pages} after {written} writes"), &0, &wrong.len());
    found.same("pages", &Vec::<String>::new(), &told);
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let mib = setting("STASIS_WORKLOAD_MIB", 32);
    let rate = setting("STASIS_WORKLOAD_RATE", 20);
    let region = Region::map(mib * MIB, RW, libc::MAP_PRIVATE, None);
    fill(&region);
    let shared = Arc::new(Shared {
        region: region.addr(),
        pages: (mib * MIB / PAGE) as u64,
        rate: rate as f64 * 1e6 / PAGE as f64,
        written: AtomicU64::new(0),
        done: AtomicBool::new(false),
        standing: Barrier::new(2),
    });
    let writer = std::thread::spawn({
        let shared = shared.clone();
        move || shared.run()
    });
    shared.standing.wait();
    let start = Instant::now();

    pulse::ready_then_wait(stage)?;

    shared.done.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| "the writer panicked".to_owned())?;
    let written = shared.written.load(Ordering::Relaxed);
    let mb = written as f64 * PAGE as f64 / 1e6;
    stage.publish("rate", &format!("{:.1} MB/s", mb / start.elapsed().as_secs_f64()));
    let mut found = Findings::default();
    verify(&mut found, &region, written);
    found.outcome()
}
