//! N threads with small stacks that wait in a futex.

use std::sync::{Arc, Barrier, Condvar, Mutex};

use super::count;
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, pattern};
use crate::threads::Identity;

const STACK: usize = 64 << 10;

struct Shared {
    standing: Barrier,
    go: Mutex<bool>,
    woken: Condvar,
}

fn thread(index: usize, shared: &Shared) -> Outcome {
    let on_stack = pattern(index as u64, 1024);
    let before = Identity::of_this_thread();
    shared.standing.wait();
    let mut go = shared.go.lock().map_err(|error| error.to_string())?;
    while !*go {
        go = shared.woken.wait(go).map_err(|error| error.to_string())?;
    }
    drop(go);
    let mut found = Findings::default();
    found.same(&format!("thread {index}"), &before, &Identity::of_this_thread());
    found.must("memory of the thread", on_stack == pattern(index as u64, 1024));
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let number = count(50);
    let shared = Arc::new(Shared {
        standing: Barrier::new(number + 1),
        go: Mutex::new(false),
        woken: Condvar::new(),
    });
    let start = |index| {
        let shared = shared.clone();
        let name = std::thread::Builder::new().name(format!("many-{index}"));
        name.stack_size(STACK).spawn(move || thread(index, &shared)).expect("start a thread")
    };
    let threads: Vec<_> = (0..number).map(start).collect();
    shared.standing.wait();

    pulse::ready_then_wait(stage)?;

    let mut found = Findings::default();
    *shared.go.lock().map_err(|error| error.to_string())? = true;
    shared.woken.notify_all();
    for thread in threads {
        found.works("a thread", thread.join().map_err(|_| "it panicked".to_owned()).flatten());
    }
    found.outcome()
}
