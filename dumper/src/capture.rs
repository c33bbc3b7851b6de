//! The frozen part: what the images will say is read into memory, and nothing is written but the
//! pages of a target that is to end anyway.
//!
//! The order: the inventory again, in bulk; registers; then, where something has to be asked of the
//! tasks themselves, their parasites, side by side, with the open files read while they run; then,
//! with every task its own self again, the memory. What the plan has read is not read again if a
//! mark says that it still holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use collector::{Inventory, Mapping};
use images::messages::TaskKobjIdsEntry;
use kernel::pagemap::PageRun;
use kernel::procfs::Dir;

use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::files;
use crate::freeze::Frozen;
use crate::ids;
use crate::infect;
use crate::mappings::{self, Kind};
use crate::memory::{Origin, Pages, segment_runs};
use crate::obstacles;
use crate::options::DumpOptions;
use crate::plan::{self, Plan, PlannedMemory};
use crate::tasks::{TaskState, ThreadCapture};

/// All that the images need, in memory.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) inventory: Inventory,
    pub(crate) tasks: BTreeMap<i32, TaskState>,
    pub(crate) ids: BTreeMap<i32, TaskKobjIdsEntry>,
    pub(crate) files: files::Captured,
    /// Private pages, by process.
    pub(crate) pages: Vec<Pages>,
    /// How many of `pages` belong to processes, in the order of `tasks`; the others are the
    /// segments', in the order of `segments`.
    pub(crate) process_pages: usize,
    /// Shared anonymous segments (device, inode) and the number that the images give them.
    pub(crate) segments: BTreeMap<(u64, u64), u64>,
    pub(crate) pages_scanned: u64,
}

/// Takes the time since the last lap.
struct Laps(Instant);

impl Laps {
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now))
    }
}

/// Reads all of a tree that stands still. The tasks are as they were afterwards.
pub(crate) fn capture(
    plan: &mut Plan,
    frozen: &mut Frozen,
    options: &DumpOptions,
    files_plan: &mut files::Plan,
    clock: &mut Clock,
) -> Result<Captured, Error> {
    clock.account.stop = frozen.since.elapsed();
    let mut laps = Laps(Instant::now());
    let earlier = std::mem::take(&mut plan.inventory);
    let inventory = plan::inventory(&mut plan.collector, options.pid, earlier)?;
    obstacles::check(&inventory, &Facts::default(), options, &plan.namespaces)?;
    clock.account.inventory = laps.lap();
    clock.check("read the inventory")?;

    let mut tasks = read_tasks(&inventory, frozen, &mut plan.facts, clock)?;
    clock.account.registers = laps.lap();

    let infected = infect::begin(plan, &inventory, &tasks, frozen, options.cross_check)?;
    let ids = ids::number(&inventory);
    let tables = ids.iter().map(|(&pid, ids)| (pid, ids.files_id)).collect();
    clock.account.parasite = laps.lap();
    let files = files_plan.capture(&inventory, &tables)?;
    clock.account.files = laps.lap();
    clock.check("read the open files")?;
    let infected = infect::collect_reports(infected, &mut tasks, frozen)?;
    clock.account.parasite += laps.lap();
    infect::cure(infected, frozen)?;
    infect::ask_other_threads(plan, &inventory, &mut tasks, frozen)?;
    clock.account.cure = laps.lap();
    clock.check("ask the tasks")?;

    let mut memory = find_memory(plan, &inventory)?;
    plan.store.copy(&mut memory.pages)?;
    clock.account.memory = laps.lap();
    clock.check("copy the memory")?;
    Ok(Captured {
        inventory,
        tasks,
        ids,
        files,
        pages: memory.pages,
        process_pages: memory.process_pages,
        segments: memory.segments,
        pages_scanned: memory.scanned,
    })
}

