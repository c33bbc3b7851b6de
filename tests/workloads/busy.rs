//! A program whose threads never rest and check each step: it must not notice a checkpoint, nor
//! one that is cut short at any instant.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, checksum, pattern};

struct Shared {
    stop: AtomicBool,
    steps: [AtomicU64; 5],
}

impl Shared {
    fn goes_on(&self, thread: usize) -> bool {
        self.steps[thread].fetch_add(1, Ordering::Relaxed);
        // A breath, so that five threads leave something of two processors to the rest.
        std::thread::sleep(Duration::from_micros(200));
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Maps, fills, checks and unmaps memory.
fn maps(shared: &Shared) -> Outcome {
    let mut found = Findings::default();
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let mut seed = 0;
    while shared.goes_on(0) {
        seed += 1;
        let region = Region::map(64 << 10, rw, libc::MAP_PRIVATE, None);
        region.bytes().copy_from_slice(&pattern(seed, 64 << 10));
        found.must("mapped memory", region.bytes() == pattern(seed, 64 << 10));
        found.works("munmap", region.unmap());
    }
    found.outcome()
}

/// Writes to a pipe and reads it again; every system call must do all of its work.
fn pipes(shared: &Shared) -> Outcome {
    let mut found = Findings::default();
    let (reader, writer): (OwnedFd, OwnedFd) = nix::unistd::pipe().expect("pipe");
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    let mut seed = 1000;
    while shared.goes_on(1) {
        seed += 1;
        let sent = pattern(seed, 8000);
        let mut got = vec![0; 8000];
        found.same("write to a pipe", &Some(8000), &writer.write(&sent).ok());
        found.works("read from a pipe", reader.read_exact(&mut got));
        found.must("what the pipe carried", sent == got);
    }
    found.outcome()
}

/// Makes, opens, reads and removes files.
fn files(shared: &Shared, stage: &Stage) -> Outcome {
    let mut found = Findings::default();
    let path = stage.path("busy-file");
    let mut seed = 2000;
    while shared.goes_on(2) {
        seed += 1;
        let contents = pattern(seed, 3000);
        found.works("write a file", fs::write(&path, &contents));
        found.same("read a file", &Some(contents), &fs::read(&path).ok());
        found.works("remove a file", fs::remove_file(&path));
    }
    found.outcome()
}

/// Computes with vector registers and the stack only.
fn computes(shared: &Shared) -> Outcome {
    let mut found = Findings::default();
    let bytes = pattern(3000, 100_000);
    let sum = checksum(&bytes);
    let series = || (1..2000).map(|n| (f64::from(n) * 1.000_1).sqrt().sin()).sum::<f64>();
    let expected = series();
    while shared.goes_on(3) {
        found.same("checksum", &sum, &checksum(&bytes));
        found.same("sum of a series", &expected.to_bits(), &series().to_bits());
    }
    found.outcome()
}

/// Sleeps in system calls that a stop interrupts, and checks that the time passed.
fn sleeps(shared: &Shared, stage: &Stage) -> Outcome {
    let mut found = Findings::default();
    while shared.goes_on(4) {
        let start = std::time::Instant::now();
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
        // SAFETY: the time is valid for the call.
        let done = unsafe { libc::nanosleep(&raw const nap, std::ptr::null_mut()) };
        if done == 0 {
            found.must("nanosleep sleeps", start.elapsed() >= Duration::from_millis(3));
        } else {
            // What is left of a sleep lives in the kernel's task and ends with it: the new task
            // is told of an interruption. A program that was never ended must not be.
            found.must("nanosleep goes on", stage.path("restored").exists());
        }
    }
    found.outcome()
}

type Work = Box<dyn FnOnce(&Shared) -> Outcome + Send>;

/// Names of mappings and numbers of descriptors: what a checkpoint may have left behind.
fn belongings() -> (Vec<String>, usize) {
    let maps = fs::read_to_string("/proc/self/maps").expect("read maps");
    let odd = |line: &&str| {
        let rights = line.split(' ').nth(1).unwrap_or_default();
        let named = line.split_ascii_whitespace().count() > 5;
        // No mapping of ours is both anonymous and executable, or shared.
        !named && rights.contains('x') || rights.ends_with('s') || line.contains("memfd")
    };
    let odd = maps.lines().filter(odd).map(str::to_owned).collect();
    (odd, fs::read_dir("/proc/self/fd").map_or(0, Iterator::count))
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let before = belongings();
    let shared = Arc::new(Shared { stop: AtomicBool::new(false), steps: Default::default() });
    let (dir, sleeper_dir) = (stage.dir(), stage.dir());
    let works: [Work; 5] = [
        Box::new(maps),
        Box::new(pipes),
        Box::new(move |shared| files(shared, &Stage::new(dir))),
        Box::new(computes),
        Box::new(move |shared| sleeps(shared, &Stage::new(sleeper_dir))),
    ];
    let threads: Vec<_> = works
        .into_iter()
        .map(|work| {
            let shared = shared.clone();
            std::thread::spawn(move || work(&shared))
        })
        .collect();
    while shared.steps.iter().any(|s| s.load(Ordering::Relaxed) < 5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut found = Findings::default();

    stage.ready_then_wait();

    let seen = shared.steps.iter().map(|s| s.load(Ordering::Relaxed)).collect::<Vec<_>>();
    std::thread::sleep(Duration::from_millis(500));
    for (index, before) in seen.iter().enumerate() {
        let now = shared.steps[index].load(Ordering::Relaxed);
        found.must(&format!("thread {index} goes on ({before} then {now} steps)"), now > *before);
    }
    shared.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        found.works("a thread", thread.join().map_err(|_| "panicked".to_owned()).flatten());
    }
    // The threads are gone, and what they had with them.
    found.same("mappings and descriptors", &before, &belongings());
    found.outcome()
}
