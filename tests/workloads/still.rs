//! A program that does nothing at all, so that all of `/proc/PID` must read the same before and
//! after a checkpoint that lets it run on.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Barrier, Condvar, Mutex};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, pattern};

pub(crate) fn run(stage: &Stage) -> Outcome {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let region = Region::map(1 << 20, rw, libc::MAP_PRIVATE, None);
    region.bytes().copy_from_slice(&pattern(71, 1 << 20));
    let fifo = stage.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("mkfifo");
    let fifo = File::options().read(true).write(true).open(fifo).expect("open");
    // Threads that wait for ever: on a futex, and on a pipe that nobody writes to.
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let started = Arc::new(Barrier::new(3));
    let (reader, writer): (OwnedFd, OwnedFd) = nix::unistd::pipe().expect("pipe");
    let waiter = std::thread::spawn({
        let (gate, started) = (gate.clone(), started.clone());
        move || {
            started.wait();
            let mut open = gate.0.lock().expect("lock");
            while !*open {
                open = gate.1.wait(open).expect("wait");
            }
        }
    });
    let mut reader = File::from(reader);
    let reader = std::thread::spawn({
        let started = started.clone();
        move || {
            started.wait();
            reader.read(&mut [0; 8]).ok()
        }
    });
    let blocked = [waiter.thread().id(), reader.thread().id()];
    std::hint::black_box(blocked);
    // Off the peak of its address space: of a process at its peak a dump leaves one trace, the
    // mark (`VmPeak`) that the parasite's pages set and nothing can set back. The threads have all
    // that they map when they start by now: stacks, and heaps of their own.
    started.wait();
    Region::map(1 << 20, rw, libc::MAP_PRIVATE, None).unmap().expect("munmap");
    stage.publish("waits-at-fifo", "");
    stage.publish("ready", &std::process::id().to_string());

    // One byte in the fifo is the word to go on.
    (&fifo).read_exact(&mut [0]).expect("read the fifo");

    let mut found = Findings::default();
    found.must("memory", region.bytes() == pattern(71, 1 << 20));
    *gate.0.lock().expect("lock") = true;
    gate.1.notify_all();
    found.works("thread in a futex", waiter.join().map_err(|_| "panicked"));
    drop(writer);
    found.same("thread in a read", &Ok(Some(0)), &reader.join().map_err(|_| "panicked"));
    found.outcome()
}
