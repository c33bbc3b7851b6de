//! The groups themselves: made where they are gone, and given their owners and settings.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::CgroupsMode;
use freezer::{Deed, Undo};
use images::messages::{CgroupDirEntry, CgroupEntry, CgroupPerms, CgroupPropEntry};
use kernel::cgroup::GroupDirectories;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use support::cgroups::{LEAVE, NO_SETTING, NOT_MADE};

use crate::error::Error;

/// Groups that are there, with the settings that they are to have.
#[derive(Debug)]
pub(super) struct Groups<'e> {
    mode: CgroupsMode,
    /// Those of the second version, in which nobody may be in a group any more that gives controllers to others.
    settings: Vec<(PathBuf, &'e CgroupPropEntry)>,
    /// The files by which those were frozen that are to be so again.
    freezes: Vec<PathBuf>,
    made: Made,
}

/// Groups that have been made for the tree, and go with all who are in them unless they are kept.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Where they are written down.
    undo: PathBuf,
    /// Those above before those below them.
    undos: Vec<Undo>,
}

impl Made {
    /// The tree lives: it has them.
    pub(crate) fn keep(mut self) {
        std::mem::take(&mut self.undos).into_iter().for_each(Undo::keep);
    }

    /// Makes a group with those above it.
    fn directory(&mut self, directory: &Path) -> Result<(), Error> {
        match directory.parent() {
            Some(above) if !above.is_dir() => self.directory(above)?,
            _ => {}
        }
        let object = || format!("control group {}", directory.display());
        let made = make_directory(directory).map_err(Error::kernel(format!("make {}", object())));
        let Some(inode) = made? else { return Ok(()) };
        let deed = Deed::MadeCgroup { directory: directory.to_owned(), inode };
        match Undo::before(&self.undo, deed) {
            Ok(undo) => self.undos.push(undo),
            Err(error) => {
                fs::remove_dir(directory).ok();
                let doing = format!("write down the making of {}", object());
                return Err(Error::kernel(doing)(io::Error::other(error)));
            }
        }
        fill_sets(directory).map_err(Error::kernel(format!("make {}", object())))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Those below go first.
        while self.undos.pop().is_some() {}
    }
}

impl<'e> Groups<'e> {
    /// Makes the groups of the images that are not there.
    pub(super) fn make(
        entry: &'e CgroupEntry,
        (mode, undo): (CgroupsMode, &Path),
        directories: &GroupDirectories,
    ) -> Result<Self, Error> {
        let made = Made { undo: undo.to_owned(), undos: Vec::new() };
        let mut groups = Self { mode, settings: Vec::new(), freezes: Vec::new(), made };
        for hierarchy in &entry.controllers {
            let name = hierarchy.cnames.join(",");
            for group in &hierarchy.dirs {
                // The root of a hierarchy is nobody's to make or to set.
                if group.dir_name.is_empty() && group.children.is_empty() {
                    continue;
                }
                let path = [b"/", &*group.dir_name].concat();
                // Nobody who is moved needs it.
                let Some(directory) = directories.directory(&name, &path) else { continue };
                groups.group(group, &directory, (group.dir_name.is_empty(), name.is_empty()))?;
            }
        }
        Ok(groups)
    }

    /// Makes a group and those below it. (No deeper ones than the kernel makes.)
    fn group(
        &mut self,
        group: &'e CgroupDirEntry,
        directory: &Path,
        (is_root, is_second): (bool, bool),
    ) -> Result<(), Error> {
        let object = || format!("control group {}", directory.display());
        if !is_root {
            self.settle(group, directory, is_second)?;
        }
        for child in &group.children {
            let name = Path::new(OsStr::from_bytes(&child.dir_name));
            if !is_plain(name) {
                return Err(Error::image(object(), "a group below it has a name that is none"));
            }
            self.group(child, &directory.join(name), (false, is_second))?;
        }
        Ok(())
    }

