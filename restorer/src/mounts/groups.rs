//! Groups of mounts that share what is mounted below them, and those that receive it (mount_namespaces(7)).
//!
//! Mounts are placed as private ones. A group is then made of a seat, a mount in the yard of all that its members
//! are part of; they join it (`MOVE_MOUNT_SET_GROUP`, Linux 5.15), and it goes with the yard. Those of what is made of a `proc`
//! have none ([`super::late`]).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use kernel::mounts::{self, Change, Propagation};

use super::failed::failed;
use super::joining::Joining;
use super::lateness;
use super::plan::{Index, Plan};
use super::seats::{Seats, group, seat};
use super::yard::Yard;
use crate::error::Error;

/// Makes the seats.
pub(super) fn seats(plan: &Plan, yard: &mut Yard, late: &BTreeSet<Index>) -> Result<Seats, Error> {
    let mut wanted: BTreeMap<(u32, u32), Index> = BTreeMap::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let is_there = || !late.contains(&index) || !lateness::knows_pids(plan, mount);
        if let Some(group) = group(mount).filter(|_| is_there()) {
            let widest = wanted.entry(group).or_insert(index);
            if mount.entry.root.len() < plan.mounts[*widest].entry.root.len() {
                *widest = index;
            }
        }
    }
    let mut seats = Seats::new();
    // Those who receive come after those they receive from.
    while !wanted.is_empty() {
        let waits = |(_, master): (u32, u32)| {
            master != 0 && wanted.keys().any(|(shared, _)| *shared == master)
        };
        let Some((group, index)) =
            wanted.iter().map(|(group, index)| (*group, *index)).find(|(group, _)| !waits(*group))
        else {
            return Err(Error::image("mountpoints", "groups of mounts receive from each other"));
        };
        wanted.remove(&group);
        let mount = &plan.mounts[index];
        let seat = yard.seat(index, mount)?;
        let set = |propagation| {
            let change = Change { propagation: Some(propagation), ..Change::default() };
            mounts::change(&seat, &change).map_err(failed(mount, "set the propagation of"))
        };
        let (shared, master) = group;
        let from = seats.iter().find(|((shared, _), _)| master != 0 && *shared == master);
        if let Some((_, from)) = from {
            mounts::join_group(&seat, from)
                .map_err(failed(mount, "find the group that is received from by"))?;
            set(Propagation::Slave)?;
        }
        if shared != 0 {
            set(Propagation::Shared)?;
        }
        seats.insert(group, seat);
    }
    Ok(seats)
}

/// Which mounts join groups, with their places among all.
pub(super) fn joining(
    plan: &Plan,
    seats: &Seats,
    copies: &BTreeMap<Index, OwnedFd>,
) -> Result<Vec<(Index, Joining)>, Error> {
    let mut found = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let (Some(seat), Some(copy)) = (seat(mount, seats), copies.get(&index)) else { continue };
        let both = copy.try_clone().and_then(|copy| Ok((copy, seat.try_clone()?)));
        let (copy, seat) = both.map_err(failed(mount, "hold the group of"))?;
        found.push((index, Joining { mount: mount.clone(), copy, seat }));
    }
    Ok(found)
}
