//! Overlays: whether a restore can make one again. The kernel says the paths of its layers as they were said when it was mounted.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use images::file_systems::overlay_layers;
use kernel::handles;
use kernel::paths::{Links, find};
use kernel::procfs::{Mount, Mounts};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use support::Refusal;

use super::View;

/// An option of an overlay after which it is mounted no second time.
const VOLATILE: &[u8] = b"volatile";

/// Where the paths of an overlay's layers lead to them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layers {
    /// In the namespace that the mount is in.
    Inside,
    /// In the dumper's: an engine has mounted it before it changed the root.
    Outside,
}

/// Most names of a layer that are looked at to tell whether it is one.
const MOST_NAMES: usize = 1000;

/// Where the layers of a mount are, which is a whole overlay; none if they are not found by their paths, or it cannot be mounted a
/// second time. `own` are the mounts of the dumper's namespace.
pub(super) fn layers(view: &View, mount: &Mount, own: &Mounts) -> Option<Layers> {
    if mount.kind() != "overlay" || mount.root != "/" {
        return None;
    }
    let (_, options) = mount.file_system_flags();
    let paths = overlay_layers(&options).filter(|_| cannot_be_repeated(&options).is_none())?;
    let stack = stack(&options);
    // What is below another mount is not compared.
    let shown = view.root_of(mount);
    let leads = |root: &OwnedFd| {
        let find_all = |paths: &[&Path]| -> Option<Vec<OwnedFd>> {
            paths.iter().map(|path| directory(root, path)).collect()
        };
        let are_its = |found: Vec<OwnedFd>| shown.as_ref().is_none_or(|it| is_of(it, &found));
        find_all(&paths).is_some() && find_all(&stack).is_some_and(are_its)
    };
    if leads(&view.inside.root) {
        return Some(Layers::Inside);
    }
    // Who has rights in a user namespace only could name directories of the machine that it may not see. And one that is mounted
    // here as well is not to be there twice.
    let may_be = view.is_of_own_user()
        && own.0.iter().all(|it| it.device != mount.device)
        && !is_for_one_run(mount, &paths);
    let root = || openat(AT_FDCWD, "/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok();
    (may_be && root().is_some_and(|root| leads(&root))).then_some(Layers::Outside)
}

/// Whether an engine has made a directory for one run of a container, with layers and the place where it has mounted them: that it
/// says as the source, and deletes all of it when the container ends.
fn is_for_one_run(mount: &Mount, layers: &[&Path]) -> bool {
    let directory = Path::new(&mount.source).parent();
    mount.source.as_bytes().starts_with(b"/") && layers.iter().any(|it| it.parent() == directory)
}

/// The paths of those layers whose names an overlay shows, the uppermost first.
fn stack<'o>(options: &[&'o [u8]]) -> Vec<&'o Path> {
    let of = |names: &[&str]| {
        let is = |option: &&&[u8]| names.iter().any(|name| option.starts_with(name.as_bytes()));
        overlay_layers(&options.iter().filter(is).copied().collect::<Vec<_>>()).unwrap_or_default()
    };
    [of(&["upperdir="]), of(&["lowerdir=", "lowerdir+="])].concat()
}

fn directory(root: &OwnedFd, path: &Path) -> Option<OwnedFd> {
    let found = find(root, path, Links::Followed).ok()?;
    let is_one = fstat(&found).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
    is_one.then_some(found)
}

/// Whether the overlay with this root may be of these layers, as far as the kernel says it: the uppermost is the one that the root is
/// known by, and something of each other one, that no layer above has, is what the overlay shows by that name.
fn is_of(overlay: &OwnedFd, layers: &[OwnedFd]) -> bool {
    let Some(uppermost) = layers.first() else { return true };
    if differ(overlay, uppermost) {
        return false;
    }
    (1..layers.len()).all(|level| may_have(overlay, &layers[level], &layers[..level]))
}

/// Whether the kernel knows what an overlay shows as another file than this one.
fn differ(shown: impl AsFd, file: impl AsFd) -> bool {
    match (handles::in_layer(&shown), handles::of(&shown), handles::of(file)) {
        // One that is mounted on a layer of its own hides that.
        (Ok(in_layer), Ok(own), Ok(file)) => in_layer != file && own != file,
        // An older kernel, or a file system that knows no handles.
        _ => false,
    }
}

fn may_have(overlay: &OwnedFd, layer: &OwnedFd, above: &[OwnedFd]) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut list) = Dir::openat(layer, ".", flags, Mode::empty()) else { return true };
    let handle = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let get = |directory: &OwnedFd, name: &CStr| openat(directory, name, handle, Mode::empty());
    let is_alone = |name: &CStr| above.iter().all(|it| matches!(get(it, name), Err(Errno::ENOENT)));
    for name in list.iter().flatten().take(MOST_NAMES) {
        let name = name.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || !is_alone(name) {
            continue;
        }
        let (Ok(shown), Ok(file)) = (get(overlay, name), get(layer, name)) else { continue };
        // Whoever writes to it now has it in the uppermost layer.
        return !differ(shown, file) || !is_alone(name);
    }
    true
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
        Some(layers) if is_for_one_run(mount, &layers) => {
            return support::mounts::overlay_for_one_run(place);
        }
        None => "its layers are named by relative paths",
        Some(_) => {
            "some of its layers are not where its options say, in this mount namespace and that of the dumper"
        }
    };
    support::mounts::overlay(what, place)
}
