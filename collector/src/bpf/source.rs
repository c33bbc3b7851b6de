//! Takes inventories by the iterators.

use std::collections::{BTreeMap, HashMap, HashSet};

use ebpf_common::TaskRecord;
use ids::HostPid;
use kernel::bpf::IterTarget;
use kernel::procfs::NAMESPACES;

use super::files::ReadFile;
use super::files_pass::FilesPass;
use super::landlock::{self, Landlock};
use super::load::boot_shift;
use super::mappings::{own_gate, unchanged};
use super::reading::{BpfSource, FoundProcess, LINKS_KEPT, Tasks};
use super::records::{self, is_kernel_thread, process_state, thread};
use super::tables::{self, Uses};
use super::{BpfError, Counts, Loaded, Tracers, fallback};
use crate::deadline::Deadline;
use crate::{Inventory, Look, OpenFile, Parts, Process, Tables};

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
            pages: None,
            landlock: None,
            // (Where it is not known, no inventory is taken: whoever opens the programs has asked before.)
            boot_shift: boot_shift().unwrap_or_default(),
        }
    }

    /// How landlock domains are told.
    pub(crate) fn landlock(&mut self) -> Landlock {
        if let Some(known) = self.landlock {
            return known;
        }
        let found = landlock::find(|tid| {
            let pid = HostPid::own();
            let mut own = BTreeMap::new();
            self.read_tasks(IterTarget::Process(pid), &mut own)?;
            let threads = own.get(&pid).map_or(&[][..], |tasks| &tasks.threads);
            let thread = threads.iter().find(|task| task.ids.tid == tid.get());
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
        let own = HostPid::own();
        let mut by_proc = fallback::mappings(own, own)?;
        let by_bpf =
            self.take(&[own], Parts::MAPPINGS, &mut Inventory::default(), Look::default())?;
        let by_bpf = by_bpf.processes.get(&own).ok_or(BpfError::SelfCheck)?;
        // This very comparison allocates, so that sizes may differ: the flags of what starts at the
        // same address may not.
        let same = by_bpf.mappings.iter().filter_map(|mapping| {
            let index = by_proc.iter().position(|other| other.start == mapping.start)?;
            Some((mapping, by_proc.swap_remove(index)))
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
        pids: &[HostPid],
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
        root: HostPid,
        parts: Parts,
        earlier: &mut Inventory,
        look: Look,
    ) -> Result<Inventory, BpfError> {
        let mut all = BTreeMap::new();
        self.read_tasks(IterTarget::All, &mut all)?;
        let tree: HashSet<HostPid> = tree(&all, root).into_iter().collect();
        all.retain(|pid, _| tree.contains(pid));
        self.complete(all, parts, earlier, look)
    }

    /// Adds to the threads of processes what else belongs to them.
    fn complete(
        &mut self,
        tasks: BTreeMap<HostPid, Tasks>,
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
            if let Some(mut process) = process(pid, &tasks, landlock, self.boot_shift) {
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
    fn name_descriptions(&mut self, found: &mut BTreeMap<HostPid, FoundProcess>) {
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

    /// Every process of the tree below and with `root`, parents before their children; empty if
    /// there is no such process.
    ///
    /// # Errors
    /// If an iterator cannot be made or read.
    pub fn tree(&mut self, root: HostPid) -> Result<Vec<HostPid>, BpfError> {
        let mut all = BTreeMap::new();
        self.read_tasks(IterTarget::All, &mut all)?;
        Ok(tree(&all, root))
    }
}

/// The processes below and with `root`, parents before their children.
fn tree(all: &BTreeMap<HostPid, Tasks>, root: HostPid) -> Vec<HostPid> {
    let mut children: HashMap<HostPid, Vec<HostPid>> = HashMap::new();
    for (&pid, tasks) in all {
        let parent = leader(pid, tasks).and_then(|leader| HostPid::new(leader.ids.ppid));
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree: Vec<HostPid> = all.contains_key(&root).then_some(root).into_iter().collect();
    let mut next = 0;
    while let Some(parent) = tree.get(next) {
        next += 1;
        // Taken out: no process is listed twice, whatever the kernel said.
        tree.extend(children.remove(parent).unwrap_or_default());
    }
    tree
}

fn leader(pid: HostPid, tasks: &Tasks) -> Option<&TaskRecord> {
    tasks.threads.iter().find(|task| task.ids.tid == pid.get())
}

fn process(
    pid: HostPid,
    tasks: &Tasks,
    landlock: Landlock,
    boot_shift: i64,
) -> Option<FoundProcess> {
    let leader = *leader(pid, tasks)?;
    let kernel_thread = is_kernel_thread(&leader);
    let all = tasks.threads.iter().filter(|task| !records::is_worker(task));
    let speaker = all.clone().find(|task| !kernel_thread && task.places.memory != 0).copied();
    let threads = all.filter_map(|task| {
        let tid = HostPid::new(task.ids.tid)?;
        Some((tid, thread(tid, task, &leader, &tasks.actions, landlock, boot_shift)))
    });
    let process = Process {
        pid,
        ppid: HostPid::new(leader.ids.ppid),
        pgid: HostPid::new(leader.ids.pgid),
        sid: HostPid::new(leader.ids.sid),
        terminal: match leader.ids.terminal {
            0 => 0,
            terminal => records::device(terminal),
        },
        foreground: HostPid::new(leader.ids.foreground),
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
    Some(FoundProcess {
        process,
        leader,
        speaker,
        users,
        read: Vec::new(),
        same_descriptors: true,
        differing: Vec::new(),
    })
}
