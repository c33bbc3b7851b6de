//! Which mount is made of what, and in which order mounts are placed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use images::file_systems;
use images::messages::MntEntry;

use super::{Request, below};
use crate::error::Error;
use crate::places::Sought;

/// A mount's place among all.
pub(super) type Index = usize;

/// What a mount is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// What this path leads to in the restoring process's namespace.
    Outside(PathBuf),
    /// What is mounted there at this path below the first.
    Below(PathBuf, PathBuf),
    /// A new file system of this kind.
    New(String),
    /// The file system of this kind on a block device that the path leads to in the restoring process's namespace.
    Device(String, PathBuf),
    /// This path of another mount's file system, from the root of that mount.
    Part(Index, PathBuf),
    /// What has been deleted since it was mounted: in a file system of its own, where it has this path until all mounts of it are
    /// placed.
    Lost(PathBuf),
}

/// A mount.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    pub(super) namespace: u32,
    pub(super) entry: MntEntry,
    pub(super) source: Source,
    /// The mount that it is placed on, and the path there from that one's root; `None` for the root of the namespace.
    pub(super) on: Option<(Index, PathBuf)>,
    pub(super) place: PathBuf,
    /// It keeps what it shares with the outside.
    pub(super) shares_outside: bool,
}

impl Mount {
    /// The peer group that it shares mounts with, and the one that it receives mounts from; 0 for none.
    pub(super) fn group(&self) -> (u32, u32) {
        (self.entry.shared_id.unwrap_or(0), self.entry.master_id.unwrap_or(0))
    }

    /// How errors call it.
    pub(super) fn shown(&self) -> String {
        format!("mount {} ({})", self.place.display(), self.entry.mnt_id)
    }
}

/// All mounts.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) mounts: Vec<Mount>,
    /// By namespace, in the order of placing: its root is the first.
    pub(super) orders: BTreeMap<u32, Vec<Index>>,
}

pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Whether a path is one that a kernel says: absolute, and without `..`.
fn is_plain(place: &Path) -> bool {
    let known = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    place.is_absolute()
        && place.components().all(known)
        && !place.as_os_str().as_bytes().contains(&0)
}

impl Plan {
    pub(super) fn make(request: &Request<'_>) -> Result<Self, Error> {
        let mut plan = Self::default();
        // The tree's own first: others are made of its.
        let mut numbers: Vec<u32> = request.namespaces.keys().copied().collect();
        numbers.sort_by_key(|number| (Some(*number) != request.root_namespace, *number));
        for number in numbers {
            plan.add(number, request)?;
        }
        plan.find_sources(request)?;
        Ok(plan)
    }

