//! Which namespaces a tree is in, and what they say of themselves.
//!
//! Tasks refer to namespaces by numbers of the checkpoint. The dumper's own have the first ones, in the
//! order in which CRIU meets them: a restore takes its own for those. All others are described by an image of
//! their number. Each kind has a module, and a line in [`TABLE`].

mod cgroup;
mod ipc;
mod mnt;
pub(crate) mod net;
mod pid;
mod time;
mod user;
mod uts;

use std::collections::BTreeMap;
use std::fmt::Debug;

use collector::{Inventory, Process};
use ids::HostPid;
use images::ImageWriter;
use images::id_map::IdMap;
use images::messages::TaskKobjIdsEntry;

use crate::cgroup_roots::CgroupRoots;
use crate::error::Error;
use crate::mounts::{Automounts, Contents, Views};
use crate::nested_users::NestedUsers;
use crate::own_namespaces::KINDS;
use crate::processes::is_zombie;
use crate::users::Users;

/// Kinds of namespaces that are described by images, by their names in `/proc/PID/ns`.
const TABLE: [(&str, Read); 8] = [
    ("user", user::read),
    ("pid", pid::read),
    ("time", time::read),
    ("uts", uts::read),
    ("cgroup", cgroup::read),
    ("ipc", ipc::read),
    ("net", net::read),
    ("mnt", mnt::read),
];

/// Reads what a namespace of one kind says of itself.
type Read = fn(&Namespace<'_>) -> Result<Box<dyn Described>, Error>;

/// A namespace of a frozen tree that is not the dumper's.
#[derive(Clone, Copy, Debug)]
struct Namespace<'a> {
    /// A process that is in it; of one that only sockets are in, the root.
    member: HostPid,
    /// Whether that process is in it.
    has_member: bool,
    /// The kernel's id.
    id: u64,
    /// Its number in the images.
    number: u32,
    /// What was seen of mount namespaces while the tree ran.
    mounts: &'a Views,
    /// What is known of network namespaces.
    networks: &'a net::Plans,
    /// What is known of the user namespace.
    users: &'a Users,
    /// The names of pid namespaces that a restore is given, by the kernel's ids.
    external_pids: &'a BTreeMap<u64, String>,
    /// The numbers of all that are not the dumper's, by name and the kernel's id.
    numbers: &'a BTreeMap<(&'static str, u64), u32>,
}

impl Namespace<'_> {
    /// The numbers of all namespaces of a kind that are not the dumper's, by the kernel's ids.
    fn numbers_of(&self, name: &str) -> impl Iterator<Item = (u64, u32)> {
        let same = self.numbers.iter().filter(move |((kind, _), _)| *kind == name);
        same.map(|((_, id), number)| (*id, *number))
    }
}

/// What a namespace says of itself.
trait Described: Debug + Send {
    /// Writes its images, which have this number in their names.
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error>;

    /// Reads what takes too long for the frozen time; what could not be.
    fn read_later(&mut self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// What is above the control groups of who is in it, of a cgroup namespace.
    fn cgroup_roots(&self) -> Option<&CgroupRoots> {
        None
    }
}

/// The namespaces of a tree.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Those that are not the dumper's, by name and the kernel's id.
    others: BTreeMap<(&'static str, u64), u32>,
    described: BTreeMap<u32, Box<dyn Described>>,
    /// How ids are called in the user namespace.
    ids: IdMap,
    nested_users: NestedUsers,
    /// What is in file systems that live in memory.
    contents: Contents,
    automounts: Automounts,
}

impl Namespaces {
    /// Numbers the namespaces of a frozen tree, and reads those that are not the dumper's, of which `own` are the ids;
    /// `mounts` were looked into before.
    pub(crate) fn read(
        inventory: &Inventory,
        own: &BTreeMap<&'static str, u64>,
        root: HostPid,
        (networks, mounts, users): (&net::Plans, &Views, &Users),
        external_pids: &BTreeMap<u64, String>,
        is_late: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let contents = mounts.read_contents(&users.ids_of_mounts(), is_late)?;
        let mut found = Self {
            contents,
            automounts: mounts.automounts().clone(),
            ids: users.ids.clone(),
            nested_users: users.nested.clone(),
            ..Self::default()
        };
        let mut members = BTreeMap::new();
        for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
            for name in KINDS {
                let Some(&id) = process.namespaces.get(name) else { continue };
                if own.get(name) != Some(&id) {
                    found.number(name, id);
                    members.entry((name, id)).or_insert(process.pid);
                }
            }
        }
        for id in networks.ids() {
            found.number("net", id);
        }
        // Others may be in them, or belong to them, and nobody is there.
        for id in users.nested.ids() {
            found.number("user", id);
        }
        for (&(name, id), &number) in &found.others {
            let Some((_, read)) = TABLE.iter().find(|(kind, _)| *kind == name) else { continue };
            let member = members.get(&(name, id)).copied();
            let (member, has_member) = (member.unwrap_or(root), member.is_some());
            let numbers = &found.others;
            let namespace = Namespace {
                member,
                has_member,
                id,
                number,
                mounts,
                networks,
                users,
                external_pids,
                numbers,
            };
            found.described.insert(number, read(&namespace)?);
        }
        Ok(found)
    }

