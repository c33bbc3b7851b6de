//! Requests of io_urings that are in flight when a tree has been stopped.
//!
//! The kernel does the most of them by itself, and leaves the end to the thread that has submitted them: it completes them on
//! its way out of the kernel. A thread that is stopped does not come that far. So it is made to pass through
//! the kernel once, with everything else as it was.

use std::time::{Duration, Instant};

use freezer::Frozen;
use ids::HostPid;

use crate::clock::Clock;
use crate::error::Error;
use crate::infect::pass_through_kernel;
use crate::plan::Plan;
use crate::rings;

/// For so long a tree that stands still is waited for, each time that its dump is tried.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at it.
const NAP: Duration = Duration::from_micros(200);

/// Waits until nothing is in flight of a tree that has just been stopped, or for as long as that may take.
pub(crate) fn settle(plan: &mut Plan, frozen: &mut Frozen, clock: &Clock) -> Result<(), Error> {
    let since = Instant::now();
    let (mut most, mut passes) = (0, 0);
    loop {
        let mut busy: Vec<(HostPid, HostPid, Option<i32>)> = Vec::new();
        let mut requests = 0;
        for process in plan.inventory.processes.values() {
            for (tid, count) in rings::busy(&mut plan.collector, process)? {
                let ring = rings::completed_by(&mut plan.collector, process, tid, passes)?;
                busy.push((process.pid, tid, ring));
                requests += count;
            }
        }
        most = most.max(requests);
        if busy.is_empty() || since.elapsed() >= PATIENCE {
            break;
        }
        clock.check("wait for requests of io_urings")?;
        pass_through_kernel(plan, frozen, &busy)?;
        std::thread::sleep(NAP);
        passes += 1;
    }
    if most > 0 {
        let took = since.elapsed();
        tracing::debug!(requests = most, ?took, "requests of io_urings were in flight");
    }
    Ok(())
}
