//! Namespaces: a stage before all files are opened.
//!
//! The tasks of a checkpoint are in sets of namespaces. Those of the dumping process ([`Sets`] compares)
//! are those of the restoring one; every other is made anew and held by a descriptor ([`Made`]), and
//! each task enters its own at its birth, before it has any children. Each kind has a module, and a line in
//! [`TABLE`].

mod cgroup;
mod entering;
mod ipc;
mod mnt;
mod net;
mod time;
mod uts;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use ids::{HostPid, ImagePid};
use images::id_map::IdMap;
use images::messages::{MntEntry, TaskKobjIdsEntry};
use images::{Checkpoint, Images, names};
use kernel::descriptors::duplicate_from;
use kernel::namespaces::{enter, own};
use kernel::procfs::{Dir, Mounts, ProcFile};
use kernel::user_namespaces::{Inside, kind_of as kind_of_namespace};
use nix::sched::CloneFlags;

use crate::error::Error;
use crate::files::{IpcNamespaces, Networks};
use crate::levels::Levels;
use crate::mounts::{self, Late, MountOptions};
use crate::nested_users::NestedUsers;
use crate::places::{Roots, Sought};
use crate::users::{LimitsOfMade, Users};

/// Kinds of namespaces that are made, in the order in which they are made and entered.
const TABLE: [Kind; 6] = [uts::KIND, time::KIND, net::KIND, cgroup::KIND, ipc::KIND, mnt::KIND];

/// The kinds that nobody enters: a process is born into them ([`crate::task`], [`crate::root`]).
#[cfg(test)]
const BORN_INTO: [&str; 2] = ["pid", "user"];

pub use net::Given;

/// A kind of namespace.
struct Kind {
    /// Its name in `/proc/PID/ns`.
    name: &'static str,
    load: Load,
}

/// Reads from the images what the namespace with this number is to be like, and checks that.
type Load = fn(&Checkpoint, u32) -> Result<Box<dyn Making>, Error>;

/// A namespace that is to be made.
trait Making: Debug {
    /// Whether it is one to be made, and not one that is there.
    fn is_new(&self, _given: &Given) -> bool {
        true
    }

    /// Makes it; nobody is in it.
    fn make(&self, number: u32, given: &Given) -> Result<OwnedFd, Error>;

    /// The same in a user namespace below that of the root.
    fn make_nested(
        &self,
        number: u32,
        given: &Given,
        inside: &Inside<'_>,
    ) -> Result<OwnedFd, Error> {
        let made = inside.during(|| Ok(self.make(number, given)));
        made.map_err(Error::kernel("make a namespace in a user namespace"))?
    }

    /// Fills it, when all have been made.
    fn fill(&self, _number: u32, _made: &Made<'_>, _given: &Given) -> Result<(), Error> {
        Ok(())
    }

    /// Does what is left when the files of the tree are open.
    fn complete(&self, _namespace: &OwnedFd, _given: &Given) -> Result<(), Error> {
        Ok(())
    }

    /// What is mounted in one that is made together with all of its kind, when the others are there.
    fn mounts(&self) -> Option<&[MntEntry]> {
        None
    }
}

/// One that has been made.
#[derive(Debug)]
struct There(OwnedFd);

impl Making for There {
    fn is_new(&self, _given: &Given) -> bool {
        false
    }

    fn make(&self, _number: u32, _given: &Given) -> Result<OwnedFd, Error> {
        self.0.try_clone().map_err(Error::kernel("duplicate a descriptor"))
    }
}

/// Which namespaces the tasks of a checkpoint were in, and what those were like.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    /// Namespaces that were not the dumper's, by the place of their kind in the table and their number.
    others: BTreeMap<(usize, u32), Box<dyn Making>>,
    /// Processes in such ones.
    of: BTreeMap<ImagePid, Set>,
    /// The pid namespace of the root, if it was not the dumper's.
    pid_namespace: Option<u32>,
    /// By which name a restore is given that, if it is external.
    pids_key: Option<String>,
    /// The user namespace that all are in, if it was not the dumper's.
    users: Option<Users>,
    /// Those below it.
    nested_users: NestedUsers,
    /// The first processes of pid namespaces below that of the root, with the numbers of those.
    first: BTreeMap<ImagePid, u32>,
}