    /// Adds the mounts of a namespace, in the order in which they are placed.
    fn add(&mut self, number: u32, request: &Request<'_>) -> Result<(), Error> {
        let image = format!("mountpoints-{number}.img");
        let wrong = |what: String| Error::image(image.clone(), what);
        let is_left_out = |entry: &&MntEntry| {
            let place = path(&entry.mountpoint);
            !request.options.skipped.iter().any(|skipped| place.starts_with(skipped))
        };
        let entries: Vec<&MntEntry> =
            request.namespaces[&number].iter().filter(is_left_out).collect();
        let ids: BTreeSet<u32> = entries.iter().map(|entry| entry.mnt_id).collect();
        if ids.len() != entries.len() {
            return Err(wrong("two mounts have one number".to_owned()));
        }
        if let Some(entry) = entries.iter().find(|entry| !is_plain(path(&entry.mountpoint))) {
            let place = String::from_utf8_lossy(&entry.mountpoint);
            return Err(wrong(format!("mount {}: {place} is no place", entry.mnt_id)));
        }
        let mut roots = entries.iter().filter(|entry| {
            entry.parent_mnt_id == entry.mnt_id || !ids.contains(&entry.parent_mnt_id)
        });
        let (Some(root), None) = (roots.next(), roots.next()) else {
            return Err(wrong("it has not one root".to_owned()));
        };
        let mut children: BTreeMap<u32, Vec<&MntEntry>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.mnt_id != root.mnt_id) {
            children.entry(entry.parent_mnt_id).or_default().push(entry);
        }
        // What one mount of a parent hides is placed before that one.
        for siblings in children.values_mut() {
            siblings.sort_by_key(|entry| {
                std::cmp::Reverse(path(&entry.mountpoint).components().count())
            });
        }
        let mut order = Vec::new();
        let mut waiting: Vec<(&MntEntry, Option<Index>)> = vec![(root, None)];
        while let Some((entry, parent)) = waiting.pop() {
            let place = path(&entry.mountpoint);
            let on = match parent {
                None if place != Path::new("/") => {
                    return Err(wrong(format!("its root is at {}", place.display())));
                }
                None => None,
                Some(parent) => {
                    let above = &self.mounts[parent].place;
                    let below = place.strip_prefix(above).map_err(|_| {
                        let (place, above) = (place.display(), above.display());
                        wrong(format!("{place} is not below {above}"))
                    })?;
                    Some((parent, below.to_owned()))
                }
            };
            let index = self.mounts.len();
            self.mounts.push(Mount {
                namespace: number,
                entry: entry.clone(),
                source: Source::New(String::new()),
                on,
                place: place.to_owned(),
                shares_outside: false,
            });
            order.push(index);
            let below = children.remove(&entry.mnt_id).unwrap_or_default();
            waiting.extend(below.into_iter().rev().map(|child| (child, Some(index))));
        }
        if !children.is_empty() {
            return Err(wrong("some mounts are below none".to_owned()));
        }
        self.orders.insert(number, order);
        Ok(())
    }

    fn find_sources(&mut self, request: &Request<'_>) -> Result<(), Error> {
        // By device: the mounts that others can be parts of.
        let mut givers: BTreeMap<u32, Vec<Index>> = BTreeMap::new();
        let mut parts = Vec::new();
        let mut rest = Vec::new();
        // What comes from outside first: all that shows the same is a part of that.
        for index in 0..self.mounts.len() {
            match self.given(index, request)? {
                Some(source) => self.give(index, source, &mut givers),
                None => rest.push(index),
            }
        }
        // What was deleted is the same for all mounts of it, and of no other.
        let mut lost: BTreeMap<(u32, u64), (Index, PathBuf)> = BTreeMap::new();
        for &index in &rest {
            let entry = &self.mounts[index].entry;
            let Some(own) = &entry.lost else { continue };
            let root = path(&entry.root);
            let below = root.strip_prefix("/").ok();
            let below = below.filter(|below| is_plain(root) && below.file_name().is_some());
            let below = below.ok_or_else(|| {
                let what = format!("{} is no path of what was deleted", root.display());
                Error::image(self.mounts[index].shown(), what)
            })?;
            let new = (index, below.to_owned());
            let (first, below) = lost.entry((entry.root_dev, own.inode)).or_insert(new).clone();
            self.mounts[index].source = match first == index {
                true => Source::Lost(below),
                false => Source::Part(first, below),
            };
        }
        rest.retain(|index| self.mounts[*index].entry.lost.is_none());
        for index in rest {
            let others = givers.get(&self.mounts[index].entry.root_dev);
            let kind = self.made(index, others.map_or(&[], Vec::as_slice));
            match (kind, self.is_of_device(index)) {
                (Some(kind), true) => {
                    let device = self.device(index, request)?;
                    self.give(index, Source::Device(kind, device), &mut givers);
                }
                (Some(kind), false) => self.give(index, Source::New(kind), &mut givers),
                (None, _) => parts.push(index),
            }
        }
        for index in parts {
            self.mounts[index].source = self.part(index, &givers)?;
        }
        self.find_outside_groups();
        Ok(())
    }

    /// Settles what a mount is made of, of which others can be parts.
    fn give(&mut self, index: Index, source: Source, givers: &mut BTreeMap<u32, Vec<Index>>) {
        self.mounts[index].source = source;
        givers.entry(self.mounts[index].entry.root_dev).or_default().push(index);
    }

    /// Where a mount is outside that comes from there.
    fn given(&self, index: Index, request: &Request<'_>) -> Result<Option<Source>, Error> {
        let mount = &self.mounts[index];
        let entry = &mount.entry;
        let is_first = mount.on.is_none() && Some(mount.namespace) == request.root_namespace;
        if let Some(root) = request.root.filter(|_| is_first) {
            return Ok(Some(Source::Outside(root.to_owned())));
        }
        // Where the tree's root is in no other namespace than this process is, so is all that others began as copies of.
        let is_ours = is_first || mount.on.is_none() && request.root_namespace.is_none();
        let own = own_place(entry, request).filter(|_| is_ours && entry.ext_key.is_none());
        if let Some(place) = own {
            return Ok(Some(Source::Outside(place)));
        }
        let refused = |refusal: support::Refusal| Error::refused(refusal.of(0, mount.shown()));
        // Older images have the name where the root is else.
        let old = (entry.ext_mount == Some(true)).then(|| String::from_utf8_lossy(&entry.root));
        match entry.ext_key.as_deref().or(old.as_deref()) {
            None | Some(file_systems::OF_DEVICE) => Ok(None),
            Some(file_systems::FOUND_OUTSIDE) if request.options.find_outside => {
                Ok(Some(Source::Outside(path(&entry.source).to_owned())))
            }
            Some(file_systems::FOUND_OUTSIDE) => Err(refused(support::mounts::NOT_FOUND_OUTSIDE)),
            Some(key) => {
                let external = &request.options.external;
                let given = external.get(key).cloned().map(Source::Outside);
                let given = given.or_else(|| {
                    below::given(external, key).map(|(path, below)| Source::Below(path, below))
                });
                Ok(Some(given.ok_or_else(|| refused(support::mounts::no_external(key)))?))
            }
        }
    }

    fn is_of_device(&self, index: Index) -> bool {
        self.mounts[index].entry.ext_key.as_deref() == Some(file_systems::OF_DEVICE)
    }

    /// The block device that a mount is made of.
    fn device(&self, index: Index, request: &Request<'_>) -> Result<PathBuf, Error> {
        let mount = &self.mounts[index];
        let source = String::from_utf8_lossy(&mount.entry.source).into_owned();
        let name = source.strip_prefix("dev[").and_then(|rest| rest.strip_suffix(']'));
        let given = name.and_then(|name| request.options.devices.get(name));
        let refusal = || support::mounts::no_device(name.unwrap_or(&source)).of(0, mount.shown());
        given.cloned().ok_or_else(|| Error::refused(refusal()))
    }

    /// The kind of file system to make for a mount. `None` if it shows a part only, or if one of `others`, mounts of the same device, has it already.
    fn made(&self, index: Index, others: &[Index]) -> Option<String> {
        let entry = &self.mounts[index].entry;
        let kind = match entry.fstype {
            file_systems::NAMED => entry.fsname.as_deref(),
            number => file_systems::kind(number),
        };
        // The root of a namespace is given, or a part of what is: its layers are of another root.
        let has_layers = entry.layers_elsewhere != Some(true) && self.mounts[index].on.is_some();
        let kind = kind.filter(|kind| *kind != "fuse" && (*kind != "overlay" || has_layers))?;
        let is_whole =
            entry.root == b"/" || kind.starts_with("cgroup") && entry.root.starts_with(b"/..");
        let is_there = others.iter().map(|other| &self.mounts[*other]).any(|other| {
            !other.is_outside() || other.gives_parts() && other.entry.root == entry.root
        });
        (is_whole && !is_there).then(|| kind.to_owned())
    }

    /// Makes the mount a part of the file system of another one.
    fn part(&self, index: Index, givers: &BTreeMap<u32, Vec<Index>>) -> Result<Source, Error> {
        let mount = &self.mounts[index];
        let root = path(&mount.entry.root);
        let of_device = givers.get(&mount.entry.root_dev).map_or(&[][..], Vec::as_slice);
        let held = of_device.iter().filter_map(|&giver| {
            let other = &self.mounts[giver];
            let known = other.gives_parts().then_some(&other.entry.root)?;
            let below = root.strip_prefix(path(known)).ok()?;
            Some((giver, below.to_owned()))
        });
        if let Some((giver, below)) = held.min_by_key(|(_, below)| below.components().count()) {
            return Ok(Source::Part(giver, below));
        }
        let refusal = match mount.on {
            None => support::mounts::NO_ROOT,
            Some(_) => support::mounts::no_way(&mount.place),
        };
        Err(Error::refused(refusal.of(0, mount.shown())))
    }

    /// Of what is looked for, what others of the mounts on mount `index` hide.
    pub(super) fn hidden<'r>(
        &self,
        index: Index,
        request: &'r Request<'_>,
    ) -> impl Iterator<Item = &'r Sought> {
        let number = self.mounts[index].entry.mnt_id.cast_signed();
        let above = self
            .mounts
            .iter()
            .filter(move |mount| mount.on.as_ref().is_some_and(|(on, _)| *on == index));
        let places: Vec<PathBuf> = above.map(|mount| mount.place.clone()).collect();
        request.files.iter().filter(move |sought| {
            sought.mount == number && places.iter().any(|place| sought.path.starts_with(place))
        })
    }

    /// Whether something has to be made on a mount.
    pub(super) fn is_written(&self, index: Index, request: &Request<'_>) -> bool {
        let number = self.mounts[index].entry.mnt_id.cast_signed();
        request.files.iter().any(|sought| sought.mount == number && sought.is_to_write)
    }

    /// Whatever comes from outside may share mounts with the outside, as it did, if nobody in the images does.
    fn find_outside_groups(&mut self) {
        let inside: BTreeSet<u32> = self
            .mounts
            .iter()
            .filter(|mount| mount.entry.internal_sharing == Some(true) || !mount.is_outside())
            .map(|mount| mount.group().0)
            .collect();
        for mount in self.mounts.iter_mut().filter(|mount| mount.is_outside()) {
            let (shared, master) = mount.group();
            let is_found = mount.entry.ext_key.as_deref() == Some(file_systems::FOUND_OUTSIDE);
            let shares = is_found && shared != 0 && !inside.contains(&shared);
            let receives = shared == 0 && master != 0 && !inside.contains(&master);
            mount.shares_outside = shares || receives;
        }
        // A copy of one that receives from outside does so, too.
        for index in 0..self.mounts.len() {
            let mount = &self.mounts[index];
            if let Source::Part(giver, _) = mount.source {
                let giver = &self.mounts[giver];
                let receives = giver.shares_outside && giver.group().0 == 0;
                self.mounts[index].shares_outside = receives && mount.group() == giver.group();
            }
        }
    }
}

