//! Overlays: file systems made of directories of others, their layers, which are named by paths.
//!
//! The paths are those by which they were mounted, and the kernel shows them as they were said; so they are said again, where they
//! lead to the same. For each overlay a namespace is built of all that can be placed before it, as the tree will see it; it is
//! mounted there, and goes to the yard with all else that mounts are made of. One that others have among their layers comes before
//! them. The paths of one that an engine has mounted before it changed the root lead there in the restoring process's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use images::file_systems::overlay_layers;
use kernel::mounts;
use kernel::namespaces::{copy_mounts, enter};
use kernel::paths::{Links, find};
use kernel::seeking::Seeker;
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, mkdirat};

use super::attaching::attach_all;
use super::failed::failed;
use super::plan::{Index, Mount, Plan, Source, path};
use super::yard::{Yard, private};
use super::{flags, lateness};
use crate::error::Error;

/// Where the calling thread is, and comes back to: its mount namespace and the root there.
pub(super) struct Here<'h> {
    pub(super) namespace: &'h OwnedFd,
    pub(super) root: &'h OwnedFd,
    /// Of a thread that is in the user namespace of the tree: who finds the places that it may not go to.
    pub(super) seeker: Option<&'h Seeker>,
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
    for order in plan.orders.values() {
        let is_overlay = |index: &Index| plan.mounts[*index].is_overlay();
        let mut left: Vec<Index> = order.iter().copied().filter(is_overlay).collect();
        while !left.is_empty() {
            let waits = |index: &Index| left.iter().any(|other| needs(plan, *index, *other));
            let next = left.iter().position(|index| !waits(index)).unwrap_or(0);
            let missing = left.iter().copied().collect();
            let index = left.remove(next);
            let ready = ready(plan, order, late, &missing);
            let mut made = Err(io::ErrorKind::NotFound.into());
            for sight in sights(&plan.mounts[index]) {
                made = one(plan, (index, *sight), &ready, (yard, here.seeker));
                here.go_back()?;
                let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                if !matches!(&made, Err(error) if absent.contains(&error.kind())) {
                    break;
                }
            }
            let made = made.map_err(failed(&plan.mounts[index], "make the overlay of"))?;
            yard.give(&plan.mounts[index], index, made)?;
        }
    }
    Ok(())
}

/// Where the paths of layers lead to them.
#[derive(Clone, Copy)]
enum Sight {
    /// Where the mount is.
    Inside,
    /// Where the calling thread comes from.
    Outside,
}

/// Where to look for the layers of an overlay. CRIU does not say it, and means the outside.
fn sights(mount: &Mount) -> &'static [Sight] {
    match mount.entry.layers_outside {
        Some(true) => &[Sight::Outside],
        Some(false) => &[Sight::Inside],
        None => &[Sight::Outside, Sight::Inside],
    }
}

/// Whether an overlay comes after another: that has layers of it, or its place.
fn needs(plan: &Plan, index: Index, other: Index) -> bool {
    let (mount, place) = (&plan.mounts[index], &plan.mounts[other].place);
    let options = options(mount);
    let layers = overlay_layers(&options).unwrap_or_default();
    index != other
        && (mount.place.starts_with(place) || layers.iter().any(|layer| layer.starts_with(place)))
}

/// The options that it is mounted with.
fn options(mount: &Mount) -> Vec<&[u8]> {
    let options = mount.entry.options.split(|byte| *byte == b',');
    options.filter(|option| !option.is_empty() && *option != b"seclabel").collect()
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

/// Makes one, in a new namespace, with what is ready or as the thread sees it; the thread stays there.
fn one(
    plan: &Plan,
    (index, sight): (Index, Sight),
    ready: &[Index],
    (yard, seeker): (&Yard, Option<&Seeker>),
) -> io::Result<OwnedFd> {
    /// Bytes of options that mount(2) reads, of which it leaves out the rest without a word.
    const MOST: usize = 4096;
    let mount = &plan.mounts[index];
    match sight {
        Sight::Inside => {
            let mut copies = BTreeMap::new();
            for index in ready {
                let copy = yard.part_of(*index, &plan.mounts[*index])?;
                // Nothing of this is to be seen anywhere else.
                mounts::change(&copy, &private())?;
                copies.insert(*index, copy);
            }
            copy_mounts()?;
            attach_all(plan, ready, (&copies, seeker), &mut |_, _| {})
                .map_err(|(_, error)| error)?;
        }
        Sight::Outside => copy_mounts()?,
    }
    let entry = &mount.entry;
    // No path may lead out by a link of `/proc`, as to the root of this process.
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let all = options(mount);
    for layer in overlay_layers(&all).ok_or(io::ErrorKind::InvalidData)? {
        find(&root, layer, Links::Followed)?;
    }
    let options = all.join(&b',');
    if options.len() >= MOST {
        return Err(io::Error::other("its options are longer than a page"));
    }
    // Its own place may be hidden, or not there yet. What is mounted on the root hides nothing from paths that begin there.
    let ground = mounts::make(b"tmpfs", b"stasis", [])?;
    mounts::attach(&ground, &root)?;
    mkdirat(&ground, PLACE, Mode::S_IRWXU)?;
    nix::unistd::fchdir(find(&ground, Path::new(PLACE), Links::Refused)?)?;
    let known = MsFlags::MS_RDONLY
        | MsFlags::MS_SYNCHRONOUS
        | MsFlags::MS_DIRSYNC
        | MsFlags::MS_MANDLOCK
        | MsFlags::from_bits_retain(libc::MS_LAZYTIME);
    let flags = MsFlags::from_bits_retain(flags::of_file_system(entry)) & known;
    // The longest text of options that the newer calls take is shorter than most lists of layers.
    let (source, options) = (Some(path(&entry.source)), Some(path(&options)));
    nix::mount::mount(source, ".", Some("overlay"), flags, options)?;
    mounts::copy(find(&ground, Path::new(PLACE), Links::Refused)?, Path::new(""), false)
}

/// Where it is mounted at first.
const PLACE: &str = "overlay";
