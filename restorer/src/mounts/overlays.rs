//! Overlays: file systems made of directories of others, their layers, which are named by paths.
//!
//! The paths are those by which they were mounted, and the kernel shows them as they were said; so they are said again, where they
//! lead to the same. For each overlay a namespace is built of all that can be placed before it, as the tree will see it, and it is
//! mounted there, and goes to the yard with all else that mounts are made of. An overlay among the layers of another comes before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use images::file_systems::overlay_layers;
use kernel::mounts;
use kernel::namespaces::{copy_mounts, enter};
use kernel::paths::{Links, find};
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::attaching::attach_all;
use super::failed::failed;
use super::plan::{Index, Plan, Source, path};
use super::yard::Yard;
use super::{flags, lateness};
use crate::error::Error;

/// Where the calling thread is, and comes back to: its mount namespace and the root there.
pub(super) struct Here<'h> {
    pub(super) namespace: &'h OwnedFd,
    pub(super) root: &'h OwnedFd,
}

impl Here<'_> {
    /// Goes back. To enter is to be on top of all that is mounted on the root.
    pub(super) fn go_back(&self) -> Result<(), Error> {
        enter("mnt", self.namespace)
            .and_then(|()| Ok(nix::unistd::fchdir(self.root)?))
            .and_then(|()| Ok(nix::unistd::chroot(".")?))
            .map_err(Error::kernel("go back to the place for mounts"))
    }
}

/// Makes all of them.
pub(super) fn make(
    plan: &Plan,
    late: &BTreeSet<Index>,
    yard: &mut Yard,
    here: &Here<'_>,
) -> Result<(), Error> {
    let mut left: BTreeSet<Index> = plan.orders.values().flatten().copied().collect();
    left.retain(|index| plan.mounts[*index].is_overlay());
    for order in plan.orders.values() {
        for &index in order.iter().filter(|index| plan.mounts[**index].is_overlay()) {
            let ready = ready(plan, order, late, &left);
            let made = one(plan, index, &ready, yard)
                .map_err(failed(&plan.mounts[index], "make the overlay of"));
            here.go_back()?;
            yard.give(&plan.mounts[index], index, made?)?;
            left.remove(&index);
        }
    }
    Ok(())
}

/// What can be placed while some overlays are not there yet: all that is neither of nor on one of them.
fn ready(
    plan: &Plan,
    order: &[Index],
    late: &BTreeSet<Index>,
    missing: &BTreeSet<Index>,
) -> Vec<Index> {
    let mut ready = BTreeSet::new();
    let is_there = |index: &&Index| {
        let mount = &plan.mounts[**index];
        let giver = match &mount.source {
            Source::Part(giver, _) => giver,
            _ => *index,
        };
        let is_placed = mount.on.as_ref().is_none_or(|(on, _)| ready.contains(on));
        let is_there = is_placed
            && !missing.contains(giver)
            && !late.contains(*index)
            && lateness::is_made_early(plan, late, **index);
        if is_there {
            ready.insert(**index);
        }
        is_there
    };
    order.iter().filter(is_there).copied().collect()
}

/// Makes one, in a new namespace with what is ready; the thread stays there.
fn one(plan: &Plan, index: Index, ready: &[Index], yard: &Yard) -> io::Result<OwnedFd> {
    let mount = &plan.mounts[index];
    let mut copies = BTreeMap::new();
    for index in ready {
        copies.insert(*index, yard.part_of(*index, &plan.mounts[*index])?);
    }
    copy_mounts()?;
    attach_all(plan, ready, &copies, &mut |_, _| {}).map_err(|(_, error)| error)?;
    let entry = &mount.entry;
    // No path may lead out by a link of `/proc`, as to the root of this process.
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let all: Vec<&[u8]> = entry.options.split(|byte| *byte == b',').collect();
    for layer in overlay_layers(&all).ok_or(io::ErrorKind::InvalidData)? {
        find(&root, layer, Links::Followed)?;
    }
    let (parent, below) = mount.on.as_ref().ok_or(io::ErrorKind::InvalidData)?;
    let parent = copies.get(parent).ok_or(io::ErrorKind::NotFound)?;
    nix::unistd::fchdir(find(parent, below, Links::Refused)?)?;
    let mut of_file_system = MsFlags::from_bits_truncate(flags::of_file_system(entry));
    of_file_system.remove(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_MOVE);
    // The longest text of options that the newer calls take is shorter than most lists of layers.
    let options = path(&entry.options);
    let source = Some(path(&entry.source));
    nix::mount::mount(source, ".", Some("overlay"), of_file_system, Some(options))?;
    mounts::copy(find(parent, below, Links::Refused)?, Path::new(""), false)
}
