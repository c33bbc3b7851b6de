//! Schedules the threads that are born in a user namespace: what they had from outside (a nice value below that of others, a
//! real-time policy, the I/O class that goes with it) takes rights of the machine, which nobody has in there.

use ids::HostPid;
use kernel::sched::{Scheduling, set_io_priority, set_scheduling};
use parasite::restorer::SchedAttr;

use crate::error::Error;
use crate::load::Checkpoint;
use crate::pids::Pids;
use crate::prepare::scheduling;
use crate::task::PreparedTask;

/// Does it for all threads.
pub(super) fn set(
    checkpoint: &Checkpoint,
    pids: &Pids,
    prepared: &[Option<PreparedTask>],
) -> Result<(), Error> {
    for (process, prepared) in checkpoint.processes.iter().zip(prepared) {
        let (Some(body), Some(prepared)) = (&process.body, prepared) else { continue };
        if !prepared.region.is_without_rights {
            continue;
        }
        for thread in &body.threads {
            let tid = pids.host(thread.tid)?;
            let failed = || Error::kernel(format!("set the scheduling of thread {}", thread.tid));
            set_scheduling(tid, &wanted(&scheduling(&thread.core))).map_err(failed())?;
            match thread.core.io_priority {
                None => {}
                // A kernel without such priorities has none to take back.
                Some(0) if !has_io_priorities(tid) => {}
                Some(priority) => set_io_priority(tid, priority).map_err(failed())?,
            }
        }
    }
    Ok(())
}

/// Whether the kernel knows priorities of input and output.
fn has_io_priorities(tid: HostPid) -> bool {
    kernel::sched::io_priority(tid).is_ok()
}

const fn wanted(attributes: &SchedAttr) -> Scheduling {
    let &SchedAttr { policy, nice, priority, flags, runtime, deadline, period, .. } = attributes;
    let utilization = (attributes.util_min, attributes.util_max);
    Scheduling { policy, nice, priority, flags, runtime, deadline, period, utilization }
}
