//! Which descriptors are one open file and which processes share a table, asked of the kernel by
//! `kcmp`. Only what looks alike is compared, and by sorting: n log n calls, not n².

use std::cmp::Ordering;

use kernel::kcmp::{self, Resource};
use nix::errno::Errno;

use crate::{Error, Inventory, OpenFile, ProcessState, Tables};

/// A descriptor, with what all descriptors of one open file have in common.
#[derive(Clone, Copy)]
struct Candidate {
    alike: (u64, u64, u32),
    pid: i32,
    fd: i32,
}

/// Sorts by a comparison that may fail: the first failure is kept, and the order is then of no use.
fn sort<T>(
    items: &mut [T],
    compare: impl Fn(&T, &T) -> Result<Ordering, Error>,
) -> Result<(), Error> {
    let mut failure = None;
    items.sort_by(|first, second| {
        if failure.is_some() {
            return Ordering::Equal;
        }
        compare(first, second).unwrap_or_else(|error| {
            failure = Some(error);
            Ordering::Equal
        })
    });
    failure.map_or(Ok(()), Err)
}

/// What is gone is no failure: the two are then taken for different, in the order of their numbers.
fn or_gone(
    answer: Result<Ordering, Errno>,
    what: &'static str,
    first: (i32, i32),
    second: (i32, i32),
) -> Result<Ordering, Error> {
    match answer {
        Ok(order) => Ok(order),
        Err(Errno::ESRCH | Errno::EBADF) => Ok(first.cmp(&second)),
        Err(source) => Err(Error::Compare { what, first: first.0, second: second.0, source }),
    }
}

/// Names the open file descriptions of all processes.
pub(crate) fn name_descriptions(inventory: &mut Inventory) -> Result<(), Error> {
    let mut candidates: Vec<Candidate> = inventory
        .processes
        .values()
        .flat_map(|process| {
            process.files.iter().map(|file| Candidate {
                // The position is left out: it may have moved between two readings.
                alike: (file.device, file.inode, file.flags),
                pid: process.pid,
                fd: file.fd,
            })
        })
        .collect();
    candidates.sort_unstable_by_key(|candidate| (candidate.alike, candidate.pid, candidate.fd));
    let compare = |first: &Candidate, second: &Candidate| {
        let (first, second) = ((first.pid, first.fd), (second.pid, second.fd));
        or_gone(kcmp::files(first, second), "descriptors", first, second)
    };
    for alike in candidates.chunk_by_mut(|first, second| first.alike == second.alike) {
        // Stable: among equals the lowest pid and descriptor stay first.
        sort(alike, compare)?;
        let mut lowest = alike[0];
        for index in 0..alike.len() {
            let this = alike[index];
            if index > 0 && compare(&alike[index - 1], &this)? != Ordering::Equal {
                lowest = this;
            }
            if let Some(file) = file_mut(inventory, this.pid, this.fd) {
                file.description = OpenFile::description_of(lowest.pid, lowest.fd);
            }
        }
    }
    Ok(())
}

fn file_mut(inventory: &mut Inventory, pid: i32, fd: i32) -> Option<&mut OpenFile> {
    let files = &mut inventory.processes.get_mut(&pid)?.files;
    let index = files.binary_search_by_key(&fd, |file| file.fd).ok()?;
    files.get_mut(index)
}

/// Finds who shares which table with whom.
pub(crate) fn name_tables(inventory: &mut Inventory) -> Result<(), Error> {
    let pids: Vec<i32> = inventory
        .processes
        .values()
        .filter(|process| {
            !process.kernel_thread && !matches!(process.state, ProcessState::Zombie { .. })
        })
        .map(|process| process.pid)
        .collect();
    let memory = owners(&pids, Resource::Memory)?;
    let files = owners(&pids, Resource::Files)?;
    let file_system = owners(&pids, Resource::FileSystem)?;
    let signal_handlers = owners(&pids, Resource::SignalHandlers)?;
    let owner = |table: &[(i32, i32)], pid: i32| {
        table.binary_search_by_key(&pid, |entry| entry.0).map_or(0, |index| table[index].1)
    };
    for (&pid, process) in &mut inventory.processes {
        process.tables = Tables {
            memory: owner(&memory, pid),
            files: owner(&files, pid),
            file_system: owner(&file_system, pid),
            signal_handlers: owner(&signal_handlers, pid),
        };
    }
    Ok(())
}

/// Each process with the lowest one that has the same table, by rising pid.
fn owners(pids: &[i32], resource: Resource) -> Result<Vec<(i32, i32)>, Error> {
    let compare = |first: &i32, second: &i32| {
        let answer = kcmp::resources(*first, *second, resource);
        or_gone(answer, "tables", (*first, 0), (*second, 0))
    };
    let mut sorted = pids.to_vec();
    sort(&mut sorted, compare)?;
    let mut owners = Vec::with_capacity(sorted.len());
    let mut lowest = 0;
    for (index, &pid) in sorted.iter().enumerate() {
        if index == 0 || compare(&sorted[index - 1], &pid)? != Ordering::Equal {
            lowest = pid;
        }
        owners.push((pid, lowest));
    }
    owners.sort_unstable();
    Ok(owners)
}

/// Whether a thread has a descriptor table or file system state that are not its leader's.
pub(crate) fn tables_differ(tid: i32, leader: i32) -> Result<bool, Errno> {
    Ok(kcmp::resources(tid, leader, Resource::Files)? != Ordering::Equal
        || kcmp::resources(tid, leader, Resource::FileSystem)? != Ordering::Equal)
}
