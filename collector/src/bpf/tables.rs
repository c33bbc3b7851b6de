//! Which processes use the same tables: address space, descriptors, directories, signal handlers.
//!
//! The kernel counts the users of each. If the threads of the inventory are all of them, nobody else is
//! looked at; if not, all threads of the machine are, for who the others are. Whoever reads of a process
//! counts as a user of its memory meanwhile, without being found among the threads, and is nobody.

use std::collections::{BTreeMap, HashMap, HashSet};

use ebpf_common::{TABLES, TaskPlaces};
use ids::HostPid;
use kernel::bpf::IterTarget;

use super::BpfError;
use super::reading::{BpfSource, FoundProcess, Tasks};
use super::records::is_kernel_thread;
use crate::{ProcessState, Tables};

/// A table: which of the four, and its address.
type Table = (usize, u64);

fn addresses(places: &TaskPlaces) -> [u64; TABLES] {
    [places.memory, places.files, places.file_system, places.signal_handlers]
}

/// The tables that have more users than the threads of an inventory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    doubtful: HashSet<Table>,
    inside: HashSet<HostPid>,
}

impl Uses {
    pub(super) fn of(tasks: &BTreeMap<HostPid, Tasks>) -> Self {
        let threads = tasks.values().flat_map(|tasks| &tasks.threads);
        let doubtful = doubtful(threads.map(|task| &task.places));
        // Only a search for others asks who is inside.
        let inside =
            if doubtful.is_empty() { HashSet::new() } else { tasks.keys().copied().collect() };
        Self { doubtful, inside }
    }
}

/// The tables that have more users than these threads.
fn doubtful<'a>(threads: impl Iterator<Item = &'a TaskPlaces>) -> HashSet<Table> {
    let mut seen: HashMap<Table, (u32, u32)> = HashMap::new();
    // Threads of a process follow each other, and mostly have the same.
    let mut last = [(0, 0, 0); TABLES];
    let mut settle = |index: usize, (address, count, users): (u64, u32, u32)| {
        if address != 0 {
            let known = seen.entry((index, address)).or_default();
            *known = (known.0 + count, known.1.max(users));
        }
    };
    for places in threads {
        for (index, address) in addresses(places).into_iter().enumerate() {
            let users = places.users[index];
            if last[index].0 == address {
                last[index].1 += 1;
                last[index].2 = last[index].2.max(users);
            } else {
                settle(index, std::mem::replace(&mut last[index], (address, 1, users)));
            }
        }
    }
    for (index, run) in last.into_iter().enumerate() {
        settle(index, run);
    }
    seen.retain(|_, (count, users)| *users > *count);
    seen.into_keys().collect()
}

impl BpfSource {
    /// Who else uses these tables: for each the lowest process that is not inside, nor begotten there.
    pub(super) fn others(&mut self, uses: &Uses) -> Result<HashMap<Table, HostPid>, BpfError> {
        let mut holders = HashMap::new();
        if uses.doubtful.is_empty() {
            return Ok(holders);
        }
        let mut all = BTreeMap::new();
        self.read_tasks(IterTarget::All, &mut all)?;
        for (&pid, tasks) in &all {
            if descends(pid, &all, &uses.inside) {
                continue;
            }
            for task in tasks.threads.iter().filter(|task| !is_kernel_thread(task)) {
                for table in addresses(&task.places).into_iter().enumerate() {
                    if uses.doubtful.contains(&table) {
                        holders.entry(table).or_insert(pid);
                    }
                }
            }
        }
        Ok(holders)
    }
}

/// Whether a process is inside, or below one that is: started since.
fn descends(pid: HostPid, all: &BTreeMap<HostPid, Tasks>, inside: &HashSet<HostPid>) -> bool {
    let mut above = pid;
    // No tree is deeper than it has members, whatever the kernel said.
    for _ in 0..=all.len() {
        if inside.contains(&above) {
            return true;
        }
        let task = all.get(&above).and_then(|tasks| tasks.threads.first());
        let Some(parent) = task.and_then(|task| HostPid::new(task.ids.ppid)) else { return false };
        above = parent;
    }
    false
}

/// Says of every process whose tables it uses; `holders` are those outside that use some of them, too.
pub(super) fn name(found: &mut BTreeMap<HostPid, FoundProcess>, holders: &HashMap<Table, HostPid>) {
    // The lowest two of each.
    let mut owners: HashMap<Table, (HostPid, Option<HostPid>)> = HashMap::new();
    let is_alive = |found: &FoundProcess| {
        let is_zombie = matches!(found.process.state, ProcessState::Zombie { .. });
        !found.process.kernel_thread && !is_zombie
    };
    let places = |found: &FoundProcess| found.speaker.as_ref().unwrap_or(&found.leader).places;
    for (&pid, found) in found.iter().filter(|(_, found)| is_alive(found)) {
        for table in addresses(&places(found)).into_iter().enumerate().filter(|table| table.1 != 0)
        {
            let owner = owners.entry(table).or_insert((pid, None));
            if owner.0 != pid && owner.1.is_none() {
                owner.1 = Some(pid);
            }
        }
    }
    for (&pid, found) in found.iter_mut().filter(|(_, found)| is_alive(found)) {
        let mut own = [None; TABLES];
        let mut others = [None; TABLES];
        for table in addresses(&places(found)).into_iter().enumerate() {
            let Some(&(lowest, second)) = owners.get(&table) else { continue };
            own[table.0] = Some(lowest);
            let inside = if lowest == pid { second } else { Some(lowest) };
            others[table.0] = holders.get(&table).copied().or(inside);
        }
        let [memory, files, file_system, signal_handlers] = own;
        found.process.tables = Tables { memory, files, file_system, signal_handlers, others };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_no_thread_accounts_for_are_seen() {
        let places =
            |memory, files, users| TaskPlaces { memory, files, users, ..TaskPlaces::default() };
        let threads = [
            places(1, 7, [3, 2, 0, 0]),
            places(1, 7, [3, 2, 0, 0]),
            places(2, 8, [1, 2, 0, 0]),
            // Of another process, in between.
            places(1, 9, [3, 1, 0, 0]),
            // One that has ended.
            places(0, 0, [0; TABLES]),
        ];
        assert_eq!(doubtful(threads.iter()), HashSet::from([(1, 8)]));
        assert_eq!(doubtful(threads[1..].iter()), HashSet::from([(0, 1), (1, 7), (1, 8)]));
        assert!(doubtful(std::iter::empty()).is_empty());
    }
}