/// The numbers of a process's namespaces, by the place of their kind in the table; of a kind that is not there, its
/// namespace is that of the restoring process.
type Set = BTreeMap<usize, u32>;

impl Sets {
    /// Those of processes with these ids.
    pub(crate) fn of<'i>(
        checkpoint: &Checkpoint,
        (users, levels): (Option<Users>, &Levels),
        processes: impl Iterator<Item = (ImagePid, &'i TaskKobjIdsEntry)>,
    ) -> Result<Self, Error> {
        let firsts = levels.spaces().filter_map(|it| Some((levels.space(it)?.first, it)));
        let mut sets = Self { users, first: firsts.collect(), ..Self::default() };
        let Some(own) = &checkpoint.images.inventory().root_ids else { return Ok(sets) };
        for (nth, (pid, ids)) in processes.enumerate() {
            let (set, pids) = (set_of(ids, own), other(ids.pid_ns_id, own.pid_ns_id));
            if nth == 0 {
                sets.pid_namespace = pids;
                if let Some(number) = pids {
                    let entry = checkpoint.images.read_one(&names::pidns(number))?;
                    sets.pids_key = entry.and_then(|entry| entry.ext_key);
                }
            }
            let nested = levels.namespace(pid);
            if nested.is_none() && pids != sets.pid_namespace
                || nested.is_some() && (nested != pids || nth == 0)
            {
                let refusal = support::images::NESTED_PIDS;
                return Err(Error::refused(refusal.of(pid.get(), format!("process {pid}"))));
            }
            let user = other(ids.user_ns_id, own.user_ns_id);
            let is_nested = match user.filter(|_| sets.users.is_none()) {
                Some(number) => sets.nested_users.add(checkpoint, pid, number)?,
                None => false,
            };
            let refusal = match &sets.users {
                _ if is_nested => None,
                users if user != users.as_ref().map(|users| users.number) => {
                    Some(support::users::NESTED_IN_IMAGES)
                }
                Some(users) if !pids.is_some_and(|pids| users.owns(pids)) => {
                    Some(support::users::WITHOUT_PIDS)
                }
                _ => None,
            };
            if let Some(refusal) = refusal {
                return Err(Error::refused(refusal.of(pid.get(), format!("process {pid}"))));
            }
            for (&kind, &number) in &set {
                if let Entry::Vacant(vacant) = sets.others.entry((kind, number)) {
                    vacant.insert((TABLE[kind].load)(checkpoint, number)?);
                }
            }
            if !set.is_empty() || sets.pid_namespace.is_some() {
                sets.of.insert(pid, set);
            }
        }
        // Some may be those of sockets alone.
        let network = kind_of(net::NAME);
        for &number in checkpoint.networks.keys() {
            if let Entry::Vacant(vacant) = sets.others.entry((network, number)) {
                vacant.insert((TABLE[network].load)(checkpoint, number)?);
            }
        }
        Ok(sets)
    }

    /// Whether the tree was in a pid namespace of its own.
    pub(crate) const fn own_pids(&self) -> bool {
        self.pid_namespace.is_some()
    }

    /// The pid namespace that the caller gives for an external one.
    fn given_pids(&self, given: &Given) -> Result<Option<OwnedFd>, Error> {
        let (Some(key), Some(number)) = (&self.pids_key, self.pid_namespace) else {
            return Ok(None);
        };
        let object = || format!("pid namespace {number}");
        let Some(inherited) = given.inherited.get(key) else {
            return Err(Error::refused(support::pids::external(key).of(0, object())));
        };
        if kind_of_namespace(&**inherited).ok() != Some("pid") {
            let refusal = support::pids::NO_NAMESPACE;
            return Err(Error::refused(refusal.of(0, format!("{} {key}", object()))));
        }
        let namespace = inherited.try_clone();
        namespace.map(Some).map_err(Error::kernel(format!("use the pid namespace {key}")))
    }

    /// The user namespace of the tree, if it had one of its own.
    pub(crate) const fn users(&self) -> Option<&Users> {
        self.users.as_ref()
    }

    /// Those below it.
    pub(crate) const fn nested_users(&self) -> &NestedUsers {
        &self.nested_users
    }

    /// Makes the user namespace, if there is to be one, and those below.
    pub(crate) fn make_users(&mut self) -> Result<(), Error> {
        self.nested_users.make()?;
        self.users.as_mut().map_or(Ok(()), Users::make)
    }

