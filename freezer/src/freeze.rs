//! One freeze: which way, and the guard.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use ids::HostPid;
use kernel::cgroup::{Cgroup, Hierarchies, Members, Version};
use kernel::procfs;

use crate::Error;
use crate::held::Held;
use crate::undo::{Deed, Undo};

/// What to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A process and its descendants.
    Tree(HostPid),
    /// A cgroup, by its path in the hierarchy.
    Cgroup(String),
}

/// How to stop it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// By cgroup where the target has one to itself, by ptrace otherwise.
    #[default]
    Auto,
    /// By cgroup of the unified hierarchy.
    CgroupV2,
    /// By cgroup of the v1 freezer.
    CgroupV1,
    /// By ptrace.
    Ptrace,
}

/// A stopped tree; dropping it lets it run.
#[derive(Debug)]
pub struct Freeze {
    how: How,
    took: Duration,
}

#[derive(Debug)]
enum How {
    Cgroup {
        cgroup: Cgroup,
        /// Thaws it. `None` if somebody had frozen it before: it stays frozen for them.
        _undo: Option<Undo>,
        processes: BTreeSet<HostPid>,
    },
    Ptrace(Held),
}

impl Freeze {
    /// Processes that are stopped.
    #[must_use]
    pub const fn processes(&self) -> &BTreeSet<HostPid> {
        match &self.how {
            How::Cgroup { processes, .. } => processes,
            How::Ptrace(held) => held.processes(),
        }
    }

    /// How it is stopped; never [`Method::Auto`].
    #[must_use]
    pub const fn method(&self) -> Method {
        match &self.how {
            How::Ptrace(_) => Method::Ptrace,
            How::Cgroup { cgroup, .. } => match cgroup.version() {
                Version::V1 => Method::CgroupV1,
                Version::V2 => Method::CgroupV2,
            },
        }
    }

    /// How long stopping took.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.took
    }
}

/// Stops a target, within a time; when it does not stop in time it runs on.
///
/// A cgroup is frozen only when the folder `undo` says so ([`Undo`]).
///
/// # Errors
/// If the target cannot be found or stopped; then it runs as it did.
pub fn freeze(
    target: &Target,
    method: Method,
    within: Duration,
    undo: &Path,
) -> Result<Freeze, Error> {
    let start = Instant::now();
    let cgroup = match choose(target, method)? {
        Choice::Cgroup(cgroup) => cgroup,
        Choice::Ptrace(root) => {
            let held = Held::stop(root, within)?;
            return Ok(Freeze { how: How::Ptrace(held), took: start.elapsed() });
        }
    };
    let own = HostPid::own();
    if cgroup.members()?.processes.contains(&own) {
        return Err(Error::Ourselves(cgroup.directory().to_owned()));
    }
    let deed = if cgroup.freeze_is_asked()? { None } else { Some(Deed::freeze_of(&cgroup)?) };
    let undo = deed.map(|deed| Undo::before(undo, deed)).transpose()?;
    cgroup.freeze(within)?;
    let took = start.elapsed();
    let processes = cgroup.members()?.processes;
    Ok(Freeze { how: How::Cgroup { cgroup, _undo: undo, processes }, took })
}

enum Choice {
    Cgroup(Cgroup),
    Ptrace(HostPid),
}

fn choose(target: &Target, method: Method) -> Result<Choice, Error> {
    match (target, method) {
        (Target::Tree(root), Method::Ptrace) => Ok(Choice::Ptrace(*root)),
        (Target::Tree(root), Method::CgroupV2) => {
            own_cgroup(*root, Version::V2).map(Choice::Cgroup)
        }
        (Target::Tree(root), Method::CgroupV1) => {
            own_cgroup(*root, Version::V1).map(Choice::Cgroup)
        }
        (Target::Tree(root), Method::Auto) => {
            // That there is no such process is an error either way; that there is no cgroup of
            // its own, in whatever way, only means ptrace.
            procfs::Dir::open(*root)?;
            let cgroup = own_cgroup(*root, Version::V2).or_else(|_| own_cgroup(*root, Version::V1));
            Ok(cgroup.map_or(Choice::Ptrace(*root), Choice::Cgroup))
        }
        (Target::Cgroup(name), Method::CgroupV1) => named(name, Version::V1),
        (Target::Cgroup(name), Method::CgroupV2) => named(name, Version::V2),
        (Target::Cgroup(name), Method::Auto) => {
            let v2 = named(name, Version::V2);
            match &v2 {
                Ok(Choice::Cgroup(cgroup)) if cgroup.directory().exists() => v2,
                _ => named(name, Version::V1).or(v2),
            }
        }
        (Target::Cgroup(name), Method::Ptrace) => Err(Error::CgroupByPtrace(name.clone())),
    }
}

fn named(name: &str, version: Version) -> Result<Choice, Error> {
    Ok(Choice::Cgroup(Hierarchies::find()?.named(version, name)?))
}

/// The cgroup that holds a tree and nothing else.
fn own_cgroup(root: HostPid, version: Version) -> Result<Cgroup, Error> {
    let hierarchies = Hierarchies::find()?;
    let cgroup = hierarchies.of_process(version, root)?.ok_or(Error::NoCgroup(root))?;
    let tree: BTreeSet<HostPid> = procfs::tree(root)?.into_iter().collect();
    let Members { processes: inside, hidden } = cgroup.members()?;
    if let Some(other) = inside.difference(&tree).next() {
        return Err(Error::Shared { pid: root, other: *other });
    }
    if hidden > 0 {
        return Err(Error::NoCgroup(root));
    }
    // Zombies have left their cgroup; anything else that is elsewhere would run on.
    match tree.difference(&inside).find(|pid| !is_dead(**pid)) {
        Some(_) => Err(Error::NoCgroup(root)),
        None => Ok(cgroup),
    }
}

fn is_dead(pid: HostPid) -> bool {
    use procfs::ProcFile;
    procfs::Dir::open(pid).and_then(|dir| procfs::Stat::read(&dir)).is_ok_and(|stat| stat.is_dead())
}
