//! The groups themselves: made where they are gone, and given their owners and settings.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api::CgroupsMode;
use images::messages::{CgroupDirEntry, CgroupEntry, CgroupPerms, CgroupPropEntry};
use kernel::cgroup::GroupDirectories;
use support::cgroups::{LEAVE, NO_SETTING, NOT_MADE};

use crate::error::Error;

/// Makes the groups of the images that are not there.
pub(super) fn make_groups(
    entry: &CgroupEntry,
    mode: CgroupsMode,
    directories: &GroupDirectories,
) -> Result<(), Error> {
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
            make_group(group, &directory, mode, group.dir_name.is_empty())?;
        }
    }
    Ok(())
}

/// Deeper groups than the kernel makes.
fn make_group(
    group: &CgroupDirEntry,
    directory: &Path,
    mode: CgroupsMode,
    is_root: bool,
) -> Result<(), Error> {
    let object = || format!("control group {}", directory.display());
    let exists = directory.is_dir();
    if !is_root {
        match (exists, mode) {
            (false, CgroupsMode::None | CgroupsMode::Props) => {
                return Err(Error::refused(NOT_MADE.of(0, object())));
            }
            (true, CgroupsMode::Strict) => {
                return Err(Error::refused(support::cgroups::THERE_ALREADY.of(0, object())));
            }
            (false, _) => {
                make_directory(directory).map_err(Error::kernel(format!(
                    "make control group {}",
                    directory.display()
                )))?;
                set_permissions(directory, group.dir_perms.as_ref())?;
            }
            (true, _) => {}
        }
        if !exists || matches!(mode, CgroupsMode::Props | CgroupsMode::Full) {
            for property in &group.properties {
                set_property(directory, property)?;
            }
        }
    }
    for child in &group.children {
        let name = Path::new(OsStr::from_bytes(&child.dir_name));
        if !is_plain(name) {
            return Err(Error::image(object(), "a group below it has a name that is none"));
        }
        make_group(child, &directory.join(name), mode, false)?;
    }
    Ok(())
}

/// Makes a group with those above it.
fn make_directory(directory: &Path) -> std::io::Result<()> {
    match directory.parent() {
        Some(above) if !above.is_dir() => make_directory(above)?,
        _ => {}
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    // In the first version nothing can enter a new set of processors or of memory: it has none.
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

pub(super) fn is_plain(path: &Path) -> bool {
    use std::path::Component;
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn set_permissions(path: &Path, wanted: Option<&CgroupPerms>) -> Result<(), Error> {
    let Some(wanted) = wanted else { return Ok(()) };
    let failed = || Error::kernel(format!("give {} to its owner", path.display()));
    let found = fs::symlink_metadata(path).map_err(failed())?;
    use std::os::unix::fs::MetadataExt;
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
    // A tree that comes back runs.
    "freezer.state",
    "cgroup.freeze",
    // The kernel has taken these back.
    "memory.use_hierarchy",
    "memory.move_charge_at_immigrate",
    "memory.kmem.limit_in_bytes",
    "memory.kmem.tcp.limit_in_bytes",
];

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
        "io.max" | "io.latency" | "misc.max" | "rdma.max" => {
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