    /// How ids are called in the user namespace.
    pub(crate) fn ids(&self) -> IdMap {
        self.users.as_ref().map(|users| users.ids.clone()).unwrap_or_default()
    }

    /// Whether a process was in namespaces beside the dumper's.
    pub(crate) fn has_own(&self, pid: ImagePid) -> bool {
        self.of.contains_key(&pid)
    }

    /// Whether the one of a kind that a process was in was not the dumper's.
    pub(crate) fn has_own_of(&self, pid: ImagePid, name: &str) -> bool {
        self.number(pid, name).is_some()
    }

    /// The number of the namespace of a kind that a process was in, if it was not the dumper's.
    pub(crate) fn number(&self, pid: ImagePid, name: &str) -> Option<u32> {
        let kind = TABLE.iter().position(|kind| kind.name == name)?;
        self.of.get(&pid)?.get(&kind).copied()
    }

    /// Takes for a namespace of a kind one that has been made already.
    pub(crate) fn is_made(&mut self, number: u32, name: &str, made: OwnedFd) {
        if let Some(kind) = TABLE.iter().position(|kind| kind.name == name) {
            self.others.insert((kind, number), Box::new(There(made)));
        }
    }

    /// A process that was in namespaces beside the dumper's.
    pub(crate) fn first(&self) -> Option<ImagePid> {
        self.of.keys().next().copied()
    }

    /// Whether one would be made, be it for sockets alone or of the kind that all processes share.
    pub(crate) fn any_is_made(&self) -> bool {
        let have_users = self.users.is_some() || !self.nested_users.is_empty();
        !self.others.is_empty() || self.pid_namespace.is_some() || have_users
    }
}

/// The place of a kind in the table.
fn kind_of(name: &str) -> usize {
    TABLE.iter().position(|kind| kind.name == name).unwrap_or(TABLE.len())
}

/// Namespaces by the names of their kinds.
fn named(held: Vec<((usize, u32), BorrowedFd<'_>)>) -> Vec<(&'static str, BorrowedFd<'_>)> {
    held.into_iter().map(|((kind, _), namespace)| (TABLE[kind].name, namespace)).collect()
}

/// The number of a namespace that is not the dumper's.
fn other(number: Option<u32>, own: Option<u32>) -> Option<u32> {
    number.filter(|_| own.is_some() && own != number)
}

/// Those namespaces of a process that are not the dumper's and that are made and entered, as every kind is but for those that it
/// is born into.
fn set_of(ids: &TaskKobjIdsEntry, own: &TaskKobjIdsEntry) -> Set {
    let pairs = numbers(ids).into_iter().zip(numbers(own));
    let others = pairs.filter_map(|((name, number), (_, own))| {
        let kind = TABLE.iter().position(|kind| kind.name == name)?;
        Some((kind, other(number, own)?))
    });
    others.collect()
}

/// The numbers of namespaces that an entry has, by the names in `/proc/PID/ns`.
pub(crate) fn numbers(ids: &TaskKobjIdsEntry) -> [(&'static str, Option<u32>); 8] {
    [
        ("pid", ids.pid_ns_id),
        ("net", ids.net_ns_id),
        ("ipc", ids.ipc_ns_id),
        ("uts", ids.uts_ns_id),
        ("mnt", ids.mnt_ns_id),
        ("user", ids.user_ns_id),
        ("cgroup", ids.cgroup_ns_id),
        ("time", ids.time_ns_id),
    ]
}

/// Namespaces that are there for the tasks to enter.
#[derive(Debug)]
pub(crate) struct Made<'s> {
    sets: &'s Sets,
    /// The restoring process's own namespace of each kind of which another is made: a task that belongs there and is born in another
    /// enters it.
    own: BTreeMap<usize, OwnedFd>,
    /// By the place of their kind in the table and their number.
    others: BTreeMap<(usize, u32), OwnedFd>,
    /// The pid namespace that the root is born into, if it is not made anew.
    pids: Option<OwnedFd>,
    /// Mounts that are left to the tree's first task.
    late: Late,
    root_process: ImagePid,
    /// Those that belong to the user namespace of the tree, by kind and number.
    owned: BTreeSet<(usize, u32)>,
}

/// What mounts are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    /// The process at the root of the tree.
    pub(crate) root_process: ImagePid,
    /// The directory that becomes the root of its mount namespace.
    pub(crate) root: Option<&'a Path>,
    pub(crate) options: &'a MountOptions,
    pub(crate) images: &'a Images,
    /// Files that are looked for: the mounts that they are on, and their paths.
    pub(crate) files: &'a [Sought],
}

