//! Takes inventories by the iterators.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::hash::BuildHasherDefault;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use ebpf_common::{
    KIND_PLACE, KIND_SIGNAL_ACTIONS, KIND_TASK, PlaceRecord, SignalAction, SignalActionsRecord,
    TaskRecord,
};
use kernel::bpf::{IterTarget, iter_create, iter_link};
use kernel::procfs::NAMESPACES;
use zerocopy::FromBytes;

use super::files::{AddressHash, ReadFile};
use super::files_pass::FilesPass;
use super::landlock::{self, Landlock};
use super::mappings::{own_gate, unchanged};
use super::records::{self, device, is_kernel_thread, process_state, records, thread, with_name};
use super::tables::{self, Uses};
use super::tracks::Watch;
use super::{BpfError, Counts, Loaded, Tracers, fallback};
use crate::deadline::Deadline;
use crate::{Inventory, Look, Mapping, NamedFile, OpenFile, Parts, Process, Tables};

/// Reads inventories by eBPF iterators. It keeps links and buffers from one to the next.
#[derive(Debug)]
pub struct BpfSource {
    programs: Loaded,
    links: HashMap<(What, IterTarget), OwnedFd>,
    pub(super) output: Vec<u8>,
    /// Names of descriptions by their addresses; kept for its memory.
    descriptions: HashMap<u64, u64, BuildHasherDefault<AddressHash>>,
    /// The mapping that every 64-bit process has without having made it (`[vsyscall]`), which
    /// /proc shows and the iterator does not.
    pub(super) gate: Option<Mapping>,
    /// What is counted, while it is.
    pub(super) watch: Option<Watch>,
    /// When to stop, with what has been read until then.
    pub(crate) until: Deadline,
    /// Processes of the last inventory whose files were not read.
    pub(crate) spared: usize,
    /// How landlock domains are told, once that was found out.
    landlock: Option<Landlock>,
}

/// More links than this are not kept: a machine's worth of processes has gone by.
const LINKS_KEPT: usize = 4096;

/// What an iterator is over: in the order of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Threads,
    Files,
    /// What has been asked for.
    SomeFiles,
    Mappings,
    /// Descriptors of what has no name.
    HeldFiles,
    /// Mappings of what has no name.
    HeldMappings,
}

impl What {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Files | Self::SomeFiles | Self::HeldFiles => "files",
            Self::Mappings | Self::HeldMappings => "mappings",
        }
    }
}

/// The threads of one process as the iterator gave them.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) threads: Vec<TaskRecord>,
    actions: Vec<SignalAction>,
    /// Program, working and root directory, in the order of [`place`]; `None` where /proc has to be
    /// asked.
    places: [Option<NamedFile>; 3],
}

/// Whether to look at all threads of the machine in one go (3 to 4 µs each, measured) rather than
/// at `count` of them or of the processes one by one (10 µs each, by an iterator or by /proc).
pub(crate) fn quicker_at_once(count: usize) -> bool {
    /// No machine has so few threads that this pays.
    const FEW: usize = 8;
    if count < FEW {
        return false;
    }
    // The fourth field of /proc/loadavg is RUNNING/ALL tasks.
    let all: Option<usize> = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(['/', ' ']).nth(4)?.parse().ok());
    all.is_some_and(|all| count.saturating_mul(3) > all)
}

/// A process, with what only this source needs to know of it.
pub(super) struct Found {
    pub(super) process: Process,
    pub(super) leader: TaskRecord,
    /// A thread that has memory and descriptors to show, if any has.
    pub(super) speaker: Option<TaskRecord>,
    /// How many threads have those descriptors.
    pub(super) users: usize,
    /// Which files have been read.
    pub(super) read: Vec<ReadFile>,
    /// The descriptors are those of before.
    pub(super) same_descriptors: bool,
    /// Descriptors of files that are not what they were.
    pub(super) differing: Vec<i32>,
}

impl Found {
    /// A thread that has memory and descriptors to show.
    pub(super) fn speaker(&self) -> Option<i32> {
        self.speaker.as_ref().map(|speaker| speaker.ids.tid)
    }
}

impl BpfSource {
    /// Takes inventories by programs that have been checked against this kernel (by
    /// [`BpfSource::check`], of whoever pinned them).
    #[must_use]
    pub fn new(programs: Loaded) -> Self {
        Self {
            programs,
            links: HashMap::new(),
            output: Vec::new(),
            descriptions: HashMap::default(),
            gate: own_gate(),
            watch: None,
            until: Deadline::default(),
            spared: 0,
            landlock: None,
        }
    }

