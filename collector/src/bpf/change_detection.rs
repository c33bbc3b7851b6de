//! When open files need not be read again.
//!
//! A file that is open is as it was, if no call has ended since that could have changed it. Calls are
//! counted by the process that made them, for processes that are tracked. So a file is *settled* if
//! only calls of tracked processes change it, which are then known by what they hold:
//!
//! - it is of a kind that only calls change (it has a mark);
//! - all that hold it are tracked, and do nothing but by calls: as many references to the open file
//!   are held as those have descriptors. Nobody else holds it, no message carries it, no mapping needs
//!   it, and no thread was using it that moment;
//! - of a pipe, the same holds for all that is open of it, and of a file with a name for all that is
//!   open for writing; of a Unix socket, for its peer;
//! - nobody but the threads of a process has its table of descriptors.
//!
//! Others can get at a settled file in two ways, and both are counted as well. By a descriptor: they
//! open it for writing, or to cut it off (a pipe: at all, by `/proc/PID/fd`), or take one from a holder
//! (`pidfd_getfd`), or have it open for reading and change its permissions (`fchmod`): each is counted
//! for its inode. And by a name: it is renamed, removed, cut off, its permissions changed. Of those only
//! their number is known, for the whole machine: if it has moved, the kernel is asked of all settled
//! files with names whether it was them, by a print of their names, rights and sizes. Those that have
//! another are read again; all of them, if anything has been mounted or unmounted.
//!
//! A file is read again, too, if one of its holders has made any call that changes files of whatever
//! kind. Which those are is found out by joining into a *cluster* what has to do with each other: all
//! that is open of one pipe or of one file that is written, and both ends of a socket. A process that has made no such call has the
//! descriptors that it had. One that has set up asynchronous input and output (`io_setup`,
//! `io_uring_setup`) is always read, like one that shares its descriptors with another process.
//!
//! Counts are read before the files are, and the programs count when a call ends: a change that was
//! not seen is counted later than that. A process that stands still has ended its last call. A call
//! of somebody else that has not ended yet is as if made after the dump, as is what no call of this
//! machine does, such as another host's changes of a file system that both have mounted, and what
//! others do by asynchronous calls or by descriptors that the kernel opened for them (fanotify).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ebpf_common::track::TrackedProcess;
use ebpf_common::{FileRecord, HoldersRecord, KIND_FILE, KIND_HOLDERS};
use ids::HostPid;
use images::MappingKind;
use zerocopy::FromBytes;

use super::BpfError;
use super::records::{PIPE_FS, SOCKET_FS, has_names_by_calls, records};
use super::tracks::Counts;
use crate::{Mapping, Process};

/// What spares the next inventory a look.
#[derive(Debug, Default)]
pub(super) struct Basis {
    processes: BTreeMap<HostPid, Arc<Held>>,
    settled: BTreeMap<HostPid, Arc<Settled>>,
    /// The processes that hold files of each cluster.
    clusters: Arc<Vec<BTreeSet<HostPid>>>,
}

/// What is counted, at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    processes: BTreeMap<HostPid, TrackedProcess>,
    names: [u64; 2],
}

impl Counted {
    /// Reads what is counted of these processes.
    pub(super) fn read(
        counts: &Counts,
        pids: impl Iterator<Item = HostPid>,
    ) -> Result<Self, BpfError> {
        let mut counted = Self { processes: BTreeMap::new(), names: counts.names()? };
        for pid in pids {
            if let Some(process) = counts.process(pid)? {
                counted.processes.insert(pid, process);
            }
        }
        Ok(counted)
    }
}

/// What has to be read again of each process: all else is as it was. Of a process that is not there,
/// all.
pub(super) type Needs = BTreeMap<HostPid, Wanted>;

/// Descriptors whose files are to be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// By rising number.
    pub(super) always: Vec<i32>,
    /// Those of files that something may have been changed of by their names, with their prints: if that
    /// is what they still are, nothing has.
    pub(super) unless: Vec<(i32, u64)>,
}

impl Wanted {
    pub(super) fn is_none(&self) -> bool {
        self.always.is_empty() && self.unless.is_empty()
    }
}