impl<'s> Made<'s> {
    /// Makes them, calls `made_all` while they are empty, and fills them; also returns how files are found in mount namespaces.
    pub(crate) fn make(
        sets: &'s Sets,
        given: &Given,
        ground: &Ground<'_>,
        made_all: impl FnOnce(&Self) -> Result<(), Error>,
    ) -> Result<(Self, Roots), Error> {
        let mut made = Self {
            sets,
            own: BTreeMap::new(),
            others: BTreeMap::new(),
            pids: sets.given_pids(given)?,
            late: Late::default(),
            root_process: ground.root_process,
            owned: BTreeSet::new(),
        };
        let mut mounted = BTreeMap::new();
        for (&(kind, number), namespace) in &sets.others {
            match namespace.mounts() {
                Some(mounts) => drop(mounted.insert((kind, number), mounts)),
                None => {
                    let namespace = made.make_one((kind, number), &**namespace, given)?;
                    made.others.insert((kind, number), namespace);
                }
            }
            if let Entry::Vacant(vacant) = made.own.entry(kind) {
                let failed = format!("open the own {} namespace", TABLE[kind].name);
                vacant.insert(own(TABLE[kind].name).map_err(Error::kernel(failed))?);
            }
        }
        made_all(&made)?;
        for (&(_, number), namespace) in &sets.others {
            namespace.fill(number, &made, given)?;
        }
        let roots = made.mount(&mounted, ground)?;
        Ok((made, roots))
    }

    /// Does what is left when the files of the tree are open.
    pub(crate) fn complete(&self, given: &Given) -> Result<(), Error> {
        for (key, namespace) in &self.sets.others {
            if let Some(made) = self.others.get(key) {
                namespace.complete(made, given)?;
            }
        }
        Ok(())
    }

    /// The limits of its user namespaces, with descriptors from `base` on.
    pub(crate) fn limits(&self, base: RawFd) -> Result<Vec<LimitsOfMade>, Error> {
        let mut limits = self.sets.nested_users.limits(base)?;
        let own = self.sets.users().map(|users| users.limits(base));
        limits.extend(own.transpose()?.flatten());
        Ok(limits)
    }

    /// Makes one, in the user namespace if it belongs to that.
    fn make_one(
        &mut self,
        key: (usize, u32),
        namespace: &dyn Making,
        given: &Given,
    ) -> Result<OwnedFd, Error> {
        let number = key.1;
        let nested = self.sets.nested_users.inside(number);
        if let Some(inside) = nested.filter(|_| namespace.is_new(given)) {
            return namespace.make_nested(number, given, &inside);
        }
        let Some(users) = self.sets.users().filter(|users| users.owns(number)) else {
            return namespace.make(number, given);
        };
        // Of control groups it was made there before.
        if namespace.is_new(given) || TABLE[key.0].name == "cgroup" {
            self.owned.insert(key);
        }
        if !namespace.is_new(given) {
            return namespace.make(number, given);
        }
        let made = users.inside(&[])?.during(|| Ok(namespace.make(number, given)));
        made.map_err(Error::kernel("make a namespace in the user namespace"))?
    }

    /// The namespaces of the first task that do not belong to the user namespace of the tree, if that has one: whoever enters
    /// it enters these before.
    fn before(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        let set = self.sets.of.get(&self.root_process).filter(|_| self.sets.users.is_some());
        let key = |(kind, number): (&usize, &u32)| (*kind, *number);
        let others = set.into_iter().flatten().map(key).filter(|key| !self.owned.contains(key));
        others.filter_map(|key| Some((TABLE[key.0].name, self.others.get(&key)?.as_fd()))).collect()
    }

    /// In a process that passes, if the tree has a user namespace of its own: moves into it, with the supplementary groups `groups`,
    /// which are those of outside.
    pub(crate) fn enter_users(&self, groups: &[u32]) -> io::Result<()> {
        let Some(users) = self.sets.users() else { return Ok(()) };
        let before = self.before();
        let inside = users.inside(&before).map_err(io::Error::other)?;
        inside.enter(if users.no_groups() { groups } else { &[] })
    }

