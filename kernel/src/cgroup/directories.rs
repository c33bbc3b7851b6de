//! Where the groups of every mounted hierarchy are, by the names that `/proc/PID/cgroup` has for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ids::HostPid;

use crate::procfs::{Dir, Mounts, ProcFile};

use super::{Error, Mount, own_mounts, parse};

/// The hierarchies of both versions: by controller, by `name=…`, and by the empty name for version 2.
#[derive(Debug, Default)]
pub struct GroupDirectories {
    /// Where they are mounted.
    mounted: BTreeMap<String, Mount>,
    /// Where else they are: a directory with one of each, as [`in_yard`](Self::in_yard) has it.
    yard: Option<PathBuf>,
    /// Mounts of our own.
    own: BTreeMap<String, OwnedFd>,
}

impl GroupDirectories {
    /// Looks through our own mounts; of several mounts of one hierarchy the first counts.
    ///
    /// # Errors
    /// If the mounts cannot be read.
    pub fn find() -> Result<Self, Error> {
        let own = Dir::open(HostPid::own())?;
        Ok(Self::among(&Mounts::read(&own)?))
    }

    /// Those that somebody has mounted in a directory: each in a folder of its controllers (`cpu,cpuacct`), of its
    /// name (`systemd` for `name=systemd`), or `unified`.
    #[must_use]
    pub fn in_yard(yard: &Path) -> Self {
        Self { yard: Some(yard.to_owned()), ..Self::default() }
    }

    fn among(mounts: &Mounts) -> Self {
        let mut mounted = BTreeMap::new();
        for mount in &mounts.0 {
            let here = || Mount { root: (&mount.root).into(), point: (&mount.mount_point).into() };
            match mount.fs_type.as_bytes() {
                b"cgroup2" => {
                    mounted.entry(String::new()).or_insert_with(here);
                }
                b"cgroup" => {
                    let options = mount.super_options.to_string_lossy();
                    for option in options.split(',') {
                        mounted.entry(option.to_owned()).or_insert_with(here);
                    }
                }
                _ => {}
            }
        }
        Self { mounted, ..Self::default() }
    }

    /// Mounts those of these hierarchies that are not mounted, or not whole, for ourselves alone; what cannot be
    /// mounted stays unseen.
    pub fn show<'h>(&mut self, hierarchies: impl Iterator<Item = &'h str>) {
        if self.yard.is_some() {
            return;
        }
        for hierarchy in hierarchies {
            let shown = self.mount(hierarchy).is_some_and(|mount| mount.root == Path::new("/"));
            if shown || self.own.contains_key(hierarchy) {
                continue;
            }
            if let Ok(mount) = own_mounts::mount(hierarchy) {
                self.own.insert(hierarchy.to_owned(), mount);
            }
        }
    }

    fn mount(&self, hierarchy: &str) -> Option<&Mount> {
        hierarchy.split(',').find_map(|name| self.mounted.get(name))
    }

    /// The directory of a group, by the hierarchy's name as `/proc/PID/cgroup` has it (`cpu,cpuacct`,
    /// `name=systemd`, empty for version 2). `None` if that is not mounted, or does not show the group.
    #[must_use]
    pub fn directory(&self, hierarchy: &str, group: &[u8]) -> Option<PathBuf> {
        let group = Path::new(OsStr::from_bytes(group));
        let below = |point: PathBuf, root: &Path| {
            let below = group.strip_prefix(root).ok().filter(|below| parse::is_plain(below))?;
            Some(point.join(below))
        };
        if let Some(yard) = &self.yard {
            let names = hierarchy.split(',').map(|name| name.strip_prefix("name=").unwrap_or(name));
            let folder = match hierarchy {
                "" => "unified".to_owned(),
                _ => names.collect::<Vec<_>>().join(","),
            };
            let point = yard.join(folder);
            return point.is_dir().then(|| below(point, Path::new("/"))).flatten();
        }
        let mounted = self.mount(hierarchy);
        let mounted = mounted.and_then(|mount| below(mount.point.clone(), &mount.root));
        mounted.or_else(|| {
            let own = self.own.get(hierarchy)?;
            below(format!("/proc/self/fd/{}", own.as_raw_fd()).into(), Path::new("/"))
        })
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

    #[test]
    fn a_yard_has_a_folder_for_each() {
        let yard = tempfile::tempdir().unwrap();
        for folder in ["unified", "cpu,cpuacct", "systemd"] {
            std::fs::create_dir(yard.path().join(folder)).unwrap();
        }
        let found = GroupDirectories::in_yard(yard.path());
        let of = |name, group: &str| found.directory(name, group.as_bytes());
        assert_eq!(of("", "/a"), Some(yard.path().join("unified/a")));
        assert_eq!(of("cpu,cpuacct", "/b"), Some(yard.path().join("cpu,cpuacct/b")));
        assert_eq!(of("name=systemd", "/"), Some(yard.path().join("systemd/")));
        assert_eq!(of("pids", "/a"), None);
        assert_eq!(of("", "/../a"), None);
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "nothing is skipped without a word")]
    fn what_is_not_mounted_is_mounted_for_us_alone() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: mounting takes root");
            return;
        }
        let mut none = GroupDirectories::default();
        assert_eq!(none.directory("", b"/"), None);
        none.show([""].into_iter());
        let root = none.directory("", b"/").expect("a mount of version 2");
        assert!(root.join("cgroup.procs").exists(), "{root:?}");
        none.show(["no-such-controller"].into_iter());
        assert_eq!(none.directory("no-such-controller", b"/"), None);
    }
}
