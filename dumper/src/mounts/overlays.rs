//! Overlays: whether a restore can make one again. The kernel says the paths of its layers as they were said when it was mounted.

use std::path::Path;

use images::file_systems::overlay_layers;
use kernel::paths::{Links, find};
use kernel::procfs::Mount;
use nix::sys::stat::fstat;
use support::Refusal;

use super::View;

/// An option of an overlay after which it is mounted no second time.
const VOLATILE: &[u8] = b"volatile";

/// Whether a mount is a whole overlay of which all layers are found by their paths, in the namespace that the mount is in.
pub(super) fn has_layers(view: &View, mount: &Mount) -> bool {
    if mount.kind() != "overlay" || mount.root != "/" {
        return false;
    }
    let is_there = |path: &Path| {
        let found = find(&view.inside.root, path, Links::Followed).and_then(|it| Ok(fstat(it)?));
        found.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
    };
    let (_, options) = mount.file_system_flags();
    overlay_layers(&options).is_some_and(|layers| layers.into_iter().all(is_there))
        && !options.contains(&VOLATILE)
}

/// Why one cannot be made again.
pub(super) fn why_not(mount: &Mount) -> Refusal {
    let (_, options) = mount.file_system_flags();
    let place = Path::new(&mount.mount_point);
    if options.contains(&VOLATILE) {
        return support::mounts::overlay(
            "it is volatile, and such an overlay is mounted once only",
            place,
        );
    }
    let what = match overlay_layers(&options) {
        None => "its layers are named by relative paths",
        Some(_) => "some of its layers are not where its options say, in this mount namespace",
    };
    support::mounts::overlay(what, place)
}
