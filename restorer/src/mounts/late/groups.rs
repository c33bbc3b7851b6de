//! Groups of mounts that the first task makes: those of what is made of a `proc` have no seat, their members join the widest.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use kernel::descriptors::duplicate_from;
use kernel::mounts::{self, Change, Propagation};

use super::super::failed::failed;
use super::super::lateness::knows_pids;
use super::super::plan::{Index, Mount, Plan, path};
use super::super::seats::{Seats, group, seat};
use crate::error::Error;

/// What is left to do about groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// In their order: a group comes after the one that it receives from.
    founded: Vec<Founded>,
    joins: Vec<Join>,
}

/// A step that is the first of its group, which the others join.
#[derive(Debug)]
struct Founded {
    step: usize,
    /// It receives from the group of this step.
    from: Option<usize>,
    is_shared: bool,
}

/// Mounts of `proc` and their steps, by group.
type Unseated = BTreeMap<(u32, u32), Vec<(Index, usize)>>;

/// The mount of a step, which joins a group.
#[derive(Debug)]
struct Join {
    step: usize,
    like: Like,
}

/// A member of a group.
#[derive(Debug)]
enum Like {
    Step(usize),
    /// It is mounted in the yard.
    Seat(OwnedFd),
}

impl Like {
    fn fd<'f>(&'f self, placed: &'f BTreeMap<usize, OwnedFd>) -> Option<BorrowedFd<'f>> {
        match self {
            Self::Step(step) => placed.get(step).map(AsFd::as_fd),
            Self::Seat(fd) => Some(fd.as_fd()),
        }
    }
}

impl Groups {
    /// Of what the steps make, where `steps` has them by mount.
    pub(super) fn plan(
        plan: &Plan,
        steps: &BTreeMap<Index, usize>,
        seats: &Seats,
    ) -> Result<Self, Error> {
        let mut groups = Self::default();
        let mut unseated: Unseated = BTreeMap::new();
        for (&index, &step) in steps {
            let mount = &plan.mounts[index];
            match (group(mount), seat(mount, seats)) {
                (Some(group), _) if knows_pids(plan, mount) => {
                    unseated.entry(group).or_default().push((index, step));
                }
                (_, Some(seat)) => {
                    let seat = seat.try_clone().map_err(failed(mount, "hold a peer of"))?;
                    groups.joins.push(Join { step, like: Like::Seat(seat) });
                }
                _ => {}
            }
        }
        groups.found(plan, unseated)?;
        Ok(groups)
    }

    /// Whether there are members that join what is in the yard.
    pub(super) fn have_seats(&self) -> bool {
        self.joins.iter().any(|join| matches!(join.like, Like::Seat(_)))
    }

    /// Plans the groups of mounts of `proc`.
    fn found(&mut self, plan: &Plan, mut unseated: Unseated) -> Result<(), Error> {
        let root = |index: Index| path(&plan.mounts[index].entry.root);
        // The widest of each group that shares.
        let mut founders: BTreeMap<u32, (Index, usize)> = BTreeMap::new();
        while !unseated.is_empty() {
            let waits = |master: u32| unseated.keys().any(|(shared, _)| *shared == master);
            let ready = unseated.keys().find(|(_, master)| *master == 0 || !waits(*master));
            let Some((shared, master)) = ready.copied() else {
                return Err(Error::image(
                    "mountpoints",
                    "groups of mounts receive from each other",
                ));
            };
            let members = unseated.remove(&(shared, master)).unwrap_or_default();
            let Some(&(widest, founder)) =
                members.iter().min_by_key(|(index, _)| root(*index).components().count())
            else {
                continue;
            };
            let from = founders.get(&master).filter(|_| master != 0);
            let covers = |wide: &Path, index: Index| root(index).starts_with(wide);
            let are_below = members.iter().all(|(index, _)| covers(root(widest), *index));
            if !are_below || from.is_some_and(|(from, _)| !covers(root(*from), widest)) {
                let refusal = support::mounts::SHARED_WITH_PROC;
                return Err(Error::refused(refusal.of(0, plan.mounts[widest].shown())));
            }
            if shared == 0 && from.is_none() {
                continue;
            }
            let from = from.map(|(_, step)| *step);
            self.founded.push(Founded { step: founder, from, is_shared: shared != 0 });
            let others = members.into_iter().filter(|(_, step)| *step != founder);
            self.joins.extend(others.map(|(_, step)| Join { step, like: Like::Step(founder) }));
            if shared != 0 {
                founders.insert(shared, (widest, founder));
            }
        }
        Ok(())
    }

    /// Moves the descriptors to numbers from `base` on.
    pub(super) fn keep(&mut self, base: RawFd) -> Result<(), Error> {
        for join in &mut self.joins {
            if let Like::Seat(fd) = &mut join.like {
                *fd =
                    duplicate_from(&*fd, base).map_err(Error::kernel("duplicate a descriptor"))?;
            }
        }
        Ok(())
    }

    /// Makes them of what has been placed; `enter` moves to the mount namespace of a step's mount, which it returns.
    pub(super) fn make<'m>(
        &self,
        placed: &BTreeMap<usize, OwnedFd>,
        enter: impl Fn(usize) -> Result<&'m Mount, Error>,
    ) -> Result<(), Error> {
        for Founded { step, from, is_shared } in &self.founded {
            let mount = enter(*step)?;
            let Some(founder) = placed.get(step) else { continue };
            let set = |propagation| {
                let change = Change { propagation: Some(propagation), ..Change::default() };
                mounts::change(founder, &change).map_err(failed(mount, "set the propagation of"))
            };
            if let Some(from) = from.and_then(|from| placed.get(&from)) {
                mounts::join_group(founder, from)
                    .map_err(failed(mount, "find the group that is received from by"))?;
                set(Propagation::Slave)?;
            }
            if *is_shared {
                set(Propagation::Shared)?;
            }
        }
        for Join { step, like } in &self.joins {
            let mount = enter(*step)?;
            let (Some(member), Some(like)) = (placed.get(step), like.fd(placed)) else { continue };
            mounts::join_group(member, like).map_err(failed(mount, "join the group of"))?;
        }
        Ok(())
    }
}
