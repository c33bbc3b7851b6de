//! File systems of kind `autofs`: made quiet, with what was in them; when the process that is asked has its descriptors, they
//! are given their pipes.
//!
//! The kernel gives such a file system a pipe only by who is in the pid namespace of the process group by which it was made. So
//! where the tree has one of its own its first task makes it ([`super::late`]), by a process in a group of its own there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ids::ImagePid;
use images::messages::{AutofsEntry, AutofsNode, MntEntry, autofs_mode};
use images::{Images, names};
use kernel::automounts::{control, make_quiet, root, set_pipe, set_timeout};
use kernel::descriptors::{close_range, duplicate_from, duplicate_number, place};
use kernel::mounts::{self, FsOption};
use kernel::paths::{Links, find};
use kernel::process::in_own_group;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat, getpgrp, symlinkat};

use super::plan::{Plan, Source};
use crate::error::Error;
use parasite::restorer::births::NOT_WANTED;

/// All that a tree has, by device.
#[derive(Debug, Default)]
pub(crate) struct Automounts {
    wanted: BTreeMap<u32, Wanted>,
    /// Where the kernel is told of pipes.
    control: Option<OwnedFd>,
    /// Mounts of those that have been made.
    made: RefCell<BTreeMap<u32, OwnedFd>>,
    /// Descriptors from this one on are out of the tasks' way.
    base: RawFd,
}

/// What one is to be.
#[derive(Debug)]
struct Wanted {
    entry: AutofsEntry,
    /// Where something is mounted in it.
    places: BTreeSet<PathBuf>,
    shown: String,
}

impl Automounts {
    /// Reads what the images say of those of a plan.
    pub(super) fn read(plan: &Plan, images: &Images) -> Result<Self, Error> {
        let mut found = Self::default();
        for (index, mount) in plan.mounts.iter().enumerate() {
            if !matches!(&mount.source, Source::New(kind) if kind == "autofs") {
                continue;
            }
            let image = names::autofs(mount.entry.root_dev);
            let entry = images.read_one(&image)?;
            let entry = entry.ok_or_else(|| Error::image(image.name(), "it is empty"))?;
            check(&entry).map_err(|what| Error::image(image.name(), what))?;
            let is_on = |on: usize| match &plan.mounts[on].source {
                Source::Part(giver, below) if *giver == index => Some(below.clone()),
                _ => (on == index).then(PathBuf::new),
            };
            let on = plan.mounts.iter().filter_map(|other| other.on.as_ref());
            let places = on.filter_map(|(on, below)| Some(is_on(*on)?.join(below)));
            let places = places.filter(|place| !place.as_os_str().is_empty()).collect();
            if entry.fd >= 0 && found.control.is_none() {
                let control = control();
                found.control = Some(control.map_err(Error::kernel("open /dev/autofs"))?);
            }
            let wanted = Wanted { entry, places, shown: mount.shown() };
            found.wanted.insert(mount.entry.root_dev, wanted);
        }
        Ok(found)
    }

    /// Moves the descriptors to numbers from `base` on.
    pub(super) fn keep(&mut self, base: RawFd) -> Result<(), Error> {
        self.base = base;
        for fd in self.control.iter_mut().chain(self.made.get_mut().values_mut()) {
            *fd = duplicate_from(&*fd, base).map_err(Error::kernel("duplicate a descriptor"))?;
        }
        Ok(())
    }

    /// Makes the one that `entry` is a mount of.
    pub(super) fn make(&self, entry: &MntEntry) -> io::Result<OwnedFd> {
        let wanted = self.wanted.get(&entry.root_dev).ok_or(io::ErrorKind::NotFound)?;
        // Of a group that began outside it is not known here, nor may this process leave it.
        let made = match getpgrp().as_raw() {
            0 => in_own_group(NOT_WANTED, || new(wanted, &entry.source)),
            _ => new(wanted, &entry.source),
        }?;
        let kept = duplicate_from(&made, self.base)?;
        self.made.borrow_mut().insert(entry.root_dev, kept);
        Ok(made)
    }

    /// In the process `pid`, which has its descriptors, and is in its group: has those ask it that did.
    pub(crate) fn give_pipes(&self, pid: ImagePid) -> Result<(), Error> {
        for (device, Wanted { entry, shown, .. }) in &self.wanted {
            if entry.fd < 0 || entry.reader.unwrap_or(entry.pgrp) != pid.get() {
                continue;
            }
            let given = || {
                let made = self.made.borrow();
                let made = made.get(device).ok_or(io::ErrorKind::NotFound)?;
                let control = self.control.as_ref().ok_or(io::ErrorKind::NotFound)?;
                if [Some(entry.fd), entry.read_fd].into_iter().flatten().any(|fd| fd >= self.base) {
                    return Err(io::Error::from_raw_os_error(libc::EBADF));
                }
                give_pipe(entry, control, made, self.base)
            };
            given().map_err(Error::kernel(format!("have process {pid} asked by {shown}")))?;
        }
        Ok(())
    }
}

