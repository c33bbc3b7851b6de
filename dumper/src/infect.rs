//! Asking the tasks themselves, for what the kernel's structures do not tell: the parasite in the
//! leader of every process that needs it, all at once, and system calls in other threads.

use std::collections::BTreeMap;

use collector::{Inventory, Process};
use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::ptrace::Running;

use crate::error::Error;
use crate::inject::{
    self, Asking, Gadgets, Infection, Original, Request, Room, ask_threads, calls_of_parasite,
    calls_of_threads,
};
use crate::mappings;
use crate::plan::Plan;
use crate::processes::{denies_parasites, lender, lenders};
use crate::seccomp::{Seccomp, refuse_to_ask};
use crate::tasks::TaskCapture;
use crate::unsupported;
use freezer::Frozen;

fn inject_error(pid: HostPid) -> impl Fn(inject::Error) -> Error {
    move |source| Error::Inject { pid, source }
}

pub(crate) type Infected = Vec<(HostPid, Infection, Running)>;

/// Brings the parasite into every process and sets it going.
pub(crate) fn begin(
    plan: &mut Plan,
    inventory: &Inventory,
    tasks: &BTreeMap<HostPid, TaskCapture>,
    frozen: &mut Frozen,
    cross_check: bool,
) -> Result<Infected, Error> {
    let mut infected: Infected = Vec::new();
    let lenders = lenders(inventory);
    // What is given to the parasites of each memory.
    let mut given: BTreeMap<HostPid, Given> = BTreeMap::new();
    let asked = tasks.iter().filter(|(pid, task)| {
        let denies = || inventory.processes.get(pid).is_some_and(denies_parasites);
        let may_be = !denies() && task.threads.iter().all(|thread| thread.seccomp == Seccomp::Off);
        let may_be = may_be && task.threads.iter().all(|thread| thread.traced.is_none());
        task.report.is_none() || cross_check && may_be
    });
    refuse_all(inventory, tasks)?;
    for (&pid, task) in asked {
        let (Some(process), Some(thread)) = (inventory.processes.get(&pid), task.threads.first())
        else {
            continue;
        };
        let memory = lender(inventory, &lenders, process);
        let given = given.entry(memory.pid).or_default();
        let request = request(plan, (process, memory), task, given)?;
        let leader = frozen
            .processes
            .get_mut(&pid)
            .and_then(|threads| threads.get_mut(&pid)?.stopped.take());
        let Some(leader) = leader else { continue };
        frozen.let_code_run().map_err(Error::Undo)?;
        let room = Room::of(&plan.layout, (process, memory), pid, given.slot());
        let (infection, running) =
            Infection::begin(leader, request, thread.original.clone(), &room)
                .map_err(inject_error(pid))?;
        infected.push((pid, infection, running));
    }
    let infected = step(infected, Infection::map)?;
    step(infected, Infection::run)
}

/// Refuses a tree in which somebody will have to be asked whose filters may not let pass what that takes, before anybody is.
fn refuse_all(inventory: &Inventory, tasks: &BTreeMap<HostPid, TaskCapture>) -> Result<(), Error> {
    for (pid, task) in tasks {
        let Some(process) = inventory.processes.get(pid) else { continue };
        refuse_to_ask_traced(*pid, task)?;
        let mut threads = task.threads.iter();
        if let Some(leader) = threads.next().filter(|_| task.report.is_none()) {
            let calls = calls_of_parasite(task.attributes.abi, !task.timers.0.is_empty());
            refuse_to_ask(process, leader.tid, &leader.seccomp, &calls)?;
        }
        for thread in threads.filter(|thread| thread.in_task.is_none()) {
            let calls = calls_of_threads(task.attributes.abi);
            refuse_to_ask(process, thread.tid, &thread.seccomp, &calls)?;
        }
    }
    Ok(())
}

/// Refuses who would have to be asked, and whom another of the tree traces.
fn refuse_to_ask_traced(pid: HostPid, task: &TaskCapture) -> Result<(), Error> {
    let mut traced = task.threads.iter().filter(|thread| thread.traced.is_some());
    let asked = traced.find(|thread| task.report.is_none() || thread.in_task.is_none());
    let found = asked.map(|thread| support::tracers::to_be_asked(thread.tid));
    unsupported::refuse(pid, found.into_iter().collect())
}

