//! Which set of control groups a process is in.

use crate::load::Process;

/// The number of a process's set; old images have it elsewhere.
pub(super) fn number(process: &Process) -> Option<u32> {
    let leader = process.body.as_ref().and_then(|body| body.threads.first());
    let set = leader.and_then(|leader| leader.core.cg_set).or(process.core.cg_set);
    set.filter(|set| *set != 0)
}
