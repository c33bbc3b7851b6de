//! The yard: every file system is made or copied from outside, and filled, before any mount is placed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use images::Images;
use images::messages::LostMountEntry;
use images::store::Content;
use kernel::mounts::{self, Change, Propagation};
use kernel::paths::{Links, find};
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::automounts::Automounts;
use super::failed::{failed, without_source};
use super::plan::{Index, Mount, Plan, Source};
use super::{Request, below, contents, flags, late, lateness};
use crate::error::Error;

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// Where mounts are held that are in no namespace of the tree: a directory in memory, in the calling thread's namespace.
#[derive(Debug)]
struct Ground {
    directory: OwnedFd,
    taken: usize,
}

impl Ground {
    /// Makes it over a directory that is there.
    fn over(path: &str) -> io::Result<Self> {
        let directory = mounts::make(b"tmpfs", b"stasis", [])?;
        mounts::attach(&directory, open(path, HANDLE, Mode::empty())?)?;
        Ok(Self { directory, taken: 0 })
    }

    /// Mounts something in it: its name there.
    fn park(&mut self, mount: &OwnedFd) -> io::Result<String> {
        self.taken += 1;
        let name = self.taken.to_string();
        if fstat(mount)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
            mkdirat(&self.directory, name.as_str(), Mode::S_IRWXU)?;
        } else {
            mknodat(&self.directory, name.as_str(), SFlag::S_IFREG, Mode::S_IRUSR, 0)?;
        }
        mounts::attach(mount, find(&self.directory, Path::new(&name), Links::Refused)?)?;
        Ok(name)
    }
}

/// The directory over which mounts from outside are staged: every machine has it, and nothing that is needed meanwhile is in it.
const STAGE: &str = "/dev";

/// Mounts from outside in a mount namespace that is not the user namespace's of the tree.
///
/// A mount in no namespace is nobody's, and who is root in a user namespace could take flags like read-only off it. But the
/// kernel locks the flags of what a mount namespace of a new owner gets by being a copy (`lock_mnt_tree`,
/// mount_namespaces(7)). So the namespace in which the yard is made is a copy of this one.
#[derive(Debug)]
pub(super) struct Stage {
    /// To be entered before the user namespace is.
    pub(super) namespace: OwnedFd,
}

/// What is brought from where the paths are meant, by who restores.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Copies, in no namespace, of what is mounted there.
    copies: BTreeMap<Index, OwnedFd>,
    /// Or where they are in the directory `STAGE` of the namespace that the yard's is a copy of.
    staged: BTreeMap<Index, String>,
    /// What is to be in new file systems.
    contents: BTreeMap<Index, Box<dyn Content>>,
}

/// Brings it.
pub(super) fn outside(plan: &Plan, images: &Images) -> Result<Outside, Error> {
    let mut outside = Outside::default();
    let copies = &mut outside.copies;
    for (index, mount) in plan.mounts.iter().enumerate() {
        let found = match &mount.source {
            Source::Outside(path) => open(path.as_path(), HANDLE, Mode::empty())
                .map_err(|errno| without_source(mount, path, errno.into()))?,
            Source::Below(path, below) => below::root_of(path, below)
                .map_err(failed(mount, &format!("look for {} in", below.display())))?
                .ok_or_else(|| no_more_below(mount, &path.join(below)))?,
            Source::Device(kind, path) => {
                copies.insert(index, of_device(mount, kind, path)?);
                continue;
            }
            Source::New(kind) if kind == "tmpfs" => {
                outside.contents.insert(index, contents::open(&mount.entry, images)?);
                continue;
            }
            _ => continue,
        };
        let copy = mounts::copy(found, Path::new(""), false)
            .map_err(failed(mount, "copy what is outside for"))?;
        // From now on nothing is mounted into it from outside that is not to be.
        let receives = mount.shares_outside && mount.group().0 == 0;
        let propagation = match mount.shares_outside {
            true if receives => Some(Propagation::Slave),
            true => None,
            false => Some(Propagation::Private),
        };
        let change = Change { propagation, ..Change::default() };
        mounts::change(&copy, &change).map_err(failed(mount, "set the propagation of"))?;
        copies.insert(index, copy);
    }
    Ok(outside)
}

