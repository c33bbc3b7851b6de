//! User namespaces below that of the tree's root, where that is in the dumper's, or in one without a pid namespace.
//!
//! A process in one is dumped as any other, with the ids that it has around it; what is its own is which capabilities it has in there.
//! A restore makes it where it has all rights, and it enters its namespace last of all.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use collector::{Inventory, Process};
use ids::HostPid;
use images::id_map::{Id, IdMap};
use images::messages::{CredsEntry, UidGidExtent, UsernsEntry};
use kernel::namespaces::{id, of_process};
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::user_namespaces::{Maps, Range, owner_of, owner_uid, parent_of};
use support::births::Maker;
use support::tree::Surroundings;
use support::{Refusal, Unsupported, users};

use crate::error::Error;
use crate::ipc_limits::is_usual;
use crate::mounts::{Origin, Views, shown};
use crate::processes::{has_ended, is_zombie};
use crate::tasks::TaskCapture;

/// Kinds of namespaces that may belong to one.
const OWNED: [&str; 7] = ["net", "uts", "mnt", "pid", "cgroup", "ipc", "time"];

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct NestedUsers {
    /// What they say of themselves, by the kernel's ids.
    entries: BTreeMap<u64, UsernsEntry>,
    /// The ones that they are in, by the kernel's ids, unless that is the dumper's.
    around: BTreeMap<u64, u64>,
    /// Those of which nothing is known yet.
    met: BTreeMap<u64, Arc<OwnedFd>>,
    /// Those that nobody of the tree is in: held, so that their numbers become no others'.
    asked: BTreeMap<u64, Arc<OwnedFd>>,
    /// The namespaces that do not belong to the dumper's user namespace, by kind and the kernel's id: the one that owns each, and a process in it.
    owners: BTreeMap<(&'static str, u64), (u64, HostPid)>,
}

/// What was learned before, which a frozen tree need not wait for.
#[derive(Clone, Copy)]
pub(crate) struct Earlier<'e> {
    /// In the plan.
    pub(crate) users: &'e NestedUsers,
    /// Since it is frozen.
    pub(crate) tasks: &'e BTreeMap<HostPid, TaskCapture>,
}

impl NestedUsers {
    /// Looks at all of a tree; also tells what stands in the way of a dump.
    pub(crate) fn look(
        root: HostPid,
        inventory: &Inventory,
        networks: &BTreeMap<u64, Arc<OwnedFd>>,
        around: &Surroundings,
        earlier: Option<Earlier<'_>>,
    ) -> Result<(Self, Vec<Unsupported>), Error> {
        let mut found = Self::default();
        let mut refused = Vec::new();
        let Some(&ours) = around.namespaces.get("user") else { return Ok((found, refused)) };
        let other = |owner: io::Result<OwnedFd>| match owner.and_then(|it| Ok((id(&it)?, it))) {
            Ok((owner, namespace)) => Ok(Some((owner, namespace)).filter(|it| it.0 != ours)),
            // One around our own, as far as anybody knows.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(None),
            Err(error) => Err(error),
        };
        let living = inventory.processes.values().filter(|process| !is_zombie(process));
        for process in living {
            let looked = found.look_at(process, ours, (inventory, earlier), around, &other);
            match looked {
                Ok(more) => refused.extend(more),
                Err(_) if has_ended(process.pid) => {}
                Err(source) => {
                    let operation = "look at the user namespace";
                    return Err(Error::Process { operation, pid: process.pid, source });
                }
            }
        }
        for (number, network) in networks {
            if around.namespaces.get("net") != Some(number)
                && let Ok(Some((owner, namespace))) = other(owner_of(&**network))
                && let Ok(true) = found.meet(ours, &namespace)
            {
                found.owners.entry(("net", *number)).or_insert((owner, root));
            }
        }
        found.ask_the_others(earlier).map_err(|source| {
            let operation = "look at the user namespaces below that";
            Error::Process { operation, pid: root, source }
        })?;
        for ((name, _), (owner, member)) in &found.owners {
            if !OWNED.contains(name) || !found.entries.contains_key(owner) {
                refused.push(users::OF_NESTED.of(*member, format!("{name} namespace")));
            } else if *name == "ipc" {
                match is_usual(*member) {
                    Ok(true) => {}
                    Ok(false) => refused.push(users::IPC_UNUSUAL.of(*member, "ipc namespace")),
                    Err(_) if has_ended(*member) => {}
                    Err(source) => {
                        let operation = "look into the IPC namespace";
                        return Err(Error::Process { operation, pid: *member, source });
                    }
                }
            }
        }
        refused.extend(found.unsupported_pids(root, inventory));
        Ok((found, refused))
    }

