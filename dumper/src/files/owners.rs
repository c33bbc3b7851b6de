//! Who is signalled when a file becomes ready (`F_SETOWN`, `F_SETSIG`).

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use collector::Inventory;
use ids::HostPid;
use images::messages::FownEntry;
use kernel::descriptors;

use super::problem::{Doing, Problem};
use crate::numbers::Numbers;

/// The owner of an open file, checked to be one that a restore will find.
pub(super) fn owner(
    fd: impl AsFd,
    known: &BTreeSet<HostPid>,
    numbers: &Numbers,
    is_process: impl FnOnce(HostPid) -> bool,
    is_newer: impl FnOnce(HostPid) -> bool,
) -> Result<FownEntry, Problem> {
    /// `F_OWNER_TID`.
    const THREAD: i32 = 0;
    let signal = descriptors::signal(&fd).doing("get signal of")?;
    let owner = descriptors::owner(&fd).doing("get owner of")?;
    let mut entry = FownEntry { signum: signal.cast_unsigned(), ..nobody() };
    let Some(pid) = owner.pid else { return Ok(entry) };
    if !known.contains(&pid) {
        return Err(match is_newer(pid) {
            true => Problem::Gone,
            false => Problem::Refused(support::files::owner_outside(pid)),
        });
    }
    // Owners are set when there is one thread of each process yet.
    if owner.kind == THREAD && !is_process(pid) {
        return Err(Problem::Refused(support::files::owner_thread(pid)));
    }
    let (uid, euid) = descriptors::owner_uids(&fd).doing("get user ids of the owner of")?;
    entry.uid = uid;
    entry.euid = euid;
    entry.pid_type = owner.kind.cast_unsigned();
    entry.pid = numbers.message(Some(pid));
    Ok(entry)
}

/// No owner and no signal.
pub(super) fn nobody() -> FownEntry {
    FownEntry { uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 }
}

/// Every id of the tree that can own a file: threads (which are told that they cannot), processes, process groups.
pub(super) fn ids(inventory: &Inventory) -> BTreeSet<HostPid> {
    inventory
        .processes
        .values()
        .flat_map(|process| {
            process.threads.keys().copied().chain([process.pid]).chain(process.pgid)
        })
        .collect()
}
