//! The user namespace of a tree: made before all else, as whatever belongs to it is made in it.
//!
//! Its maps are written from outside. Ids in the images are those of inside; what is made from outside is told those of outside
//! when the images are read ([`IdMap::leave_all`]). Its first task is born in it, by a process that has entered it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use images::id_map::{Id, IdMap};
use images::messages::{NamedSysctl, UidGidExtent, UsernsEntry};
use images::{Checkpoint, names};
use kernel::descriptors::duplicate_from;
use kernel::user_namespaces::{Inside, LIMITS, Maps, Range, new_user};

use crate::error::Error;

/// What the images say of the ids in one.
pub(crate) fn maps(entry: &UsernsEntry) -> Maps {
    let ranges = |map: &[UidGidExtent]| -> Vec<Range> {
        map.iter().map(|it| (it.first, it.lower_first, it.count)).collect()
    };
    Maps {
        users: ranges(&entry.uid_map),
        groups: ranges(&entry.gid_map),
        projects: ranges(&entry.projid_map),
        no_groups: entry.setgroups_denied == Some(true),
    }
}

/// How many of something each user of a user namespace may have, by the names of the kernel's files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits(Vec<(&'static str, String)>);

impl Limits {
    /// Takes what the images say.
    pub(crate) fn of(entry: &UsernsEntry) -> Result<Self, Error> {
        let limit = |it: &NamedSysctl| {
            let name = LIMITS.into_iter().find(|name| *name == it.name);
            let is_number = it.value.parse::<i64>().is_ok();
            name.filter(|_| is_number).map(|name| (name, it.value.clone()))
        };
        let all: Option<Vec<_>> = entry.limits.iter().map(limit).collect();
        let strange = || Error::image("a limit of a user namespace", "it is none that there is");
        all.map(Self).ok_or_else(strange)
    }

    /// For one that has been made, and that a process is in with these ids, with a descriptor from `base` on; `None` if there are none.
    pub(crate) fn of_made(
        &self,
        inside: &Inside<'_>,
        base: RawFd,
    ) -> Result<Option<LimitsOfMade>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let user = duplicate_from(inside.user, base);
        let user = user.map_err(Error::kernel("duplicate a descriptor"))?;
        Ok(Some(LimitsOfMade { user, ids: inside.ids, limits: self.0.clone() }))
    }
}

/// The limits of a namespace that has been made, to be set when all that they are about is there, which may be more.
#[derive(Debug)]
pub(crate) struct LimitsOfMade {
    user: OwnedFd,
    ids: (u32, u32),
    limits: Vec<(&'static str, String)>,
}

impl LimitsOfMade {
    /// Sets them. What this kernel does not limit is told.
    pub(crate) fn set(&self) -> Result<(), Error> {
        let user = self.user.as_fd();
        let inside = Inside { user, ids: self.ids, before: &[], is_exposed: true };
        let set = || {
            self.limits.iter().try_for_each(|(name, limit)| {
                let path = format!("/proc/sys/user/{name}");
                match std::fs::write(&path, limit) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        tracing::warn!("{path} was {limit}, and this kernel has no such limit");
                        Ok(())
                    }
                    written => written,
                }
            })
        };
        let all: Vec<String> =
            self.limits.iter().map(|(name, limit)| format!("{name} {limit}")).collect();
        let what = format!("set limits of a user namespace ({})", all.join(", "));
        inside.during(set).map_err(Error::kernel(what))
    }
}

/// The user namespace of a tree.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) number: u32,
    pub(crate) ids: IdMap,
    maps: Maps,
    /// Namespaces of the tree that belong to the one around.
    not_owned: BTreeSet<u32>,
    owner: u32,
    limits: Limits,
    made: Option<OwnedFd>,
}

impl Users {
    /// Reads what the namespace with this number is to be like.
    pub(crate) fn load(checkpoint: &Checkpoint, number: u32) -> Result<Self, Error> {
        let image = names::userns(number);
        let missing = || images::Error::Missing { name: image.name().into() };
        let entry = checkpoint.images.read_one(&image)?.ok_or_else(missing)?;
        let ids = IdMap::of(&entry).map_err(|wrong| Error::image(image.name(), wrong))?;
        let maps = maps(&entry);
        let not_owned = entry.not_owned.iter().copied().collect();
        let (owner, limits) = (entry.owner.unwrap_or(0), Limits::of(&entry)?);
        Ok(Self { number, ids, maps, not_owned, owner, limits, made: None })
    }

    /// Its limits, if it has some.
    pub(crate) fn limits(&self, base: RawFd) -> Result<Option<LimitsOfMade>, Error> {
        self.limits.of_made(&self.inside(&[])?, base)
    }

    /// Makes it.
    pub(crate) fn make(&mut self) -> Result<(), Error> {
        let us = nix::unistd::geteuid().as_raw();
        if self.owner != us {
            tracing::warn!(
                "the user namespace belonged to user {}, and will belong to user {us}: the first loses the rights \
                 that owners have over processes in it",
                self.owner
            );
        }
        let failed = Error::kernel(format!("make user namespace {}", self.number));
        self.made = Some(new_user(&self.maps).map_err(failed)?);
        Ok(())
    }

    /// Whether a namespace of the tree belongs to it.
    pub(crate) fn owns(&self, number: u32) -> bool {
        !self.not_owned.contains(&number)
    }

    /// Whether nobody in it may choose supplementary groups.
    pub(crate) const fn no_groups(&self) -> bool {
        self.maps.no_groups
    }

    /// The place in which things are made that belong to it, from the namespaces `before` that do not.
    pub(crate) fn inside<'a>(
        &'a self,
        before: &'a [(&'static str, BorrowedFd<'a>)],
    ) -> Result<Inside<'a>, Error> {
        let missing = || Error::kernel("enter the user namespace")(io::ErrorKind::NotFound.into());
        let user = self.made.as_ref().ok_or_else(missing)?.as_fd();
        let ids = (self.ids.maker(Id::User), self.ids.maker(Id::Group));
        Ok(Inside { user, ids, before, is_exposed: false })
    }
}