    /// What stands in the way of a dump of pid namespaces that belong to them. The first process of one comes back in the user
    /// namespace, where nobody chooses numbers of around: what it would make its own parent makes.
    fn unsupported_pids(&self, root: HostPid, inventory: &Inventory) -> Vec<Unsupported> {
        let of = |process: &Process, name| process.namespaces.get(name).copied();
        let living = || inventory.processes.values().filter(|process| !is_zombie(process));
        let owner = |process: &Process| {
            let id = of(process, "pid")?;
            self.owners.get(&("pid", id)).map(|(owner, _)| *owner)
        };
        let mut refused = Vec::new();
        for process in living() {
            let Some(user) = owner(process) else { continue };
            let Ok(status) = Dir::open(process.pid).and_then(|dir| Status::read(&dir)) else {
                continue;
            };
            if status.ns_pid.last().is_none_or(|number| number.get() != 1) {
                continue;
            }
            let mut refuse =
                |refusal: Refusal| refused.push(refusal.of(process.pid, "pid namespace"));
            if of(process, "user").is_none_or(|own| !self.is_within(own, user)) {
                refuse(users::FIRST_ELSEWHERE);
            }
            if let Some(other) = not_born_from(process, root, inventory) {
                refused.push(users::SESSION_OF_FIRST.of(other, "session"));
            }
            let ids = self.entries.get(&user).map(IdMap::of);
            match ids {
                Some(Ok(ids)) => {
                    let denied = self.entries.get(&user).and_then(|it| it.setgroups_denied);
                    let groups = if denied == Some(true) { &[][..] } else { &status.groups[..] };
                    if let Some(what) = unmapped(&ids, &status, groups) {
                        refused.push(users::unmapped(&what).of(process.pid, "pid namespace"));
                    }
                }
                _ => refused.push(users::WITHOUT_IDS.of(process.pid, "user namespace")),
            }
        }
        refused
    }

