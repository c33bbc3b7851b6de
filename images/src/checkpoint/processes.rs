//! The process tree, and for each process what is in its own images.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::images::Images;
use crate::mapping_kind::MappingKind;
use crate::messages::{
    CoreEntry, FsEntry, MmEntry, NestedPidsEntry, PstreeEntry, TASK_ALIVE, TASK_DEAD, TASK_STOPPED,
    TASK_TRACED, TaskCoreEntry, TaskKobjIdsEntry, UtsnsEntry, VmaEntry,
};
use crate::names;
use crate::pagemap::PageMap;

/// The largest number a process may have on any kernel.
const PID_MAX: u32 = 1 << 22;

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or sleeps.
    Alive,
    /// It was stopped by a signal.
    Stopped,
    /// It has ended with this wait status and was not yet waited for.
    Dead {
        /// As `wait4` tells it.
        status: i32,
    },
}

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's number; 0 for the root of the tree.
    pub ppid: u32,
    /// Its process group, which may be outside the tree.
    pub pgid: u32,
    /// Its session, which may be outside the tree.
    pub sid: u32,
    /// Its parent, as an index into the list of processes.
    pub parent: Option<usize>,
    /// Whether it runs.
    pub state: State,
    /// What it is called in pid namespaces below that of the root, if it is in one.
    pub nested: Option<NestedPidsEntry>,
    /// What belongs to the whole process.
    pub task: TaskCoreEntry,
    /// Its threads, the leader first. A dead process has none.
    pub threads: Vec<Thread>,
    /// All that a dead process has no more.
    pub body: Option<Body>,
}

/// A thread. Its image has registers and a [`ThreadCoreEntry`](crate::messages::ThreadCoreEntry).
#[derive(Clone, Debug)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// Its image. The leader's `tc` is moved to [`Process::task`].
    pub core: CoreEntry,
}

/// What a process has as long as it lives.
#[derive(Clone, Debug)]
pub struct Body {
    /// Which kernel objects it shares with others.
    pub ids: TaskKobjIdsEntry,
    /// The process whose memory it has as well (`CLONE_VM`), as an index into the list of processes: one before it, which has
    /// memory of its own. That has the mappings and the pages.
    pub lender: Option<usize>,
    /// Its address space; the mappings are moved to [`Body::mappings`]. Of a memory that is another's as well, what is of no mapping.
    pub mm: MmEntry,
    /// Its mappings by rising address, and guards behind them.
    pub mappings: Vec<Mapping>,
    /// Its stored pages.
    pub pages: PageMap,
    /// Its working directory, root and umask.
    pub fs: FsEntry,
}

/// The UTS namespaces that the processes are in, as far as they have images.
pub(super) fn uts_namespaces(
    images: &Images,
    processes: &[Process],
) -> Result<BTreeMap<u32, UtsnsEntry>, Error> {
    let bodies = processes.iter().filter_map(|process| process.body.as_ref());
    let numbers: BTreeSet<u32> = bodies.filter_map(|body| body.ids.uts_ns_id).collect();
    let mut found = BTreeMap::new();
    for number in numbers {
        found.extend(images.read_one(&names::utsns(number))?.map(|entry| (number, entry)));
    }
    Ok(found)
}

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its entry.
    pub vma: VmaEntry,
    /// What it is.
    pub kind: MappingKind,
}

impl Mapping {
    /// Of an entry.
    pub fn new(vma: VmaEntry) -> Self {
        Self { vma, kind: MappingKind::of(&vma) }
    }
}

pub(super) fn load(images: &Images) -> Result<Vec<Process>, Error> {
    let image = names::pstree();
    let mut tree = Tree::default();
    for entry in images.read_all(&image)? {
        let process = tree.add(&entry).map_err(|what| Error::invalid(image.name(), what))?;
        let process = load_process(images, process, &entry, &tree)?;
        tree.own_memory(&process);
        tree.processes.push(process);
        tree.threads(&entry).map_err(|what| Error::invalid(image.name(), what))?;
    }
    if tree.processes.is_empty() {
        return Err(Error::Count { name: image.name().into(), found: "none" });
    }
    Ok(tree.processes)
}

/// The tree as far as it is read.
#[derive(Default)]
struct Tree {
    processes: Vec<Process>,
    by_pid: BTreeMap<u32, usize>,
    tids: BTreeSet<u32>,
    /// Processes with memory of their own, by the numbers of that.
    memories: BTreeMap<u32, usize>,
}

impl Tree {
    /// A process that fits into the tree, its own images not yet read.
    fn add(&mut self, entry: &PstreeEntry) -> Result<Process, String> {
        let PstreeEntry { pid, ppid, pgid, sid, .. } = *entry;
        if pid == 0 || pid > PID_MAX || pgid > PID_MAX || sid > PID_MAX {
            return Err(format!("process {pid} (group {pgid}, session {sid}) cannot be"));
        }
        let parent = match (ppid, self.processes.is_empty()) {
            (0, true) => None,
            (0, false) => return Err(format!("process {pid} is a second root")),
            (_, true) => return Err(format!("process {pid} comes first but has a parent, {ppid}")),
            (_, false) => Some(*self.by_pid.get(&ppid).ok_or_else(|| {
                format!("process {pid} comes before its parent {ppid}, or has none")
            })?),
        };
        if self.by_pid.insert(pid, self.processes.len()).is_some() || !self.tids.insert(pid) {
            return Err(format!("process {pid} is there twice"));
        }
        Ok(Process {
            pid,
            ppid,
            pgid,
            sid,
            parent,
            state: State::Dead { status: 0 },
            nested: None,
            task: TaskCoreEntry::default(),
            threads: Vec::new(),
            body: None,
        })
    }

