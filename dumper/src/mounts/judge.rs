//! Where each mount comes from at a restore, and what cannot be carried.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use images::file_systems;
use kernel::procfs::{Mount, Mounts};
use support::{Refusal, Unsupported};

use super::overlays::{self, Layers};
use super::shown::shown;
use super::{MountOptions, View, below, lost};

/// Where a mount comes from at a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is the root of its namespace.
    Root,
    /// Its file system is made anew, unless another mount has made it.
    Made,
    /// It is an overlay that is made anew of directories in the restoring process's namespace, unless another mount has made it.
    Layered,
    /// It is a part of the file system of another mount.
    Part,
    /// It is given by this name.
    Named(String),
    /// It is made anew on a block device that is given by this name.
    Device(String),
    /// It is mounted in the dumper's namespace as well, and is taken from there.
    Outside {
        /// Its path there.
        path: PathBuf,
        /// It shares mounts with nobody there.
        is_apart: bool,
    },
}

/// Finds out where a restore gets each mount of `views` from, and returns what is refused. `root` is the kernel's id of the
/// namespace that the tree's root is in; `own` are the mounts of the dumper's namespace.
pub(super) fn judge(
    views: &mut BTreeMap<u64, View>,
    root: Option<&u64>,
    own: &Mounts,
    options: &MountOptions,
) -> Vec<Unsupported> {
    let mut origins: BTreeMap<i32, Option<Origin>> = BTreeMap::new();
    for view in views.values() {
        let is_root = Some(&view.id) == root;
        for mount in &view.mounts.0 {
            origins.insert(mount.id, first(mount, (view, is_root), own, options));
        }
    }
    for view in views.values() {
        bring_along(view, own, &mut origins);
    }
    follow(views, &mut origins);
    let all: Vec<&Mount> = views.values().flat_map(|view| &view.mounts.0).collect();
    let mut refused = Vec::new();
    for view in views.values() {
        for mount in &view.mounts.0 {
            let Some(Some(origin)) = origins.get(&mount.id) else { continue };
            let found = problem(mount, origin, &all, &origins, own, (options, view));
            refused.extend(found.map(|refusal| refusal.of(view.member, shown(mount))));
        }
    }
    for view in views.values_mut() {
        let of = |mount: &Mount| origins.get(&mount.id).cloned().flatten();
        view.origins = view.mounts.0.iter().map(of).collect();
    }
    refused
}

/// Has what is mounted below something that is given by a name, as it is outside, be given with that, by a name below.
fn bring_along(view: &View, own: &Mounts, origins: &mut BTreeMap<i32, Option<Origin>>) {
    let root = view.mounts.0.iter().find(|mount| mount.mount_point == "/");
    let is_root = |mount: &Mount| {
        root.is_some_and(|root| (root.device, &root.root) == (mount.device, &mount.root))
    };
    let mut is_new = true;
    while std::mem::take(&mut is_new) {
        for mount in view.mounts.0.iter().filter(|mount| !is_root(mount)) {
            let Some(on) = view.mounts.get(mount.parent) else { continue };
            let Some(Some(Origin::Named(name))) = origins.get(&on.id) else { continue };
            let below = below::brought(mount, on, &view.mounts, own).and_then(Path::to_str);
            let Some(name) = below.map(|below| format!("{name}/{below}")) else { continue };
            if let Some(Some(origin @ (Origin::Made | Origin::Layered | Origin::Part))) =
                origins.get_mut(&mount.id)
            {
                *origin = Origin::Named(name);
                is_new = true;
            }
        }
    }
}

/// Has what shows the same as a mount that is given from outside come from that one, in whichever namespace it is: a
/// namespace begins as a copy of another one.
fn follow(views: &BTreeMap<u64, View>, origins: &mut BTreeMap<i32, Option<Origin>>) {
    let all = || views.values().flat_map(|view| &view.mounts.0);
    let shows = |mount: &Mount| (mount.device, mount.root.clone());
    let is = |mount: &&Mount| {
        matches!(origins.get(&mount.id), Some(Some(Origin::Named(_) | Origin::Root)))
    };
    let given: BTreeSet<(u64, OsString)> = all().filter(is).map(shows).collect();
    for mount in all().filter(|mount| given.contains(&shows(mount))) {
        if let Some(Some(origin @ (Origin::Made | Origin::Layered | Origin::Outside { .. }))) =
            origins.get_mut(&mount.id)
        {
            *origin = Origin::Part;
        }
    }
}

