//! Namespaces: a stage before all files are opened.
//!
//! The tasks of a checkpoint are in sets of namespaces. Those of the dumping process ([`Sets`] compares)
//! are those of the restoring one; every other is made anew and held by a descriptor ([`Made`]), and
//! each task enters its own at its birth, before it has any children.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{OwnedFd, RawFd};

use ids::ImagePid;
use images::messages::{TaskKobjIdsEntry, UtsnsEntry};
use images::{Checkpoint, names};
use kernel::descriptors::duplicate_from;
use kernel::namespaces::{LONGEST_UTS_NAME, UtsNames, enter_uts, new_uts, own};

use crate::error::Error;

/// Which namespaces the tasks of a checkpoint were in, and what those were like.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    /// UTS namespaces that were not the dumper's, by number.
    uts: BTreeMap<u32, UtsnsEntry>,
    /// Processes in such ones.
    of: BTreeMap<ImagePid, Set>,
}

/// The namespaces of a process; `None` stands for the one of the restoring process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set {
    uts: Option<u32>,
}

impl Sets {
    /// Those of processes with these ids.
    pub(crate) fn of<'i>(
        checkpoint: &Checkpoint,
        processes: impl Iterator<Item = (ImagePid, &'i TaskKobjIdsEntry)>,
    ) -> Result<Self, Error> {
        let mut sets = Self::default();
        let Some(own) = &checkpoint.images.inventory().root_ids else { return Ok(sets) };
        for (pid, ids) in processes {
            refuse_others(pid, ids, own)?;
            let Some(number) = other(ids.uts_ns_id, own.uts_ns_id) else { continue };
            sets.of.insert(pid, Set { uts: Some(number) });
            if let Entry::Vacant(vacant) = sets.uts.entry(number) {
                vacant.insert(uts(checkpoint, number)?);
            }
        }
        Ok(sets)
    }

    /// Whether a process was in namespaces beside the dumper's.
    pub(crate) fn has_own(&self, pid: ImagePid) -> bool {
        self.of.contains_key(&pid)
    }

    /// A process that was in namespaces beside the dumper's.
    pub(crate) fn first(&self) -> Option<ImagePid> {
        self.of.keys().next().copied()
    }
}

/// The number of a namespace that is not the dumper's.
fn other(number: Option<u32>, own: Option<u32>) -> Option<u32> {
    number.filter(|_| own.is_some() && own != number)
}

/// Refuses what is not made yet.
fn refuse_others(
    pid: ImagePid,
    ids: &TaskKobjIdsEntry,
    own: &TaskKobjIdsEntry,
) -> Result<(), Error> {
    let pairs = [
        ("pid", ids.pid_ns_id, own.pid_ns_id),
        ("net", ids.net_ns_id, own.net_ns_id),
        ("ipc", ids.ipc_ns_id, own.ipc_ns_id),
        ("mnt", ids.mnt_ns_id, own.mnt_ns_id),
        ("user", ids.user_ns_id, own.user_ns_id),
        ("cgroup", ids.cgroup_ns_id, own.cgroup_ns_id),
        ("time", ids.time_ns_id, own.time_ns_id),
    ];
    match pairs.iter().find(|(_, number, own)| other(*number, *own).is_some()) {
        None => Ok(()),
        Some((name, ..)) => Err(Error::refused(
            support::images::own_namespace(name).of(pid.get(), format!("process {pid}")),
        )),
    }
}

fn uts(checkpoint: &Checkpoint, number: u32) -> Result<UtsnsEntry, Error> {
    let image = names::utsns(number);
    let missing = || images::Error::Missing { name: image.name().into() };
    let entry = checkpoint.uts_namespaces.get(&number).ok_or_else(missing)?;
    match entry.nodename.len().max(entry.domainname.len()) {
        0..=LONGEST_UTS_NAME => Ok(entry.clone()),
        long => Err(Error::image(image.name(), format!("a name of {long} bytes"))),
    }
}

/// Namespaces that are there for the tasks to enter.
#[derive(Debug)]
pub(crate) struct Made<'s> {
    sets: &'s Sets,
    /// The restoring process's own, for who is born in another.
    own_uts: Option<OwnedFd>,
    uts: BTreeMap<u32, OwnedFd>,
}

impl<'s> Made<'s> {
    /// Makes them.
    pub(crate) fn make(sets: &'s Sets) -> Result<Self, Error> {
        let mut made = Self { sets, own_uts: None, uts: BTreeMap::new() };
        for (&number, entry) in &sets.uts {
            let names = UtsNames { node: entry.nodename.clone(), domain: entry.domainname.clone() };
            let uts =
                new_uts(&names).map_err(Error::kernel(format!("make UTS namespace {number}")))?;
            made.uts.insert(number, uts);
        }
        if !made.uts.is_empty() {
            made.own_uts = Some(own("uts").map_err(Error::kernel("open the own UTS namespace"))?);
        }
        Ok(made)
    }

    /// Moves the descriptors to numbers from `base` on, out of the tasks' way.
    pub(crate) fn keep(&mut self, base: RawFd) -> Result<(), Error> {
        for fd in self.uts.values_mut().chain(&mut self.own_uts) {
            *fd = duplicate_from(&*fd, base).map_err(Error::kernel("duplicate a descriptor"))?;
        }
        Ok(())
    }

    /// In a new task: enters the namespaces of process `pid`.
    pub(crate) fn enter(&self, pid: ImagePid) -> Result<(), Error> {
        let set = self.sets.of.get(&pid).copied().unwrap_or_default();
        let uts = set.uts.map_or(self.own_uts.as_ref(), |number| self.uts.get(&number));
        match uts {
            Some(uts) => enter_uts(uts).map_err(Error::kernel("enter a UTS namespace")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_that_is_not_the_dumpers_is_another() {
        assert_eq!(other(Some(9), Some(4)), Some(9));
        assert_eq!(other(Some(4), Some(4)), None);
        // Images of before such namespaces were known.
        assert_eq!(other(None, Some(4)), None);
        assert_eq!(other(Some(9), None), None);
    }

    #[test]
    fn what_is_not_made_is_refused_by_its_name() {
        let own = TaskKobjIdsEntry { net_ns_id: Some(2), uts_ns_id: Some(4), ..Default::default() };
        let refuse = |ids| {
            refuse_others(ImagePid::new(7).unwrap(), &ids, &own).map_err(|error| error.to_string())
        };
        assert_eq!(refuse(TaskKobjIdsEntry { uts_ns_id: Some(9), ..own }), Ok(()));
        let error = refuse(TaskKobjIdsEntry { net_ns_id: Some(9), ..own }).unwrap_err();
        assert!(error.contains("process 7") && error.contains("net namespace"), "{error}");
    }
}