/// What was mounted below something from outside is not there any more.
fn no_more_below(mount: &Mount, path: &Path) -> Error {
    let key = mount.entry.ext_key.as_deref().unwrap_or_default();
    Error::refused(support::mounts::no_more_below(path, key).of(0, mount.shown()))
}

impl Outside {
    /// Stages what has been copied.
    pub(super) fn stage(&mut self) -> Result<Stage, Error> {
        let copies = std::mem::take(&mut self.copies);
        let staged = kernel::namespaces::in_new_mounts(|thread| {
            let mut ground = Ground::over(STAGE)?;
            let parked = copies.iter().map(|(&index, copy)| Ok((index, ground.park(copy)?)));
            let parked = parked.collect::<io::Result<BTreeMap<_, _>>>()?;
            let namespace = openat(thread, "ns/mnt", OFlag::O_CLOEXEC, Mode::empty())?;
            Ok((Stage { namespace }, parked))
        });
        let (stage, parked) = staged.map_err(Error::kernel("stage the mounts from outside"))?;
        self.staged = parked;
        Ok(stage)
    }
}

/// The yard.
#[derive(Debug)]
pub(super) struct Yard {
    ground: Ground,
    /// Mounts that others are copied from.
    givers: BTreeMap<Index, OwnedFd>,
    /// Those of them with what has been deleted since it was mounted, and where it is.
    lost: BTreeMap<Index, PathBuf>,
}

impl Yard {
    /// Makes it in the calling thread's namespace, with all that mounts are made of.
    pub(super) fn make(
        plan: &Plan,
        request: &Request<'_>,
        mut outside: Outside,
        (late, automounts): (&BTreeSet<Index>, &Automounts),
    ) -> Result<Self, Error> {
        let ground = Ground::over("/").map_err(Error::kernel("make a place for mounts"))?;
        let mut yard = Self { ground, givers: BTreeMap::new(), lost: BTreeMap::new() };
        for (index, copy) in outside.copies {
            yard.give(&plan.mounts[index], index, copy)?;
        }
        for (index, name) in outside.staged {
            let giver = open(&Path::new(STAGE).join(name), HANDLE, Mode::empty());
            let giver = giver.map_err(io::Error::from);
            yard.givers
                .insert(index, giver.map_err(failed(&plan.mounts[index], "find the staged"))?);
        }
        for (name, namespace) in &request.inside {
            kernel::namespaces::enter(name, namespace)
                .map_err(Error::kernel(format!("enter a {name} namespace to make mounts in")))?;
        }
        for (index, mount) in plan.mounts.iter().enumerate() {
            if let (Source::Lost(below), Some(entry)) = (&mount.source, &mount.entry.lost) {
                let made = lost(entry, below);
                yard.give(mount, index, made.map_err(failed(mount, "make what was deleted for"))?)?;
                yard.lost.insert(index, below.clone());
            }
            let Source::New(kind) = &mount.source else { continue };
            // Of overlays the layers are to be there first.
            if !lateness::is_made_early(plan, late, index) || mount.is_overlay() {
                continue;
            }
            let made = match kind.as_str() {
                "autofs" => automounts.make(&mount.entry).map_err(failed(mount, "make"))?,
                _ => new(mount, kind, outside.contents.remove(&index))?,
            };
            yard.give(mount, index, made)?;
        }
        Ok(yard)
    }

    pub(super) fn give(
        &mut self,
        mount: &Mount,
        index: Index,
        giver: OwnedFd,
    ) -> Result<(), Error> {
        self.ground.park(&giver).map_err(failed(mount, "hold"))?;
        self.givers.insert(index, giver);
        Ok(())
    }

