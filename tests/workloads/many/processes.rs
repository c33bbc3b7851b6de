//! N children, each with a little memory of its own, that sleep until a signal wakes them.
//! `STASIS_WORKLOAD_MIB` says how much they share with their parent since it forked.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};

use super::{count, setting};
use crate::memory::Region;
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, pattern};
use crate::tree::{Kin, child};

/// Bytes of memory that differ in each.
const OWN: usize = 64 << 10;

fn shared(mib: usize) -> Region {
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let region = Region::map((mib << 20).max(1), writable, libc::MAP_PRIVATE, None);
    region.bytes().copy_from_slice(&pattern(1, region.bytes().len()));
    region
}

fn member(index: usize, wake: &SigSet, shared: &Region) -> Outcome {
    let (before, own) = (Kin::now(), pattern(index as u64, OWN));
    let mut found = Findings::default();
    let woken = wake.wait();
    found.same("woken", &Ok(Signal::SIGUSR1), &woken);
    found.same("kin", &before, &Kin::now());
    found.must("its memory", own == pattern(index as u64, OWN));
    found.must("their memory", shared.bytes() == pattern(1, shared.bytes().len()));
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let mut wake = SigSet::empty();
    wake.add(Signal::SIGUSR1);
    wake.thread_block().map_err(|error| error.to_string())?;
    let shared = shared(setting("STASIS_WORKLOAD_MIB", 0));
    let members: Vec<_> = (0..count(10))
        .map(|index| child(stage, &index.to_string(), || member(index, &wake, &shared)))
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
