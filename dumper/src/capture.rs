//! The frozen part: what the images will say is read into memory, and nothing is written but the
//! pages of a target that is to end anyway.
//!
//! The order: the inventory again, in bulk; registers and what else ptrace and /proc tell; the
//! parasites of all processes, side by side, with the open files read while they run; then, with
//! every task its own self again, the memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use collector::{Inventory, Mapping, Process};
use images::messages::TaskKobjIdsEntry;
use kernel::pagemap::PageRun;
use kernel::procfs::Dir;
use kernel::ptrace::Running;

use crate::error::Error;
use crate::files;
use crate::freeze::Frozen;
use crate::ids;
use crate::inject::{Infection, Request, ThreadState, ask_threads};
use crate::mappings::{self, Kind};
use crate::memory::{Origin, Pages, segment_runs};
use crate::obstacles;
use crate::options::{DumpOptions, FrozenAccount};
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
    pub(crate) account: FrozenAccount,
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
) -> Result<Captured, Error> {
    let mut account = FrozenAccount { stop: frozen.since.elapsed(), ..FrozenAccount::default() };
    let mut laps = Laps(Instant::now());
    let inventory = plan::inventory(&mut plan.collector, options.pid)?;
    obstacles::check(&inventory, options, &plan.namespaces)?;
    account.inventory = laps.lap();

    let mut tasks = read_tasks(&inventory, frozen)?;
    account.registers = laps.lap();

    let infections = infect(plan, &inventory, &tasks, frozen)?;
    let ids = ids::number(&inventory);
    let tables = ids.iter().map(|(&pid, ids)| (pid, ids.files_id)).collect();
    account.parasite = laps.lap();
    let files = files_plan.capture(&inventory, &tables)?;
    account.files = laps.lap();
    let infections = collect_reports(infections, &mut tasks, frozen)?;
    account.parasite += laps.lap();
    cure(infections, frozen)?;
    ask_other_threads(plan, &inventory, &mut tasks, frozen)?;
    account.cure = laps.lap();

    let mut memory = find_memory(plan, &inventory)?;
    plan.store.copy(&mut memory.pages)?;
    account.memory = laps.lap();
    Ok(Captured {
        inventory,
        tasks,
        ids,
        files,
        pages: memory.pages,
        process_pages: memory.process_pages,
        segments: memory.segments,
        pages_scanned: memory.scanned,
        account,
    })
}

fn read_tasks(inventory: &Inventory, frozen: &Frozen) -> Result<BTreeMap<i32, TaskState>, Error> {
    let mut tasks = BTreeMap::new();
    for (&pid, threads) in &frozen.processes {
        // A process that became a zombie is carried as one, from the inventory.
        if inventory.processes.get(&pid).is_none_or(ids::is_zombie) {
            continue;
        }
        let dir = Dir::open(pid)?;
        let leader = threads.get(&pid).and_then(|leader| Some((leader.stopped.as_ref()?, leader)));
        let Some((stopped, leader)) = leader else {
            return Err(
                kernel::ptrace::Error::Gone { operation: "stop the leader of", tid: pid }.into()
            );
        };
        let mut task = TaskState::read(&dir, stopped, leader.group_stop)?;
        for (_, thread) in threads.iter().filter(|(tid, _)| **tid != pid) {
            if let Some(stopped) = &thread.stopped {
                task.threads.push(ThreadCapture::read(&dir, stopped)?);
            }
        }
        tasks.insert(pid, task);
    }
    Ok(tasks)
}

fn inject_error(pid: i32) -> impl Fn(crate::inject::Error) -> Error {
    move |source| Error::Inject { pid, source }
}

type Infected = Vec<(i32, Infection, Running)>;

/// Brings the parasite into every process and sets it going.
fn infect(
    plan: &mut Plan,
    inventory: &Inventory,
    tasks: &BTreeMap<i32, TaskState>,
    frozen: &mut Frozen,
) -> Result<Infected, Error> {
    let mut infected: Infected = Vec::with_capacity(tasks.len());
    for (&pid, task) in tasks {
        let (Some(process), Some(thread)) = (inventory.processes.get(&pid), task.threads.first())
        else {
            continue;
        };
        let request = request(plan, process, task)?;
        let leader = frozen
            .processes
            .get_mut(&pid)
            .and_then(|threads| threads.get_mut(&pid)?.stopped.take());
        let Some(leader) = leader else { continue };
        let (infection, running) = Infection::begin(leader, request, thread.original.clone())
            .map_err(inject_error(pid))?;
        infected.push((pid, infection, running));
    }
    let infected = step(infected, Infection::map)?;
    step(infected, Infection::run)
}

