//! The user namespace of a tree: made before all else, as whatever belongs to it is made in it.
//!
//! Its maps are written from outside. Ids in the images are those of inside; what is made from outside is told those of outside
//! when the images are read ([`IdMap::leave_all`]). Its first task is born in it, by a process that has entered it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use images::id_map::{Id, IdMap};
use images::messages::{NamedSysctl, UidGidExtent, UsernsEntry};
use images::{Checkpoint, names};
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

    /// Sets them, when all that they are about is there.
    pub(crate) fn set(&self, inside: &Inside<'_>) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let set = || {
            self.0.iter().try_for_each(|(name, limit)| {
                std::fs::write(format!("/proc/sys/user/{name}"), limit)
            })
        };
        let all: Vec<String> =
            self.0.iter().map(|(name, limit)| format!("{name} {limit}")).collect();
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

    /// Sets its limits.
    pub(crate) fn limit(&self) -> Result<(), Error> {
        self.limits.set(&Inside { is_exposed: true, ..self.inside(&[])? })
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