/// The open files of a process, with all that tells who else can change them.
#[derive(Debug)]
pub(super) struct Held {
    counts: TrackedProcess,
    names: [u64; 2],
    files: Vec<HeldFile>,
    /// Calls of others change them, or something that is no call.
    is_open: bool,
}

/// An open file and who else can change it.
#[derive(Debug)]
struct HeldFile {
    file: FileRecord,
    holders: HoldersRecord,
    /// How often it had been touched.
    touched: u64,
}

/// A process whose descriptors only it changes.
#[derive(Debug)]
struct Settled {
    counts: TrackedProcess,
    names: [u64; 2],
    files: Vec<SettledFile>,
    /// Those that are none.
    others: Vec<i32>,
}

#[derive(Debug)]
struct SettledFile {
    fd: i32,
    cluster: usize,
    place: u32,
    touched: u64,
    has_name: bool,
    /// 0 for none.
    print: u64,
}

/// What an iterator has written out of a process, and what it was read with.
pub(super) struct Reading<'a> {
    pub(super) process: &'a Process,
    /// How many of its threads use its table of descriptors.
    pub(super) users: usize,
    pub(super) counted: &'a Counted,
    /// The counts of touches, before.
    pub(super) touched: &'a dyn Fn(usize) -> u64,
    /// How many descriptors the reader itself has of each open file, for having got at them.
    pub(super) own: &'a HashMap<u64, u64>,
}

impl Held {
    /// `None` of a process that is not tracked.
    pub(super) fn new(reading: &Reading<'_>, output: &[u8]) -> Option<Self> {
        let Reading { process, users, counted, touched, own } = reading;
        let counts = *counted.processes.get(&process.pid)?;
        let mut files: Vec<HeldFile> = Vec::new();
        let mut sharers = Some(*users as u32);
        for (kind, bytes) in records(output).flatten() {
            if kind == KIND_HOLDERS
                && let (Ok((holders, _)), Some(last)) =
                    (HoldersRecord::read_from_prefix(bytes), files.last_mut())
            {
                sharers = sharers.filter(|users| *users == holders.sharers);
                let own = own.get(&holders.file).copied().unwrap_or(0);
                let references = holders.references.saturating_sub(own);
                last.touched = touched(holders.place as usize);
                last.holders = HoldersRecord { references, ..holders };
            }
            let Ok((file, _)) = FileRecord::read_from_prefix(bytes) else { continue };
            if kind != KIND_FILE {
                continue;
            }
            // As in the decoding: a thread with a table of its own follows.
            if files.last().is_some_and(|last| last.file.fd >= file.fd) {
                break;
            }
            files.push(HeldFile { file, holders: HoldersRecord::default(), touched: 0 });
        }
        let is_open = counts.asynchronous != 0
            || sharers.is_none()
            || process.mappings.iter().any(is_asynchronous);
        Some(Self { counts, names: counted.names, files, is_open })
    }
}

/// The open files that a process has, by the address of each, out of an iterator's records of who holds
/// what.
pub(super) fn descriptions(output: &[u8]) -> Vec<u64> {
    let mut last = -1;
    let mut files = Vec::new();
    for (kind, bytes) in records(output).flatten() {
        if kind == KIND_HOLDERS
            && let Ok((holders, _)) = HoldersRecord::read_from_prefix(bytes)
        {
            if holders.fd <= last {
                break;
            }
            last = holders.fd;
            files.push(holders.file);
        }
    }
    files
}

