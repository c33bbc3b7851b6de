//! N children, each with a little memory of its own, that sleep until a signal wakes them.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};

use super::count;
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, pattern};
use crate::tree::{Kin, child};

/// Bytes of memory that differ in each.
const OWN: usize = 64 << 10;

fn member(index: usize, wake: &SigSet) -> Outcome {
    let (before, own) = (Kin::now(), pattern(index as u64, OWN));
    let mut found = Findings::default();
    let woken = wake.wait();
    found.same("woken", &Ok(Signal::SIGUSR1), &woken);
    found.same("kin", &before, &Kin::now());
    found.must("its memory", own == pattern(index as u64, OWN));
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let mut wake = SigSet::empty();
    wake.add(Signal::SIGUSR1);
    wake.thread_block().map_err(|error| error.to_string())?;
    let members: Vec<_> = (0..count(10))
        .map(|index| child(stage, &index.to_string(), || member(index, &wake)))
        .collect();

    pulse::ready_then_wait(stage)?;

    let mut found = Findings::default();
    for member in &members {
        found.works("wake a child", kill(*member, Signal::SIGUSR1));
    }
    for member in members {
        found.same("child", &Ok(WaitStatus::Exited(member, 0)), &waitpid(member, None));
    }
    found.outcome()
}