/// Where a mount comes from by itself; `None` if it is left out.
fn first(
    mount: &Mount,
    (view, is_root): (&View, bool),
    own: &Mounts,
    options: &MountOptions,
) -> Option<Origin> {
    let place = Path::new(&mount.mount_point);
    if options.skipped.iter().any(|skipped| skipped == place) {
        return None;
    }
    // The root of another one of the tree's namespaces may be memory, whose contents are carried.
    if place == Path::new("/") && (is_root || mount.kind() != "tmpfs") {
        return Some(Origin::Root);
    }
    if let Some(name) = options.external.get(place).filter(|_| is_root) {
        return Some(Origin::Named(name.clone()));
    }
    if let Some(name) = options.devices.get(&mount.device)
        && mount.root == "/"
        && is_of_disk(&mount.kind())
        && !is_made(&mount.kind(), options)
    {
        return Some(Origin::Device(name.clone()));
    }
    let outside = options.find_outside.then(|| outside(mount, own, options)).flatten();
    if outside.is_some() {
        return outside;
    }
    let is_known = is_made(&mount.kind(), options);
    if is_known && (mount.root == "/" || is_control_group(mount)) {
        return Some(Origin::Made);
    }
    Some(match overlays::layers(view, mount, own) {
        Some(Layers::Inside) => Origin::Made,
        Some(Layers::Outside) => Origin::Layered,
        None => Origin::Part,
    })
}

/// Of a control group namespace its own group is the root, which looks like a part from outside.
fn is_control_group(mount: &Mount) -> bool {
    mount.kind().starts_with("cgroup") && mount.root.as_encoded_bytes().starts_with(b"/..")
}

/// Whether a restore can mount file systems of a kind with a device and no more.
fn is_of_disk(kind: &str) -> bool {
    !kind.starts_with("fuse") && kind != "overlay"
}

/// Whether a restore can make file systems of a kind.
fn is_made(kind: &str, options: &MountOptions) -> bool {
    // Where the layers of an overlay are is not known by its kind.
    let known =
        !matches!(kind, "fuse" | "overlay") && file_systems::number(kind) != file_systems::UNKNOWN;
    known || options.other_kinds.iter().any(|other| other == kind || other == "all")
}

/// Where what a mount shows is in the dumper's namespace: a mount of its group before others.
fn outside(mount: &Mount, own: &Mounts, options: &MountOptions) -> Option<Origin> {
    let holds = |other: &&Mount| other.device == mount.device && below(mount, other).is_some();
    let is_peer = |other: &Mount| mount.shared().is_some() && other.shared() == mount.shared();
    let order = |other: &&Mount| (is_peer(other), other.root.len());
    let other = own.0.iter().filter(holds).max_by_key(order)?;
    if mount.shared().is_some() && !options.shared_outside {
        return None;
    }
    if let Some(master) = mount.master() {
        let is_its = other.shared() == Some(master) || other.master() == Some(master);
        if !options.masters_outside || !is_its {
            return None;
        }
    }
    let path = kernel::paths::join(Path::new(&other.mount_point), below(mount, other)?);
    Some(Origin::Outside { path, is_apart: !is_peer(other) })
}

/// Where the root of a mount is below that of another one of the same file system.
fn below<'m>(mount: &'m Mount, other: &Mount) -> Option<&'m Path> {
    Path::new(&mount.root).strip_prefix(&other.root).ok()
}

/// Why a mount of a namespace cannot be carried.
fn problem(
    mount: &Mount,
    origin: &Origin,
    all: &[&Mount],
    origins: &BTreeMap<i32, Option<Origin>>,
    own: &Mounts,
    (options, view): (&MountOptions, &View),
) -> Option<Refusal> {
    let (kind, place) = (mount.kind(), Path::new(&mount.mount_point));
    if let Some(option) = mount.flags().1.first() {
        return Some(support::mounts::unknown_option(&String::from_utf8_lossy(option)));
    }
    match origin {
        Origin::Root | Origin::Named(_) | Origin::Outside { .. } => return None,
        Origin::Made => {
            if kind == "tmpfs" && own.0.iter().any(|other| other.device == mount.device) {
                return Some(support::mounts::shared_memory(place));
            }
        }
        Origin::Part if lost::is_lost(mount) && !lost::can_be_carried(view, mount) => {
            return Some(support::mounts::deleted(place, view.member));
        }
        Origin::Device(_) | Origin::Layered => {}
        Origin::Part if lost::is_lost(mount) => {}
        Origin::Part => {
            let holds = |other: &&&Mount| {
                let known = origins.get(&other.id).and_then(Option::as_ref);
                let gives = known.is_some_and(|origin| *origin != Origin::Part);
                gives && other.device == mount.device && below(mount, other).is_some()
            };
            if !all.iter().any(|other| holds(&other)) {
                return Some(match kind.as_str() {
                    "fuse" | "fuseblk" => support::mounts::is_served(place),
                    kind if is_made(kind, options) => support::mounts::unreachable(place),
                    "overlay" if mount.root == "/" => overlays::why_not(mount),
                    kind => support::mounts::unknown_kind(kind, place),
                });
            }
        }
    }
    let master = mount.master()?;
    let is_inside = all.iter().any(|other| {
        let known = origins.get(&other.id).and_then(Option::as_ref);
        let receives = matches!(known, Some(Origin::Named(_))) && other.shared().is_none();
        // A copy of what is given from outside receives from where that does.
        let is_copy = receives && mount.shared().is_none() && *origin == Origin::Part;
        other.shared() == Some(master)
            || is_copy && other.master() == Some(master) && other.device == mount.device
    });
    (!is_inside).then(|| support::mounts::master_outside(place, view.member))
}
