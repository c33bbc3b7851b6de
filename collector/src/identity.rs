//! Which descriptors are one open file and which processes share a table, asked of the kernel by
//! `kcmp`. Only what looks alike is compared, and by sorting: n log n calls, not n².

use std::cmp::Ordering;

use ids::HostPid;
use kernel::kcmp::{self, Resource};
use nix::errno::Errno;

use crate::{Error, Inventory, OpenFile, ProcessState, Tables};

/// A descriptor, with what all descriptors of one open file have in common.
#[derive(Clone, Copy)]
struct Candidate {
    alike: (u64, u64, u32),
    pid: HostPid,
    fd: i32,
}

/// What the kernel answers; `None` for something that has gone.
fn answer(
    answer: Result<Ordering, Errno>,
    what: &'static str,
    (first, second): (HostPid, HostPid),
) -> Result<Option<Ordering>, Error> {
    match answer {
        Ok(order) => Ok(Some(order)),
        Err(Errno::ESRCH | Errno::EBADF) => Ok(None),
        Err(source) => Err(Error::Compare { what, first, second, source }),
    }
}

/// For each item the first one that it equals, which may be itself: found by searching among those
/// first ones, kept in order. (Not by the library's sort, which panics when an order is not one: here
/// anything may go or change while it is being compared.) What has gone equals only itself.
fn firsts<T: Copy>(
    items: &[T],
    compare: impl Fn(T, T) -> Result<Option<Ordering>, Error>,
) -> Result<Vec<T>, Error> {
    let mut known: Vec<T> = Vec::new();
    let mut firsts = Vec::with_capacity(items.len());
    'items: for &item in items {
        let (mut low, mut high) = (0, known.len());
        while low < high {
            let middle = low.midpoint(high);
            match compare(known[middle], item)? {
                Some(Ordering::Less) => low = middle + 1,
                Some(Ordering::Greater) => high = middle,
                Some(Ordering::Equal) => {
                    firsts.push(known[middle]);
                    continue 'items;
                }
                None => {
                    firsts.push(item);
                    continue 'items;
                }
            }
        }
        known.insert(low, item);
        firsts.push(item);
    }
    Ok(firsts)
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
    let compare = |first: Candidate, second: Candidate| {
        let order = kcmp::files((first.pid, first.fd), (second.pid, second.fd));
        answer(order, "descriptors", (first.pid, second.pid))
    };
    for alike in candidates.chunk_by(|first, second| first.alike == second.alike) {
        // They come by rising pid and descriptor: the first of its kind is the lowest.
        for (this, lowest) in alike.iter().zip(firsts(alike, compare)?) {
            if let Some(file) = file_mut(inventory, this.pid, this.fd) {
                file.description = OpenFile::description_of(lowest.pid, lowest.fd);
            }
        }
    }
    Ok(())
}

fn file_mut(inventory: &mut Inventory, pid: HostPid, fd: i32) -> Option<&mut OpenFile> {
    let files = &mut inventory.processes.get_mut(&pid)?.files;
    let index = files.binary_search_by_key(&fd, |file| file.fd).ok()?;
    files.get_mut(index)
}

/// Finds who shares which table with whom.
pub(crate) fn name_tables(inventory: &mut Inventory) -> Result<(), Error> {
    let pids: Vec<HostPid> = inventory
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
    let owner = |table: &[(HostPid, HostPid)], pid: HostPid| {
        table.binary_search_by_key(&pid, |entry| entry.0).ok().map(|index| table[index].1)
    };
    let other = |table: &[(HostPid, HostPid)], pid: HostPid| {
        let lowest = owner(table, pid)?;
        if lowest != pid {
            return Some(lowest);
        }
        table.iter().find(|entry| entry.1 == pid && entry.0 != pid).map(|entry| entry.0)
    };
    for (&pid, process) in &mut inventory.processes {
        process.tables = Tables {
            memory: owner(&memory, pid),
            files: owner(&files, pid),
            file_system: owner(&file_system, pid),
            signal_handlers: owner(&signal_handlers, pid),
            others: [&memory, &files, &file_system, &signal_handlers]
                .map(|table| other(table, pid)),
        };
    }
    Ok(())
}

/// Each process with the lowest one that has the same table, by rising pid.
fn owners(pids: &[HostPid], resource: Resource) -> Result<Vec<(HostPid, HostPid)>, Error> {
    let lowest = firsts(pids, |first, second| {
        answer(kcmp::resources(first, second, resource), "tables", (first, second))
    })?;
    Ok(pids.iter().copied().zip(lowest).collect())
}

/// Whether a thread has a descriptor table or file system state that are not its leader's.
pub(crate) fn tables_differ(tid: HostPid, leader: HostPid) -> Result<bool, Errno> {
    Ok(kcmp::resources(tid, leader, Resource::Files)? != Ordering::Equal
        || kcmp::resources(tid, leader, Resource::FileSystem)? != Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_are_found_also_without_an_order() {
        let by_value = |first: (i32, i32), second: (i32, i32)| Ok(Some(first.0.cmp(&second.0)));
        let items = [(5, 0), (3, 1), (5, 2), (9, 3), (3, 4), (5, 5)];
        let found = firsts(&items, by_value).unwrap();
        assert_eq!(found, [(5, 0), (3, 1), (5, 0), (9, 3), (3, 1), (5, 0)]);
        let disorder = |first: i32, second: i32| Ok(Some((first * 7 % 5).cmp(&(second % 3))));
        assert_eq!(firsts(&[1, 2, 3, 4, 5, 6, 7, 8, 9], disorder).unwrap().len(), 9);
        let gone = |_, _| Ok(None);
        assert_eq!(firsts(&[1, 1], gone).unwrap(), [1, 1]);
    }
}
