//! Joining a group (`MOVE_MOUNT_SET_GROUP`), which some mounts do only when all is placed.

use std::os::fd::OwnedFd;

use kernel::mounts;

use super::failed::failed;
use super::plan::Mount;
use crate::error::Error;

/// A mount that is to join a group.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) mount: Mount,
    pub(super) copy: OwnedFd,
    pub(super) seat: OwnedFd,
}

impl Joining {
    /// Has it join.
    pub(super) fn join(&self) -> Result<(), Error> {
        mounts::join_group(&self.copy, &self.seat).map_err(failed(&self.mount, "join the group of"))
    }

    /// The descriptors that it needs.
    pub(super) fn descriptors(&mut self) -> [&mut OwnedFd; 2] {
        [&mut self.copy, &mut self.seat]
    }
}
