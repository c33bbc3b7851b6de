//! Cgroup namespaces (cgroup_namespaces(7)). Which groups are the roots of one is said with the memberships of its tasks,
//! so those are made when it is known where groups are here (`cgroups/namespaces.rs`). This makes the others, whose
//! roots are where the restore is.

use std::os::fd::OwnedFd;

use images::Checkpoint;
use kernel::namespaces::new_cgroup;

use super::{Given, Kind, Making};
use crate::error::Error;

/// The kind.
pub(super) const KIND: Kind = Kind { name: "cgroup", load };

/// One without roots of its own.
#[derive(Debug)]
struct Here;

fn load(_checkpoint: &Checkpoint, _number: u32) -> Result<Box<dyn Making>, Error> {
    Ok(Box::new(Here))
}

impl Making for Here {
    fn make(&self, number: u32, _given: &Given) -> Result<OwnedFd, Error> {
        new_cgroup().map_err(Error::kernel(format!("make cgroup namespace {number}")))
    }
}
