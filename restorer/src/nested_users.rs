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
use crate::users::{Limits, LimitsOfMade, maps};

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
    /// By their numbers: the maps, and the owner, in ids of around the tree.
    described: BTreeMap<u32, (Maps, u32)>,
    /// The numbers of those that they are in, unless that is the one of the tree.
    around: BTreeMap<u32, u32>,
    of: BTreeMap<ImagePid, u32>,
    /// By the numbers of namespaces that belong to them.
    owned: BTreeMap<u32, u32>,
    limits: BTreeMap<u32, Limits>,
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
        self.of.insert(pid, number);
        self.describe(number, &entry)?;
        let mut next = self::entry(checkpoint, number)?.around;
        let mut below = number;
        // Those around it, in which nobody may be. No number is met twice on the way.
        while let Some(number) = next {
            if self.around.contains_key(&below) {
                break;
            }
            let entry = self::entry(checkpoint, number)?;
            if entry.nested != Some(true) || number == below {
                let what = format!("it is in {number}, which is not nested");
                return Err(Error::image(format!("user namespace {below}"), what));
            }
            self.around.insert(below, number);
            self.describe(number, &entry)?;
            (below, next) = (number, entry.around);
        }
        if !self.up(number).all(|it| self.described.contains_key(&it)) {
            return Err(Error::image(format!("user namespace {number}"), "it is in itself"));
        }
        Ok(true)
    }

    fn describe(&mut self, number: u32, entry: &UsernsEntry) -> Result<(), Error> {
        self.described.insert(number, (maps(entry), entry.owner.unwrap_or(0)));
        self.owned.extend(entry.owned.iter().map(|owned| (*owned, number)));
        self.limits.insert(number, Limits::of(entry)?);
        Ok(())
    }

    /// The limits of those that have some.
    pub(crate) fn limits(&self, base: RawFd) -> Result<Vec<LimitsOfMade>, Error> {
        let mut found = Vec::new();
        for (number, limits) in &self.limits {
            let described = self.described.get(number).zip(self.made.get(number));
            if let Some(((maps, _), made)) = described {
                found.extend(limits.of_made(&Self::place(maps, made), base)?);
            }
        }
        Ok(found)
    }

    /// One, and those around it. One that is in itself, which only images can say, ends with what is none.
    fn up(&self, number: u32) -> impl Iterator<Item = u32> + '_ {
        let mut left = self.around.len() + 1;
        std::iter::successors(Some(number), move |it| {
            let next = self.around.get(it).copied()?;
            left -= 1;
            Some(if left == 0 { u32::MAX } else { next })
        })
    }

    /// Whether one is another one, or below it.
    pub(crate) fn is_within(&self, number: u32, other: u32) -> bool {
        self.up(number).any(|it| it == other)
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
        let mut numbers: Vec<u32> = self.described.keys().copied().collect();
        numbers.sort_by_key(|number| self.up(*number).count());
        for number in numbers {
            let Some((maps, owner)) = self.described.get(&number) else { continue };
            let failed = || Error::kernel(format!("make user namespace {number}"));
            let around = self.around.get(&number);
            let made =
                match around.and_then(|it| Some((self.described.get(it)?, self.made.get(it)?))) {
                    None => new_user_of(maps, *owner, None),
                    Some(((of_around, _), around)) => {
                        // It is made there, where ids are others.
                        let (maps, owner) = within(of_around, maps, *owner).map_err(failed())?;
                        let group = first(&of_around.groups);
                        new_user_of(&maps, owner, Some((around.as_fd(), group)))
                    }
                };
            self.made.insert(number, made.map_err(failed())?);
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
        let of_others = |space: &PidSpace| {
            let owner = space.and_then(|space| self.owner(space));
            owner.is_none_or(|owner| !self.is_within(owner, user))
        };
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

/// The first id that there is in a namespace.
fn first(ranges: &[Range]) -> u32 {
    ranges.iter().map(|it| it.0).min().unwrap_or(u32::MAX)
}

/// What maps and an owner, in ids of around the tree, are in a namespace in between.
fn within(between: &Maps, maps: &Maps, owner: u32) -> io::Result<(Maps, u32)> {
    let unmapped =
        |id: u32| io::Error::other(format!("id {id} has no number in the one around it"));
    let id = |ranges: &[Range], id: u32| {
        let of = |it: &&Range| id.checked_sub(it.1).is_some_and(|nth| nth < it.2);
        let range = ranges.iter().find(of).ok_or_else(|| unmapped(id))?;
        Ok::<_, io::Error>(range.0.saturating_add(id - range.1))
    };
    let all = |between: &[Range], ranges: &[Range]| {
        let one = |it: &Range| Ok((it.0, id(between, it.1)?, it.2));
        ranges.iter().map(one).collect::<io::Result<Vec<Range>>>()
    };
    let inside = Maps {
        users: all(&between.users, &maps.users)?,
        groups: all(&between.groups, &maps.groups)?,
        projects: all(&between.projects, &maps.projects)?,
        no_groups: maps.no_groups,
    };
    Ok((inside, id(&between.users, owner)?))
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
