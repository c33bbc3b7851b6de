//! File systems of kind `autofs`: how each is set, who reads what is asked for, and what is in it.
//!
//! Whoever looks for something in one may wait for its reader, who may stand still: so they are looked into while the tree
//! runs, by handles, which look for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use collector::{Inventory, Process};
use ids::HostPid;
use images::messages::{AutofsEntry, AutofsNode, autofs_mode};
use images::{ImageWriter, names};
use kernel::mounts::kernel_device;
use kernel::namespaces::id;
use kernel::paths::{Links, find};
use kernel::procfs::Mount;
use kernel::user_namespaces::{own_user, owner_of};
use nix::sys::stat::fstat;
use support::{Refusal, mounts};

use super::{Origin, View, Views, shown};
use crate::processes::is_zombie;

/// More is in none.
const MOST_NODES: usize = 1 << 16;

/// One file system.
#[derive(Clone, Debug)]
struct Automount {
    /// Without the numbers of processes.
    entry: AutofsEntry,
    /// Who is let through, and the process that reads the pipe; none of a quiet one.
    reads: Option<(HostPid, HostPid)>,
    settings: Settings,
    /// The root of a copy of its mount, in which nothing is mounted, and the names there.
    root: Arc<OwnedFd>,
    names: BTreeSet<OsString>,
}

/// All that a tree has, by their devices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Automounts(BTreeMap<u64, Automount>);

/// How one is set, as its options say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings {
    entry: AutofsEntry,
    group: i32,
    /// Inode of the pipe.
    asks_by: Option<u64>,
}

impl Settings {
    /// `None` of options that are not all known.
    fn parse(options: &OsStr) -> Option<Self> {
        let mut found = Self::default();
        let mut known = [false; 5];
        for option in options.to_str()?.split(',') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = || value.parse::<i32>().ok();
            let entry = &mut found.entry;
            match name {
                "fd" => (entry.fd, known[0]) = (number()?, true),
                "pgrp" => (found.group, known[1]) = (number()?, true),
                "timeout" => (entry.timeout, known[2]) = (number()?, true),
                "minproto" => (entry.minproto, known[3]) = (number()?, true),
                "maxproto" => entry.maxproto = number()?,
                "direct" => (entry.mode, known[4]) = (autofs_mode::DIRECT, true),
                "indirect" => (entry.mode, known[4]) = (autofs_mode::INDIRECT, true),
                "offset" => (entry.mode, known[4]) = (autofs_mode::OFFSET, true),
                "uid" => entry.uid = Some(number()?),
                "gid" => entry.gid = Some(number()?),
                "pipe_ino" => found.asks_by = value.parse().ok(),
                "strictexpire" | "ignore" => entry.flags.push(name.to_owned()),
                // Of the file system, and of all kinds.
                "rw" | "ro" => {}
                _ => return None,
            }
        }
        known.iter().all(|known| *known).then_some(found)
    }

    /// Nobody is asked.
    fn is_quiet(&self) -> bool {
        self.entry.fd < 0
    }
}

impl Views {
    /// Looks at those that are to be made again; `pids` is the pid namespace of the tree's root.
    pub(super) fn find_automounts(
        &self,
        inventory: &Inventory,
        pids: Option<u64>,
        refused: &mut Vec<support::Unsupported>,
    ) -> Result<Automounts, super::Error> {
        let mut found = Automounts::default();
        for view in self.views.values() {
            for (mount, origin) in view.mounts.0.iter().zip(&view.origins) {
                let is_it = mount.kind() == "autofs" && *origin == Some(Origin::Made);
                if !is_it || found.0.contains_key(&mount.device) {
                    continue;
                }
                let failed =
                    || super::Error::of(format!("look into {} of {}", shown(mount), view.member));
                match self.automount(view, mount, (inventory, pids)).map_err(failed())? {
                    Ok(automount) => drop(found.0.insert(mount.device, automount)),
                    Err(refusal) => refused.push(refusal.of(view.member, shown(mount))),
                }
            }
        }
        Ok(found)
    }

