//! How processes wait for each other while they are made. Of those that share a table one fills it, and takes from it what was
//! the restore's own, when no other needs it any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use ids::ImagePid;
use kernel::descriptors::duplicate_from;
use kernel::turn::Wait;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::Error;
use crate::load::{Body, Checkpoint};
use crate::plan::{Part, Plan, Table};

/// The turns at one table.
#[derive(Debug)]
pub(crate) struct Turns {
    /// It is filled.
    pub(crate) filled: Count,
    /// One of the others needs nothing more of the restore's own.
    pub(crate) done: Count,
}

impl Turns {
    /// New ones, out of the tasks' way.
    fn new(base: RawFd) -> Result<Self, Error> {
        Ok(Self { filled: Count::new(base)?, done: Count::new(base)? })
    }
}

/// The turns at all tables that are shared, by their ids.
#[derive(Debug, Default)]
pub(crate) struct AllTurns(BTreeMap<(Table, u32), Turns>);

impl AllTurns {
    /// New ones for a tree.
    pub(crate) fn new(checkpoint: &Checkpoint, plan: &Plan, base: RawFd) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        for task in &plan.tasks {
            let body = task.process.and_then(|process| checkpoint.processes[process].body.as_ref());
            let Some(body) = body else { continue };
            let parts = [
                (Table::Descriptors, task.descriptors.part),
                (Table::Directories, task.directories.part),
            ];
            for (table, _) in parts.iter().filter(|(_, part)| matches!(part, Part::First { .. })) {
                all.insert((*table, id(*table, body)), Turns::new(base)?);
            }
        }
        Ok(Self(all))
    }

    /// Those at the table of a process; `None` if it shares it with nobody.
    pub(crate) fn at(&self, table: Table, body: &Body) -> Option<&Turns> {
        self.0.get(&(table, id(table, body)))
    }
}

/// How those wait for the first process of a pid namespace who have children born there and did not make it.
#[derive(Debug, Default)]
pub(crate) struct FirstThere(BTreeMap<ImagePid, (Count, u32)>);

impl FirstThere {
    /// New ones for a tree.
    pub(crate) fn new(plan: &Plan, base: RawFd) -> Result<Self, Error> {
        let awaited = plan.awaited.iter();
        let all = awaited.map(|(first, times)| Ok((*first, (Count::new(base)?, *times))));
        Ok(Self(all.collect::<Result<_, Error>>()?))
    }

    /// Says that a process is there.
    pub(crate) fn tell(&self, pid: ImagePid) -> Result<(), Error> {
        self.0.get(&pid).map_or(Ok(()), |(count, times)| count.tell(*times))
    }

    /// What tells that it is; `None` if nobody waits for that.
    pub(crate) fn of(&self, pid: ImagePid) -> Option<&Count> {
        self.0.get(&pid).map(|(count, _)| count)
    }
}

fn id(table: Table, body: &Body) -> u32 {
    match table {
        Table::Descriptors => body.ids.files_id,
        Table::Directories => body.ids.fs_id,
        Table::Memory => body.ids.vm_id,
    }
}

/// Something that is counted, and waited for.
#[derive(Debug)]
pub(crate) struct Count(File);

impl Count {
    pub(crate) fn new(base: RawFd) -> Result<Self, Error> {
        let failed = || Error::kernel("make an eventfd to wait by");
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_SEMAPHORE;
        let made = EventFd::from_flags(flags).map_err(|errno| failed()(errno.into()))?;
        Ok(Self(duplicate_from(&made, base).map_err(failed())?.into()))
    }

    /// Its descriptor, which the restorer uses.
    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Counts up.
    pub(crate) fn tell(&self, times: u32) -> Result<(), Error> {
        let told = (&self.0).write_all(&u64::from(times).to_ne_bytes());
        told.map_err(Error::kernel("tell those who wait"))
    }

    /// What waits until it has been counted up so many times.
    pub(crate) fn wait(&self, times: u32) -> Wait<'_> {
        Wait::Told { by: self.0.as_fd(), times }
    }
}

/// That another process of the tree did not say what was waited for.
pub(crate) fn not_told(errno: Errno) -> Error {
    Error::kernel("wait for another process of the tree")(errno.into())
}