    /// Makes a group if it is gone, as the mode has it.
    fn settle(
        &mut self,
        group: &'e CgroupDirEntry,
        directory: &Path,
        is_second: bool,
    ) -> Result<(), Error> {
        let object = || format!("control group {}", directory.display());
        let (exists, mode) = (directory.is_dir(), self.mode);
        match (exists, mode) {
            (false, CgroupsMode::None | CgroupsMode::Props) => {
                return Err(Error::refused(NOT_MADE.of(0, object())));
            }
            (true, CgroupsMode::Strict) => {
                return Err(Error::refused(support::cgroups::THERE_ALREADY.of(0, object())));
            }
            (false, _) => {
                self.made.directory(directory)?;
            }
            (true, _) => {}
        }
        if !exists || matches!(mode, CgroupsMode::Props | CgroupsMode::Full) {
            set_permissions(directory, group.dir_perms.as_ref())?;
            for setting in &group.properties {
                match (setting.name.as_str(), setting.value.trim_ascii()) {
                    // Whoever is in one that was there already is not ours to stop.
                    ("freezer.state", b"FROZEN") | ("cgroup.freeze", b"1")
                        if !is_empty(directory) =>
                    {
                        tracing::warn!("{} stays unfrozen: it has other processes", object());
                    }
                    ("freezer.state", b"FROZEN") | ("cgroup.freeze", b"1") => {
                        self.freezes.push(directory.join(&setting.name));
                    }
                    _ if is_second => self.settings.push((directory.to_owned(), setting)),
                    // Some of the first version's cannot be made any more when there are groups below.
                    _ => set_property(directory, setting)?,
                }
            }
        }
        Ok(())
    }

    /// Sets those that are not set yet; the files by which groups were frozen that are to be so again, and what was made.
    pub(super) fn set(self) -> Result<(Vec<PathBuf>, Made), Error> {
        for (directory, setting) in &self.settings {
            set_property(directory, setting)?;
        }
        Ok((self.freezes, self.made))
    }
}

/// Makes a group: its number; `None` of one that is there. What was mounted may not be any more: then there would be a directory of another kind.
fn make_directory(directory: &Path) -> io::Result<Option<u64>> {
    let above = directory.parent().unwrap_or(directory);
    if ![CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&statfs(above)?.filesystem_type()) {
        return Err(io::Error::other(format!(
            "there are no control groups in {}",
            above.display()
        )));
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        made => made.and_then(|()| directory.metadata()).map(|metadata| Some(metadata.ino())),
    }
}

/// In the first version nothing can enter a new set of processors or of memory: it has none.
fn fill_sets(directory: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        if fs::read(&file).is_ok_and(|text| text.trim_ascii().is_empty())
            && directory.join("tasks").exists()
            && let Some(above) = directory.parent()
        {
            fs::write(&file, fs::read(above.join(name))?)?;
        }
    }
    Ok(())
}

/// Whether nobody is in a group and those below it, for sure.
fn is_empty(directory: &Path) -> bool {
    let Ok(below) = fs::read_dir(directory) else { return false };
    let mut below = below.map(|entry| {
        let entry = entry.ok()?;
        Some((entry.path(), entry.file_type().ok()?.is_dir()))
    });
    fs::read(directory.join("cgroup.procs")).is_ok_and(|list| list.trim_ascii().is_empty())
        && below.all(|entry| entry.is_some_and(|(path, is_dir)| !is_dir || is_empty(&path)))
}

pub(super) fn is_plain(path: &Path) -> bool {
    use std::path::Component;
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn set_permissions(path: &Path, wanted: Option<&CgroupPerms>) -> Result<(), Error> {
    let Some(wanted) = wanted else { return Ok(()) };
    let failed = || Error::kernel(format!("give {} to its owner", path.display()));
    let found = fs::symlink_metadata(path).map_err(failed())?;
    if (found.uid(), found.gid()) != (wanted.uid, wanted.gid) {
        std::os::unix::fs::lchown(path, Some(wanted.uid), Some(wanted.gid)).map_err(failed())?;
    }
    let mode = wanted.mode & 0o7777;
    if found.mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed())?;
    }
    Ok(())
}