/// Where the restoring process has what a mount shows, of a device that is the same at all times.
fn own_place(entry: &MntEntry, request: &Request<'_>) -> Option<PathBuf> {
    let device = libc::makedev(entry.root_dev >> 20, entry.root_dev & 0xf_ffff);
    let shows = |mount: &&kernel::procfs::Mount| {
        libc::major(device) != 0
            && mount.device == device
            && path(&entry.root).starts_with(&mount.root)
    };
    let mount = request.own.0.iter().filter(shows).max_by_key(|mount| mount.root.len())?;
    let below = path(&entry.root).strip_prefix(&mount.root).ok()?;
    Some(kernel::paths::join(Path::new(&mount.mount_point), below))
}

impl Mount {
    /// Whether it is one of an overlay that is made anew.
    pub(super) fn is_overlay(&self) -> bool {
        matches!(&self.source, Source::New(kind) if kind == "overlay")
    }

    pub(super) const fn is_outside(&self) -> bool {
        matches!(self.source, Source::Outside(_) | Source::Below(..))
    }

    /// Whether others can be parts of it. Older images have a name where the root of one from outside is else.
    fn gives_parts(&self) -> bool {
        self.entry.ext_mount != Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u32, parent: u32, place: &str) -> MntEntry {
        MntEntry {
            fstype: 5,
            mnt_id: id,
            root_dev: id,
            parent_mnt_id: parent,
            root: b"/".to_vec(),
            mountpoint: place.as_bytes().to_vec(),
            ..MntEntry::default()
        }
    }

