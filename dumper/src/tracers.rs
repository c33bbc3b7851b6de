//! Who traces whom in a tree, and whether it can be carried, as far as is seen while the tree runs.

use std::collections::BTreeSet;

use arch::regs::Abi;
use arch::trace::NO_BREAKPOINTS;
use collector::settings::unusual;
use collector::{Inventory, Process};
use ids::HostPid;
use images::messages::TracedEntry;
use kernel::procfs::{Dir, ProcFile, Status, processes};
use kernel::ptrace::RawSigInfo;
use support::Unsupported;
use support::tracers::{Tracee, of_outsider};
use support::tree::of_tracer;

use crate::numbers::{Numbers, Unnumbered};
use crate::processes::is_zombie;
use crate::programs::abi_of;

/// How a thread is traced.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) tracer: HostPid,
    pub(crate) seized: bool,
    pub(crate) options: u32,
    pub(crate) signal: RawSigInfo,
    pub(crate) debug_registers: Vec<u64>,
}

impl Traced {
    /// As the images have it.
    pub(crate) fn entry(&self, numbers: &Numbers) -> Result<TracedEntry, Unnumbered> {
        Ok(TracedEntry {
            tracer: numbers.named(self.tracer)?.unsigned(),
            seized: self.seized,
            options: self.options,
            signal: self.signal.to_vec(),
            debug_registers: match self.debug_registers == NO_BREAKPOINTS {
                true => Vec::new(),
                false => self.debug_registers.clone(),
            },
        })
    }
}

/// Whether a process has a tracer, as far as is known.
pub(crate) fn is_traced(process: &Process) -> bool {
    let status = Dir::open(process.pid).and_then(|dir| Status::read(&dir));
    status.is_ok_and(|status| status.tracer.is_some())
}

/// What stands in the way of a thread that somebody traces, who is not `own`, while the tree runs.
pub(crate) fn of_running(
    inventory: &Inventory,
    status: &Status,
    own: HostPid,
) -> Option<Unsupported> {
    let tracer = status.tracer.filter(|tracer| *tracer != own)?;
    match judge(inventory, status, tracer) {
        Some(tracee) => tracee.unsupported(),
        None => of_tracer(status.pid, Some(tracer), None),
    }
}

/// What is known of a thread that another thread of the tree traces; `None` if that is not of the tree.
pub(crate) fn judge(inventory: &Inventory, status: &Status, tracer: HostPid) -> Option<Tracee> {
    let tid = status.pid;
    let has = |tid: HostPid| {
        inventory.processes.values().find(move |process| process.threads.contains_key(&tid))
    };
    let by = has(tracer)?;
    let process = has(tid);
    let status_of = |process: HostPid, tid: HostPid| {
        Dir::open(process).and_then(|dir| Status::read(&dir.thread(tid)?)).ok()
    };
    let of_tracer = status_of(by.pid, tracer);
    let settings = |process: Option<&Process>, tid| {
        process.and_then(|process| process.threads.get(&tid)?.in_task).map(|known| known.settings)
    };
    let own = settings(process, tid);
    let traces = own.is_some_and(|own| own.unusual & unusual::TRACER != 0);
    let is_tracers = |tid: &HostPid| {
        *tid == status.pid
            || status_of(status.tgid, *tid).is_some_and(|it| it.tracer == Some(tracer))
    };
    let depth = |status: &Status| status.ns_pid.len();
    let same_place = |name: &str| {
        process.is_some_and(|process| process.namespaces.get(name) == by.namespaces.get(name))
    };
    Some(Tracee {
        tid,
        tracer,
        stands: status.state == b't',
        is_known: own.is_some_and(|own| own.traced != 0),
        is_compat: abi_of(status.tgid) == Some(Abi::Compat) || abi_of(by.pid) == Some(Abi::Compat),
        is_filtered: status.seccomp != 0 || of_tracer.as_ref().is_none_or(|it| it.seccomp != 0),
        is_whole: process.is_some_and(|process| process.threads.keys().all(is_tracers)),
        is_chained: traces
            || of_tracer.as_ref().is_none_or(|it| it.tracer.is_some_and(is_not_ours)),
        is_near: of_tracer.as_ref().is_some_and(|it| depth(it) == depth(status))
            && same_place("pid"),
    })
}

fn is_not_ours(tracer: HostPid) -> bool {
    tracer != kernel::process::own_thread()
}

/// Threads of the tree that trace others outside of it. Who traces nobody is known from the inventory, by eBPF.
pub(crate) fn of_outsiders(inventory: &Inventory) -> Vec<Unsupported> {
    let may_trace = |process: &&Process| !is_zombie(process) && !process.kernel_thread;
    let threads = inventory.processes.values().filter(may_trace).flat_map(|it| it.threads.values());
    let tracers = threads.filter(|thread| {
        thread.in_task.is_none_or(|known| known.settings.unusual & unusual::TRACER != 0)
    });
    let tracers: BTreeSet<HostPid> = tracers.map(|thread| thread.tid).collect();
    if tracers.is_empty() {
        return Vec::new();
    }
    let outside = processes().unwrap_or_default().into_iter();
    let outside = outside.filter(|pid| !inventory.processes.contains_key(pid));
    let traced = outside.flat_map(|pid| {
        let threads = Dir::open(pid).and_then(|dir| Ok((dir.threads()?, dir)));
        let (threads, dir) = threads.ok().unzip();
        threads.unwrap_or_default().into_iter().filter_map(move |tid| {
            let status = Status::read(&dir.as_ref()?.thread(tid).ok()?).ok()?;
            Some((status.tracer?, tid))
        })
    });
    let by_ours = traced.filter(|(tracer, _)| tracers.contains(tracer));
    by_ours.map(|(tracer, tid)| of_outsider(tracer, tid)).collect()
}