    /// How landlock domains are told.
    pub(crate) fn landlock(&mut self) -> Landlock {
        if let Some(known) = self.landlock {
            return known;
        }
        let found = landlock::find(|tid| {
            let pid = std::process::id().cast_signed();
            let mut own = BTreeMap::new();
            self.read_tasks(IterTarget::Process(pid), pid, &mut own)?;
            let threads = own.get(&pid).map_or(&[][..], |tasks| &tasks.threads);
            let thread = threads.iter().find(|task| task.ids.tid == tid);
            thread.map(|task| task.settings.security).ok_or(BpfError::SelfCheck)
        });
        *self.landlock.insert(found)
    }

    /// The programs.
    pub(super) const fn programs(&mut self) -> &mut Loaded {
        &mut self.programs
    }

    /// Takes out what counts changes of tracked processes; `None` if it was not loaded here, or
    /// has been taken out before.
    pub(crate) fn tracing(&mut self) -> Option<(Tracers, Counts)> {
        self.programs.tracing()
    }

    /// From now on makes use of what is counted for tracks, if anything is; the programs are called
    /// until this goes, or until [`BpfSource::unfollow`].
    pub(crate) fn follow(&mut self) {
        if self.watch.is_none() {
            self.watch = self.programs.follow();
        }
    }

    /// Makes no more use of what is counted.
    pub(crate) fn unfollow(&mut self) {
        self.watch = None;
    }

    /// From now on changes are counted, where that is to be had: sockets and pipes have marks, and
    /// files that cannot have changed are not read again.
    pub fn watch(&mut self) {
        self.watch = self.programs.watch();
        match self.own_files() {
            Ok(own) => {
                if let Some(watch) = &mut self.watch {
                    watch.own = own.into_iter().collect();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "nothing is counted");
                self.watch = None;
            }
        }
    }

    /// Compares this process's mappings, by both sources: the kernel's bits might have moved.
    ///
    /// # Errors
    /// If the programs do not work, or do not tell what /proc tells.
    pub fn check(&mut self) -> Result<(), BpfError> {
        let own = std::process::id().cast_signed();
        let mut by_proc = crate::proc_source::take(&[own], Parts::MAPPINGS)
            .ok()
            .and_then(|mut inventory| inventory.processes.remove(&own))
            .ok_or(BpfError::SelfCheck)?;
        let by_bpf =
            self.take(&[own], Parts::MAPPINGS, &mut Inventory::default(), Look::default())?;
        let by_bpf = by_bpf.processes.get(&own).ok_or(BpfError::SelfCheck)?;
        // This very comparison allocates, so that sizes may differ: the flags of what starts at the
        // same address may not.
        let same = by_bpf.mappings.iter().filter_map(|mapping| {
            let index = by_proc.mappings.iter().position(|other| other.start == mapping.start)?;
            Some((mapping, by_proc.mappings.swap_remove(index)))
        });
        let mut compared = 0;
        for (mapping, other) in same {
            compared += 1;
            if mapping.flags != other.flags || mapping.name != other.name {
                return Err(BpfError::SelfCheck);
            }
        }
        if compared < 3 { Err(BpfError::SelfCheck) } else { Ok(()) }
    }

    /// Takes an inventory of processes. `earlier` is one of before (or an empty one): mappings and files
    /// that have not changed since are taken out of it and not read again.
    ///
    /// # Errors
    /// If an iterator cannot be made or read.
    pub fn take(
        &mut self,
        pids: &[i32],
        parts: Parts,
        earlier: &mut Inventory,
        look: Look,
    ) -> Result<Inventory, BpfError> {
        let tasks = self.tasks(pids)?;
        self.complete(tasks, parts, earlier, look)
    }

    /// Takes an inventory of the tree below and with `root`, by one look at the whole machine's
    /// threads; an empty one if there is no such process. Else as [`BpfSource::take`].
    ///
    /// # Errors
    /// If an iterator cannot be made or read.
    pub fn take_tree(
        &mut self,
        root: i32,
        parts: Parts,
        earlier: &mut Inventory,
        look: Look,
    ) -> Result<Inventory, BpfError> {
        let mut all = BTreeMap::new();
        self.read_tasks(IterTarget::All, 0, &mut all)?;
        let tree: HashSet<i32> = tree(&all, root).into_iter().collect();
        all.retain(|pid, _| tree.contains(pid));
        self.complete(all, parts, earlier, look)
    }

