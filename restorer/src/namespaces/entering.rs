//! How a task comes into its namespaces: it enters them at its birth, or is born in them.

use std::io;

use ids::ImagePid;
use kernel::namespaces::{enter, enter_mounts};

use super::{Made, TABLE, mnt};
use crate::error::Error;

impl Made<'_> {
    /// Whether a process is the first one of a pid namespace: of which, or none for the root of the tree.
    fn first_of(&self, pid: ImagePid) -> Option<Option<u32>> {
        let nested = self.sets.first.get(&pid).copied();
        nested.map(Some).or_else(|| (pid == self.root_process).then_some(None))
    }

    /// In a process that passes, from which the first one of a pid namespace is born: enters the namespaces of that one, does what is to be done
    /// `between`, and then enters its user namespace, with the supplementary groups `groups`, as they are called around it.
    pub(crate) fn enter_before(
        &self,
        pid: ImagePid,
        user: u32,
        groups: &[u32],
        between: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.enter_all(pid)?;
        between()?;
        let entered = self.sets.nested_users.enter_for_good(user, groups);
        entered.map_err(Error::kernel(format!("enter user namespace {user}")))
    }

    /// In a new task that was born in all of its namespaces: makes what was left to it.
    pub(crate) fn settle(&self, pid: ImagePid) -> Result<(), Error> {
        self.place_late(pid)?;
        let of = self.sets.number(pid, mnt::KIND.name);
        match of.and_then(|number| self.namespace(mnt::KIND.name, number)) {
            Some(mounts) => enter_mounts(mounts).map_err(Error::kernel("enter a mount namespace")),
            None => Ok(()),
        }
    }

    /// In a new task: enters the namespaces of process `pid`; the first one of the tree, or of a pid namespace, makes what was left to it.
    pub(crate) fn enter(&self, pid: ImagePid) -> Result<(), Error> {
        self.place_late(pid)?;
        self.enter_all(pid)
    }

    /// In a task that has its descriptors: what is asked by way of these.
    pub(crate) fn give_pipes(&self, pid: ImagePid) -> Result<(), Error> {
        self.late.give_pipes(pid)
    }

    fn place_late(&self, pid: ImagePid) -> Result<(), Error> {
        if let Some(pids) = self.first_of(pid) {
            let failed = || Error::kernel("enter a mount namespace");
            self.late.place(pids, |number| {
                let namespace = self.namespace(mnt::KIND.name, number);
                let namespace =
                    namespace.ok_or_else(|| failed()(io::ErrorKind::NotFound.into()))?;
                enter_mounts(namespace).map_err(failed())
            })?;
        }
        Ok(())
    }

    fn enter_all(&self, pid: ImagePid) -> Result<(), Error> {
        let set = self.sets.of.get(&pid);
        // One that has ended is told no namespaces, and stays in those of its parent.
        if self.has_users() && set.is_none() {
            return Ok(());
        }
        for (kind, own) in &self.own {
            let number = set.and_then(|set| set.get(kind));
            let of_root = self.sets.of.get(&self.root_process).and_then(|set| set.get(kind));
            let is_owned = number.is_some_and(|number| self.owned.contains(&(*kind, *number)));
            // It was born into that one, and may not enter what belongs to others.
            if self.has_users() && !is_owned && number == of_root {
                continue;
            }
            let namespace = number.and_then(|number| self.others.get(&(*kind, *number)));
            let name = TABLE[*kind].name;
            let namespace = namespace.unwrap_or(own);
            let entered = match name {
                "mnt" => enter_mounts(namespace),
                name => enter(name, namespace),
            };
            entered.map_err(Error::kernel(format!("enter a {name} namespace")))?;
        }
        Ok(())
    }
}
