//! Where mounts sit that are of one group ([`super::groups`]).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::plan::Mount;

/// Seats by group: in which mounts are shared, and from which they are received.
pub(super) type Seats = BTreeMap<(u32, u32), OwnedFd>;

/// The group of a mount that it joins.
pub(super) fn group(mount: &Mount) -> Option<(u32, u32)> {
    let group = mount.group();
    (!mount.shares_outside && group != (0, 0)).then_some(group)
}

/// The seat of a mount's group; `None` if the mount is in none, or receives from one that is not there.
pub(super) fn seat<'s>(mount: &Mount, seats: &'s Seats) -> Option<&'s OwnedFd> {
    let (shared, master) = group(mount)?;
    let is_alone = shared == 0 && !seats.keys().any(|(shared, _)| *shared == master);
    seats.get(&(shared, master)).filter(|_| !is_alone)
}