    /// Adds to the threads of processes what else belongs to them.
    fn complete(
        &mut self,
        tasks: BTreeMap<i32, Tasks>,
        parts: Parts,
        earlier: &mut Inventory,
        look: Look,
    ) -> Result<Inventory, BpfError> {
        let landlock = self.landlock();
        let uses = parts.contains(Parts::SHARING).then(|| Uses::of(&tasks));
        // Before anything else: what changes from here on is counted behind this.
        let mut files = FilesPass::begin(self, tasks.keys().copied(), parts, earlier, look)?;
        let mut found = BTreeMap::new();
        for (pid, tasks) in tasks {
            if let Some(mut process) = process(pid, &tasks, landlock) {
                if let Some(speaker) = &process.speaker {
                    if parts.contains(Parts::MAPPINGS) {
                        process.process.mappings = match unchanged(&process.process, earlier) {
                            Some(mappings) => mappings,
                            None => self.mappings(pid, speaker)?,
                        };
                    }
                    if parts.contains(Parts::FILES) {
                        let before = earlier.processes.get_mut(&pid);
                        let before = before.map(|earlier| std::mem::take(&mut earlier.files));
                        let before = before.unwrap_or_default();
                        files.read(self, &mut process, before)?;
                    }
                }
                found.insert(pid, process);
            }
        }
        if self.links.len() > LINKS_KEPT {
            self.links.clear();
        }
        self.name_descriptions(&mut found);
        if let Some(uses) = uses {
            let holders = self.others(&uses)?;
            tables::name(&mut found, &holders);
        }
        self.spared = files.spared();
        let basis = files.basis(&found, &earlier.basis);
        let processes = found.into_iter().map(|(pid, mut found)| {
            if !parts.contains(Parts::THREADS) {
                found.process.threads.clear();
            }
            if !parts.contains(Parts::SHARING) {
                found.process.namespaces.clear();
            }
            (pid, found.process)
        });
        Ok(Inventory { processes: processes.collect(), basis })
    }

    /// Names descriptions by their lowest holders in place of their addresses. Processes and their
    /// descriptors come in rising order, so the first holder met is the lowest.
    ///
    /// Those that have not been read, or only for what they may be called in the file system, have their
    /// names: nobody else holds them than did before.
    fn name_descriptions(&mut self, found: &mut BTreeMap<i32, Found>) {
        self.descriptions.clear();
        for (&pid, found) in found {
            let files = &mut found.process.files;
            for &ReadFile { index, before, keeps_name, same } in &found.read {
                let Some(file) = files.get_mut(index) else { continue };
                file.description = if keeps_name {
                    before
                } else {
                    let lowest = OpenFile::description_of(pid, file.fd);
                    *self.descriptions.entry(file.description).or_insert(lowest)
                };
                if !same || before != file.description {
                    found.differing.push(file.fd);
                }
            }
        }
    }

    /// Runs an iterator to its end, into the buffer.
    pub(super) fn iterate(
        &mut self,
        what: What,
        target: IterTarget,
        pid: i32,
    ) -> Result<(), BpfError> {
        self.iterate_over(what, target, pid, None)
    }

