//! Which task here is which of the images.
//!
//! A tree that comes back into the pid namespace of the restoring process has the numbers of the images here,
//! too. One whose pid namespace is made anew has them there, and any numbers here: then the holder learns
//! who is who from each task's birth, when the task is stopped for the first time.

use ids::{Clash, HostPid, ImagePid, ImagePids, PidMap};
use kernel::procfs::{Dir, ProcFile, Status};

/// Why it is not known who is who.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoTask {
    /// A task could not be asked for its numbers.
    #[error(transparent)]
    Asked(#[from] kernel::procfs::Error),
    /// Nobody here is this one of the images.
    #[error("nobody has the number {0}")]
    Unknown(ImagePid),
    /// Two tasks have one number.
    #[error(transparent)]
    Clash(#[from] Clash),
}

/// The numbers of a tree's tasks.
#[derive(Clone, Debug)]
pub(crate) enum Pids {
    /// The tree is in the pid namespace of this process: both numbers of a task are equal.
    Own,
    /// It is in another.
    Met(Met),
}

/// Those that have been met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Met {
    map: PidMap,
    /// How far the pid namespace of the root is below ours, once the root has been met.
    depth: Option<usize>,
}

impl Pids {
    /// Of a tree that is in the pid namespace of this process, or in one of its own.
    pub(crate) fn of(inside: bool) -> Self {
        if inside { Self::Met(Met::default()) } else { Self::Own }
    }

    /// Those that the holder of the tree has told.
    pub(crate) fn told(
        pairs: impl IntoIterator<Item = (HostPid, ImagePid)>,
    ) -> Result<Self, NoTask> {
        let mut met = Met::default();
        for (host, image) in pairs {
            met.map.insert(host, ImagePids::single(image))?;
        }
        Ok(Self::Met(met))
    }

    /// Takes note of a task, the root first. It is there, if only to be waited for.
    pub(crate) fn meet(&mut self, host: HostPid) -> Result<(), NoTask> {
        match self {
            Self::Met(met) if met.map.image(host).is_none() => met.meet(host),
            _ => Ok(()),
        }
    }

    /// Forgets one that has ended and is not of the tree: others who pass may get its number.
    pub(crate) fn forget(&mut self, host: HostPid) {
        if let Self::Met(met) = self {
            met.map.remove(host);
        }
    }

    /// Who a task or thread of the images is here.
    pub(crate) fn host(&self, pid: ImagePid) -> Result<HostPid, NoTask> {
        let found = match self {
            Self::Own => Some(pid.in_own_namespace()),
            Self::Met(met) => met.map.host(pid),
        };
        found.ok_or(NoTask::Unknown(pid))
    }

    /// What the images call a task; `None` if it is not of the tree.
    pub(crate) fn image(&self, host: HostPid) -> Option<ImagePid> {
        match self {
            Self::Own => Some(host.in_own_namespace()),
            Self::Met(met) => met.map.image(host),
        }
    }

    /// Who has been met.
    pub(crate) fn pairs(&self) -> Vec<(HostPid, ImagePid)> {
        match self {
            Self::Own => Vec::new(),
            Self::Met(met) => {
                met.map.iter().map(|(host, image)| (host, image.outermost())).collect()
            }
        }
    }
}

impl Met {
    fn meet(&mut self, host: HostPid) -> Result<(), NoTask> {
        let levels = Dir::open(host).and_then(|dir| Status::read(&dir))?.ns_pid;
        let depth = *self.depth.get_or_insert(levels.len().saturating_sub(1));
        match ImagePids::from_outermost(levels.into_iter().skip(depth)) {
            Some(image) => Ok(self.map.insert(host, image)?),
            // It is not below the root's namespace.
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_of_is_found_by_both_numbers() {
        let (host, image) = (HostPid::new(4001).unwrap(), ImagePid::new(1).unwrap());
        let pids = Pids::told([(host, image)]).unwrap();
        assert_eq!((pids.host(image).unwrap(), pids.image(host)), (host, Some(image)));
        assert_eq!(pids.pairs(), [(host, image)]);
        assert!(pids.host(ImagePid::new(2).unwrap()).is_err());
        assert_eq!(pids.image(HostPid::own()), None);
        assert!(Pids::told([(host, image), (host, ImagePid::new(2).unwrap())]).is_err());
    }

    #[test]
    fn a_task_of_our_own_namespace_has_one_number() {
        let mut pids = Pids::of(false);
        let own = HostPid::own();
        pids.meet(own).unwrap();
        assert_eq!(pids.image(own).map(ImagePid::get), Some(own.get()));
        assert!(pids.pairs().is_empty());
        let mut met = Pids::of(true);
        met.meet(own).unwrap();
        assert_eq!(met.host(ImagePid::new(own.get()).unwrap()).unwrap(), own);
    }
}
