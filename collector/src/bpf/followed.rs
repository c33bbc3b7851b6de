//! When open files need not be read again: the use that inventories make of tracks.
//!
//! The files of a process are as they were, if no call has ended since that could have changed them.
//! That is known of tracked processes, so it holds for files that nobody else can change, as long as
//! none of those that can has made such a call. Processes that share files therefore form groups,
//! and a group is *closed* if
//!
//! - each of its files is of a kind that only calls change (those that have a mark);
//! - as many references to each open file are held as the group has descriptors: nobody else holds
//!   it, no message carries it, no mapping needs it, and no thread was using it that moment;
//! - nobody else has a file with a name open for writing, or a pipe open; and the peer of each socket
//!   is one of the group's.
//!
//! What is known by name can also be changed by name (renamed, removed, opened and written), by
//! anybody: any such call on the machine makes all files be read. A process that has set up
//! asynchronous input and output (`io_setup`, `io_uring_setup`) is always read. What no call of this
//! machine does, such as another host's changes of a file system that both have mounted, is as if
//! done after the dump.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use ebpf_common::track::TrackedProcess;
use ebpf_common::{FileRecord, HoldersRecord, KIND_FILE, KIND_HOLDERS};
use zerocopy::FromBytes;

use super::BpfError;
use super::records::records;
use super::tracks::Counts;
use crate::{Mapping, Process};

/// What was known of tracked processes when an inventory was taken: it goes with the inventory and is
/// no part of what it says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Basis {
    counted: Counted,
    /// The closed groups, each named by its lowest pid, of the processes in one.
    groups: BTreeMap<i32, i32>,
}

impl PartialEq for Basis {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Basis {}

/// What is counted, at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// Processes of tracks that have lost none.
    processes: BTreeMap<i32, TrackedProcess>,
    names: u64,
}

impl Counted {
    /// Reads what is counted of these processes.
    pub(super) fn read(counts: &Counts, pids: impl Iterator<Item = i32>) -> Result<Self, BpfError> {
        let mut counted = Self { processes: BTreeMap::new(), names: counts.names()? };
        for pid in pids {
            if let Some(process) = counts.process(pid)? {
                counted.processes.insert(pid, process);
            }
        }
        // Losses last: one that was counted before the processes were read is seen.
        let tracks: BTreeSet<u64> = counted.processes.values().map(|of| of.track).collect();
        for id in tracks {
            if counts.track(id)?.is_none_or(|track| track.lost > 0) {
                counted.processes.retain(|_, process| process.track != id);
            }
        }
        Ok(counted)
    }

    /// The processes whose files are what they were.
    pub(super) fn unchanged(&self, earlier: &Basis) -> HashSet<i32> {
        if self.names != earlier.counted.names {
            return HashSet::new();
        }
        let same = |pid: &i32| {
            let now = self.processes.get(pid);
            let files = |process: &TrackedProcess| {
                (process.track, process.entered, process.files, process.asynchronous)
            };
            now.is_some_and(|now| now.asynchronous == 0)
                && now.map(files) == earlier.counted.processes.get(pid).map(files)
        };
        let changed: HashSet<i32> =
            earlier.groups.iter().filter(|(pid, _)| !same(pid)).map(|(_, group)| *group).collect();
        let unchanged = earlier.groups.iter().filter(|(_, group)| !changed.contains(group));
        unchanged.map(|(pid, _)| *pid).collect()
    }

    /// What to keep with an inventory: the groups of what was read, and those of before of what was
    /// not.
    pub(super) fn basis(self, held: &Held, unchanged: &HashSet<i32>, earlier: &Basis) -> Basis {
        let mut groups = held.closed(|pid| self.processes.contains_key(&pid));
        let before = earlier.groups.iter().filter(|(pid, _)| unchanged.contains(pid));
        groups.extend(before.map(|(pid, group)| (*pid, *group)));
        Basis { counted: self, groups }
    }
}

/// The open files of processes, as the kernel knows them.
#[derive(Debug, Default)]
pub(super) struct Held {
    files: BTreeMap<i32, Vec<HeldFile>>,
    /// Processes of which calls do not tell all.
    open: HashSet<i32>,
    tables: HashMap<u64, i32>,
}

/// An open file and who else can change it.
#[derive(Debug)]
struct HeldFile {
    file: FileRecord,
    holders: HoldersRecord,
}

/// What processes share that makes them one group.
#[derive(PartialEq, Eq, Hash)]
enum Shared {
    /// An open file, by its address.
    File(u64),
    /// A file, by device and inode.
    Inode(u32, u64),
}

