//! Whether this machine can have the asynchronous I/O contexts of a checkpoint again.
//!
//! The kernel makes a ring that has room for all processors that the machine may ever have, and gives requests out to
//! processors in portions. So a ring may be of another size here, or a new context may not have as many requests at once as
//! events wait in the old one: it takes that many to bring its events back.

use std::os::unix::fs::FileExt;

use images::messages::AioRingEntry;
use kernel::aio::{HEADER, Ring, processors, reachable, ring_bytes};
use support::Unsupported;

use crate::error::Error;
use crate::load::{Body, Checkpoint, Process};

/// Refuses, by name, what this machine would make otherwise, and images whose rings are none.
pub(crate) fn check(checkpoint: &Checkpoint) -> Result<(), Error> {
    let mut found = Vec::new();
    for (process, body) in checkpoint.living().filter(|(_, body)| !body.mm.aios.is_empty()) {
        let processors = processors()
            .map_err(Error::kernel("count the processors that this machine may have"))?;
        for context in &body.mm.aios {
            let ring = ring(checkpoint, process, body, context)?;
            found.extend(judge(process, context, ring, processors));
        }
    }
    if found.is_empty() { Ok(()) } else { Err(Error::Refused(found)) }
}

fn object(context: &AioRingEntry) -> String {
    format!("asynchronous I/O context {:#x}", context.id)
}

fn judge(
    process: &Process,
    context: &AioRingEntry,
    ring: Ring,
    processors: u32,
) -> Option<Unsupported> {
    let (bytes, here) = (context.ring_len.into(), ring_bytes(context.nr_req, processors));
    let waiting = match ring.tail.checked_sub(ring.head) {
        Some(waiting) => waiting,
        None => ring.tail + (ring.events - ring.head),
    };
    let refusal = if here != bytes {
        support::images::aio_ring(bytes, here, processors)
    } else if waiting > reachable(ring.events, processors) {
        support::images::AIO_EVENTS
    } else {
        return None;
    };
    Some(refusal.of(process.pid.get(), object(context)))
}

/// What the images have of the beginning of a ring.
fn ring(
    checkpoint: &Checkpoint,
    process: &Process,
    body: &Body,
    context: &AioRingEntry,
) -> Result<Ring, Error> {
    let mut header = [0; HEADER];
    let run = body.runs.iter().find(|run| run.start == context.id);
    if let Some((store, offset)) = run.and_then(|run| run.stored()) {
        checkpoint.stores[store]
            .read_exact_at(&mut header, offset)
            .map_err(Error::kernel("read the ring of an asynchronous I/O context"))?;
    }
    let ring = Ring::of(&header);
    let is_one = ring.is_one
        && kernel::aio::events(context.ring_len) == Some(ring.events)
        && ring.head < ring.events
        && ring.tail < ring.events;
    if is_one {
        return Ok(ring);
    }
    let object = format!("process {}, {}", process.pid, object(context));
    Err(Error::image(object, "its pages are not those of a ring"))
}
