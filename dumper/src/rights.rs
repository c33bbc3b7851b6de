//! A dump on behalf of a user takes what he might trace himself, and nothing else.
//!
//! It is asked twice: before anything is looked at, so that a refusal tells nothing and disturbs
//! nobody; and of the tasks as they stand still, as a program that gives rights may have been executed
//! meanwhile. From then on nothing can change. The second time costs some 10 µs a thread of the frozen
//! time, in such dumps alone.

use std::path::Path;

use ids::HostPid;
use kernel::rights::{Right, held};

use crate::error::Error;
use crate::options::DumpOptions;
use freezer::Frozen;

/// Asks for the tree as it is now.
pub(crate) fn check_tree(options: &DumpOptions) -> Result<(), Error> {
    if options.on_behalf_of.is_none() {
        return Ok(());
    }
    let tree = collector::tree(options.pid);
    check(options, &tree.map_err(|source| Error::Inventory { pid: options.pid, source })?)
}

/// Asks for the tree that stands still.
pub(crate) fn check_frozen(options: &DumpOptions, frozen: &Frozen) -> Result<(), Error> {
    if options.on_behalf_of.is_none() {
        return Ok(());
    }
    check(options, &frozen.processes.keys().copied().collect::<Vec<_>>())
}

fn check(options: &DumpOptions, pids: &[HostPid]) -> Result<(), Error> {
    let Some(user) = options.on_behalf_of else { return Ok(()) };
    let root = options.pid;
    let held = held(user, Right::Attach, pids).map_err(|source| Error::Process {
        operation: "ask who may trace the tree",
        pid: root,
        source,
    })?;
    // One that has ended meanwhile is nobody's, and not in the images.
    let there = |pid: HostPid| Path::new(&format!("/proc/{pid}")).exists();
    match pids.iter().find(|pid| !held.contains(pid) && there(**pid)) {
        None => Ok(()),
        Some(&pid) => Err(Error::NotAllowed { pid, root, uid: user.uid }),
    }
}