    fn look_at(
        &mut self,
        process: &Process,
        ours: u64,
        (inventory, earlier): (&Inventory, Option<Earlier<'_>>),
        around: &Surroundings,
        other: &dyn Fn(io::Result<OwnedFd>) -> io::Result<Option<(u64, OwnedFd)>>,
    ) -> io::Result<Vec<Unsupported>> {
        let pid = process.pid;
        let mut refused = Vec::new();
        for (name, number) in &process.namespaces {
            let kind = name.strip_suffix("_for_children").unwrap_or(name);
            let is_known = around.namespaces.get(kind) == Some(number)
                || kind != *name && process.namespaces.get(kind) == Some(number);
            if kind == "user" || is_known {
                continue;
            }
            // Of children that are not there yet nothing is told.
            let is_told =
                kind == *name || std::fs::metadata(format!("/proc/{pid}/ns/{name}")).is_ok();
            let own = process.namespaces.get("user").filter(|user| **user != ours);
            let owner = match is_told {
                true => match other(of_process(pid, name).and_then(owner_of))? {
                    Some((owner, namespace)) if self.meet(ours, &namespace)? => Some(owner),
                    Some((owner, _)) => Some(owner),
                    None => None,
                },
                false => own.copied(),
            };
            // That of children is one that others are in, if anybody is.
            let name = if is_told && kind == "pid" { kind } else { *name };
            if let Some(owner) = owner {
                self.owners.insert((name, *number), (owner, pid));
            }
        }
        let Some(&user) = process.namespaces.get("user").filter(|user| **user != ours) else {
            return Ok(refused);
        };
        // One that the next child makes, of which /proc has not even the number.
        if !process.namespaces.contains_key("pid_for_children") {
            refused.push(users::OF_NESTED.of(pid, "pid_for_children namespace"));
        }
        let mut refuse = |refusal: Refusal| refused.push(refusal.of(pid, "user namespace"));
        let namespace = of_process(pid, "user")?;
        if !self.meet(ours, &namespace)? {
            refuse(users::NESTED);
        }
        if shares(process, inventory) {
            refuse(users::NESTED_TABLES);
        }
        self.describe(user, &Maps::of(pid)?, owner_uid(&namespace)?);
        if let Some(described) = self.entries.get(&user) {
            refused.extend(unsupported_threads(process, described, earlier)?);
        }
        Ok(refused)
    }

    /// Takes note of a user namespace, and of those around it as far as the dumper's; whether it is one below that.
    fn meet(&mut self, ours: u64, namespace: &OwnedFd) -> io::Result<bool> {
        /// As many as the kernel nests.
        const DEEPEST: usize = 33;
        let mut found = Vec::new();
        let mut at = namespace.try_clone()?;
        while found.len() < DEEPEST {
            let own = id(&at)?;
            if own == ours {
                break;
            }
            // Of one that is not below ours nobody tells what it is in.
            let Ok(around) = parent_of(&at) else { return Ok(false) };
            found.push((own, std::mem::replace(&mut at, around)));
        }
        let ids: Vec<u64> = found.iter().map(|(own, _)| *own).collect();
        self.around.extend(ids.iter().zip(ids.iter().skip(1)).map(|(own, around)| (*own, *around)));
        let unknown = found.into_iter().filter(|(own, _)| !self.entries.contains_key(own));
        self.met.extend(unknown.map(|(own, namespace)| (own, Arc::new(namespace))));
        Ok(true)
    }

    /// Notes what a user namespace says of itself.
    fn describe(&mut self, id: u64, maps: &Maps, owner: u32) {
        self.met.remove(&id);
        self.entries.insert(id, UsernsEntry { nested: Some(true), ..entry(maps, owner) });
    }

    /// Asks those in which nobody of the tree is, and that have not said all yet: their maps are written once.
    fn ask_the_others(&mut self, earlier: Option<Earlier<'_>>) -> io::Result<()> {
        for (id, namespace) in std::mem::take(&mut self.met) {
            match earlier.and_then(|earlier| earlier.users.written(id)) {
                Some(entry) => drop(self.entries.insert(id, entry.clone())),
                None => self.describe(id, &Maps::within(&*namespace)?, owner_uid(&*namespace)?),
            }
            self.asked.insert(id, namespace);
        }
        Ok(())
    }

    /// What one has said that was asked, and will not say otherwise.
    fn written(&self, id: u64) -> Option<&UsernsEntry> {
        let entry = self.entries.get(&id).filter(|_| self.asked.contains_key(&id))?;
        Some(entry).filter(|entry| !entry.uid_map.is_empty() && !entry.gid_map.is_empty())
    }

    /// One in which nobody of the tree is.
    pub(crate) fn empty(&self, id: u64) -> Option<Arc<OwnedFd>> {
        self.asked.get(&id).cloned()
    }

    /// Whether a user namespace is another one, or below it.
    fn is_within(&self, user: u64, other: u64) -> bool {
        let up = std::iter::successors(Some(user), |it| self.around.get(it).copied());
        up.take(self.around.len() + 1).any(|it| it == other)
    }

    /// The kernel's ids of all.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.keys().copied()
    }

    /// How ids are called in the one that the mount namespaces of the tree belong to, in which file systems are made; plain if they
    /// belong to the dumper's.
    pub(crate) fn ids_of_mounts(&self) -> IdMap {
        let mut owners = self.owners.iter().filter(|((name, _), _)| *name == "mnt");
        let entry = owners.next().and_then(|(_, (owner, _))| self.entries.get(owner));
        entry.and_then(|entry| IdMap::of(entry).ok()).unwrap_or_default()
    }