    /// Runs an iterator into the buffer, to its end or over so many objects that it writes out, if that
    /// is a number: the last of them may come soon.
    pub(super) fn iterate_over(
        &mut self,
        what: What,
        target: IterTarget,
        pid: i32,
        mut objects: Option<usize>,
    ) -> Result<(), BpfError> {
        let failed = |source| BpfError::Iterate { what: what.text(), pid, source };
        let program = self.programs.iterator(what as usize);
        let link = match self.links.entry((what, target)) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(iter_link(program, target).map_err(|e| failed(e.into()))?)
            }
        };
        let mut iterator =
            File::from(iter_create(link.as_fd()).map_err(|errno| failed(errno.into()))?);
        // The kernel hands out at most its own buffer of 32 KiB at a time.
        const ROOM: usize = 64 << 10;
        // A process with a million mappings stays below this.
        const LIMIT: usize = 256 << 20;
        let mut filled = 0;
        // The kernel goes on until it has as much as is asked for. With one byte asked for it has one
        // object, and hands out the rest of that the next time.
        let mut is_rest = false;
        while !self.until.is_over() && objects != Some(0) {
            if filled > LIMIT {
                return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
            }
            if self.output.len() < filled + ROOM {
                self.output.resize(filled + ROOM, 0);
            }
            let room = if objects.is_some() && !is_rest { 1 } else { ROOM };
            match iterator.read(&mut self.output[filled..filled + room]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    if let Some(objects) = &mut objects {
                        *objects -= usize::from(is_rest);
                        is_rest = !is_rest;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The kernel's way to say that the task is busy: read on.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.output.truncate(filled);
        Ok(())
    }

    /// The threads of these processes, of those that are there.
    fn tasks(&mut self, pids: &[i32]) -> Result<BTreeMap<i32, Tasks>, BpfError> {
        let mut all = BTreeMap::new();
        if pids.len() > 1 && quicker_at_once(pids.len()) {
            let wanted: HashSet<i32> = pids.iter().copied().collect();
            self.read_tasks(IterTarget::All, 0, &mut all)?;
            all.retain(|pid, _| wanted.contains(pid));
        } else {
            for &pid in pids {
                self.read_tasks(IterTarget::Process(pid), pid, &mut all)?;
            }
            // A thread's number finds its process.
            all.retain(|pid, _| pids.contains(pid));
        }
        Ok(all)
    }

    pub(super) fn read_tasks(
        &mut self,
        target: IterTarget,
        pid: i32,
        all: &mut BTreeMap<i32, Tasks>,
    ) -> Result<(), BpfError> {
        self.iterate(What::Threads, target, pid)?;
        let bad = || BpfError::Record { what: What::Threads.text(), pid };
        for record in records(&self.output) {
            match record.ok_or_else(bad)? {
                (KIND_TASK, bytes) => {
                    let (task, _) = TaskRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                    all.entry(task.ids.tgid).or_default().threads.push(task);
                }
                (KIND_SIGNAL_ACTIONS, bytes) => {
                    let (tgid, actions) = signal_actions(bytes).ok_or_else(bad)?;
                    all.entry(tgid).or_default().actions = actions;
                }
                (KIND_PLACE, bytes) => {
                    let (place, target) = with_name::<PlaceRecord>(bytes).ok_or_else(bad)?;
                    let places = &mut all.entry(place.tgid).or_default().places;
                    if let Some(slot) = places.get_mut(place.place as usize) {
                        *slot = named_file(&place, target);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every process of the tree below and with `root`, parents before their children; empty if
    /// there is no such process.
    ///
    /// # Errors
    /// If an iterator cannot be made or read.
    pub fn tree(&mut self, root: i32) -> Result<Vec<i32>, BpfError> {
        let mut all = BTreeMap::new();
        self.read_tasks(IterTarget::All, 0, &mut all)?;
        Ok(tree(&all, root))
    }
}

/// The processes below and with `root`, parents before their children.
fn tree(all: &BTreeMap<i32, Tasks>, root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (&pid, tasks) in all {
        if let Some(leader) = leader(pid, tasks) {
            children.entry(leader.ids.ppid).or_default().push(pid);
        }
    }
    let mut tree: Vec<i32> = all.contains_key(&root).then_some(root).into_iter().collect();
    let mut next = 0;
    while let Some(parent) = tree.get(next) {
        next += 1;
        // Taken out: no process is listed twice, whatever the kernel said.
        tree.extend(children.remove(parent).unwrap_or_default());
    }
    tree
}

fn leader(pid: i32, tasks: &Tasks) -> Option<&TaskRecord> {
    tasks.threads.iter().find(|task| task.ids.tid == pid)
}

fn process(pid: i32, tasks: &Tasks, landlock: Landlock) -> Option<Found> {
    let leader = *leader(pid, tasks)?;
    let kernel_thread = is_kernel_thread(&leader);
    let all = tasks.threads.iter();
    let speaker = all.clone().find(|task| !kernel_thread && task.places.memory != 0).copied();
    let threads = all.map(|task| (task.ids.tid, thread(task, &leader, &tasks.actions, landlock)));
    let process = Process {
        pid,
        ppid: leader.ids.ppid,
        pgid: leader.ids.pgid,
        sid: leader.ids.sid,
        state: process_state(&leader),
        threads: threads.collect(),
        mappings: Vec::new(),
        files: Vec::new(),
        namespaces: NAMESPACES
            .into_iter()
            .zip(speaker.as_ref().unwrap_or(&leader).places.namespaces)
            .filter(|(_, id)| *id != 0)
            .map(|(name, id)| (name, u64::from(id)))
            .collect(),
        kernel_thread,
        tables: Tables::default(),
        in_process: records::in_process(&leader, &tasks.actions, &tasks.places).map(Box::new),
    };
    let users = speaker.map_or(0, |speaker| {
        let table = speaker.places.files;
        // The kernel's own threads change it for one that has rings: nobody can say how many do.
        match tasks.threads.iter().any(|task| task.marks.asynchronous != 0) {
            true => usize::MAX,
            false => tasks.threads.iter().filter(|task| task.places.files == table).count(),
        }
    });
    Some(Found {
        process,
        leader,
        speaker,
        users,
        read: Vec::new(),
        same_descriptors: true,
        differing: Vec::new(),
    })
}

fn named_file(place: &PlaceRecord, target: OsString) -> Option<NamedFile> {
    let known = place.name_bytes != 0 && !fallback::OWN_NUMBERS.contains(&place.magic);
    known.then(|| NamedFile { device: device(place.device), inode: place.inode, target })
}

fn signal_actions(bytes: &[u8]) -> Option<(i32, Vec<SignalAction>)> {
    let (header, mut rest) = SignalActionsRecord::read_from_prefix(bytes).ok()?;
    let mut actions = Vec::with_capacity(ebpf_common::SIGNALS);
    while !rest.is_empty() {
        let (action, behind) = SignalAction::read_from_prefix(rest).ok()?;
        actions.push(action);
        rest = behind;
    }
    Some((header.tgid, actions))
}