impl Basis {
    /// What has to be read of these processes' files; of those that are not named, all.
    pub(super) fn needs(&self, now: &Counted, touched: &dyn Fn(usize) -> u64) -> Needs {
        let has_changed = |pid: &HostPid| {
            let of = |counts: &TrackedProcess| {
                // Threads, as one that ends makes room for somebody else in a count of those that
                // use the table of descriptors.
                (counts.track, counts.entered, counts.files, counts.asynchronous, counts.threads)
            };
            now.processes.get(pid).map(of)
                != self.settled.get(pid).map(|settled| of(&settled.counts))
        };
        let changed: HashSet<HostPid> =
            self.processes.keys().copied().filter(has_changed).collect();
        let clusters: Vec<bool> = self
            .clusters
            .iter()
            .map(|holders| !changed.is_empty() && holders.iter().any(|pid| changed.contains(pid)))
            .collect();
        let settled = || self.settled.iter().filter(|(pid, _)| !changed.contains(pid));
        // Looked up once for each place, so that all who hold a file are told the same.
        let is_touched = |file: &&SettledFile| touched(file.place as usize) != file.touched;
        let files = settled().flat_map(|(_, settled)| &settled.files);
        let touched: HashSet<u32> = files.filter(is_touched).map(|file| file.place).collect();
        let mut needs = Needs::new();
        for (&pid, settled) in settled() {
            let renamed = settled.names != now.names;
            let mounted = settled.names[1] != now.names[1];
            let mut wanted = Wanted { always: settled.others.clone(), unless: Vec::new() };
            for file in &settled.files {
                if clusters.get(file.cluster).copied().unwrap_or(true)
                    || touched.contains(&file.place)
                    || file.has_name && (mounted || renamed && file.print == 0)
                {
                    wanted.always.push(file.fd);
                } else if file.has_name && renamed {
                    wanted.unless.push((file.fd, file.print));
                }
            }
            wanted.always.sort_unstable();
            needs.insert(pid, wanted);
        }
        needs
    }

    /// The processes of whose settled files none has to be read.
    pub(super) fn without_news(&self, needs: &Needs) -> HashSet<HostPid> {
        let others = |pid: &HostPid| self.settled.get(pid).map(|settled| settled.others.len());
        // The others are among what has to be read.
        let needs = needs.iter().filter(|(pid, wanted)| {
            wanted.unless.is_empty() && others(pid) == Some(wanted.always.len())
        });
        needs.map(|(pid, _)| *pid).collect()
    }

    /// The basis of the next inventory, after one that has read all of the processes whose files it
    /// knows nothing of. `held` is what was read; of `unchanged` processes what was known before
    /// still holds.
    pub(super) fn establish(
        &self,
        pids: impl Iterator<Item = HostPid>,
        mut held: BTreeMap<HostPid, Held>,
        unchanged: &HashSet<HostPid>,
    ) -> Self {
        let mut processes = BTreeMap::new();
        for pid in pids {
            let now = held.remove(&pid).map(Arc::new);
            let before = || self.processes.get(&pid).filter(|_| unchanged.contains(&pid)).cloned();
            if let Some(held) = now.or_else(before) {
                processes.insert(pid, held);
            }
        }
        let (settled, clusters) = settle(&processes);
        Self { processes, settled, clusters: Arc::new(clusters) }
    }

    /// The basis of the next inventory, after one that has found out nothing new.
    pub(super) fn go_on(&self, needs: &Needs) -> Self {
        let settled = self.settled.iter().filter(|(pid, _)| needs.contains_key(pid));
        Self {
            processes: self.processes.clone(),
            settled: settled.map(|(pid, settled)| (*pid, Arc::clone(settled))).collect(),
            clusters: Arc::clone(&self.clusters),
        }
    }
}

/// What belongs together: an open file, or a file, each by its address. (The numbers of inodes are not
/// enough: subvolumes of one device share them.)
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Open(u64),
    Inode(u64),
}

/// Clusters in the making.
#[derive(Default)]
struct Clusters {
    numbers: HashMap<Node, usize>,
    above: Vec<usize>,
}

impl Clusters {
    fn number(&mut self, node: Node) -> usize {
        let next = self.above.len();
        let number = *self.numbers.entry(node).or_insert(next);
        if number == next {
            self.above.push(next);
        }
        number
    }

    fn root(&mut self, mut number: usize) -> usize {
        while self.above[number] != number {
            self.above[number] = self.above[self.above[number]];
            number = self.above[number];
        }
        number
    }

    fn join(&mut self, one: Node, other: Node) {
        let (one, other) = (self.number(one), self.number(other));
        let (one, other) = (self.root(one), self.root(other));
        self.above[one.max(other)] = one.min(other);
    }
}