fn read_tasks(
    inventory: &Inventory,
    frozen: &Frozen,
    facts: &mut Facts,
    clock: &Clock,
) -> Result<BTreeMap<i32, TaskState>, Error> {
    let mut tasks = BTreeMap::new();
    for (&pid, threads) in &frozen.processes {
        // A process that became a zombie is carried as one, from the inventory.
        let Some(process) =
            inventory.processes.get(&pid).filter(|process| !ids::is_zombie(process))
        else {
            continue;
        };
        let dir = Dir::open(pid)?;
        let leader = threads.get(&pid).and_then(|leader| Some((leader.stopped.as_ref()?, leader)));
        let Some((stopped, leader)) = leader else {
            return Err(
                kernel::ptrace::Error::Gone { operation: "stop the leader of", tid: pid }.into()
            );
        };
        let mut task = TaskState::read(&dir, process, stopped, leader.group_stop, facts)?;
        for (_, thread) in threads.iter().filter(|(tid, _)| **tid != pid) {
            if let Some(stopped) = &thread.stopped {
                task.threads.push(ThreadCapture::read(&dir, process, stopped, facts)?);
            }
        }
        clock.check("read the registers")?;
        tasks.insert(pid, task);
    }
    Ok(tasks)
}

struct Memory {
    pages: Vec<Pages>,
    process_pages: usize,
    segments: BTreeMap<(u64, u64), u64>,
    scanned: u64,
}

/// Finds the pages that have content.
fn find_memory(plan: &mut Plan, inventory: &Inventory) -> Result<Memory, Error> {
    let mut memory =
        Memory { pages: Vec::new(), process_pages: 0, segments: BTreeMap::new(), scanned: 0 };
    let mut segments: BTreeMap<(u64, u64), (File, i32, u64)> = BTreeMap::new();
    for process in inventory.processes.values().filter(|process| !ids::is_zombie(process)) {
        let pid = process.pid;
        let PlannedMemory { mut map, mut pages } = match plan.memory.remove(&pid) {
            Some(planned) => planned,
            // Born since the plan.
            None => PlannedMemory::open(&plan.writer, pid)?,
        };
        let mut own = Vec::with_capacity(process.mappings.len());
        let mut vdso = None;
        for mapping in &process.mappings {
            let span = PageRun::new(mapping.start, mapping.end);
            match mappings::classify(mapping) {
                Ok(Kind::Anonymous | Kind::Heap | Kind::File { shared: false, .. }) => {
                    own.push(span);
                }
                // Its code is needed to tell whether a restored program can keep calling it.
                Ok(Kind::Vdso) => vdso = Some(span),
                Ok(Kind::SharedAnonymous) => segment(&mut segments, pid, mapping)?,
                _ => {}
            }
        }
        memory.scanned += own.iter().map(PageRun::pages).sum::<u64>();
        pages.runs = map.private_pages(&own).map_err(|source| Error::Process {
            operation: "read the page map",
            pid,
            source,
        })?;
        if let Some(vdso) = vdso {
            let at = pages.runs.partition_point(|run| run.start < vdso.start);
            pages.runs.insert(at, vdso);
        }
        memory.pages.push(pages);
    }
    memory.process_pages = memory.pages.len();
    for (key, (file, pid, bytes)) in segments {
        let failed = |source| Error::Process { operation: "read shared memory", pid, source };
        let runs = segment_runs(&file, bytes).map_err(failed)?;
        memory.scanned += bytes / kernel::pagemap::PAGE_SIZE;
        let mut pages = Pages::new(&plan.writer, pid, Origin::Segment(file))?;
        pages.runs = runs;
        memory.pages.push(pages);
        memory.segments.insert(key, key.1);
    }
    Ok(memory)
}

/// Notes a mapping of a shared segment; the first opens its file.
fn segment(
    segments: &mut BTreeMap<(u64, u64), (File, i32, u64)>,
    pid: i32,
    mapping: &Mapping,
) -> Result<(), Error> {
    let reach = mapping.offset + (mapping.end - mapping.start);
    let key = (mapping.device, mapping.inode);
    if let Some((_, _, bytes)) = segments.get_mut(&key) {
        *bytes = (*bytes).max(reach);
        return Ok(());
    }
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    let file = File::open(path).map_err(|source| Error::Process {
        operation: "open the shared memory",
        pid,
        source,
    })?;
    segments.insert(key, (file, pid, reach));
    Ok(())
}