/// What is in use of one memory, by those who are asked side by side.
#[derive(Default)]
struct Given {
    /// Bytes of regions, one behind the other.
    regions: u64,
    slots: u64,
}

impl Given {
    /// A slot of its own.
    fn slot(&mut self) -> u64 {
        self.slots += 1;
        self.slots - 1
    }
}

/// `memory` is the process that has the mappings.
fn request(
    plan: &mut Plan,
    (process, memory): (&Process, &Process),
    task: &TaskCapture,
    given: &mut Given,
) -> Result<Request, Error> {
    let pid = process.pid;
    let gadgets = gadgets(plan, process, memory)?;
    let timers: Vec<i32> = task.timers.0.iter().map(|timer| timer.id).collect();
    let bytes = Request::region_bytes(timers.len());
    // As much as all of them need: so the ranges do not meet, wherever they are.
    given.regions += bytes;
    let region = mappings::free_range(gadgets.abi, &memory.mappings, given.regions)
        .map(|range| range + given.regions - bytes)
        .ok_or_else(|| inject_error(pid)(inject::Error::NoRoom { tid: pid }))?;
    let leader = process.threads.get(&pid);
    Ok(Request { pid, gadgets, region, bell: leader.map_or(0, bell), timers, uffd_handover: false })
}

/// Where the process's own code has what is needed: found in the plan, where it was foreseen that it
/// would be.
pub(crate) fn gadgets(
    plan: &mut Plan,
    process: &Process,
    memory: &Process,
) -> Result<Gadgets, Error> {
    let pid = process.pid;
    // An exec between plan and freeze leaves other code in the process.
    let gadgets = match plan.gadgets.get(&pid) {
        Some(gadgets) if gadgets.still_there(pid) => *gadgets,
        _ => plan.finder.find(memory).map_err(inject_error(pid))?,
    };
    plan.gadgets.insert(pid, gadgets);
    Ok(gadgets)
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
    step: impl Fn(&mut Infection, Running) -> Result<Running, inject::Error>,
) -> Result<Infected, Error> {
    let mut stepped = Vec::with_capacity(infected.len());
    for (pid, mut infection, running) in infected {
        let running = step(&mut infection, running).map_err(inject_error(pid))?;
        stepped.push((pid, infection, running));
    }
    Ok(stepped)
}

/// Takes the reports, and sends the parasites away.
pub(crate) fn collect_reports(
    infected: Infected,
    tasks: &mut BTreeMap<HostPid, TaskCapture>,
    frozen: &mut Frozen,
) -> Result<Infected, Error> {
    let mut leaving = Vec::with_capacity(infected.len());
    for (pid, mut infection, running) in infected {
        let (stopped, report) = infection.report(running).map_err(inject_error(pid))?;
        let running = infection.leave(stopped).map_err(inject_error(pid))?;
        if let Some(task) = tasks.get_mut(&pid) {
            if let Some(known) = &task.report
                && let Some(field) = known.differs(&report)
            {
                return Err(Error::CrossCheck { pid, field });
            }
            if let Some(leader) = task.threads.first_mut() {
                leader.in_task = Some(report.leader());
            }
            task.report = Some(report);
        }
        frozen.postponed.extend(infection.postponed.drain(..).map(|signal| (pid, signal)));
        leaving.push((pid, infection, running));
    }
    Ok(leaving)
}