fn request(plan: &mut Plan, process: &Process, task: &TaskState) -> Result<Request, Error> {
    let pid = process.pid;
    // An exec between plan and freeze leaves other code in the process.
    let codes = match plan.codes.get(&pid) {
        Some(codes) if codes.still_there(pid) => *codes,
        _ => plan.finder.find(process).map_err(inject_error(pid))?,
    };
    plan.codes.insert(pid, codes);
    let timers: Vec<i32> = task.timers.0.iter().map(|timer| timer.id).collect();
    let bytes = Request::region_bytes(timers.len());
    let region = mappings::free_range(&process.mappings, bytes)
        .ok_or_else(|| inject_error(pid)(crate::inject::Error::NoRoom { tid: pid }))?;
    let leader = process.threads.get(&pid);
    Ok(Request {
        pid,
        codes,
        alt_stack: leader.and_then(known_alt_stack),
        region,
        bell: leader.map_or(0, bell),
        timers,
    })
}

fn known_alt_stack(thread: &collector::Thread) -> Option<(u64, u64)> {
    thread.in_task.map(|in_task| (in_task.alt_stack_start, in_task.alt_stack_bytes))
}

/// A signal that is nothing to this process: ignored by default or by choice, and not pending (a
/// second one of a pending signal would be lost). 0 when there is none.
fn bell(leader: &collector::Thread) -> i32 {
    let taken = leader.caught | leader.pending | leader.shared_pending;
    [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD]
        .into_iter()
        .find(|signal| taken & (1 << (signal - 1)) == 0)
        .unwrap_or(0)
}

/// Takes one step of every infection: each goes on while the others are seen to.
fn step(
    infected: Infected,
    step: impl Fn(&mut Infection, Running) -> Result<Running, crate::inject::Error>,
) -> Result<Infected, Error> {
    let mut stepped = Vec::with_capacity(infected.len());
    for (pid, mut infection, running) in infected {
        let running = step(&mut infection, running).map_err(inject_error(pid))?;
        stepped.push((pid, infection, running));
    }
    Ok(stepped)
}

/// Takes the reports, and sends the parasites away.
fn collect_reports(
    infected: Infected,
    tasks: &mut BTreeMap<i32, TaskState>,
    frozen: &mut Frozen,
) -> Result<Infected, Error> {
    let mut leaving = Vec::with_capacity(infected.len());
    for (pid, mut infection, running) in infected {
        let (stopped, report) = infection.report(running).map_err(inject_error(pid))?;
        let running = infection.leave(stopped).map_err(inject_error(pid))?;
        if let Some(task) = tasks.get_mut(&pid) {
            if let Some(leader) = task.threads.first_mut() {
                leader.in_task = Some(ThreadState {
                    alt_stack: report.state.alt_stack,
                    clear_child_tid: report.state.clear_child_tid,
                    parent_death_signal: report.state.parent_death_signal,
                });
            }
            task.report = Some(report);
        }
        frozen.postponed.extend(infection.postponed.drain(..).map(|signal| (pid, signal)));
        leaving.push((pid, infection, running));
    }
    Ok(leaving)
}

fn cure(infected: Infected, frozen: &mut Frozen) -> Result<(), Error> {
    for (pid, mut infection, running) in step(infected, Infection::left)? {
        let stopped = infection.cured(running).map_err(inject_error(pid))?;
        frozen.postponed.extend(infection.postponed.drain(..).map(|signal| (pid, signal)));
        if let Some(leader) =
            frozen.processes.get_mut(&pid).and_then(|threads| threads.get_mut(&pid))
        {
            leader.stopped = Some(stopped);
        }
    }
    Ok(())
}

/// Per-thread state of the threads that the parasite did not run in: from the inventory, or from
/// the threads themselves.
fn ask_other_threads(
    plan: &Plan,
    inventory: &Inventory,
    tasks: &mut BTreeMap<i32, TaskState>,
    frozen: &mut Frozen,
) -> Result<(), Error> {
    let mut asked = Vec::new();
    let mut whom = Vec::new();
    for (&pid, task) in tasks.iter_mut() {
        let Some(&codes) = plan.codes.get(&pid) else { continue };
        let known = inventory.processes.get(&pid).map(|process| &process.threads);
        for (index, thread) in task.threads.iter_mut().enumerate().skip(1) {
            let tid = thread.tid;
            if let Some(in_task) = known.and_then(|threads| threads.get(&tid)?.in_task) {
                thread.in_task = Some(in_task.into());
                continue;
            }
            let stopped = frozen
                .processes
                .get_mut(&pid)
                .and_then(|threads| threads.get_mut(&tid)?.stopped.take());
            if let Some(stopped) = stopped {
                asked.push((stopped, pid, thread.original.clone(), codes));
                whom.push((pid, index));
            }
        }
    }
    let answers = ask_threads(asked, &mut frozen.postponed)
        .map_err(|source| Error::Inject { pid: whom.first().map_or(0, |(pid, _)| *pid), source })?;
    for ((pid, index), (stopped, answer)) in whom.into_iter().zip(answers) {
        let tid = stopped.tid();
        if let Some(thread) = tasks.get_mut(&pid).and_then(|task| task.threads.get_mut(index)) {
            thread.in_task = Some(answer);
        }
        if let Some(thread) =
            frozen.processes.get_mut(&pid).and_then(|threads| threads.get_mut(&tid))
        {
            thread.stopped = Some(stopped);
        }
    }
    Ok(())
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