    /// Notes the memory of the process that is next.
    fn own_memory(&mut self, process: &Process) {
        if let Some(body) = process.body.as_ref().filter(|body| body.lender.is_none()) {
            self.memories.entry(body.ids.vm_id).or_insert(self.processes.len());
        }
    }

    /// The body of a process before the next one.
    fn body_of(&self, index: usize) -> Option<(u32, &Body)> {
        let process = self.processes.get(index)?;
        Some((process.pid, process.body.as_ref()?))
    }

    /// Registers the threads of the process read last.
    fn threads(&mut self, entry: &PstreeEntry) -> Result<(), String> {
        // What CRIU writes as the threads of a dead process is not initialised.
        if self.processes.last().is_none_or(|process| matches!(process.state, State::Dead { .. })) {
            return Ok(());
        }
        for tid in entry.threads.iter().skip(1) {
            if !self.tids.insert(*tid) {
                return Err(format!("thread {tid} of process {} is there twice", entry.pid));
            }
        }
        Ok(())
    }
}

fn load_process(
    images: &Images,
    mut process: Process,
    entry: &PstreeEntry,
    tree: &Tree,
) -> Result<Process, Error> {
    let pid = process.pid;
    let image = names::core(pid);
    let mut core = images.require(&image)?;
    process.task = core
        .tc
        .take()
        .ok_or_else(|| Error::invalid(image.name(), "the process's own part is missing"))?;
    process.nested.clone_from(&core.nested);
    process.state = match process.task.task_state {
        TASK_ALIVE | TASK_TRACED => State::Alive,
        TASK_STOPPED => State::Stopped,
        TASK_DEAD => {
            let status = process.task.exit_code.cast_signed();
            process.state = State::Dead { status };
            return Ok(process);
        }
        other => return Err(Error::invalid(image.name(), format!("state {other} is not known"))),
    };
    if entry.threads.first() != Some(&pid) {
        let what = format!("the threads of process {pid} do not begin with its leader");
        return Err(Error::invalid(names::pstree().name(), what));
    }
    process.body = Some(body(images, pid, core.ids.take(), tree)?);
    process.threads.push(thread(pid, core)?);
    for &tid in &entry.threads[1..] {
        if tid == 0 || tid > PID_MAX {
            let what = format!("thread {tid} of process {pid} cannot be");
            return Err(Error::invalid(names::pstree().name(), what));
        }
        process.threads.push(thread(tid, images.require(&names::core(tid))?)?);
    }
    let of_tracer = |thread: &Thread| {
        thread.core.thread_core.as_ref().is_some_and(|core| core.traced.is_some())
    };
    let is_traced = process.task.task_state == TASK_TRACED;
    if let Some(other) = process.threads.iter().find(|thread| of_tracer(thread) != is_traced) {
        let what = "it is traced, and its process is not, or the other way round";
        return Err(Error::invalid(names::core(other.tid).name(), what));
    }
    Ok(process)
}

fn thread(tid: u32, core: CoreEntry) -> Result<Thread, Error> {
    let missing = |what| Error::invalid(names::core(tid).name(), what);
    if core.thread_core.is_none() {
        return Err(missing("the thread's own part is missing"));
    }
    if !core.has_registers() {
        return Err(missing("the registers are missing"));
    }
    Ok(Thread { tid, core })
}

fn body(
    images: &Images,
    pid: u32,
    ids: Option<TaskKobjIdsEntry>,
    tree: &Tree,
) -> Result<Body, Error> {
    let ids = match images.read_one(&names::ids(pid))?.or(ids) {
        Some(ids) => ids,
        None => return Err(Error::Missing { name: names::ids(pid).name().into() }),
    };
    let fs = images.require(&names::fs(pid))?;
    let own: Option<MmEntry> = images.read_one(&names::mm(pid))?;
    // Who has neither memory of its own nor somebody to have it with lacks an image.
    if let (None, Some(&lender)) = (&own, tree.memories.get(&ids.vm_id))
        && let Some((other, body)) = tree.body_of(lender)
    {
        return shared(images, (pid, ids, fs), (lender, other, body));
    }
    let mut mm = own.ok_or_else(|| Error::Missing { name: names::mm(pid).name().into() })?;
    Ok(Body {
        ids,
        lender: None,
        mappings: std::mem::take(&mut mm.vmas).into_iter().map(Mapping::new).collect(),
        mm,
        // A process has one even when it has no pages.
        pages: images
            .page_map(&names::pagemap(pid))?
            .ok_or_else(|| Error::Missing { name: names::pagemap(pid).name().into() })?,
        fs,
    })
}

/// The body of a process that has the memory of `other`.
fn shared(
    images: &Images,
    (pid, ids, fs): (u32, TaskKobjIdsEntry, FsEntry),
    (lender, other, body): (usize, u32, &Body),
) -> Result<Body, Error> {
    let image = names::pagemap(pid);
    if images.page_map(&image)?.is_some() {
        let what = format!("process {pid} has pages, and its memory is that of process {other}");
        return Err(Error::invalid(image.name(), what));
    }
    let mm = MmEntry {
        vmas: Vec::new(),
        aios: Vec::new(),
        policies: Vec::new(),
        protection_keys: None,
        execute_only_key: None,
        ..body.mm.clone()
    };
    let (mappings, pages) = (Vec::new(), PageMap::default());
    Ok(Body { ids, lender: Some(lender), mm, mappings, pages, fs })
}
