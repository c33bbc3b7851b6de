//! The user namespace of a tree, if that is not the dumper's: which ids it maps, and which of the tree's other namespaces
//! belong to it.
//!
//! All of the tree are in it, and it is a child of the dumper's; what is otherwise is refused before the freeze. Where the root of the
//! tree is in the dumper's, or has no pid namespace of its own, they are below that ([`crate::nested_users`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use collector::Inventory;
use ids::HostPid;
use images::id_map::{Id, IdMap};
use images::messages::UsernsEntry;
use kernel::namespaces::{id, of_process};
use kernel::procfs::Status;
use kernel::user_namespaces::{Maps, owner_of, owner_uid, parent_of};
use support::tree::Surroundings;
use support::{Unsupported, users};

use crate::error::Error;
use crate::nested_users::{Earlier, NestedUsers, entry};
use crate::own_namespaces::KINDS;
use crate::processes::is_zombie;

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    pub(crate) ids: IdMap,
    entry: UsernsEntry,
    /// The kernel's ids of those namespaces that belong to the dumper's user namespace.
    not_owned: BTreeSet<(&'static str, u64)>,
    /// Those below it.
    pub(crate) nested: NestedUsers,
}

impl Users {
    /// Looks at the namespaces of a tree and at those that its sockets are in, by the kernel's ids; also tells what stands in the
    /// way of a dump.
    pub(crate) fn look(
        root: HostPid,
        inventory: &Inventory,
        networks: &BTreeMap<u64, Arc<OwnedFd>>,
        around: &Surroundings,
        earlier: Option<Earlier<'_>>,
    ) -> Result<(Self, Vec<Unsupported>), Error> {
        let of_root = inventory.processes.get(&root);
        // A root that is in the dumper's pid namespace is not the init of the tree, from which all others would be born: its user
        // namespace counts as one below.
        let of_root = of_root
            .filter(|root| root.namespaces.get("pid") != around.namespaces.get("pid"))
            .and_then(|root| root.namespaces.get("user"));
        let Some(&user) = of_root.filter(|id| around.namespaces.get("user") != Some(*id)) else {
            let (nested, refused) = NestedUsers::look(root, inventory, networks, around, earlier)?;
            return Ok((Self { nested, ..Self::default() }, refused));
        };
        let failed = |source: io::Error| Error::Process {
            operation: "look at the user namespace of",
            pid: root,
            source,
        };
        let namespace = of_process(root, "user").map_err(failed)?;
        let parent = parent_of(&namespace).and_then(id).ok();
        if parent != around.namespaces.get("user").copied() {
            return Ok((Self::default(), vec![users::NOT_A_CHILD.of(root, "user namespace")]));
        }
        let maps = Maps::of(root).map_err(failed)?;
        let entry = entry(&maps, owner_uid(&namespace).map_err(failed)?);
        let Ok(ids) = IdMap::of(&entry) else {
            return Ok((Self::default(), vec![users::WITHOUT_IDS.of(root, "user namespace")]));
        };
        let mut found = Self { ids, entry, ..Self::default() };
        let living = inventory.processes.values().filter(|process| !is_zombie(process));
        let below = living.filter(|it| it.namespaces.get("user").is_some_and(|it| *it != user));
        let mut refused: Vec<Unsupported> =
            below.map(|process| users::NESTED.of(process.pid, "user namespace")).collect();
        let own = &around.namespaces;
        for (&(name, number), &(member, socket)) in &others(root, inventory, networks, own) {
            let owner = match socket {
                Some(namespace) => owner_of(&**namespace),
                None => of_process(member, name).and_then(owner_of),
            };
            match owner.and_then(id) {
                Ok(owner) if owner == user => {}
                Ok(owner) if own.get("user") == Some(&owner) => match name {
                    "pid" => refused.push(users::WITHOUT_PIDS.of(member, "user namespace")),
                    "mnt" => refused.push(users::MOUNTS_OF_AROUND.of(member, "mnt namespace")),
                    _ => drop(found.not_owned.insert((name, number))),
                },
                Ok(_) => refused.push(users::OF_ANOTHER.of(member, format!("{name} namespace"))),
                // It is in one around that of stasis, or the process has gone.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    refused.push(users::OF_ANOTHER.of(member, format!("{name} namespace")));
                }
                Err(error) if member != root && !kernel::process::exists(member) => drop(error),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok((found, refused))
    }

    /// How ids are called in the user namespace that the mount namespaces of the tree belong to.
    pub(crate) fn ids_of_mounts(&self) -> IdMap {
        if self.ids.is_plain() { self.nested.ids_of_mounts() } else { self.ids.clone() }
    }

    /// What stands in the way of a dump of threads with these ids.
    pub(crate) fn unmapped<'s>(
        &self,
        threads: impl Iterator<Item = (HostPid, &'s Status)>,
    ) -> Vec<Unsupported> {
        let of = |(tid, status): (HostPid, &Status)| {
            let what = self.unmapped_of(status)?;
            Some(users::unmapped(&what).of(status.tgid, format!("thread {tid}")))
        };
        if self.ids.is_plain() { Vec::new() } else { threads.filter_map(of).collect() }
    }

    /// The same of processes with these login users (`u32::MAX` for none).
    pub(crate) fn unmapped_logins(
        &self,
        logins: impl Iterator<Item = (HostPid, u32)>,
    ) -> Vec<Unsupported> {
        let logins: Vec<_> = logins.collect();
        let is_one = logins.windows(2).all(|pair| pair[0].1 == pair[1].1);
        if self.ids.is_plain() || is_one {
            return Vec::new();
        }
        let lacks = |login| self.ids.inside(Id::User, login) == images::id_map::NOBODY;
        let unknown = logins.into_iter().filter(|(_, login)| *login != u32::MAX && lacks(*login));
        let refused = |(pid, login)| users::LOGIN_USERS.of(pid, format!("login user {login}"));
        unknown.map(refused).collect()
    }

    fn unmapped_of(&self, status: &Status) -> Option<String> {
        let (uid, gid) = (&status.uid, &status.gid);
        let users = [uid.real, uid.effective, uid.saved, uid.fs];
        let groups = [gid.real, gid.effective, gid.saved, gid.fs];
        let lacks = |id, number: &u32| self.ids.inside(id, *number) == images::id_map::NOBODY;
        let user = users.iter().find(|user| lacks(Id::User, user));
        let group = groups.iter().chain(&status.groups).find(|group| lacks(Id::Group, group));
        user.map(|user| format!("user {user}")).or_else(|| Some(format!("group {}", group?)))
    }

    /// What the images say of it; `numbers` are those of the tree's namespaces.
    pub(crate) fn entry(&self, numbers: &BTreeMap<(&'static str, u64), u32>) -> UsernsEntry {
        let not_owned = self.not_owned.iter().filter_map(|key| numbers.get(key).copied());
        UsernsEntry { not_owned: not_owned.collect(), ..self.entry.clone() }
    }
}

/// A process that is in a namespace, and the namespace itself if only sockets are.
type Member<'n> = (HostPid, Option<&'n Arc<OwnedFd>>);

/// The namespaces of a tree that are not the dumper's, but for that of users: for each a process that is in it, or what
/// only sockets are in.
fn others<'n>(
    root: HostPid,
    inventory: &Inventory,
    networks: &'n BTreeMap<u64, Arc<OwnedFd>>,
    own: &BTreeMap<&'static str, u64>,
) -> BTreeMap<(&'static str, u64), Member<'n>> {
    let mut found = BTreeMap::new();
    for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
        for name in KINDS.into_iter().filter(|name| *name != "user") {
            let Some(&id) = process.namespaces.get(name) else { continue };
            if own.get(name) != Some(&id) {
                found.entry((name, id)).or_insert((process.pid, None));
            }
        }
    }
    for (&id, namespace) in networks {
        found.entry(("net", id)).or_insert((root, Some(namespace)));
    }
    found
}