    /// What stands in the way of a dump of mount namespaces that belong to them.
    pub(crate) fn unsupported_mounts(
        &self,
        views: &Views,
        inventory: &Inventory,
    ) -> Vec<Unsupported> {
        let owner = |name, id| self.owners.get(&(name, id)).map(|(owner, _)| *owner);
        let mut refused = Vec::new();
        let mut owners = views.all().map(|view| owner("mnt", view.id));
        let first = owners.next().flatten();
        let several = owners.any(|other| other != first);
        for view in views.all() {
            let Some(user) = owner("mnt", view.id) else { continue };
            let mut refuse =
                |refusal: Refusal| refused.push(refusal.of(view.member, "mnt namespace"));
            if several {
                refuse(users::MOUNTS_OF_SEVERAL);
            }
            if self.entries.get(&user).is_some_and(|entry| IdMap::of(entry).is_err()) {
                refuse(users::WITHOUT_IDS);
            }
            let of_member = inventory.processes.get(&view.member);
            let owns = |name| {
                let id = of_member.and_then(|process| process.namespaces.get(name));
                id.is_some_and(|id| owner(name, *id) == Some(user))
            };
            for (mount, origin) in view.mounts.0.iter().zip(&view.origins) {
                if *origin != Some(Origin::Made) {
                    continue;
                }
                let kind = mount.kind();
                let may_be_made = match kind.as_str() {
                    "tmpfs" | "ramfs" | "devpts" => true,
                    "proc" => views
                        .shown_pids(mount.device)
                        .is_some_and(|id| owner("pid", id) == Some(user)),
                    "sysfs" => owns("net"),
                    "mqueue" => owns("ipc"),
                    "cgroup" | "cgroup2" => owns("cgroup"),
                    _ => false,
                };
                if !may_be_made {
                    refused.push(users::not_made_in(&kind).of(view.member, shown(mount)));
                }
            }
        }
        refused
    }