pub(crate) fn cure(infected: Infected, frozen: &mut Frozen) -> Result<(), Error> {
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

/// Has threads of a tree pass through the kernel once ([`inject::pass_through_kernel`]), where they may make calls.
pub(crate) fn pass_through_kernel(
    plan: &mut Plan,
    frozen: &mut Frozen,
    threads: &[(HostPid, HostPid, Option<i32>)],
) -> Result<(), Error> {
    let inventory = std::mem::take(&mut plan.inventory);
    let done = pass_all(plan, &inventory, frozen, threads);
    plan.inventory = inventory;
    done
}

fn pass_all(
    plan: &mut Plan,
    inventory: &Inventory,
    frozen: &mut Frozen,
    threads: &[(HostPid, HostPid, Option<i32>)],
) -> Result<(), Error> {
    let mut passing = Vec::new();
    let mut buffer = Vec::new();
    let lenders = lenders(inventory);
    for (slot, &(pid, tid, ring)) in threads.iter().enumerate() {
        let Some(process) = inventory.processes.get(&pid) else { continue };
        let memory = lender(inventory, &lenders, process);
        let Ok(gadgets) = gadgets(plan, process, memory) else { continue };
        let thread = frozen.processes.get_mut(&pid).and_then(|threads| threads.get_mut(&tid));
        let Some(stopped) =
            thread.and_then(|thread| thread.stopped.take_if(|_| may_call(pid, tid)))
        else {
            continue;
        };
        let original = stopped
            .rseq()
            .map_err(inject::Error::from)
            .and_then(|rseq| Original::of(&stopped, &rseq, &mut buffer));
        let original = original.map_err(inject_error(pid))?;
        passing.push((stopped, pid, original, gadgets, ((process, memory), slot as u64, ring)));
    }
    let Some(first) = passing.first().map(|(_, pid, ..)| *pid) else { return Ok(()) };
    frozen.let_code_run().map_err(Error::Undo)?;
    let layout = &plan.layout;
    let passing = passing.into_iter().map(|(stopped, pid, original, gadgets, of)| {
        let (process, slot, ring) = of;
        let room = Room::of(layout, process, stopped.tid(), slot);
        (Asking { stopped, pid, original, gadgets, room }, ring)
    });
    let passed = inject::pass_through_kernel(passing.collect(), &mut frozen.postponed);
    for stopped in passed.map_err(inject_error(first))? {
        let tid = stopped.tid();
        let threads = frozen.processes.values_mut();
        if let Some(thread) = threads.filter_map(|threads| threads.get_mut(&tid)).next() {
            thread.stopped = Some(stopped);
        }
    }
    Ok(())
}

/// Whether a thread is free to make calls: none with a filter is, which might end it for one.
fn may_call(pid: HostPid, tid: HostPid) -> bool {
    let status = Dir::open(pid).and_then(|dir| Status::read(&dir.thread(tid)?));
    status.is_ok_and(|status| status.seccomp == 0)
}

/// Per-thread state of the threads that the parasite did not run in: from the inventory, or from
/// the threads themselves.
pub(crate) fn ask_other_threads(
    plan: &mut Plan,
    inventory: &Inventory,
    tasks: &mut BTreeMap<HostPid, TaskCapture>,
    frozen: &mut Frozen,
    root: HostPid,
) -> Result<(), Error> {
    let mut asked = Vec::new();
    let mut whom = Vec::new();
    let lenders = lenders(inventory);
    let mut slots: BTreeMap<HostPid, Given> = BTreeMap::new();
    for (&pid, task) in tasks.iter() {
        for (index, thread) in task.threads.iter().enumerate().skip(1) {
            if thread.in_task.is_some() {
                continue;
            }
            let Some(process) = inventory.processes.get(&pid) else { continue };
            let memory = lender(inventory, &lenders, process);
            let gadgets = gadgets(plan, process, memory)?;
            let room = ((process, memory), slots.entry(memory.pid).or_default().slot());
            let stopped = frozen
                .processes
                .get_mut(&pid)
                .and_then(|threads| threads.get_mut(&thread.tid)?.stopped.take());
            if let Some(stopped) = stopped {
                asked.push((stopped, pid, thread.original.clone(), gadgets, room));
                whom.push((pid, index));
            }
        }
    }
    if !asked.is_empty() {
        frozen.let_code_run().map_err(Error::Undo)?;
    }
    let layout = &plan.layout;
    let asked = asked.into_iter().map(|(stopped, pid, original, gadgets, (process, slot))| {
        let room = Room::of(layout, process, stopped.tid(), slot);
        Asking { stopped, pid, original, gadgets, room }
    });
    let answers = ask_threads(asked.collect(), &mut frozen.postponed).map_err(|source| {
        Error::Inject { pid: whom.first().map_or(root, |(pid, _)| *pid), source }
    })?;
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
