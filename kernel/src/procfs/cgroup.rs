//! `/proc/PID/cgroup`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::parse::{dec, lines, split_once};
use super::{Malformed, ProcFile};

/// Where a task is in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMembership {
    /// The hierarchy's id: 0 for version 2.
    pub hierarchy: u32,
    /// The controllers (`name=…` for a named hierarchy without any); empty for version 2.
    pub controllers: Vec<String>,
    /// The cgroup, from the root of the reader's cgroup namespace.
    pub path: OsString,
}

/// Where a task is in every hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup(pub Vec<CgroupMembership>);

impl CgroupMembership {
    /// The hierarchy's name as the file has it: its controllers, or `name=…`; empty for version 2.
    #[must_use]
    pub fn name(&self) -> String {
        self.controllers.join(",")
    }
}

impl Cgroup {
    /// The version 2 cgroup.
    #[must_use]
    pub fn v2(&self) -> Option<&CgroupMembership> {
        self.0.iter().find(|membership| membership.hierarchy == 0)
    }

    /// The version 1 cgroup of a controller.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<&CgroupMembership> {
        self.0
            .iter()
            .find(|membership| membership.controllers.iter().any(|name| name == controller))
    }
}

fn line(line: &[u8]) -> Option<CgroupMembership> {
    let (hierarchy, rest) = split_once(line, b':')?;
    let (controllers, path) = split_once(rest, b':')?;
    let controllers = std::str::from_utf8(controllers).ok()?;
    Some(CgroupMembership {
        hierarchy: dec(hierarchy)?,
        controllers: controllers
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        path: OsString::from_vec(path.to_vec()),
    })
}

impl ProcFile for Cgroup {
    const NAME: &'static str = "cgroup";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        lines(text).map(line).collect::<Option<_>>().map(Self).ok_or(Malformed("a cgroup's line"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read() {
        let text = b"9:name=systemd:/\n6:cpu,cpuacct:/a:b\n0::/c\n";
        let cgroup = Cgroup::parse(text).unwrap();
        assert_eq!(cgroup.v2().unwrap().path, "/c");
        assert_eq!(cgroup.v1("cpuacct").unwrap().path, "/a:b");
        assert_eq!(cgroup.v1("name=systemd").unwrap().hierarchy, 9);
        assert!(Cgroup::parse(b"x\n").is_err());
    }
}
