//! Descriptor tables of which it is known, when the target is frozen, that next to nothing in them has
//! changed: what was found before is written without a look at each descriptor.
//!
//! The inventory says of a process which descriptors are different from what they were when the files
//! were looked at ([`Inventory::different_files`](collector::Inventory::different_files)), if its
//! descriptors are still the same ones. A look is taken at those, and at what an inventory does not
//! tell all of: messages in Unix sockets, where the file is that a socket is bound to, sizes on other
//! hosts, event files, what has no mark. The others stand as they were found.

use std::collections::HashSet;

use collector::{Inventory, OpenFile, Process};
use ids::HostPid;
use images::messages::{FdinfoEntry, FileEntry, PipeDataEntry};

use super::file_cache::{Before, CachedFile, FileCache, Unchanged};
use super::survey::{AT_ONCE, Survey, has_table, is_alive};
use super::suspects::Suspects;
use super::{Captured, Error, table};

/// Whether a socket was behind a descriptor, or nobody knows what.
fn had_socket(before: &Before, fd: i32) -> bool {
    let index = before.entries.binary_search_by_key(&fd.cast_unsigned(), |entry| entry.fd);
    let entry = index.ok().and_then(|index| before.entries.get(index));
    let kind = entry.and_then(|entry| table::of_type(entry.r#type));
    kind.is_none_or(|kind| !kind.families().is_empty())
}

impl Captured {
    /// Calls `put` with the entries that stand as they were found.
    pub(super) fn unchanged_entries<E>(
        &self,
        mut put: impl FnMut(&FileEntry) -> Result<(), E>,
    ) -> Result<(), E> {
        let unchanged = self.unchanged.iter().flat_map(Unchanged::files).map(CachedFile::keeping);
        for keeping in self.keeping.iter().chain(unchanged) {
            for entry in self.cached.get(keeping.entries.clone()).unwrap_or_default() {
                let mut entry = entry.clone();
                if let Some(kind) = table::of_type(entry.r#type) {
                    kind.update(&mut entry, keeping);
                }
                put(&entry)?;
            }
        }
        Ok(())
    }

    /// The contents of pipes, or of fifos, that stand as they were found.
    pub(super) fn unchanged_contents(&self, r#type: u32) -> Vec<(&PipeDataEntry, &[u8])> {
        let mut written = HashSet::new();
        let readers = self.unchanged.iter().flat_map(Unchanged::files);
        readers
            .filter(|found| found.reads(r#type) && written.insert(found.file()))
            .filter_map(|found| self.contents.get(&found.file()))
            .map(|(_, entry, bytes)| (entry, &bytes[..]))
            .collect()
    }
}

/// Whether the tree holds the sockets that it held: every process has the descriptors that it had, none
/// has gone, and no socket is among what is different.
pub(super) fn are_sockets_the_same(cache: &FileCache, inventory: &Inventory) -> bool {
    let alive = inventory.processes.values();
    let alive = alive.filter(|process| is_alive(process) && has_table(process));
    let is_socket = |process: &Process, fd: i32| {
        let index = process.files.binary_search_by_key(&fd, |file| file.fd);
        let file = index.ok().and_then(|index| process.files.get(index));
        let is_now = file.is_none_or(|file| file.mode & libc::S_IFMT == libc::S_IFSOCK);
        is_now || cache.tables.get(&process.pid).is_none_or(|before| had_socket(before, fd))
    };
    let is_same = |process: &&Process| {
        let different = inventory.different_files(process.pid);
        different.is_some_and(|different| different.iter().all(|fd| !is_socket(process, *fd)))
    };
    cache.tables.keys().copied().eq(alive.clone().map(|process| process.pid))
        && alive.into_iter().all(|process| is_same(&process))
}

impl Survey<'_> {
    /// Notes what becomes of a descriptor, while the target runs.
    pub(super) fn note(&mut self, pid: HostPid, file: &OpenFile, entry: Option<&FdinfoEntry>) {
        let fd = file.fd;
        let found = self.cache.last_file(pid).filter(|found| found.fd() == fd);
        // Locks are read when all stands still: no mark covers them.
        let is_steady = found.is_some_and(CachedFile::is_steady) && file.locked == Some(false);
        let before = self.cache.tables.entry(pid).or_default();
        before.entries.extend(entry.cloned());
        if !is_steady || entry.is_none() {
            before.looks.push(fd);
        }
    }

    /// The descriptors of a process that are those of before; `None` if they are not.
    pub(super) fn unchanged(
        &mut self,
        process: &Process,
        suspects: &Suspects,
    ) -> Result<Option<Vec<FdinfoEntry>>, Error> {
        let pid = process.pid;
        let Some(different) = self.inventory.different_files(pid) else { return Ok(None) };
        let Some(before) = self.cache.tables.remove(&pid) else { return Ok(None) };
        let Before { mut entries, mut looks } = before;
        looks.extend(different);
        if !self.same_sockets {
            // Whoever was at the other end of a socket may have gone.
            looks.extend(self.cache.without_peer(pid, &self.neighbours));
        }
        looks.sort_unstable();
        looks.dedup();
        for (nth, fd) in looks.iter().enumerate() {
            if nth % AT_ONCE == 0 {
                self.in_time()?;
            }
            let place = process.files.binary_search_by_key(fd, |file| file.fd);
            let file = place.ok().and_then(|index| process.files.get(index));
            let entry = match file {
                Some(file) => self.entry(process, file, suspects, &entries)?,
                None => None,
            };
            let place = entries.binary_search_by_key(&fd.cast_unsigned(), |entry| entry.fd);
            match (place, entry) {
                (Ok(index), Some(entry)) => entries[index] = entry,
                (Ok(index), None) => drop(entries.remove(index)),
                (Err(index), Some(entry)) => entries.insert(index, entry),
                (Err(_), None) => {}
            }
        }
        let found = self.cache.rest_of(pid);
        self.out.unchanged.push(Unchanged { found, but: looks });
        Ok(Some(entries))
    }
}