/// Sorts out which files are settled, and the clusters with their holders.
fn settle(
    processes: &BTreeMap<HostPid, Arc<Held>>,
) -> (BTreeMap<HostPid, Arc<Settled>>, Vec<BTreeSet<HostPid>>) {
    let mut descriptors: HashMap<u64, u64> = HashMap::new();
    let mut clusters = Clusters::default();
    let closed = || processes.iter().filter(|(_, held)| !held.is_open);
    let all = || closed().flat_map(|(_, held)| &held.files);
    // Of files that nobody writes nothing is changed by way of another descriptor.
    let is_changed = |file: &FileRecord| is_pipe(file) || is_regular(file) && is_writer(file);
    let written = all().filter(|held| is_changed(&held.file));
    let written: HashSet<u64> = written.map(|held| held.holders.inode).collect();
    for HeldFile { file, holders, .. } in all() {
        *descriptors.entry(file.file).or_default() += 1;
        clusters.number(Node::Open(file.file));
        if written.contains(&holders.inode) {
            clusters.join(Node::Open(file.file), Node::Inode(holders.inode));
        }
        if holders.peer != 0 {
            clusters.join(Node::Open(file.file), Node::Open(holders.peer));
        }
    }
    let is_sole = |held: &HeldFile| {
        held.file.mark != 0 && descriptors.get(&held.file.file) == Some(&held.holders.references)
    };
    let mut peers: HashMap<u64, u64> = HashMap::new();
    let mut writers: HashMap<u64, HashSet<u64>> = HashMap::new();
    for HeldFile { file, holders, .. } in all().filter(|held| is_sole(held)) {
        peers.insert(file.file, holders.peer);
        if is_pipe(file) || is_writer(file) {
            writers.entry(holders.inode).or_default().insert(file.file);
        }
    }
    let seems_settled = |held: &HeldFile| {
        let HeldFile { file, holders, .. } = held;
        let writers = writers.get(&holders.inode).map_or(0, HashSet::len) as i64;
        is_sole(held)
            && match file.magic {
                SOCKET_FS => peers.get(&holders.peer) == Some(&file.file),
                PIPE_FS => i64::from(holders.writers) == writers,
                // Negative for a program that runs, which nobody may write.
                magic => {
                    i64::from(holders.writers) <= writers
                        && !is_fifo(file)
                        && has_names_by_calls(magic)
                }
            }
    };
    // Each holder's descriptor was looked at at its own time.
    let unsettled = all().filter(|held| !seems_settled(held));
    let unsettled: HashSet<u64> = unsettled.map(|held| held.file.file).collect();
    let is_settled = |held: &HeldFile| !unsettled.contains(&held.file.file);
    let mut holders: HashMap<usize, BTreeSet<HostPid>> = HashMap::new();
    let mut settled = BTreeMap::new();
    for (&pid, held) in closed() {
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for held in &held.files {
            let number = clusters.number(Node::Open(held.file.file));
            let cluster = clusters.root(number);
            holders.entry(cluster).or_default().insert(pid);
            if is_settled(held) {
                files.push(SettledFile {
                    fd: held.file.fd,
                    cluster,
                    place: held.holders.place,
                    touched: held.touched,
                    print: held.holders.print,
                    has_name: !matches!(held.file.magic, SOCKET_FS | PIPE_FS),
                });
            } else {
                others.push(held.file.fd);
            }
        }
        let (counts, names) = (held.counts, held.names);
        settled.insert(pid, Arc::new(Settled { counts, names, files, others }));
    }
    let holders =
        (0..clusters.above.len()).map(|cluster| holders.remove(&cluster).unwrap_or_default());
    (settled, holders.collect())
}

const fn is_asynchronous(mapping: &Mapping) -> bool {
    matches!(mapping.kind, MappingKind::AioRing | MappingKind::IoUringRing)
}

const fn is_pipe(file: &FileRecord) -> bool {
    file.magic == PIPE_FS
}

const fn is_regular(file: &FileRecord) -> bool {
    file.mode & libc::S_IFMT == libc::S_IFREG
}

const fn is_fifo(file: &FileRecord) -> bool {
    file.mode & libc::S_IFMT == libc::S_IFIFO
}

const fn is_writer(file: &FileRecord) -> bool {
    // The fourth mode is for ioctl alone.
    matches!(file.flags.cast_signed() & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
}
