//! Overlays: whether a restore can make one again. The kernel says the paths of its layers as they were said when it was mounted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
    layers(&options).is_some_and(|layers| layers.into_iter().all(is_there))
        && !options.contains(&VOLATILE)
}

/// The paths of the layers; `None` if some of them is relative, or cannot be told.
fn layers<'o>(options: &[&'o [u8]]) -> Option<Vec<&'o Path>> {
    let mut found = Vec::new();
    for option in options {
        let Some(at) = option.iter().position(|byte| *byte == b'=') else { continue };
        let value = &option[at + 1..];
        match &option[..at] {
            b"upperdir" | b"workdir" | b"lowerdir+" | b"datadir+" => found.push(value),
            // Layers of data alone come behind two colons.
            b"lowerdir" => {
                found.extend(value.split(|byte| *byte == b':').filter(|path| !path.is_empty()));
            }
            _ => {}
        }
    }
    let is_plain = |path: &&[u8]| path.starts_with(b"/") && !path.contains(&b'\\');
    let all = !found.is_empty() && found.iter().all(is_plain);
    all.then(|| found.into_iter().map(|path| Path::new(OsStr::from_bytes(path))).collect())
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
    let what = match layers(&options) {
        None => "its layers are named by relative paths",
        Some(_) => "some of its layers are not where its options say, in this mount namespace",
    };
    support::mounts::overlay(what, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_from_other_options() {
        let paths = |options: &[&'static str]| {
            let options: Vec<&[u8]> = options.iter().map(|option| option.as_bytes()).collect();
            layers(&options).map(|found| found.iter().map(|it| it.display().to_string()).collect())
        };
        let found: Option<Vec<String>> =
            paths(&["lowerdir=/a:/b::/c", "upperdir=/u", "workdir=/w", "xino=off", "userxattr"]);
        assert_eq!(found.unwrap(), ["/a", "/b", "/c", "/u", "/w"]);
        assert_eq!(paths(&["lowerdir+=/a", "datadir+=/d"]).unwrap(), ["/a", "/d"]);
        for bad in [&["lowerdir=a:/b"][..], &["lowerdir=/a\\:b"], &["index=on"]] {
            assert!(paths(bad).is_none(), "{bad:?}");
        }
    }
}