fn give_pipe(
    entry: &AutofsEntry,
    control: &OwnedFd,
    made: &OwnedFd,
    base: RawFd,
) -> io::Result<()> {
    if getpgrp().as_raw() != entry.pgrp {
        return Err(io::Error::other(format!("it is not in process group {}", entry.pgrp)));
    }
    // The numbers of the process's own are left free.
    let root = duplicate_from(root(made)?, base)?;
    let Some(read) = entry.read_fd else { return set_pipe(control, &root, entry.fd) };
    let is_free = duplicate_number(entry.fd)?.is_none();
    let writing = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{read}"))?;
    // The kernel shows the number that it was told.
    if !is_free || writing.as_raw_fd() == entry.fd {
        return set_pipe(control, &root, writing.as_raw_fd());
    }
    place(&writing, entry.fd, true)?;
    let done = set_pipe(control, &root, entry.fd);
    close_range(entry.fd, entry.fd)?;
    done
}

/// What may be said of one.
fn check(entry: &AutofsEntry) -> Result<(), String> {
    let known = [autofs_mode::DIRECT, autofs_mode::INDIRECT, autofs_mode::OFFSET];
    if !known.contains(&entry.mode) || entry.timeout < 0 || entry.fd < -1 {
        return Err("its kind, descriptor or timeout can be none".to_owned());
    }
    if let Some(flag) = entry.flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
        return Err(format!("option {flag} is not known"));
    }
    let is_plain = |node: &&AutofsNode| {
        let path = super::plan::path(&node.path);
        path.components().all(|part| matches!(part, Component::Normal(_)))
            && path.file_name().is_some()
            && !node.path.contains(&0)
    };
    match entry.nodes.iter().find(|node| !is_plain(node)) {
        Some(node) => Err(format!("{} is no place in it", String::from_utf8_lossy(&node.path))),
        None => Ok(()),
    }
}

/// Options without a value that may be given.
const FLAGS: [&str; 2] = ["strictexpire", "ignore"];

/// Makes one, by a process that is let through.
fn new(wanted: &Wanted, source: &[u8]) -> io::Result<OwnedFd> {
    let Wanted { entry, places, .. } = wanted;
    // Until it is quiet it has to have some pipe.
    let (_reading, writing) = io::pipe()?;
    let kind = match entry.mode {
        autofs_mode::DIRECT => "direct",
        autofs_mode::INDIRECT => "indirect",
        _ => "offset",
    };
    let numbers = [
        ("fd", Some(writing.as_raw_fd())),
        ("minproto", Some(entry.minproto)),
        ("maxproto", Some(entry.maxproto)),
        ("uid", entry.uid),
        ("gid", entry.gid),
    ];
    let numbers =
        numbers.into_iter().filter_map(|(name, number)| Some((name, number?.to_string())));
    let numbers: Vec<(&str, String)> = numbers.collect();
    let mut options: Vec<FsOption<'_>> = Vec::new();
    for (name, number) in &numbers {
        options.push((name.as_bytes(), Some(number.as_bytes())));
    }
    let flags = entry.flags.iter().map(String::as_str).chain([kind]);
    options.extend(flags.map(|flag| (flag.as_bytes(), None)));
    let made = mounts::make(b"autofs", source, options)?;
    for AutofsNode { path, mode, target, uid, gid } in &entry.nodes {
        let (above, name) = parent(&made, super::plan::path(path))?;
        match target {
            Some(target) => symlinkat(super::plan::path(target), &above, name.as_os_str())?,
            None => directory(&above, &name, *mode)?,
        }
        let node = find(&above, &name, Links::Refused)?;
        own(&node, (*uid, *gid))?;
    }
    if let Some(mode) = entry.root_mode {
        fchmod(root(&made)?, Mode::from_bits_truncate(mode & 0o7777))?;
    }
    for below in places {
        let above: Vec<&Path> = below.ancestors().filter(|it| !it.as_os_str().is_empty()).collect();
        for path in above.into_iter().rev() {
            let (above, name) = parent(&made, path)?;
            match directory(&above, &name, 0o555) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
    }
    let root = root(&made)?;
    set_timeout(&root, Duration::from_secs(u64::from(entry.timeout.unsigned_abs())))?;
    make_quiet(&root)?;
    Ok(made)
}

/// The directory that something is made in, and its name there. No link is followed.
fn parent(made: &OwnedFd, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let above = find(made, path.parent().unwrap_or(Path::new("")), Links::Refused)?;
    Ok((above, name.into()))
}

fn directory(above: &OwnedFd, name: &Path, mode: u32) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    mkdirat(above, name, mode)?;
    // Whatever mask this process has. Nobody else can make anything in here.
    Ok(fchmodat(above, name, mode, FchmodatFlags::FollowSymlink)?)
}

fn own(node: &OwnedFd, (uid, gid): (Option<u32>, Option<u32>)) -> io::Result<()> {
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    Ok(fchownat(node, "", uid, gid, AtFlags::AT_EMPTY_PATH)?)
}
