//! Cgroup namespaces: of each hierarchy the group that is its root for who is in the namespace
//! (cgroup_namespaces(7)). The images have it with the memberships of the tasks (`cgns_prefix`).

use images::ImageWriter;
use support::cgroups::ROOT_BELOW;

use super::{Described, Namespace};
use crate::cgroup_roots::{CgroupRoots, both};
use crate::error::Error;

/// Reads the roots of a namespace.
pub(super) fn read(namespace: &Namespace) -> Result<Box<dyn Described>, Error> {
    let pid = namespace.member;
    let failed = |source| Error::Process {
        operation: "read the control groups in the cgroup namespace of",
        pid,
        source,
    };
    let (outside, inside) = both(pid).map_err(failed)?;
    match CgroupRoots::of(&outside, &inside) {
        Ok(roots) => Ok(Box::new(roots)),
        Err(hierarchy) => {
            let found =
                vec![ROOT_BELOW.of(pid, format!("control groups of hierarchy {hierarchy:?}"))];
            Err(Error::Refused { root: pid, found })
        }
    }
}

impl Described for CgroupRoots {
    fn encode(&self, _number: u32, _writer: &ImageWriter) -> Result<(), images::Error> {
        // They come with the memberships of tasks.
        Ok(())
    }

    fn cgroup_roots(&self) -> Option<&CgroupRoots> {
        Some(self)
    }
}