    /// The entry of the user namespace with this id; `numbers` are those of the tree's namespaces in the images.
    pub(crate) fn entry(
        &self,
        id: u64,
        numbers: &BTreeMap<(&'static str, u64), u32>,
    ) -> Option<UsernsEntry> {
        let entry = self.entries.get(&id)?;
        let owned = self.owners.iter().filter(|(_, (owner, _))| *owner == id);
        let owned = owned.filter_map(|(key, _)| numbers.get(key).copied()).collect();
        let around = self.around.get(&id).and_then(|it| numbers.get(&("user", *it)).copied());
        Some(UsernsEntry { owned, around, ..entry.clone() })
    }

    /// Moves the capabilities of a process in one of them into a field of their own, where nobody takes them for rights in the tree's namespace.
    pub(crate) fn set_apart(&self, process: Option<&Process>, creds: &mut CredsEntry) {
        let user = process.and_then(|process| process.namespaces.get("user"));
        if user.is_none_or(|user| !self.entries.contains_key(user)) {
            return;
        }
        let sets = [
            &mut creds.cap_inh,
            &mut creds.cap_prm,
            &mut creds.cap_eff,
            &mut creds.cap_bnd,
            &mut creds.cap_amb,
        ];
        for set in sets {
            creds.cap_nested.extend(set.iter());
            set.fill(0);
        }
    }
}

/// Which id of a process has no number in a user namespace.
fn unmapped(ids: &IdMap, status: &Status, groups: &[u32]) -> Option<String> {
    let (uid, gid) = (&status.uid, &status.gid);
    let lacks = |id, number: &&u32| ids.inside(id, **number) == images::id_map::NOBODY;
    let users = [uid.real, uid.effective, uid.saved, uid.fs];
    let own = [gid.real, gid.effective, gid.saved, gid.fs];
    let user = users.iter().find(|it| lacks(Id::User, it)).map(|it| format!("user {it}"));
    user.or_else(|| {
        let mut groups = own.iter().chain(groups);
        groups.find(|it| lacks(Id::Group, it)).map(|it| format!("group {it}"))
    })
}

/// Which threads of a process have ids that they could not take in its user namespace, where they come back with those of the first.
fn unsupported_threads(
    process: &Process,
    users: &UsernsEntry,
    earlier: Option<Earlier<'_>>,
) -> io::Result<Vec<Unsupported>> {
    let mut refused = Vec::new();
    if process.threads.len() < 2 {
        return Ok(refused);
    }
    let task = earlier.and_then(|earlier| earlier.tasks.get(&process.pid));
    let read = task.into_iter().flat_map(|task| &task.threads);
    let read: BTreeMap<HostPid, &Status> =
        read.map(|thread| (thread.tid, &thread.attributes.status)).collect();
    let ids_of = |tid: HostPid| match read.get(&tid) {
        Some(status) => Ok(Cow::Borrowed(*status)),
        None => Dir::open(tid).and_then(|dir| Status::read(&dir)).map(Cow::Owned),
    };
    let ids_of = |tid| ids_of(tid).map_err(io::Error::other);
    let first = ids_of(process.pid)?;
    for &tid in process.threads.keys() {
        let status = match ids_of(tid) {
            Ok(status) => status,
            // It has ended.
            Err(_) if !kernel::process::exists(tid) => continue,
            Err(error) => return Err(error),
        };
        let is_same = (&status.uid, &status.gid) == (&first.uid, &first.gid);
        if is_same && status.groups == first.groups {
            continue;
        }
        let object = format!("thread {tid}");
        match IdMap::of(users) {
            Ok(ids) if unmapped(&ids, &status, &status.groups).is_none() => {
                if users.setgroups_denied == Some(true) && status.groups != first.groups {
                    refused.push(users::OTHER_GROUPS.of(process.pid, object));
                }
            }
            _ => refused.push(users::THREAD_IDS.of(process.pid, object)),
        }
    }
    Ok(refused)
}

/// Who stands in the way of a first process of a pid namespace that leads its session. What has to be born into that, with all that
/// is below it, is born in the user namespace by its parents, and is given nothing there.
fn not_born_from(first: &Process, root: HostPid, inventory: &Inventory) -> Option<HostPid> {
    if first.sid != Some(first.pid) {
        return None;
    }
    let tree: Vec<&Process> = inventory.processes.values().collect();
    // Of a tree that nobody makes more is said elsewhere.
    let makers = support::tree::makers(root, &tree).ok()?;
    let is_of_first = |index: usize| tree.get(index).is_some_and(|it| it.pid == first.pid);
    let made = || tree.iter().zip(&makers);
    let beside = made().find(|(_, maker)| match maker {
        Maker::Leader(by) | Maker::Orphaned(by) => is_of_first(*by),
        _ => false,
    });
    if let Some((beside, _)) = beside {
        return Some(beside.pid);
    }
    let next = |at: &&Process| inventory.processes.get(&at.ppid?);
    // A process and those above it, as far as the first one's child; nobody, if it is not below that.
    let branch = |process: &Process| {
        let up = std::iter::successors(inventory.processes.get(&process.pid), next);
        let up: Vec<&Process> = up.take(tree.len()).take_while(|at| at.pid != first.pid).collect();
        let top = *up.last()?;
        (top.ppid == Some(first.pid)).then_some(top.pid)
    };
    let of_session = tree.iter().filter(|it| it.sid == Some(first.pid) && it.pid != first.pid);
    let branches: BTreeSet<HostPid> = of_session.filter_map(|it| branch(it)).collect();
    let other = made().find(|(process, maker)| {
        let is_made = matches!(maker, Maker::Parent | Maker::EarlyParent);
        let is_born = || is_made && (is_zombie(process) || is_born_alike(first, process));
        branch(process).is_some_and(|branch| branches.contains(&branch)) && !is_born()
    });
    other.map(|(process, _)| process.pid)
}

/// Whether a process has what it has from the first one of its pid namespace, if it is born by that: what is in no other's power.
fn is_born_alike(first: &Process, process: &Process) -> bool {
    let said = |process: &Process| {
        let file = |name| std::fs::read(format!("/proc/{}/{name}", process.pid)).ok();
        ["oom_score_adj", "loginuid", "coredump_filter"].map(file)
    };
    let namespaces = |process: &Process| {
        let of = |name| process.namespaces.get(name).copied();
        ["net", "ipc", "uts", "cgroup", "time", "pid"].map(of)
    };
    namespaces(first) == namespaces(process) && said(first) == said(process)
}

/// Whether a process shares its descriptors or directories with another one.
fn shares(process: &Process, inventory: &Inventory) -> bool {
    let owners = |process: &Process| [process.tables.files, process.tables.file_system];
    let has_owner = owners(process).into_iter().flatten().any(|owner| owner != process.pid);
    let mut others = inventory.processes.values().filter(|other| other.pid != process.pid);
    has_owner || others.any(|other| owners(other).contains(&Some(process.pid)))
}

/// What a user namespace says of itself.
pub(crate) fn entry(maps: &Maps, owner: u32) -> UsernsEntry {
    let extents = |ranges: &[Range]| {
        let extent = |&(first, lower_first, count)| UidGidExtent { first, lower_first, count };
        ranges.iter().map(extent).collect()
    };
    UsernsEntry {
        uid_map: extents(&maps.users),
        gid_map: extents(&maps.groups),
        projid_map: extents(&maps.projects),
        setgroups_denied: maps.no_groups.then_some(true),
        not_owned: Vec::new(),
        owner: (owner != 0).then_some(owner),
        nested: None,
        owned: Vec::new(),
        around: None,
        limits: Vec::new(),
    }
}
