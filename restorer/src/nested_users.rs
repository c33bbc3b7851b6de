//! User namespaces below that of the tree's root: made from outside, and entered by each of their tasks when it has no more use for the
//! rights that it has around them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use ids::ImagePid;
use images::id_map::IdMap;
use images::messages::{UidGidExtent, UsernsEntry};
use images::{Checkpoint, names};
use kernel::descriptors::duplicate_from;
use kernel::user_namespaces::{Inside, Maps, Range, new_user_of};

use crate::error::Error;
use crate::levels::{Levels, PidSpace};
use crate::users::maps;

fn entry(checkpoint: &Checkpoint, number: u32) -> Result<UsernsEntry, Error> {
    let image = names::userns(number);
    let missing = || images::Error::Missing { name: image.name().into() };
    Ok(checkpoint.images.read_one(&image)?.ok_or_else(missing)?)
}

/// Whether the one with this number is such a one, which the tree's root may be in as well.
pub(crate) fn is_nested(checkpoint: &Checkpoint, number: u32) -> Result<bool, Error> {
    Ok(entry(checkpoint, number)?.nested == Some(true))
}

/// What the images say of them.
#[derive(Debug, Default)]
pub(crate) struct NestedUsers {
    /// By their numbers: the maps, and the owner.
    described: BTreeMap<u32, (Maps, u32)>,
    of: BTreeMap<ImagePid, u32>,
    /// By the numbers of namespaces that belong to them.
    owned: BTreeMap<u32, u32>,
    made: BTreeMap<u32, OwnedFd>,
}

impl NestedUsers {
    /// Takes which one a process is in; whether there is such a one.
    pub(crate) fn add(
        &mut self,
        checkpoint: &Checkpoint,
        pid: ImagePid,
        number: u32,
    ) -> Result<bool, Error> {
        let entry = entry(checkpoint, number)?;
        if entry.nested != Some(true) {
            return Ok(false);
        }
        self.described.insert(number, (maps(&entry), entry.owner.unwrap_or(0)));
        self.of.insert(pid, number);
        self.owned.extend(entry.owned.iter().map(|owned| (*owned, number)));
        Ok(true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.described.is_empty()
    }

    /// Their numbers.
    pub(crate) fn numbers(&self) -> BTreeSet<u32> {
        self.described.keys().copied().collect()
    }

    /// Makes them.
    pub(crate) fn make(&mut self) -> Result<(), Error> {
        for (&number, (maps, owner)) in &self.described {
            let failed = Error::kernel(format!("make user namespace {number}"));
            self.made.insert(number, new_user_of(maps, *owner).map_err(failed)?);
        }
        Ok(())
    }

    /// The number of the one that a namespace belongs to, if that is one of these.
    pub(crate) fn owner(&self, owned: u32) -> Option<u32> {
        self.owned.get(&owned).copied()
    }

    /// The place in which a namespace is made that belongs to one of them.
    pub(crate) fn inside(&self, owned: u32) -> Option<Inside<'_>> {
        let number = self.owned.get(&owned)?;
        let (maps, _) = self.described.get(number)?;
        Some(Self::place(maps, self.made.get(number)?))
    }

    fn place<'a>(maps: &Maps, user: &'a OwnedFd) -> Inside<'a> {
        // The maker takes the first id that is mapped; where none is, it keeps its own.
        let first = |ranges: &[Range]| ranges.iter().map(|it| it.0).min().unwrap_or(u32::MAX);
        let ids = (first(&maps.users), first(&maps.groups));
        Inside { user: user.as_fd(), ids, before: &[], is_exposed: true }
    }

    /// What ids are called in the one with this number, and whether nobody may choose groups in there.
    pub(crate) fn ids(&self, number: u32) -> Option<(IdMap, bool)> {
        let (maps, _) = self.described.get(&number)?;
        let extents = |ranges: &[Range]| {
            let extent = |&(first, lower_first, count)| UidGidExtent { first, lower_first, count };
            ranges.iter().map(extent).collect()
        };
        let (uid_map, gid_map) = (extents(&maps.users), extents(&maps.groups));
        let entry = UsernsEntry { uid_map, gid_map, ..UsernsEntry::default() };
        Some((IdMap::of(&entry).ok()?, maps.no_groups))
    }

    /// The numbers of a task, from the pid namespace of the root on, that nobody may choose in the user namespace `user`: those in
    /// namespaces that belong to another one.
    pub(crate) fn not_chosen(
        &self,
        levels: &Levels,
        task: ImagePid,
        user: u32,
    ) -> Vec<(PidSpace, ImagePid)> {
        let mut spaces: Vec<PidSpace> = levels
            .namespace(task)
            .into_iter()
            .flat_map(|own| levels.around(own))
            .map(Some)
            .collect();
        spaces.push(None);
        let numbers = levels.all(task);
        let with_numbers = spaces.into_iter().rev().enumerate();
        let with_numbers =
            with_numbers.map_while(|(depth, space)| Some((space, numbers.at(depth)?)));
        let of_others = |space: &PidSpace| space.and_then(|space| self.owner(space)) != Some(user);
        with_numbers.take_while(|(space, _)| of_others(space)).collect()
    }

    /// The number of the one that a process is in, if that is such a one.
    pub(crate) fn number(&self, pid: ImagePid) -> Option<u32> {
        self.of.get(&pid).copied()
    }

    /// In a process that passes: moves into the one with this number for good, with `groups` if nobody may choose any in there.
    pub(crate) fn enter_for_good(&self, number: u32, groups: &[u32]) -> io::Result<()> {
        let there = self.described.get(&number).zip(self.made.get(&number));
        let ((maps, _), user) = there.ok_or(io::ErrorKind::NotFound)?;
        Self::place(maps, user).enter(if maps.no_groups { groups } else { &[] })
    }

    /// Moves the calling process into the user namespace that process `pid` was in, if it is one of these.
    pub(crate) fn enter(&self, pid: ImagePid) -> io::Result<()> {
        let user = self.of.get(&pid).and_then(|number| self.made.get(number));
        user.map_or(Ok(()), |user| kernel::namespaces::enter("user", user))
    }

    /// Those that have been made, with descriptors from `base` on.
    pub(crate) fn keep(&self, base: RawFd) -> Result<NestedMade, Error> {
        let keep = |(&number, made): (&u32, &OwnedFd)| {
            let kept = duplicate_from(made, base).map_err(Error::kernel("duplicate a descriptor"));
            Ok((number, kept?))
        };
        let made = self.made.iter().map(keep).collect::<Result<BTreeMap<_, _>, Error>>()?;
        Ok(NestedMade { of: self.of.clone(), made })
    }
}

/// Those that have been made.
#[derive(Debug, Default)]
pub(crate) struct NestedMade {
    of: BTreeMap<ImagePid, u32>,
    made: BTreeMap<u32, OwnedFd>,
}

impl NestedMade {
    /// The descriptor of the one that a process is to enter.
    pub(crate) fn of(&self, pid: ImagePid) -> Option<RawFd> {
        Some(self.made.get(self.of.get(&pid)?)?.as_raw_fd())
    }
}
