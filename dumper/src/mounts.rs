//! Mount namespaces that are not the dumper's: looked into from outside.
//!
//! A path of such a process leads nowhere here. What is open, mapped or run is had as a handle, through
//! `/proc/PID`; the handle tells its mount, the mount its namespace, and from a handle on the root of that a path leads
//! where it leads to the process. All of it is read while the target runs; of a frozen one the table of mounts is compared.

mod automounts;
mod below;
mod contents;
mod judge;
mod lost;
mod overlays;
mod shown;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use collector::Inventory;
use ids::HostPid;
use images::id_map::IdMap;
use kernel::mounts as doors;
use kernel::namespaces::{MountView, id, in_mounts, mount_view, of_process};
use kernel::paths::{Links, find};
use kernel::procfs::{Dir, Mount, Mounts, ProcFile};
use kernel::user_namespaces::{Inside, Maps, Range, own_user, owner_of};
use support::Unsupported;

use crate::cgroup_roots::CgroupRoots;
use crate::processes::{has_ended, is_zombie};
pub(crate) use automounts::Automounts;
pub(crate) use contents::Contents;
pub(crate) use judge::Origin;
pub(crate) use lost::is_lost;
pub(crate) use shown::shown;

/// Why mounts were not looked at.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct Error {
    operation: String,
    #[source]
    source: io::Error,
}

impl Error {
    /// Names what failed.
    pub(crate) fn of(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self { operation, source }
    }
}

/// What is asked about mounts.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Mounts of the root's namespace that a restore is given: where each is, and the name by which the restore knows it.
    pub external: BTreeMap<PathBuf, String>,
    /// Block devices that a restore is given, by `st_dev`, and the names by which it knows them.
    pub devices: BTreeMap<u64, String>,
    /// A mount that is in the dumper's namespace as well is taken from there by a restore.
    pub find_outside: bool,
    /// So is a mount that shares what is mounted in it with others (`shared`).
    pub shared_outside: bool,
    /// So is a mount that receives what others mount (`master`).
    pub masters_outside: bool,
    /// More kinds of file systems that a restore can just mount; `all` stands for every one.
    pub other_kinds: Vec<String>,
    /// Mounts that are left out, by where they are.
    pub skipped: Vec<PathBuf>,
}

/// A mount namespace.
#[derive(Debug)]
pub(crate) struct View {
    /// The kernel's number of it.
    pub(crate) id: u64,
    /// A process in it.
    pub(crate) member: HostPid,
    inside: MountView,
    /// Of its cgroup namespace.
    control_groups: Option<CgroupRoots>,
    pub(crate) mounts: Mounts,
    /// Where each comes from, in the same order; none for what is left out.
    pub(crate) origins: Vec<Option<Origin>>,
}

/// The mount namespaces of a tree that are not the dumper's.
#[derive(Debug, Default)]
pub struct Views {
    views: BTreeMap<u64, View>,
    /// The dumper's own mounts; none if the tree has no others.
    own: Mounts,
    /// The namespaces of processes in others than the dumper's.
    of: BTreeMap<HostPid, u64>,
    /// Some processes are in the dumper's, some are not.
    is_mixed: bool,
    /// File systems whose contents are carried, by device, with the roots of copies of their mounts.
    contents: BTreeMap<u64, OwnedFd>,
    /// The pid namespaces that file systems of kind `proc` show, by device, if those are below that of the tree's root.
    shown_pids: BTreeMap<u64, u64>,
    automounts: Automounts,
}

