//! Mounts below one that comes from outside. What is mounted recursively, as containers have their volumes, brings along what is mounted
//! in it: a restore takes this from the same place below the path that it is given.

use std::path::{Path, PathBuf};

use kernel::procfs::{Mount, Mounts};

/// Where a mount of the namespace `all` is below the one that it is mounted on, if it is what is mounted at that place outside: of
/// the dumper's mounts `own` one of the same root, on one of the same file system. Of several on top of each other it is the one that is seen.
pub(super) fn brought<'m>(
    mount: &'m Mount,
    on: &Mount,
    all: &Mounts,
    own: &Mounts,
) -> Option<&'m Path> {
    let below = Path::new(&mount.mount_point).strip_prefix(&on.mount_point).ok()?;
    let is_it = |other: &&Mount| other.device == mount.device && other.root == mount.root;
    let is_there = |other: &Mount| {
        let under = own.get(other.parent);
        under.is_some_and(|under| {
            under.device == on.device && place(other, under) == place(mount, on)
        })
    };
    let plain = below.components().next().is_some();
    let is_seen = plain && !is_covered(mount, all);
    let mut outside = own.0.iter().filter(is_it);
    (is_seen && outside.any(|other| is_there(other) && !is_covered(other, own))).then_some(below)
}

/// Where a mount is in the file system of the one that it is mounted on.
fn place(mount: &Mount, on: &Mount) -> Option<PathBuf> {
    let below = Path::new(&mount.mount_point).strip_prefix(&on.mount_point).ok()?;
    Some(Path::new(&on.root).join(below))
}

/// Whether another one is mounted on its root.
fn is_covered(mount: &Mount, all: &Mounts) -> bool {
    let is_on = |other: &Mount| other.parent == mount.id && other.mount_point == mount.mount_point;
    all.0.iter().any(is_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: i32, parent: i32, device: u64, root: &str, mount_point: &str) -> Mount {
        Mount {
            id,
            parent,
            device,
            root: root.into(),
            mount_point: mount_point.into(),
            options: "rw".into(),
            propagation: Vec::new(),
            fs_type: "tmpfs".into(),
            source: "none".into(),
            super_options: "rw".into(),
        }
    }

    #[test]
    fn what_is_mounted_at_the_same_place_is_brought_along() {
        let mut own =
            Mounts(vec![mount(1, 0, 8, "/", "/"), mount(2, 1, 9, "/", "/srv/data/inner")]);
        let tree = |root: &str, device| {
            Mounts(vec![
                mount(10, 9, 7, "/", "/"),
                mount(11, 10, 8, root, "/volume"),
                mount(12, 11, device, "/", "/volume/inner"),
            ])
        };
        let found = |all: &Mounts, own: &Mounts| {
            brought(&all.0[2], &all.0[1], all, own).map(Path::to_owned)
        };
        let all = tree("/srv/data", 9);
        assert_eq!(found(&all, &own), Some(PathBuf::from("inner")));
        assert_eq!(found(&tree("/srv/data", 5), &own), None, "another file system");
        assert_eq!(found(&tree("/srv", 9), &own), None, "another place");
        own.0.push(mount(3, 2, 6, "/", "/srv/data/inner"));
        assert_eq!(found(&all, &own), None, "another one is seen there");
    }
}
