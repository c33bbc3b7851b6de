//! Mounts that others hide, of other namespaces.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::MntFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::mounts::{self, Change, Propagation};
use crate::namespaces::in_mounts;
use crate::paths::{Links, find};
use crate::procfs::{Mount, Mounts, ProcFile};

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A copy of a mount of another namespace, in no namespace, that other mounts hide there or that is not to be copied
/// (`MS_UNBINDABLE`): it is uncovered in a copy of that namespace, in which nothing propagates. `None` if it is not found so.
///
/// # Errors
/// If the namespace may not be entered, and as [`mounts::copy`].
pub fn copy(namespace: impl AsFd + Send, wanted: &Mount) -> io::Result<Option<OwnedFd>> {
    in_mounts(namespace, |thread| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let root = open("/", HANDLE, Mode::empty())?;
        let private = Change {
            propagation: Some(Propagation::Private),
            all_below: true,
            ..Change::default()
        };
        mounts::change(&root, &private)?;
        let table = openat(thread, "mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let text = io::read_to_string(File::from(table))?;
        let all = Mounts::parse(text.as_bytes()).map_err(io::Error::other)?;
        // What is unmounted would be for others, too.
        if all.0.iter().any(|mount| !mount.propagation.is_empty()) {
            return Ok(None);
        }
        let shows = |mount: &Mount| (mount.device, mount.root.clone(), mount.mount_point.clone());
        let is_it = |mount: &&Mount| shows(mount) == shows(wanted);
        match all.0.iter().find(is_it) {
            Some(mount) => uncover(&root, mount, &all),
            None => Ok(None),
        }
    })
}

/// Unmounts what hides a mount.
fn uncover(root: &OwnedFd, mount: &Mount, all: &Mounts) -> io::Result<Option<OwnedFd>> {
    let mut chain = BTreeSet::new();
    let mut below = Some(mount);
    while let Some(one) = below.filter(|one| chain.insert(one.id)) {
        below = all.get(one.parent);
    }
    let place = Path::new(&mount.mount_point);
    let mut ways: Vec<&Path> = place.ancestors().collect();
    ways.pop();
    for way in ways.into_iter().rev() {
        for _ in 0..=all.0.len() {
            let Ok(found) = find(root, way, Links::Refused) else { return Ok(None) };
            let id = mounts::id(&found)?;
            if chain.contains(&id) && (way != place || id == mount.id) {
                break;
            }
            nix::mount::umount2(way, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
    }
    let found = find(root, place, Links::Refused)?;
    match mounts::id(&found)? == mount.id {
        true => mounts::copy(&found, Path::new(""), false).map(Some),
        false => Ok(None),
    }
}