    /// In a process that passes: moves into the namespaces of the tree's root, in which nothing has been restored yet. Its mount
    /// namespace is not there by then: a copy of the caller's stands for it.
    pub(crate) fn enter_empty(&self) -> io::Result<()> {
        self.enter_users(&[])?;
        for (&kind, &number) in self.sets.of.get(&self.root_process).into_iter().flatten() {
            let is_entered = self.has_users() && !self.owned.contains(&(kind, number));
            match (TABLE[kind].name, self.others.get(&(kind, number))) {
                ("mnt", _) => kernel::namespaces::copy_mounts_privately()?,
                (name, Some(namespace)) if !is_entered => enter(name, namespace)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// In a process that stands for the tree's root: moves into the user namespace of that, if it is one below another.
    pub(crate) fn enter_nested_users(&self) -> io::Result<()> {
        self.sets.nested_users.enter(self.root_process)
    }

    /// Whether the tree has a user namespace of its own.
    pub(crate) const fn has_users(&self) -> bool {
        self.sets.users.is_some()
    }

    /// How ids are called in the user namespace.
    pub(crate) fn ids(&self) -> IdMap {
        self.sets.ids()
    }

    /// Builds the mount namespaces.
    fn mount(
        &mut self,
        mounted: &BTreeMap<(usize, u32), &[MntEntry]>,
        ground: &Ground<'_>,
    ) -> Result<Roots, Error> {
        let Some((&(kind, number), _)) = mounted.first_key_value() else {
            return Ok(Roots::default());
        };
        let nested = self.nested_owner(mounted.keys().map(|(_, number)| *number))?;
        let of_root = self.sets.of.get(&ground.root_process);
        // In whose namespaces file systems are made.
        let set = match nested {
            Some(_) => self.sets.of.values().find(|set| set.get(&kind) == Some(&number)),
            None => of_root,
        };
        let is_inside = |key: &(usize, u32)| match nested {
            Some(_) => self.sets.nested_users.owner(key.1) == nested,
            None => self.sets.users.is_none() || self.owned.contains(key),
        };
        // No file system shows a time namespace, and a thread of several may not enter one.
        let is_shown = |kind: &usize| TABLE[*kind].name != time::KIND.name;
        let keys = set.into_iter().flatten().map(|(kind, number)| (*kind, *number));
        let keys = keys.filter(|(kind, _)| is_shown(kind));
        let held = keys.filter_map(|key| Some((key, self.others.get(&key)?.as_fd())));
        let (inside, around): (Vec<_>, Vec<_>) = held.partition(|(key, _)| is_inside(key));
        let (inside, around) = (named(inside), named(around));
        let users = match nested {
            Some(_) => {
                self.sets.nested_users.inside(number).map(|it| Inside { before: &around, ..it })
            }
            None => self.sets.users.as_ref().map(|users| users.inside(&around)).transpose()?,
        };
        let request = mounts::Request {
            namespaces: mounted.iter().map(|((_, number), mounts)| (*number, *mounts)).collect(),
            root_namespace: of_root.and_then(|set| set.get(&kind)).copied(),
            root: ground.root,
            files: ground.files.to_vec(),
            own: Mounts::read(&Dir::open(HostPid::own())?)?,
            options: ground.options,
            images: ground.images,
            inside,
            own_pids: self.sets.own_pids(),
            users,
        };
        let mounts::Built { namespaces, roots, late } = mounts::build(&request)?;
        let named = namespaces.into_iter().map(|(number, namespace)| ((kind, number), namespace));
        for (key, namespace) in named {
            self.owned.insert(key);
            self.others.insert(key, namespace);
        }
        self.late = late;
        Ok(roots)
    }

    /// The user namespace below that of the root that mount namespaces belong to; all of them do, or none.
    fn nested_owner(&self, mut mounted: impl Iterator<Item = u32>) -> Result<Option<u32>, Error> {
        let first = mounted.next().and_then(|number| self.sets.nested_users.owner(number));
        match mounted.find(|number| self.sets.nested_users.owner(*number) != first) {
            None => Ok(first),
            Some(number) => {
                let refusal = support::users::MOUNTS_OF_SEVERAL;
                Err(Error::refused(refusal.of(0, format!("mount namespace {number}"))))
            }
        }
    }

    /// The pid namespace of others that the root is born into.
    pub(crate) const fn given_pids(&self) -> Option<&OwnedFd> {
        self.pids.as_ref()
    }

    /// Makes a process by `fork` that is born into the pid namespace of the root: one that is given, or, with the flags that `fork` gets,
    /// one that it makes.
    pub(crate) fn born_with_root(
        &self,
        fork: impl FnOnce(CloneFlags) -> io::Result<Option<HostPid>>,
    ) -> io::Result<Option<HostPid>> {
        let Some(pids) = &self.pids else {
            return fork(match self.sets.own_pids() {
                true => CloneFlags::CLONE_NEWPID,
                false => CloneFlags::empty(),
            });
        };
        let before = own("pid")?;
        enter("pid", pids)?;
        let made = fork(CloneFlags::empty());
        // The child has its own children there.
        if !matches!(made, Ok(None)) {
            enter("pid", &before)?;
        }
        made
    }

    /// The namespace of a kind that has been made under this number.
    pub(crate) fn namespace(&self, name: &str, number: u32) -> Option<&OwnedFd> {
        let kind = TABLE.iter().position(|kind| kind.name == name)?;
        self.others.get(&(kind, number))
    }

    /// Those of a kind, by number.
    fn of_kind(&self, name: &str) -> BTreeMap<u32, &OwnedFd> {
        let kind = kind_of(name);
        let same = self.others.iter().filter(|((other, _), _)| *other == kind);
        same.map(|((_, number), namespace)| (*number, namespace)).collect()
    }

    /// Where the sockets of the tree are made; `root` is the root of that.
    pub(crate) fn networks(&self, root: Option<ImagePid>) -> Result<Networks, Error> {
        let set = root.and_then(|root| self.sets.of.get(&root));
        let usual = set.and_then(|set| set.get(&kind_of(net::NAME)).copied());
        let copies = self.of_kind(net::NAME).into_iter().map(|(number, namespace)| {
            let copy = namespace.try_clone().map_err(Error::kernel("duplicate a descriptor"))?;
            Ok((number, std::sync::Arc::new(copy)))
        });
        Ok(Networks { made: copies.collect::<Result<_, Error>>()?, usual })
    }

    /// The IPC namespaces that have been made, by number.
    pub(crate) fn ipc(&self) -> Result<IpcNamespaces, Error> {
        let copies = self.of_kind(ipc::KIND.name).into_iter().map(|(number, namespace)| {
            let copy = namespace.try_clone().map_err(Error::kernel("duplicate a descriptor"))?;
            Ok((number, std::sync::Arc::new(copy)))
        });
        Ok(IpcNamespaces(copies.collect::<Result<_, Error>>()?))
    }

    /// Moves the descriptors to numbers from `base` on, out of the tasks' way.
    pub(crate) fn keep(&mut self, base: RawFd) -> Result<(), Error> {
        for fd in self.others.values_mut().chain(self.own.values_mut()).chain(&mut self.pids) {
            *fd = duplicate_from(&*fd, base).map_err(Error::kernel("duplicate a descriptor"))?;
        }
        self.late.keep(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_that_is_not_the_dumpers_is_another() {
        assert_eq!(other(Some(9), Some(4)), Some(9));
        assert_eq!(other(Some(4), Some(4)), None);
        // Images of before such namespaces were known.
        assert_eq!(other(None, Some(4)), None);
        assert_eq!(other(Some(9), None), None);
    }

    #[test]
    fn nobody_enters_what_he_is_born_into() {
        let own =
            TaskKobjIdsEntry { user_ns_id: Some(2), uts_ns_id: Some(4), ..Default::default() };
        let set = |ids| set_of(&ids, &own);
        assert_eq!(set(TaskKobjIdsEntry { uts_ns_id: Some(9), ..own }), Set::from([(0, 9)]));
        assert_eq!(set(TaskKobjIdsEntry { user_ns_id: Some(9), ..own }), Set::new());
    }

    #[test]
    fn what_is_carried_is_made() {
        let made: Vec<_> = TABLE.iter().map(|kind| kind.name).chain(BORN_INTO).collect();
        assert!(support::tree::CARRIED_NAMESPACES.iter().all(|name| made.contains(name)));
        let known = numbers(&TaskKobjIdsEntry::default());
        assert!(known.iter().all(|(name, _)| made.contains(name)));
    }
}
