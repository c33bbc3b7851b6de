//! The roots of a cgroup namespace (cgroup_namespaces(7)): of each hierarchy the group that is the root for who is in it.
//!
//! The kernel does not tell the roots. But `/proc/PID/cgroup` shows a path relative to the root of the reader's namespace: it is
//! shorter when it is read inside, and what it lacks there is the root.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;

use ids::HostPid;
use kernel::namespaces::{id, of_process, own, within};
use kernel::procfs::{Cgroup, Dir, ProcFile};

/// The roots of a cgroup namespace: by hierarchy, as `/proc/PID/cgroup` calls it, the group's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupRoots(BTreeMap<String, Vec<u8>>);

impl CgroupRoots {
    /// The roots of a task's namespace, from its `/proc/PID/cgroup` as read outside of the namespace and inside.
    ///
    /// # Errors
    /// The name of a hierarchy whose two paths do not fit together.
    pub(crate) fn of(outside: &Cgroup, inside: &Cgroup) -> Result<Self, String> {
        let mut roots = BTreeMap::new();
        for group in &inside.0 {
            let name = group.name();
            let same = |other: &&kernel::procfs::CgroupMembership| other.name() == name;
            let Some(outside) = outside.0.iter().find(same) else { continue };
            let (path, seen) = (outside.path.as_bytes(), group.path.as_bytes());
            let seen = if seen == b"/" { b"" } else { seen };
            let Some(root) = path.strip_suffix(seen) else { return Err(name) };
            roots.insert(name, if root.is_empty() { b"/".to_vec() } else { root.to_vec() });
        }
        Ok(Self(roots))
    }

    /// Those of the namespace of a process, if that is not the caller's and all are known.
    pub(crate) fn of_other(pid: HostPid) -> io::Result<Option<Self>> {
        if id(of_process(pid, "cgroup")?)? == id(own("cgroup")?)? {
            return Ok(None);
        }
        let (outside, inside) = both(pid)?;
        Ok(Self::of(&outside, &inside).ok())
    }

    /// The path of a group as it is seen in the namespace, if it is the root there or below that.
    pub(crate) fn inside<'p>(&self, hierarchy: &str, group: &'p [u8]) -> Option<&'p [u8]> {
        let above = self.above(hierarchy, group)?;
        let rest = group.get(above as usize..)?;
        Some(if rest.is_empty() { b"/" } else { rest })
    }

    /// The names of the hierarchies.
    pub(crate) fn hierarchies(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many bytes of the path of a group are above the root; `None` if that is the root of the hierarchy, or
    /// not above the group.
    pub(crate) fn above(&self, hierarchy: &str, group: &[u8]) -> Option<u32> {
        let root = self.0.get(hierarchy).filter(|root| *root != b"/")?;
        let rest = group.strip_prefix(&root[..])?;
        (rest.is_empty() || rest.starts_with(b"/")).then(|| u32::try_from(root.len()).ok())?
    }
}

/// What `/proc/PID/cgroup` says, read outside and inside of the namespace of a process.
pub(crate) fn both(pid: HostPid) -> io::Result<(Cgroup, Cgroup)> {
    let look = || Dir::open(pid).and_then(|dir| Cgroup::read(&dir)).map_err(io::Error::other);
    Ok((look()?, within("cgroup", of_process(pid, "cgroup")?, look)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(text: &str) -> Cgroup {
        Cgroup::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn groups_are_called_as_inside() {
        let roots = CgroupRoots::of(&cgroup("3:cpu:/a/b\n0::/\n"), &cgroup("3:cpu:/b\n0::/\n"));
        let roots = roots.unwrap();
        let inside = |group: &'static str| roots.inside("cpu", group.as_bytes());
        assert_eq!((inside("/a"), inside("/a/c")), (Some(&b"/"[..]), Some(&b"/c"[..])));
        assert_eq!((inside("/"), inside("/ab"), roots.inside("", b"/a")), (None, None, None));
    }

    #[test]
    fn a_root_is_what_is_not_seen_inside() {
        let outside = cgroup("3:cpu:/\n2:pids:/a/b\n1:name=x:/a/b\n0::/a\n");
        let inside = cgroup("3:cpu:/\n2:pids:/\n1:name=x:/b\n0::/a\n");
        let roots = CgroupRoots::of(&outside, &inside).unwrap();
        assert_eq!(roots.above("pids", b"/a/b"), Some(4));
        assert_eq!(roots.above("pids", b"/a/b/c"), Some(4));
        assert_eq!(roots.above("pids", b"/a/bc"), None);
        assert_eq!(roots.above("name=x", b"/a/b"), Some(2));
        assert_eq!(roots.above("cpu", b"/"), None);
        assert_eq!(roots.above("", b"/a"), None);
        let beside = cgroup("2:pids:/../c\n");
        assert_eq!(CgroupRoots::of(&outside, &beside), Err("pids".to_owned()));
    }
}
