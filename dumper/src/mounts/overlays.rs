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
        && cannot_be_repeated(&options).is_none()
}

/// What keeps an overlay with these options from being mounted a second time, in a new file system maybe.
fn cannot_be_repeated(options: &[&[u8]]) -> Option<&'static str> {
    /// Bytes of options that mount(2) reads.
    const MOST: usize = 4096;
    const KNOWN: [&str; 14] = [
        "lowerdir",
        "lowerdir+",
        "datadir+",
        "upperdir",
        "workdir",
        "redirect_dir",
        "index",
        "xino",
        "metacopy",
        "nfs_export",
        "uuid",
        "userxattr",
        "verity",
        "default_permissions",
    ];
    let name = |option: &&[u8]| option.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let is_known =
        |option: &&[u8]| KNOWN.iter().any(|it| name(option) == Some(it.as_bytes().to_vec()));
    let (index, export) = (&b"index=on"[..], &b"nfs_export=on"[..]);
    match options {
        _ if options.contains(&VOLATILE) => {
            Some("it is volatile, and such an overlay is mounted once only")
        }
        // They hold handles of files, which are others in memory.
        _ if options.contains(&index) || options.contains(&export) => {
            Some("it keeps an index of its layers (index=on, nfs_export=on)")
        }
        _ if options.join(&b',').len() >= MOST => Some("its options are longer than a page"),
        // A path with a comma in it looks so, too.
        _ if !options.iter().all(is_known) => {
            Some("it has options that are not known, or a layer with a comma in its path")
        }
        _ => None,
    }
}

/// Why one cannot be made again.
pub(super) fn why_not(mount: &Mount) -> Refusal {
    let (_, options) = mount.file_system_flags();
    let place = Path::new(&mount.mount_point);
    if let Some(what) = cannot_be_repeated(&options) {
        return support::mounts::overlay(what, place);
    }
    let what = match overlay_layers(&options) {
        None => "its layers are named by relative paths",
        Some(_) => "some of its layers are not where its options say, in this mount namespace",
    };
    support::mounts::overlay(what, place)
}