    fn automount(
        &self,
        view: &View,
        mount: &Mount,
        (inventory, pids): (&Inventory, Option<u64>),
    ) -> io::Result<Result<Automount, Refusal>> {
        let place = Path::new(&mount.mount_point);
        let owner = owner_of(kernel::namespaces::of_process(view.member, "mnt")?)?;
        let is_foreign = id(&owner)? != id(own_user()?)?;
        if is_foreign || self.own.0.iter().any(|own| own.device == mount.device) {
            return Ok(Err(mounts::automount_outside(place)));
        }
        let Some(settings) = Settings::parse(&mount.super_options) else {
            let options = mount.super_options.to_string_lossy();
            return Ok(Err(mounts::automount_options(&options, place)));
        };
        let mut entry = settings.entry.clone();
        let reads = if settings.is_quiet() {
            None
        } else {
            let Some((group, reader)) = reader(inventory, &settings) else {
                return Ok(Err(mounts::automount_unread(place)));
            };
            if reader.namespaces.get("pid").copied() != pids {
                return Ok(Err(mounts::automount_of_pids(reader.pid)));
            }
            entry.read_fd = read_fd(reader, &settings);
            Some((group, reader.pid))
        };
        let Some(copy) = view.copy(mount)? else { return Ok(Err(mounts::HIDDEN)) };
        entry.root_mode = Some(fstat(&copy)?.st_mode & 0o7777);
        match nodes(&copy, usual(&entry))? {
            Some(nodes) => entry.nodes = nodes,
            None => return Ok(Err(mounts::automount_options("more than 65536 names", place))),
        }
        let names = names_in(&copy)?;
        Ok(Ok(Automount { entry, reads, settings, root: Arc::new(copy), names }))
    }
}

const ACCESS: u32 = libc::O_ACCMODE.cast_unsigned();
const READ: u32 = libc::O_RDONLY.cast_unsigned();
const WRITE: u32 = libc::O_WRONLY.cast_unsigned();

fn is_pipe(file: &collector::OpenFile, inode: Option<u64>) -> bool {
    Some(file.inode) == inode && file.target.as_bytes().starts_with(b"pipe:[")
}

/// The process group that is let through, and a process of it that reads: the first one before others.
fn reader<'i>(inventory: &'i Inventory, settings: &Settings) -> Option<(HostPid, &'i Process)> {
    let group = HostPid::new(settings.group)?;
    let reads = |process: &&Process| {
        let mut files = process.files.iter();
        process.pgid == Some(group)
            && !is_zombie(process)
            && files.any(|file| is_pipe(file, settings.asks_by) && file.flags & ACCESS == READ)
    };
    let mut all = inventory.processes.values().filter(reads);
    let first = inventory.processes.get(&group).filter(reads);
    first.or_else(|| all.next()).map(|process| (group, process))
}

/// A descriptor by which the reader has the pipe, if the one that the kernel was told is not the writing end there.
fn read_fd(reader: &Process, settings: &Settings) -> Option<i32> {
    let has = |mode: u32| {
        let is_it = move |file: &&collector::OpenFile| {
            is_pipe(file, settings.asks_by) && file.flags & ACCESS == mode
        };
        reader.files.iter().filter(is_it).map(|file| file.fd)
    };
    let is_told = has(WRITE).any(|fd| fd == settings.entry.fd);
    if is_told { None } else { has(READ).next() }
}

/// What is in a directory. Nothing is looked for, so nobody is waited for.
fn names_in(root: &OwnedFd) -> io::Result<BTreeSet<OsString>> {
    match std::fs::read_dir(format!("/proc/self/fd/{}", root.as_raw_fd())) {
        // An empty one is for something to be mounted there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        names => names?.map(|entry| Ok(entry?.file_name())).collect(),
    }
}