impl Held {
    /// Adds a process whose files an iterator has just written out; `table` is the address of its
    /// descriptor table.
    pub(super) fn add(&mut self, process: &Process, table: u64, output: &[u8]) {
        let pid = process.pid;
        let mut files: Vec<HeldFile> = Vec::new();
        for (kind, bytes) in records(output).flatten() {
            if kind == KIND_HOLDERS
                && let (Ok((holders, _)), Some(last)) =
                    (HoldersRecord::read_from_prefix(bytes), files.last_mut())
            {
                last.holders = holders;
            }
            let Ok((file, _)) = FileRecord::read_from_prefix(bytes) else { continue };
            if kind != KIND_FILE {
                continue;
            }
            // As in the decoding: a thread with a table of its own follows.
            if files.last().is_some_and(|last| last.file.fd >= file.fd) {
                break;
            }
            files.push(HeldFile { file, holders: HoldersRecord::default() });
        }
        if process.mappings.iter().any(is_asynchronous) {
            self.open.insert(pid);
        }
        if let Some(other) = self.tables.insert(table, pid) {
            // Each changes the other's.
            self.open.extend([pid, other]);
        }
        self.files.insert(pid, files);
    }

    /// The closed groups of the processes that are tracked.
    fn closed(&self, is_tracked: impl Fn(i32) -> bool) -> BTreeMap<i32, i32> {
        let mut group: BTreeMap<i32, i32> = self.files.keys().map(|pid| (*pid, *pid)).collect();
        let mut holder: HashMap<Shared, i32> = HashMap::new();
        let mut descriptors: HashMap<u64, u64> = HashMap::new();
        let mut writers: HashMap<(u32, u64), HashSet<u64>> = HashMap::new();
        for (&pid, files) in &self.files {
            for HeldFile { file, holders } in files {
                *descriptors.entry(file.file).or_default() += 1;
                if is_pipe(file) || is_writer(file) {
                    writers.entry((file.device, file.inode)).or_default().insert(file.file);
                }
                let peer = (holders.peer != 0).then_some(Shared::File(holders.peer));
                let inode = Shared::Inode(file.device, file.inode);
                for shared in [Shared::File(file.file), inode].into_iter().chain(peer) {
                    if let Some(&other) = holder.get(&shared) {
                        join(&mut group, pid, other);
                    } else {
                        holder.insert(shared, pid);
                    }
                }
            }
        }
        let all = self.files.values().flatten();
        let peers: HashMap<u64, u64> =
            all.map(|held| (held.file.file, held.holders.peer)).collect();
        let is_settled = |HeldFile { file, holders }: &HeldFile| {
            let writers = writers.get(&(file.device, file.inode)).map_or(0, HashSet::len) as i64;
            file.mark != 0
                && descriptors.get(&file.file) == Some(&holders.references)
                && match file.magic {
                    super::files::SOCKET_FS => peers.get(&holders.peer) == Some(&file.file),
                    super::files::PIPE_FS => i64::from(holders.writers) == writers,
                    // Negative for a program that runs, which nobody may write.
                    _ => i64::from(holders.writers) <= writers && !is_fifo(file),
                }
        };
        let mut open: HashSet<i32> = HashSet::new();
        for (&pid, files) in &self.files {
            let is_closed =
                is_tracked(pid) && !self.open.contains(&pid) && files.iter().all(is_settled);
            if !is_closed {
                open.insert(root(&group, pid));
            }
        }
        let roots: Vec<(i32, i32)> = group.keys().map(|pid| (*pid, root(&group, *pid))).collect();
        roots.into_iter().filter(|(_, group)| !open.contains(group)).collect()
    }
}

fn root(group: &BTreeMap<i32, i32>, mut pid: i32) -> i32 {
    while let Some(&above) = group.get(&pid).filter(|above| **above != pid) {
        pid = above;
    }
    pid
}

fn join(group: &mut BTreeMap<i32, i32>, one: i32, other: i32) {
    let (one, other) = (root(group, one), root(group, other));
    group.insert(one.max(other), one.min(other));
}

fn is_asynchronous(mapping: &Mapping) -> bool {
    let name = mapping.name.as_bytes();
    name.starts_with(b"/[aio]") || name.starts_with(b"anon_inode:[io_uring]")
}

const fn is_pipe(file: &FileRecord) -> bool {
    file.magic == super::files::PIPE_FS
}

const fn is_fifo(file: &FileRecord) -> bool {
    file.mode & libc::S_IFMT == libc::S_IFIFO
}

const fn is_writer(file: &FileRecord) -> bool {
    file.flags & libc::O_ACCMODE.cast_unsigned() != libc::O_RDONLY.cast_unsigned()
}