/// What is no setting, or is set by another file.
const NOT_SET: &[&str] = &[
    // One that was frozen is so again last of all.
    "freezer.state",
    "cgroup.freeze",
    // They are no settings: to write them does something to those that are in the group.
    "cgroup.kill",
    "memory.reclaim",
    "memory.force_empty",
    // The kernel has taken these back.
    "memory.use_hierarchy",
    "memory.move_charge_at_immigrate",
    "memory.kmem.limit_in_bytes",
];

/// Where these are not there they mean nothing: the kernel will take the first one back, and the others turn off what it can do.
const PASSING: &[&str] =
    &["memory.kmem.tcp.limit_in_bytes", "cgroup.pressure", "memory.zswap.writeback"];

fn set_property(directory: &Path, property: &CgroupPropEntry) -> Result<(), Error> {
    let name = property.name.as_str();
    if name.contains('/') || name.is_empty() || name.starts_with("..") {
        let object = format!("control group {}", directory.display());
        return Err(Error::image(object, "a setting has a name that is none"));
    }
    let path = directory.join(name);
    let value = property.value.trim_ascii();
    match name {
        _ if NOT_SET.contains(&name) => return Ok(()),
        _ if PASSING.contains(&name) && !path.exists() => {
            tracing::warn!("{} was {}", path.display(), property.value.escape_ascii());
            return Ok(());
        }
        // Who is in it is not set; who may put others there is.
        "cgroup.procs" | "tasks" => {}
        "cgroup.type" if value != b"threaded" => return Ok(()),
        "devices.list" => return set_devices(directory, value),
        "cgroup.subtree_control" => {
            for controller in value.split(u8::is_ascii_whitespace).filter(|name| !name.is_empty()) {
                write_setting(&path, &[b"+", controller].concat())?;
            }
        }
        // A line each, and of interfaces that may not be here.
        "net_prio.ifpriomap" => {
            for line in value.split(|byte| *byte == b'\n') {
                if let Err(error) = fs::write(&path, line) {
                    tracing::warn!(%error, "set {}", path.display());
                }
            }
        }
        _ if PER_LINE.contains(&name) => {
            for line in value.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                write_setting(&path, line)?;
            }
        }
        _ => {
            // What is so already need not be a value that can be set.
            if fs::read(&path).is_ok_and(|found| found.trim_ascii() == value) {
                return set_permissions(&path, property.perms.as_ref());
            }
            write_setting(&path, value)?;
        }
    }
    set_permissions(&path, property.perms.as_ref())
}

/// Settings that take one line of what they show at a time: of a device, a region or a resource.
const PER_LINE: &[&str] = &[
    "io.max",
    "io.latency",
    "io.weight",
    "io.bfq.weight",
    "blkio.weight_device",
    "blkio.bfq.weight_device",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.write_iops_device",
    "misc.max",
    "rdma.max",
];

/// Devices are allowed by a list that is read from one file and written to two.
fn set_devices(directory: &Path, value: &[u8]) -> Result<(), Error> {
    if value == b"a *:* rwm" {
        return Ok(());
    }
    write_setting(&directory.join("devices.deny"), b"a")?;
    for line in value.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        write_setting(&directory.join("devices.allow"), line)?;
    }
    Ok(())
}

fn write_setting(path: &Path, value: &[u8]) -> Result<(), Error> {
    match fs::write(path, value) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::refused(NO_SETTING.of(0, format!("setting {}", path.display()))))
        }
        Err(error) => Err(Error::kernel(format!(
            "write {} to {} ({LEAVE})",
            String::from_utf8_lossy(value),
            path.display()
        ))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_never_written() {
        for name in ["cgroup.kill", "memory.reclaim", "memory.force_empty"] {
            let setting = CgroupPropEntry {
                name: name.to_owned(),
                value: b"1".to_vec(),
                ..CgroupPropEntry::default()
            };
            // There is no such directory.
            assert!(set_property(Path::new("/nowhere"), &setting).is_ok(), "{name}");
        }
    }
}