    fn orders(entries: &[MntEntry]) -> Result<Vec<u32>, String> {
        let options = super::super::MountOptions::default();
        let directory = tempfile::tempdir().unwrap();
        let writer = images::ImageWriter::create(&directory.path().join("c"), Default::default());
        let writer = writer.unwrap();
        let inventory = images::messages::InventoryEntry { img_version: 2, ..Default::default() };
        writer.write_one(&images::names::inventory(), &inventory).unwrap();
        writer.commit().unwrap();
        let images = images::Images::open(&directory.path().join("c")).unwrap();
        let request = Request {
            namespaces: BTreeMap::from([(9, entries)]),
            root_namespace: Some(9),
            root: None,
            files: Vec::new(),
            own: kernel::procfs::Mounts::default(),
            options: &options,
            images: &images,
            inside: Vec::new(),
            own_pids: false,
            users: None,
        };
        let plan = Plan::make(&request).map_err(|error| error.to_string())?;
        Ok(plan.orders[&9].iter().map(|index| plan.mounts[*index].entry.mnt_id).collect())
    }

    #[test]
    fn what_is_hidden_is_placed_first() {
        let found = orders(&[
            entry(3, 1, "/a"),
            entry(1, 99, "/"),
            entry(2, 1, "/a/b"),
            entry(4, 3, "/a/b"),
        ]);
        assert_eq!(found.unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (entries, what) in [
            (vec![], "not one root"),
            (vec![entry(1, 99, "/"), entry(2, 98, "/a")], "not one root"),
            (vec![entry(1, 99, "/"), entry(1, 99, "/a")], "one number"),
            (vec![entry(1, 99, "/"), entry(2, 3, "/a"), entry(3, 2, "/a")], "below none"),
            (vec![entry(1, 99, "/"), entry(2, 1, "/../a")], "no place"),
            (vec![entry(1, 99, "/"), entry(2, 1, "a")], "no place"),
            (vec![entry(1, 99, "/b")], "its root is at"),
            (vec![entry(1, 99, "/"), entry(2, 1, "/a"), entry(3, 2, "/b")], "not below"),
        ] {
            let error = orders(&entries).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