impl Views {
    /// Looks into the namespaces of a tree that are not the dumper's, which has the id `own`; also returns what cannot
    /// be carried of them.
    pub(crate) fn read(
        inventory: &Inventory,
        root: HostPid,
        own: Option<u64>,
        options: &MountOptions,
    ) -> Result<(Self, Vec<Unsupported>), Error> {
        let mut found = Self::default();
        // The root first: others of a tree that runs may be gone at any moment.
        let others = inventory.processes.values().filter(|process| process.pid != root);
        let all = inventory.processes.get(&root).into_iter().chain(others);
        for process in all.filter(|process| !is_zombie(process)) {
            let Some(&id) = process.namespaces.get("mnt").filter(|id| own != Some(**id)) else {
                found.is_mixed = true;
                continue;
            };
            found.of.insert(process.pid, id);
            if let Entry::Vacant(vacant) = found.views.entry(id) {
                match View::open(process.pid, id) {
                    Ok(view) => drop(vacant.insert(view)),
                    Err(_) if has_ended(process.pid) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if found.views.is_empty() {
            return Ok((found, Vec::new()));
        }
        let own = Dir::open(HostPid::own()).and_then(|dir| Mounts::read(&dir));
        found.own = own.map_err(io::Error::other).map_err(Error::of("read the own mounts"))?;
        let mut refused = judge::judge(&mut found.views, found.of.get(&root), &found.own, options);
        found.copy_memory(&mut refused)?;
        let pids_of = |process: &collector::Process| process.namespaces.get("pid").copied();
        let of_root = inventory.processes.get(&root).and_then(pids_of);
        let pids = inventory.processes.values().filter_map(pids_of);
        let nested: BTreeSet<u64> = pids.filter(|id| Some(*id) != of_root).collect();
        found.find_shown(&nested, &mut refused)?;
        found.automounts = found.find_automounts(inventory, of_root, &mut refused)?;
        Ok((found, refused))
    }

    /// The namespace of a process; `None` if that is the dumper's.
    pub(crate) fn of(&self, pid: HostPid) -> Option<&View> {
        self.views.get(self.of.get(&pid)?)
    }

    /// The namespaces of processes in others than the dumper's.
    pub(crate) const fn namespaces(&self) -> &BTreeMap<HostPid, u64> {
        &self.of
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &View> {
        self.views.values()
    }

    /// The namespace with this id.
    pub(crate) fn get(&self, id: u64) -> Option<&View> {
        self.views.get(&id)
    }

    /// A handle on what a path leads to from the root of the file system with this device, where it is mounted whole in
    /// one of the namespaces.
    pub(crate) fn find_on(&self, device: u64, path: &Path) -> Option<OwnedFd> {
        self.views.values().find_map(|view| {
            let is_it = |mount: &&Mount| mount.device == device && mount.root == "/";
            let roots = view.mounts.0.iter().filter(is_it).filter_map(|mount| view.root_of(mount));
            roots.filter_map(|root| find(&root, path, Links::Refused).ok()).next()
        })
    }

    /// Whether the tree is in more than one namespace.
    pub(crate) fn are_several(&self) -> bool {
        self.views.len() + usize::from(self.is_mixed) > 1
    }

    /// Whether all is in the dumper's namespace.
    pub(crate) fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// The namespace that a mount is in, by what `found` is a handle on.
    pub(crate) fn place(&self, found: impl AsFd) -> io::Result<Place<'_>> {
        if self.is_empty() {
            return Ok(Place { mount: None, view: None, is_known: true });
        }
        let id = doors::id(found)?;
        let view = self.views.values().find(|view| view.mounts.get(id).is_some());
        let is_known = view.is_some() || self.own.get(id).is_some();
        Ok(Place { mount: Some(id), view, is_known })
    }

    /// Whether the tables of mounts are what they were, and what is asked for more.
    pub(crate) fn are_the_same(&self, inventory: &Inventory) -> io::Result<bool> {
        for view in self.views.values() {
            if view.inside.read(view.control_groups.as_ref())? != view.mounts {
                return Ok(false);
            }
        }
        self.automounts.are_the_same(inventory)
    }

    /// Copies the mounts of file systems that live in memory. Their contents are read through the copies, in which nothing is mounted.
    fn copy_memory(&mut self, refused: &mut Vec<Unsupported>) -> Result<(), Error> {
        let mut wanted: BTreeMap<u64, Vec<(u64, &Mount)>> = BTreeMap::new();
        // What is in the dumper's namespace as well is refused.
        let is_apart = |mount: &Mount| self.own.0.iter().all(|own| own.device != mount.device);
        for view in self.views.values() {
            for (mount, origin) in view.mounts.0.iter().zip(&view.origins) {
                let is_whole = mount.kind() == "tmpfs" && mount.root == "/";
                if *origin == Some(Origin::Made) && is_whole && is_apart(mount) {
                    wanted.entry(mount.device).or_default().push((view.id, mount));
                }
            }
        }
        for (device, mounts) in wanted {
            let mut copy = None;
            for (id, mount) in &mounts {
                let view = &self.views[id];
                let failed = format!("look into {} of process {}", shown(mount), view.member);
                copy = view.copy(mount).map_err(Error::of(failed))?;
                if copy.is_some() {
                    break;
                }
            }
            match (copy, mounts.first()) {
                (Some(copy), _) => drop(self.contents.insert(device, copy)),
                (None, Some((id, mount))) => {
                    let member = self.views[id].member;
                    refused.push(support::mounts::HIDDEN.of(member, shown(mount)));
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Finds out which mounted `proc` shows one of the pid namespaces `nested`, those below the namespace of the tree's root.
    fn find_shown(
        &mut self,
        nested: &BTreeSet<u64>,
        refused: &mut Vec<Unsupported>,
    ) -> Result<(), Error> {
        if nested.is_empty() {
            return Ok(());
        }
        let mut shown_pids = BTreeMap::new();
        for view in self.views.values() {
            for (mount, origin) in view.mounts.0.iter().zip(&view.origins) {
                if *origin != Some(Origin::Made) || mount.kind() != "proc" {
                    continue;
                }
                let failed = || Error::of(format!("look into {} of {}", shown(mount), view.member));
                let copy = view.copy(mount).map_err(failed())?;
                // Its first process is in it, and there as long as anybody is.
                let first = copy.as_ref().map(first_process).transpose().map_err(failed())?;
                let place = Path::new(&mount.mount_point);
                let mut refuse = |refusal: support::Refusal| {
                    refused.push(refusal.of(view.member, shown(mount)));
                };
                match first {
                    None => refuse(support::mounts::HIDDEN),
                    Some(None) => refuse(support::mounts::of_nobody(place, view.member)),
                    Some(Some(pids)) if nested.contains(&pids) => {
                        let parent = view.mounts.get(mount.parent);
                        if [Some(mount), parent].iter().flatten().any(|it| spreads(it)) {
                            refuse(support::mounts::proc_spreads(view.member));
                        }
                        shown_pids.insert(mount.device, pids);
                    }
                    Some(Some(_)) => {}
                }
            }
        }
        self.shown_pids = shown_pids;
        Ok(())
    }

    /// The pid namespace that the file system with this device shows, if that is below that of the tree's root.
    pub(crate) fn shown_pids(&self, device: u64) -> Option<u64> {
        self.shown_pids.get(&device).copied()
    }

    /// The file systems of kind `autofs`.
    pub(crate) const fn automounts(&self) -> &Automounts {
        &self.automounts
    }

    /// Reads what is in file systems that live in memory, of a frozen tree.
    pub(crate) fn read_contents(
        &self,
        ids: &IdMap,
        is_late: &dyn Fn() -> bool,
    ) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        for (&device, copy) in &self.contents {
            contents.add(device, copy, ids, is_late)?;
        }
        Ok(contents)
    }
}

impl View {
    fn open(member: HostPid, id: u64) -> Result<Self, Error> {
        let failed = || Error::of(format!("look into the mount namespace of process {member}"));
        let inside = of_process(member, "mnt").and_then(mount_view).map_err(failed())?;
        let control_groups = CgroupRoots::of_other(member).map_err(failed())?;
        let mounts = inside.read(control_groups.as_ref()).map_err(failed())?;
        Ok(Self { id, member, inside, control_groups, mounts, origins: Vec::new() })
    }

    /// A handle on what a path of the namespace leads to, which has no links.
    pub(crate) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        find(&self.inside.root, path, Links::Refused)
    }

    /// A handle on the root of a mount; `None` if it is hidden below another one.
    pub(crate) fn root_of(&self, mount: &Mount) -> Option<OwnedFd> {
        let found = self.find(Path::new(&mount.mount_point)).ok()?;
        (doors::id(&found).ok()? == mount.id).then_some(found)
    }

    /// Whether it belongs to the dumper's user namespace.
    fn is_of_own_user(&self) -> bool {
        let owner = of_process(self.member, "mnt").and_then(owner_of).and_then(id);
        matches!((owner, own_user().and_then(id)), (Ok(owner), Ok(own)) if owner == own)
    }

    /// As [`kernel::uncovered::copy`], made inside of the user namespace that the mount namespace belongs to: a copy made in another user
    /// namespace would have all of its mounts locked (mount_namespaces(7)).
    fn uncover(&self, namespace: &OwnedFd, mount: &Mount) -> io::Result<Option<OwnedFd>> {
        let owner = owner_of(namespace)?;
        if id(&owner)? == id(own_user()?)? {
            return kernel::uncovered::copy(namespace, mount);
        }
        let maps = Maps::of(self.member)?;
        let first = |ranges: &[Range]| ranges.iter().map(|range| range.0).min().unwrap_or(0);
        let ids = (first(&maps.users), first(&maps.groups));
        let inside = Inside { user: owner.as_fd(), ids, before: &[], is_exposed: true };
        match inside.during(|| kernel::uncovered::copy(namespace, mount)) {
            // What root of that namespace may not look for is hidden from us as well.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            done => done,
        }
    }

    /// Copies a mount; the copy is in no namespace. `None` if the mount is hidden below another and cannot be uncovered.
    fn copy(&self, mount: &Mount) -> io::Result<Option<OwnedFd>> {
        let namespace = of_process(self.member, "mnt")?;
        let copy = match self.root_of(mount).filter(|_| !mount.is_unbindable()) {
            Some(root) => in_mounts(namespace, |_| doors::copy(&root, Path::new(""), false))?,
            None => match self.uncover(&namespace, mount) {
                Ok(Some(copy)) => copy,
                // What a user namespace has locked is not uncovered.
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                _ => return Ok(None),
            },
        };
        let private = doors::Change {
            propagation: Some(doors::Propagation::Private),
            ..doors::Change::default()
        };
        doors::change(&copy, &private)?;
        Ok(Some(copy))
    }
}

/// The kernel's number of the pid namespace whose processes a `proc` shows, 0 of one that this process is in; none if nobody is
/// in it any more.
fn first_process(proc: &OwnedFd) -> io::Result<Option<u64>> {
    // One in which this process is seen is around all of the tree; its first process may be closed to us.
    if nix::fcntl::readlinkat(proc, "self").is_ok() {
        return Ok(Some(0));
    }
    let link = match nix::fcntl::readlinkat(proc, "1/ns/pid") {
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ESRCH) => return Ok(None),
        link => link?,
    };
    let number =
        link.to_str().and_then(|link| link.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok());
    number.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether what is mounted on a mount, or what it is mounted on, comes to others or from them.
fn spreads(mount: &Mount) -> bool {
    mount.shared().is_some()
}

trait ReadTable {
    /// The table, with groups called as in the cgroup namespace that these are the roots of.
    fn read(&self, control_groups: Option<&CgroupRoots>) -> io::Result<Mounts>;
}

/// Calls the root of a mount of control groups as it is seen in their namespace: that of the namespace is `/`.
fn call_as_inside(mount: &mut Mount, roots: &CgroupRoots) {
    let options: Vec<&[u8]> = mount.super_options.as_bytes().split(|byte| *byte == b',').collect();
    let has = |part: &str| options.contains(&part.as_bytes());
    let is_it = |name: &&str| match mount.kind() == "cgroup2" {
        true => name.is_empty(),
        false => !name.is_empty() && name.split(',').all(has),
    };
    let root = roots
        .hierarchies()
        .find(is_it)
        .and_then(|hierarchy| Some(roots.inside(hierarchy, mount.root.as_bytes())?.to_vec()));
    if let Some(root) = root {
        mount.root = OsString::from_vec(root);
    }
}

impl ReadTable for MountView {
    fn read(&self, control_groups: Option<&CgroupRoots>) -> io::Result<Mounts> {
        let mut text = Vec::new();
        let mut table = &self.table;
        table.rewind()?;
        table.read_to_end(&mut text)?;
        let mut mounts = Mounts::parse(&text).map_err(io::Error::other)?;
        if let Some(roots) = control_groups {
            let are_groups = |mount: &&mut Mount| mount.kind().starts_with("cgroup");
            mounts.0.iter_mut().filter(are_groups).for_each(|mount| call_as_inside(mount, roots));
        }
        Ok(mounts)
    }
}

/// Where a file is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'v> {
    /// Its mount, if the images have mounts.
    pub(crate) mount: Option<i32>,
    /// Its namespace; `None` if that is the dumper's.
    pub(crate) view: Option<&'v View>,
    /// The mount is in one of the namespaces.
    pub(crate) is_known: bool,
}

impl<'v> Place<'v> {
    /// The root directory of its namespace.
    pub(crate) fn root(&self) -> io::Result<OwnedFd> {
        match self.view {
            Some(view) => view.inside.root.try_clone(),
            None => Ok(std::fs::File::open("/")?.into()),
        }
    }

    /// Its mount, if that is in a namespace of the tree's own.
    pub(crate) fn own_mount(&self) -> Option<&'v Mount> {
        self.view?.mounts.get(self.mount?)
    }

    /// A handle on what a path leads to there, without following links; in the dumper's namespace the last
    /// of it may be one if `follows`.
    pub(crate) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.view {
            Some(view) => view.find(path),
            None => {
                use nix::fcntl::{OFlag, open};
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                Ok(open(path, flags, nix::sys::stat::Mode::empty())?)
            }
        }
    }

    /// Whether another mount hides what has this path: the kernel knows that it has it, and nobody finds it there.
    pub(crate) fn is_hidden(&self, path: &Path) -> bool {
        let (Some(view), Some(id)) = (self.view, self.mount) else { return false };
        let nearest = path.ancestors().find_map(|above| view.find(above).ok());
        nearest.is_some_and(|found| doors::id(found).is_ok_and(|found| found != id))
    }
}
