//! Namespaces, each with its tree of mounts.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::mounts;
use kernel::namespaces::copy_mounts;
use kernel::paths::{Links, find};
use kernel::seeking::Seeker;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::attaching::attach_all;
use super::automounts::Automounts;
use super::failed::{failed, without_place};
use super::last_change::last_change;
use super::late::Late;
use super::lateness;
use super::overlays::{self, Here};
use super::plan::{Index, Plan, Source};
use super::yard::{Outside, Yard};
use super::{Built, Request, groups};
use crate::error::Error;
use crate::places::{Root, Roots, Sought, Writable};

/// Builds all in the calling thread, which is in a namespace of its own and sees itself in `/proc` by `thread`. With
/// a seeker, it is in the user namespace of the tree.
pub(super) fn build(
    plan: &Plan,
    request: &Request<'_>,
    outside: Outside,
    (thread, seeker): (&OwnedFd, Option<&Seeker>),
) -> Result<Built, Error> {
    let root_here = open("/", HANDLE, Mode::empty())
        .map_err(|errno| Error::kernel("open the own root")(errno.into()))?;
    let late = lateness::which(plan, request.own_pids);
    let automounts = Automounts::read(plan, request.images)?;
    let mut yard = Yard::make(plan, request, outside, (&late, &automounts))?;
    let here = own(thread)?;
    let place_here = Here { namespace: &here, root: &root_here, seeker };
    overlays::make(plan, &late, &mut yard, &place_here)?;
    let seats = groups::seats(plan, &mut yard, &late)?;
    // All copies are made here: what is in another namespace is not copied.
    let mut built = Built::default();
    let mut copies = BTreeMap::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        if lateness::is_made_early(plan, &late, index) {
            copies.insert(index, yard.copy(index, mount)?);
        }
    }
    built.roots.writable = writable(plan, request, &yard, &copies)?;
    // What shows processes is only made where it is seen already, if not by the machine's root.
    let sight = request.users.as_ref().map(|_| here.try_clone()).transpose();
    let sight = sight.map_err(Error::kernel("duplicate a descriptor"))?;
    built.late = Late::plan(plan, &late, &mut copies, &seats, (sight, automounts))?;
    for (&number, order) in &plan.orders {
        copy_mounts().map_err(Error::kernel(format!("make mount namespace {number}")))?;
        let early: Vec<Index> = order.iter().copied().filter(|it| !late.contains(it)).collect();
        place(plan, &early, (&copies, seeker), request, &mut built.roots)?;
        let root = open("/", HANDLE, Mode::empty())
            .map_err(|errno| Error::kernel("open the root of a namespace")(errno.into()))?;
        built.namespaces.insert(number, own(thread)?);
        built.roots.namespaces.push(root);
        place_here.go_back()?;
        let namespace = built.roots.namespaces.len() - 1;
        for index in order {
            let mount = &plan.mounts[*index];
            let is_made = match &mount.source {
                // What is in an overlay is of its layers, which the images need not have.
                Source::New(_) => !mount.is_overlay(),
                Source::Part(giver, _) => {
                    let giver = &plan.mounts[*giver];
                    matches!(giver.source, Source::New(_) | Source::Lost(_)) && !giver.is_overlay()
                }
                Source::Lost(_) => true,
                Source::Outside(_) | Source::Below(..) | Source::Device(..) => false,
            };
            let root = Root { namespace, is_made, is_late: late.contains(index) };
            built.roots.mounts.insert(mount.entry.mnt_id.cast_signed(), root);
        }
    }
    let is_awaited = lateness::awaited(plan, &late);
    for (index, joining) in groups::joining(plan, &seats, &copies)? {
        match is_awaited.contains(&index) {
            true => built.late.join(joining),
            false => joining.join()?,
        }
    }
    // What the first task has to place goes on to have its name, in a file system that nobody else sees.
    let is_late = |index: &Index| match &plan.mounts[*index].source {
        Source::Part(giver, _) => matches!(plan.mounts[*giver].source, Source::Lost(_)),
        source => matches!(source, Source::Lost(_)),
    };
    if !late.iter().any(is_late) {
        yard.take_names().map_err(Error::kernel("take the names of what was deleted"))?;
    }
    built.late.hold(here);
    Ok(built)
}

/// For each mount on which deleted files are to be made, by its number in the images: a copy that can be written to, should the mount be
/// read-only.
fn writable(
    plan: &Plan,
    request: &Request<'_>,
    yard: &Yard,
    copies: &BTreeMap<Index, OwnedFd>,
) -> Result<BTreeMap<i32, Writable>, Error> {
    let mut of_givers: BTreeMap<Index, Option<Arc<OwnedFd>>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for &index in copies.keys().filter(|index| plan.is_written(**index, request)) {
        let mount = &plan.mounts[index];
        let (giver, below) = match &mount.source {
            Source::Part(giver, below) => (*giver, below.clone()),
            Source::Outside(_)
            | Source::Below(..)
            | Source::New(_)
            | Source::Device(..)
            | Source::Lost(_) => (index, PathBuf::new()),
        };
        let copy = match of_givers.get(&giver) {
            Some(copy) => copy.clone(),
            None => {
                let copy = yard.copy(giver, &plan.mounts[giver])?;
                // If no such copy can be made, whoever wants to write there reports it.
                let copy = mounts::make_writable(&copy).is_ok().then(|| Arc::new(copy));
                of_givers.entry(giver).or_insert(copy).clone()
            }
        };
        let Some(copy) = copy else { continue };
        let place = mount.place.clone();
        found.insert(mount.entry.mnt_id.cast_signed(), Writable { place, copy, below });
    }
    Ok(found)
}

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The calling thread's namespace.
fn own(thread: &OwnedFd) -> Result<OwnedFd, Error> {
    openat(thread, "ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Error::kernel("open a mount namespace")(errno.into()))
}

/// Places the mounts of a namespace.
fn place(
    plan: &Plan,
    order: &[Index],
    (copies, seeker): (&BTreeMap<Index, OwnedFd>, Option<&Seeker>),
    request: &Request<'_>,
    roots: &mut Roots,
) -> Result<(), Error> {
    attach_all(plan, order, (copies, seeker), &mut |index, copy| {
        let place = &plan.mounts[index].place;
        for Sought { mount: number, path, .. } in plan.hidden(index, request) {
            let below = path.strip_prefix(place).unwrap_or(path);
            // What is not there is told by whoever opens it.
            if let Ok(found) = find(copy, below, Links::Refused) {
                roots.hidden.insert((*number, path.clone()), found);
            }
        }
    })
    .map_err(|(index, error)| without_place(&plan.mounts[index], error))?;
    // What is read-only need not be written to any more.
    for index in order {
        let (mount, copy) = (&plan.mounts[*index], copies.get(index));
        let Some(copy) = copy else { continue };
        mounts::change(copy, &last_change(mount)).map_err(failed(mount, "set the flags of"))?;
    }
    nix::unistd::chdir(Path::new("/"))
        .map_err(|errno| Error::kernel("go to the root")(errno.into()))
}
