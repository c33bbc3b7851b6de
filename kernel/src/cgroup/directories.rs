//! Where the groups of every mounted hierarchy are, by the names that `/proc/PID/cgroup` has for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ids::HostPid;

use crate::procfs::{Dir, Mounts, ProcFile};

use super::{Error, Mount, parse};

/// The mounted hierarchies of both versions: by controller, by `name=…`, and by the empty name for
/// version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupDirectories(BTreeMap<String, Mount>);

impl GroupDirectories {
    /// Looks through our own mounts; of several mounts of one hierarchy the first counts.
    ///
    /// # Errors
    /// If the mounts cannot be read.
    pub fn find() -> Result<Self, Error> {
        let own = Dir::open(HostPid::own())?;
        Ok(Self::among(&Mounts::read(&own)?))
    }

    fn among(mounts: &Mounts) -> Self {
        let mut found = BTreeMap::new();
        for mount in &mounts.0 {
            let here = || Mount { root: (&mount.root).into(), point: (&mount.mount_point).into() };
            match mount.fs_type.as_bytes() {
                b"cgroup2" => {
                    found.entry(String::new()).or_insert_with(here);
                }
                b"cgroup" => {
                    let options = mount.super_options.to_string_lossy();
                    for option in options.split(',') {
                        found.entry(option.to_owned()).or_insert_with(here);
                    }
                }
                _ => {}
            }
        }
        Self(found)
    }

    /// The directory of a group, by the hierarchy's name as `/proc/PID/cgroup` has it (`cpu,cpuacct`,
    /// `name=systemd`, empty for version 2). `None` if that is not mounted, or does not show the group.
    #[must_use]
    pub fn directory(&self, hierarchy: &str, group: &[u8]) -> Option<PathBuf> {
        let mount = hierarchy.split(',').find_map(|name| self.0.get(name))?;
        let below = Path::new(OsStr::from_bytes(group)).strip_prefix(&mount.root).ok()?;
        parse::is_plain(below).then(|| mount.point.join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions() {
        let text = b"26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            28 25 0:25 /box /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let found = GroupDirectories::among(&Mounts::parse(text).unwrap());
        let of = |name, group: &str| found.directory(name, group.as_bytes());
        assert_eq!(of("", "/a/b"), Some("/sys/fs/cgroup/unified/a/b".into()));
        assert_eq!(of("cpu,cpuacct", "/"), Some("/sys/fs/cgroup/cpu,cpuacct/".into()));
        assert_eq!(of("name=systemd", "/box/c"), Some("/sys/fs/cgroup/systemd/c".into()));
        for (name, group) in [("name=systemd", "/other"), ("", "/../x"), ("pids", "/")] {
            assert_eq!(of(name, group), None, "{name}{group}");
        }
    }
}
