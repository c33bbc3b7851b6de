//! Mount namespaces: built by a thread that nobody sees, before any file is opened.
//!
//! ```text
//! plan      pure: which mount is made of what, and in which order they are placed
//! yard      a namespace of the thread's own: every file system is made, or copied from outside, and filled; nothing
//!           is mounted upon anything yet
//! overlays  in the yard as well, when all that their layers can be in is there
//! trees     a namespace each: the root first, then every mount on its parent, found from that one's root
//! late      what only the first task of a pid namespace can make, when it is there
//! groups    who is whose peer and whose slave
//! ```
//!
//! All of it is held by descriptors alone, so that nothing is left if the restore is killed. A place is found from the root of
//! the mount that it is on, without links, so that nothing that the tree has put into its files leads out of it.

mod attaching;
mod automounts;
mod below;
mod contents;
mod failed;
mod flags;
mod groups;
mod joining;
mod last_change;
mod late;
mod lateness;
mod overlays;
mod plan;
mod records;
mod seats;
mod trees;
mod yard;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use images::Images;
use images::messages::MntEntry;
use kernel::procfs::Mounts;
use kernel::seeking::Seeker;
use kernel::user_namespaces::Inside;

use crate::error::Error;
use crate::places::{Roots, Sought};
pub(crate) use late::Late;
use plan::Plan;

/// What is asked about mounts.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// What comes from outside: the paths, by the names in the images.
    pub external: BTreeMap<String, PathBuf>,
    /// Block devices: the paths, by the names in the images.
    pub devices: BTreeMap<String, PathBuf>,
    /// What was found to come from outside is taken from the same path.
    pub find_outside: bool,
    /// Mounts that are left out, by where they are.
    pub skipped: Vec<PathBuf>,
}

/// What namespaces are built of.
pub(crate) struct Request<'a> {
    /// What the images say, by the numbers of namespaces.
    pub(crate) namespaces: BTreeMap<u32, &'a [MntEntry]>,
    /// The namespace of the tree's root.
    pub(crate) root_namespace: Option<u32>,
    /// The directory that becomes its root.
    pub(crate) root: Option<&'a Path>,
    /// Files and directories that are looked for.
    pub(crate) files: Vec<Sought>,
    /// What is mounted where in the restoring process's namespace.
    pub(crate) own: Mounts,
    pub(crate) options: &'a MountOptions,
    pub(crate) images: &'a Images,
    /// Other namespaces of the tree, by their kinds: file systems are made in these.
    pub(crate) inside: Vec<(&'static str, BorrowedFd<'a>)>,
    /// The tree has a pid namespace of its own.
    pub(crate) own_pids: bool,
    /// The user namespace that they belong to, if the tree has one of its own.
    pub(crate) users: Option<Inside<'a>>,
}

/// Namespaces that have been built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) namespaces: BTreeMap<u32, OwnedFd>,
    pub(crate) roots: Roots,
    /// What is left to the first task.
    pub(crate) late: Late,
}

/// Builds them.
pub(crate) fn build(request: &Request<'_>) -> Result<Built, Error> {
    let plan = Plan::make(request)?;
    let mut outside = yard::outside(&plan, request.images)?;
    let stage = request.users.as_ref().map(|_| outside.stage()).transpose()?;
    let work = |by: (&OwnedFd, Option<&Seeker>)| Ok(trees::build(&plan, request, outside, by));
    let made = match (&request.users, &stage) {
        (Some(inside), Some(stage)) => {
            let staged = [("mnt", stage.namespace.as_fd())];
            let before = [inside.before, &staged].concat();
            Seeker::during(|seeker| {
                // On the stage nothing receives but what is to.
                let work = |thread: &OwnedFd| work((thread, Some(seeker)));
                let make = || kernel::namespaces::in_receiving_mounts(work);
                Inside { before: &before, ..*inside }.during(make)
            })
            .flatten()
        }
        _ => kernel::namespaces::in_new_mounts(|thread| work((thread, None))),
    };
    made.map_err(Error::kernel("make a mount namespace to build others in"))?
}