    /// Gives a namespace that is not the dumper's a number, if it has none.
    fn number(&mut self, name: &'static str, id: u64) {
        let next = (KINDS.len() + self.others.len() + 1) as u32;
        self.others.entry((name, id)).or_insert(next);
    }

    /// How ids are called in the user namespace.
    pub(crate) const fn ids(&self) -> &IdMap {
        &self.ids
    }

    /// User namespaces below that of the root.
    pub(crate) const fn nested_users(&self) -> &NestedUsers {
        &self.nested_users
    }

    /// The numbers of those that are not the dumper's, by their kinds and the kernel's ids.
    pub(crate) const fn numbers(&self) -> &BTreeMap<(&'static str, u64), u32> {
        &self.others
    }

    /// The number of a pid namespace that is not the dumper's, by the kernel's.
    pub(crate) fn pid_namespace(&self, id: u64) -> Option<u32> {
        self.others.get(&("pid", id)).copied()
    }

    /// The numbers of the namespaces that a process is in; the rest of the entry is empty.
    pub(crate) fn of(&self, process: &Process) -> TaskKobjIdsEntry {
        self.numbered(|name| process.namespaces.get(name).copied())
    }

    /// The roots of the cgroup namespace of a process, if that is not the dumper's.
    pub(crate) fn cgroup_roots(&self, process: &Process) -> Option<&CgroupRoots> {
        let id = *process.namespaces.get("cgroup")?;
        let number = self.others.get(&("cgroup", id))?;
        self.described.get(number)?.cgroup_roots()
    }

    /// Those of the dumper.
    pub(crate) fn own() -> TaskKobjIdsEntry {
        Self::default().numbered(|_| None)
    }

    fn numbered(&self, id: impl Fn(&'static str) -> Option<u64>) -> TaskKobjIdsEntry {
        let [pid, net, ipc, uts, time, mnt, user, cgroup] = std::array::from_fn(|index| {
            let name = KINDS[index];
            let other = id(name).and_then(|id| self.others.get(&(name, id)).copied());
            Some(other.unwrap_or(index as u32 + 1))
        });
        TaskKobjIdsEntry {
            pid_ns_id: pid,
            net_ns_id: net,
            ipc_ns_id: ipc,
            uts_ns_id: uts,
            time_ns_id: time,
            mnt_ns_id: mnt,
            user_ns_id: user,
            cgroup_ns_id: cgroup,
            ..TaskKobjIdsEntry::default()
        }
    }

    /// Reads what takes too long for the frozen time, as soon as that is over: before [`encode`](Self::encode). What could not be read.
    pub(crate) fn read_later(&mut self) -> Result<Vec<String>, Error> {
        let mut lacking = Vec::new();
        for namespace in self.described.values_mut() {
            lacking.extend(namespace.read_later()?);
        }
        Ok(lacking)
    }

    /// Writes the images of those that are not the dumper's; `number` is what a process is called there.
    pub(crate) fn encode(
        &self,
        writer: &ImageWriter,
        number: impl Fn(HostPid) -> u32,
    ) -> Result<(), images::Error> {
        self.contents.encode(writer)?;
        self.automounts.encode(writer, number)?;
        self.described.iter().try_for_each(|(&number, namespace)| namespace.encode(number, writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_is_described() {
        let described: Vec<_> = TABLE.iter().map(|(name, _)| *name).collect();
        assert_eq!(described, support::tree::CARRIED_NAMESPACES);
    }
}