/// Who owns what is in one, unless he has given it away.
fn usual(entry: &AutofsEntry) -> (u32, u32) {
    let id = |id: Option<i32>| id.unwrap_or(0).cast_unsigned();
    (id(entry.uid), id(entry.gid))
}

/// What is in one, by a copy of its mount, in which nothing is mounted; `None` if that is too much.
fn nodes(root: &OwnedFd, usual: (u32, u32)) -> io::Result<Option<Vec<AutofsNode>>> {
    let mut nodes = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let handle = find(root, &path, Links::Refused)?;
        let below = match std::fs::read_dir(format!("/proc/self/fd/{}", handle.as_raw_fd())) {
            // An empty one is for something to be mounted there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            below => below?,
        };
        for entry in below {
            let path = path.join(entry?.file_name());
            let node = find(root, &path, Links::Refused)?;
            let stat = fstat(&node)?;
            let mode = stat.st_mode;
            let target = match mode & libc::S_IFMT {
                libc::S_IFLNK => Some(nix::fcntl::readlinkat(&node, "")?.into_vec()),
                _ => None,
            };
            if target.is_none() {
                waiting.push(path.clone());
            }
            let path = path.into_os_string().into_vec();
            let uid = Some(stat.st_uid).filter(|uid| *uid != usual.0);
            let gid = Some(stat.st_gid).filter(|gid| *gid != usual.1);
            nodes.push(AutofsNode { path, mode: mode & 0o7777, target, uid, gid });
            if nodes.len() > MOST_NODES {
                return Ok(None);
            }
        }
    }
    Ok(Some(nodes))
}

impl Automounts {
    /// How many ask by the pipe with this inode: the kernel has its writing end open for each.
    pub(crate) fn that_ask_by(&self, pipe: u64) -> usize {
        let asks = |it: &&Automount| it.reads.is_some() && it.settings.asks_by == Some(pipe);
        self.0.values().filter(asks).count()
    }

    /// Whether each is read as it was, and has the names that it had.
    pub(super) fn are_the_same(&self, inventory: &Inventory) -> io::Result<bool> {
        for Automount { entry, reads, settings, root, names } in self.0.values() {
            let found = reads.and_then(|_| reader(inventory, settings));
            let fd = found.and_then(|(_, reader)| read_fd(reader, settings));
            let reads_now = found.map(|(group, reader)| (group, reader.pid));
            if reads_now != *reads || fd != entry.read_fd || names_in(root)? != *names {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes them; `number` is what a process is called in the images.
    pub(crate) fn encode(
        &self,
        writer: &ImageWriter,
        number: impl Fn(HostPid) -> u32,
    ) -> Result<(), images::Error> {
        for (&device, Automount { entry, reads, .. }) in &self.0 {
            let mut entry = entry.clone();
            if let Some((group, reader)) = *reads {
                entry.pgrp = number(group).cast_signed();
                entry.reader = (reader != group).then(|| number(reader).cast_signed());
            }
            writer.write_one(&names::autofs(kernel_device(device)), &entry)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_not() {
        let text = "rw,fd=6,pgrp=1,timeout=300,minproto=5,maxproto=5,indirect,pipe_ino=29";
        let settings = Settings::parse(text.as_ref()).unwrap();
        assert_eq!((settings.group, settings.asks_by, settings.is_quiet()), (1, Some(29), false));
        assert_eq!((settings.entry.timeout, settings.entry.mode), (300, autofs_mode::INDIRECT));
        let quiet = text.replace("fd=6", "fd=-1").replace("=29", "=-1");
        assert!(Settings::parse(quiet.as_ref()).unwrap().is_quiet());
        for wrong in ["pgrp=1,", "timeout=300,", "indirect,"] {
            assert_eq!(Settings::parse(text.replace(wrong, "").as_ref()), None, "{wrong}");
        }
        assert_eq!(Settings::parse(format!("{text},novel").as_ref()), None);
    }
}
