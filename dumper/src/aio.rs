//! Asynchronous I/O contexts (`io_setup`).
//!
//! What has been completed is in the ring, which is memory of the process; what is in flight is in nothing that could be
//! carried. So a tree that stands still is waited for: it submits nothing more, and what it has submitted is completed
//! within milliseconds, into its memory, its ring and its event counters, all of which are read after that. What waits
//! for something to happen is refused before.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use collector::{AioContext, Collector, Inventory, Mapping, Process};
use ids::HostPid;
use images::MappingKind;
use images::messages::AioRingEntry;
use support::mappings::{
    AIO_OF_ANOTHER, AIO_RING_CHANGED, AIO_UNSEEN, AIO_WAITING, aio_in_flight, object_of,
};
use support::{Refusal, Unsupported};

use crate::clock::Clock;
use crate::error::Error;
use crate::processes::is_zombie;

/// For so long a tree that stands still is waited for, each time that its dump is tried.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at it.
const NAP: Duration = Duration::from_micros(100);

/// Contexts by the process that has them, in ascending order of addresses.
#[derive(Debug, Default)]
pub(crate) struct Contexts(BTreeMap<HostPid, Vec<AioRingEntry>>);

impl Contexts {
    /// Those of a process.
    pub(crate) fn of(&self, pid: HostPid) -> &[AioRingEntry] {
        self.0.get(&pid).map_or(&[], Vec::as_slice)
    }
}

/// What the tree does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// What is in flight may be completed when it is frozen.
    Runs,
    /// It has been waited for.
    StandsStill,
}

/// Finds the contexts of a tree, and what stands in their way.
pub(crate) fn look(
    collector: &mut Collector,
    inventory: &Inventory,
    tree: Tree,
) -> Result<(Contexts, Vec<Unsupported>), Error> {
    let (mut contexts, mut found) = (Contexts::default(), Vec::new());
    for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
        let mut rings = rings(process).peekable();
        if rings.peek().is_none() {
            continue;
        }
        let pid = process.pid;
        let known = of_process(collector, pid)?;
        for mapping in rings {
            let judged = match &known {
                None => Err(AIO_UNSEEN),
                Some(known) => {
                    let context = known.iter().find(|context| context.start == mapping.start);
                    judge(pid, mapping, context, tree)
                }
            };
            match judged {
                Ok(entry) => contexts.0.entry(pid).or_default().push(entry),
                Err(refusal) => found.push(refusal.of(pid, object_of(mapping))),
            }
        }
    }
    Ok((contexts, found))
}

/// Waits until nothing is in flight of a tree that has just been stopped, or for as long as that may take.
pub(crate) fn settle(
    collector: &mut Collector,
    inventory: &Inventory,
    clock: &Clock,
) -> Result<(), Error> {
    let until = Instant::now() + PATIENCE;
    let processes = inventory.processes.values().filter(|process| rings(process).next().is_some());
    for process in processes {
        let (since, mut most) = (Instant::now(), 0);
        loop {
            let contexts = of_process(collector, process.pid)?.unwrap_or_default();
            let busy = contexts.iter().filter(|context| !context.waiting);
            let requests = busy.filter_map(|context| context.in_flight).sum::<u32>();
            most = most.max(requests);
            if requests == 0 || Instant::now() >= until {
                break;
            }
            clock.check("wait for asynchronous I/O")?;
            std::thread::sleep(NAP);
        }
        if most > 0 {
            let took = since.elapsed();
            tracing::debug!(pid = %process.pid, requests = most, ?took, "asynchronous I/O was in flight");
        }
    }
    Ok(())
}

fn rings(process: &Process) -> impl Iterator<Item = &Mapping> {
    process.mappings.iter().filter(|mapping| mapping.kind == MappingKind::AioRing)
}

fn of_process(collector: &mut Collector, pid: HostPid) -> Result<Option<Vec<AioContext>>, Error> {
    collector.aio_contexts(pid).map_err(|source| Error::Inventory { pid, source })
}

fn judge(
    pid: HostPid,
    mapping: &Mapping,
    context: Option<&AioContext>,
    tree: Tree,
) -> Result<AioRingEntry, Refusal> {
    let context = context.filter(|context| context.owned).ok_or(AIO_OF_ANOTHER)?;
    let requests = context.in_flight.ok_or(AIO_UNSEEN)?;
    if context.waiting {
        return Err(AIO_WAITING);
    }
    if requests > 0 && tree == Tree::StandsStill {
        return Err(aio_in_flight(requests));
    }
    let ring_len = u32::try_from(mapping.end - mapping.start).map_err(|_| AIO_RING_CHANGED)?;
    let is_whole = context.context == mapping.start
        && kernel::aio::events(ring_len) == Some(context.events)
        && is_intact(pid, context, tree);
    match is_whole {
        true => Ok(AioRingEntry { id: mapping.start, nr_req: context.requests, ring_len }),
        false => Err(AIO_RING_CHANGED),
    }
}

/// Whether the ring says what the kernel knows of it. Its pages are the program's, too, which could have
/// written anything into them.
fn is_intact(pid: HostPid, context: &AioContext, tree: Tree) -> bool {
    let mut head = [0; kernel::aio::HEADER];
    let read = File::open(format!("/proc/{pid}/mem"))
        .and_then(|memory| memory.read_exact_at(&mut head, context.start));
    let Ok(()) = read else { return false };
    let ring = kernel::aio::Ring::of(&head);
    // While the process runs the tail moves on.
    let tail = if tree == Tree::Runs { ring.tail } else { context.tail };
    ring.is_one && ring.events == context.events && ring.tail == tail && ring.head < ring.events
}