    /// The giver of a mount, and where its root is there.
    fn giver<'m>(&self, index: Index, mount: &'m Mount) -> io::Result<(&OwnedFd, &'m Path)> {
        let (giver, below) = match &mount.source {
            Source::Part(giver, below) => (*giver, below.as_path()),
            Source::Lost(below) => (index, below.as_path()),
            Source::Outside(_) | Source::Below(..) | Source::New(_) | Source::Device(..) => {
                (index, Path::new(""))
            }
        };
        Ok((self.givers.get(&giver).ok_or(io::ErrorKind::NotFound)?, below))
    }

    /// A mount, to be placed.
    pub(super) fn copy(&self, index: Index, mount: &Mount) -> Result<OwnedFd, Error> {
        self.part_of(index, mount).map_err(failed(mount, "make"))
    }

    /// The same.
    pub(super) fn part_of(&self, index: Index, mount: &Mount) -> io::Result<OwnedFd> {
        let (giver, below) = self.giver(index, mount)?;
        let copy = late::part(giver, below)?;
        // The giver may receive mounts from outside.
        if matches!(mount.source, Source::Part(..)) && !mount.shares_outside {
            mounts::change(&copy, &private())?;
        }
        Ok(copy)
    }

    /// Takes its name from what had none: all mounts of it have been placed, which nothing without a name can be.
    pub(super) fn take_names(&self) -> io::Result<()> {
        for (index, below) in &self.lost {
            let giver = self.givers.get(index).ok_or(io::ErrorKind::NotFound)?;
            let stat = fstatat(giver, below, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let how = match stat.st_mode & libc::S_IFMT {
                libc::S_IFDIR => UnlinkatFlags::RemoveDir,
                _ => UnlinkatFlags::NoRemoveDir,
            };
            unlinkat(giver, below, how)?;
        }
        Ok(())
    }

    /// A copy of all that a mount is part of, mounted here: it stands for a group while that is made.
    pub(super) fn seat(&mut self, index: Index, mount: &Mount) -> Result<OwnedFd, Error> {
        let mut seated = || {
            let (giver, _) = self.giver(index, mount)?;
            let seat = mounts::copy(giver, Path::new(""), false)?;
            mounts::change(&seat, &private())?;
            self.ground.park(&seat)?;
            Ok(seat)
        };
        seated().map_err(failed(mount, "make a peer of"))
    }
}

pub(super) fn private() -> Change {
    Change { propagation: Some(Propagation::Private), ..Change::default() }
}

/// A file system in memory with what has been deleted, at the path that it has until it is mounted.
fn lost(entry: &LostMountEntry, below: &Path) -> io::Result<OwnedFd> {
    let made = mounts::make(b"tmpfs", b"stasis", [])?;
    let above: Vec<&Path> = below.ancestors().skip(1).collect();
    for directory in above.into_iter().rev().filter(|it| !it.as_os_str().is_empty()) {
        mkdirat(&made, directory, Mode::S_IRWXU)?;
    }
    let mode = Mode::from_bits_truncate(entry.mode & 0o7777);
    let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let node = match entry.mode & libc::S_IFMT {
        libc::S_IFDIR => {
            mkdirat(&made, below, Mode::S_IRWXU)?;
            openat(&made, below, flags | OFlag::O_DIRECTORY, Mode::empty())?
        }
        libc::S_IFREG => {
            let create = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
            openat(&made, below, create, Mode::S_IRUSR)?
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut node = File::from(node);
    if !entry.contents.is_empty() {
        node.write_all(&entry.contents)?;
    }
    // Its set-user-ID bit goes with a change of its owner.
    std::os::unix::fs::fchown(&node, Some(entry.uid), Some(entry.gid))?;
    fchmod(&node, mode)?;
    Ok(made)
}

/// The file system on a block device. One that was read-only is never mounted otherwise; where others have it mounted the other way
/// the kernel says that it is busy.
fn of_device(mount: &Mount, kind: &str, path: &Path) -> Result<OwnedFd, Error> {
    let options = flags::with_read_only(&mount.entry);
    let made = mounts::make(kind.as_bytes(), path.as_os_str().as_bytes(), options);
    made.map_err(failed(mount, &format!("mount {} for", path.display())))
}

/// A new file system with what the images have of it.
fn new(mount: &Mount, kind: &str, content: Option<Box<dyn Content>>) -> Result<OwnedFd, Error> {
    let entry = &mount.entry;
    // Those of the kernel's own are there once for all who use them: the first one says whether it is read-only.
    let options = match kind {
        "tmpfs" => flags::options(entry),
        _ => flags::with_read_only(entry),
    };
    let made = mounts::make(kind.as_bytes(), &entry.source, options)
        .map_err(failed(mount, &format!("make a file system of kind {kind} for")))?;
    if let Some(content) = content {
        contents::fill(&made, content, &mount.shown())?;
    }
    if kind == "tmpfs" && flags::of_file_system(entry) & libc::MS_RDONLY != 0 {
        mounts::reconfigure(&made, [(&b"ro"[..], None)])
            .map_err(failed(mount, "make read-only the file system of"))?;
    }
    Ok(made)
}
