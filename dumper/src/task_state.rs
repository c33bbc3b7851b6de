//! What is slow to read of tasks and seldom changes: it is read while they run, and when they
//! stand still a mark of the kernel's own says whether it still holds ([`collector::InTask::mark`],
//! [`collector::InProcess::mark`]). Where there is no mark, or another one, it is read again.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use arch::regs::Abi;
use collector::settings::{ProcessSettings, ThreadSettings, memory_failure, unusual_by_flags};
use collector::{InTask, Inventory, Process};
use ids::{Clash, HostPid};
use kernel::procfs::{
    Autogroup, Auxv, Cgroup, CoreDumpFilter, Dir, Limits, LoginUid, OomScoreAdj, ProcFile, Stat,
    Status, TimerSlack,
};
use kernel::sched::Scheduling;
use support::Unsupported;
use support::settings::{of_exit_signal, of_seccomp, of_status, of_unusual};

use crate::error::Error;
use crate::labels::Labels;
use crate::numbers::Numbers;
use crate::processes::is_zombie;
use crate::programs::{self, abi_of};
use crate::seccomp::Chains;
use crate::tracers;
use crate::unsupported;

/// Whether settings are read that an inventory by eBPF tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
}

impl Wanted {
    const fn unless(known: bool) -> Self {
        if known { Self::No } else { Self::Yes }
    }

    fn of_process(process: &Process) -> Self {
        Self::unless(process.in_process.is_some())
    }

    fn of_thread(process: &Process, tid: HostPid) -> Self {
        Self::unless(process.threads.get(&tid).is_some_and(|thread| thread.in_task.is_some()))
    }
}

/// Of a thread: what [`collector::InTask::mark`] covers.
#[derive(Debug)]
pub(crate) struct ThreadAttributes {
    /// Of its fields only those are of use that the mark covers: credentials, umask, seccomp.
    pub(crate) status: Status,
    pub(crate) scheduling: Scheduling,
    pub(crate) affinity: Vec<u8>,
    /// Its control groups.
    pub(crate) groups: Cgroup,
    /// As far as the kernel tells them to others; read where no inventory has them.
    pub(crate) settings: Option<ThreadSettings>,
    labels: Labels,
}

/// Of a process: what [`collector::InProcess::mark`] covers.
#[derive(Debug)]
pub(crate) struct ProcessAttributes {
    /// Of its fields only the places in memory are of use, and the flags.
    pub(crate) stat: Stat,
    pub(crate) limits: Limits,
    pub(crate) auxv: Auxv,
    pub(crate) oom_score_adj: i32,
    /// `u32::MAX` for none.
    pub(crate) login_uid: u32,
    pub(crate) personality: u32,
    /// Whose code its program is.
    pub(crate) abi: Abi,
    /// As far as the kernel tells them to others; read where no inventory has them.
    pub(crate) settings: Option<ProcessSettings>,
}

/// 0 if it may not be read from outside, which takes CAP_SYS_NICE: the thread itself is asked then.
fn timer_slack(tid: HostPid) -> Result<u64, Error> {
    match TimerSlack::read(&Dir::open(tid)?) {
        Err(error) if error.is_denied() => Ok(0),
        read => Ok(read?.0),
    }
}

impl ThreadAttributes {
    fn read(dir: &Dir, tid: HostPid, settings: Wanted, own: &Labels) -> Result<Self, Error> {
        let failed = |operation| move |source| Error::Process { operation, pid: tid, source };
        let dir = dir.thread(tid)?;
        let stat = match settings {
            Wanted::No => None,
            Wanted::Yes => Some(Stat::read(&dir)?),
        };
        let settings = match stat {
            None => None,
            Some(stat) => Some(ThreadSettings {
                exit_signal: stat.exit_signal,
                unusual: unusual_by_flags(stat.flags),
                io_priority: kernel::sched::io_priority(tid)
                    .map_err(failed("read the I/O priority"))?,
                memory_failure: memory_failure(stat.flags),
                // The folder of a thread inside its process's has no such file.
                timer_slack: timer_slack(tid)?,
                personality: personality(&dir, &mut Vec::new())?,
                ..ThreadSettings::default()
            }),
        };
        Ok(Self {
            status: Status::read(&dir)?,
            settings,
            labels: Labels::of(&dir, own),
            scheduling: kernel::sched::scheduling(tid).map_err(failed("read the scheduling"))?,
            affinity: kernel::sched::affinity(tid).map_err(failed("read the affinity"))?,
            groups: Cgroup::read(&dir)?,
        })
    }

    fn of_status(&self, tid: HostPid) -> Vec<Unsupported> {
        of_status(tid, self.status.thread_features.as_deref())
    }

    /// What stands in the way that an inventory by eBPF would have told.
    fn in_place_of_programs(&self, tid: HostPid, root: HostPid) -> Vec<Unsupported> {
        let Some(settings) = &self.settings else { return Vec::new() };
        let is_child = self.status.tgid == tid && tid != root;
        let of_child = is_child.then(|| of_exit_signal(tid, settings.exit_signal)).flatten();
        of_unusual(tid, settings.unusual).chain(of_child).collect()
    }

    /// What another reading tells otherwise, of what the mark covers.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        let (one, two) = (&self.status, &other.status);
        let capabilities = |status: &Status| {
            (
                status.cap_inheritable,
                status.cap_permitted,
                status.cap_effective,
                status.cap_bounding,
                status.cap_ambient,
            )
        };
        let seccomp = |status: &Status| (status.seccomp, status.seccomp_filters);
        first_difference([
            ("user ids", one.uid == two.uid),
            ("group ids", one.gid == two.gid && one.groups == two.groups),
            ("capabilities", capabilities(one) == capabilities(two)),
            ("no_new_privs", one.no_new_privs == two.no_new_privs),
            ("seccomp mode", seccomp(one) == seccomp(two)),
            ("umask", one.umask == two.umask),
            ("shadow stack", one.thread_features == two.thread_features),
            ("scheduling", self.scheduling == other.scheduling),
            ("affinity", self.affinity == other.affinity),
            ("control groups", self.groups == other.groups),
        ])
    }

    /// What the inventory tells otherwise of its settings.
    fn differs_from(&self, known: &ThreadSettings) -> Option<&'static str> {
        let own = self.settings.as_ref()?;
        first_difference([
            ("I/O priority", own.io_priority == known.io_priority),
            ("memory failure policy", own.memory_failure == known.memory_failure),
            ("timer slack", [0, known.timer_slack].contains(&own.timer_slack)),
            ("personality", own.personality == known.personality),
        ])
    }
}

/// The name of the first thing that is not the same.
fn first_difference<const N: usize>(same: [(&'static str, bool); N]) -> Option<&'static str> {
    same.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
}

fn personality(dir: &Dir, buffer: &mut Vec<u8>) -> Result<u32, Error> {
    dir.read("personality", buffer)?;
    let text = std::str::from_utf8(buffer).ok();
    Ok(text.and_then(|text| u32::from_str_radix(text.trim(), 16).ok()).unwrap_or(0))
}

impl ProcessAttributes {
    fn read(pid: HostPid, dir: &Dir, settings: Wanted) -> Result<Self, Error> {
        let mut buffer = Vec::with_capacity(4096);
        let personality = personality(dir, &mut buffer)?;
        let settings = match settings {
            Wanted::No => None,
            Wanted::Yes => Some(ProcessSettings {
                core_dump_filter: CoreDumpFilter::read_with(dir, &mut buffer)?.0,
                // Only where sessions have scheduling groups.
                autogroup_nice: Autogroup::read_with(dir, &mut buffer)
                    .map_or(0, |group| group.nice),
                merge_memory: merges_memory(dir, &mut buffer),
                ..ProcessSettings::default()
            }),
        };
        Ok(Self {
            settings,
            stat: Stat::read_with(dir, &mut buffer)?,
            limits: Limits::read_with(dir, &mut buffer)?,
            auxv: Auxv::read_with(dir, &mut buffer)?,
            oom_score_adj: OomScoreAdj::read_with(dir, &mut buffer)?.0,
            // A kernel without auditing has no such file, and then there is no such id.
            login_uid: LoginUid::read_with(dir, &mut buffer).map_or(u32::MAX, |uid| uid.0),
            personality,
            abi: abi_of(pid).unwrap_or(Abi::Native),
        })
    }

    /// What another reading tells otherwise, of what the mark covers.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        let places = |stat: &Stat| {
            let code = [stat.start_code, stat.end_code, stat.start_stack];
            let data = [stat.start_data, stat.end_data, stat.start_brk];
            (code, data, [stat.arg_start, stat.arg_end, stat.env_start, stat.env_end])
        };
        first_difference([
            ("places in memory", places(&self.stat) == places(&other.stat)),
            ("limits", self.limits == other.limits),
            ("auxiliary vector", self.auxv == other.auxv),
            ("oom_score_adj", self.oom_score_adj == other.oom_score_adj),
            ("login uid", self.login_uid == other.login_uid),
            ("personality", self.personality == other.personality),
            ("kind of the program", self.abi == other.abi),
        ])
    }

    /// What the inventory tells otherwise of its settings.
    fn differs_from(&self, known: &ProcessSettings) -> Option<&'static str> {
        let own = self.settings.as_ref()?;
        first_difference([
            ("core dump filter", own.core_dump_filter == known.core_dump_filter),
            ("nice value of the session", own.autogroup_nice == known.autogroup_nice),
        ])
    }
}

/// `PR_SET_MEMORY_MERGE`, as far as `/proc/PID/ksm_stat` tells it (Linux 6.15).
fn merges_memory(dir: &Dir, buffer: &mut Vec<u8>) -> bool {
    dir.read("ksm_stat", buffer).is_ok()
        && buffer.split(|&byte| byte == b'\n').any(|line| line == b"ksm_merge_any: yes")
}

/// Attributes with the mark of a moment before it was read.
type Marked<T> = (Option<NonZeroU64>, T);

/// The attributes of the tasks of a tree.
#[derive(Debug, Default)]
pub(crate) struct TaskStates {
    processes: BTreeMap<HostPid, Marked<ProcessAttributes>>,
    threads: BTreeMap<HostPid, Marked<ThreadAttributes>>,
    /// What a mark says to hold is read again all the same, and compared.
    cross_check: bool,
    /// Labels of security modules that this process has.
    labels: Labels,
    /// Filters of system calls that threads have.
    pub(crate) filters: Chains,
}

impl TaskStates {
    /// Reads the attributes of all tasks of a running tree; a task that ends meanwhile is left out. `inventory` was taken before.
    pub(crate) fn read(inventory: &Inventory, cross_check: bool) -> Self {
        let mut states = Self { cross_check, labels: Labels::own(), ..Self::default() };
        let alive = |process: &&Process| !is_zombie(process) && !process.kernel_thread;
        for process in inventory.processes.values().filter(alive) {
            let Ok(dir) = Dir::open(process.pid) else { continue };
            if let Ok(read) =
                ProcessAttributes::read(process.pid, &dir, Wanted::of_process(process))
            {
                states.processes.insert(process.pid, (process_mark(process), read));
            }
            for &tid in process.threads.keys() {
                if let Ok(read) = ThreadAttributes::read(
                    &dir,
                    tid,
                    Wanted::of_thread(process, tid),
                    &states.labels,
                ) {
                    states.threads.insert(tid, (thread_mark(process, tid), read));
                }
            }
        }
        states
    }

    /// What the images call these threads, and the others of the tree.
    pub(crate) fn numbers(&self, root: HostPid, inventory: &Inventory) -> Result<Numbers, Clash> {
        let threads = self.threads.iter();
        let levels = threads.map(|(&tid, (_, thread))| (tid, &thread.status.ns_pid[..]));
        let of_root = self.threads.get(&root).map_or(&[][..], |(_, root)| &root.status.ns_pid);
        let mut numbers = Numbers::of(of_root, levels)?;
        numbers.complete(inventory)?;
        Ok(numbers)
    }

    /// What the kernel says of each thread.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (HostPid, &Status)> {
        self.threads.iter().map(|(&tid, (_, attributes))| (tid, &attributes.status))
    }

    /// The login users of all processes.
    pub(crate) fn logins(&self) -> impl Iterator<Item = (HostPid, u32)> {
        self.processes.iter().map(|(&pid, (_, attributes))| (pid, attributes.login_uid))
    }

    /// What of it stands in the way of a dump.
    pub(crate) fn unsupported(&self, root: HostPid, inventory: &Inventory) -> Vec<Unsupported> {
        let threads = self.threads.iter();
        let readable = self.filters_are_readable();
        let own = kernel::process::own_thread();
        let of_threads = threads.flat_map(|(&tid, (_, attributes))| {
            let mut found = attributes.of_status(tid);
            let process = inventory.processes.get(&attributes.status.tgid);
            let mode = attributes.status.seccomp;
            found.extend(process.and_then(|process| of_seccomp(process, tid, mode, readable)));
            found.extend(process.and_then(|process| self.in_mixed_program(process, tid)));
            found.extend(tracers::of_running(inventory, &attributes.status, own));
            found.extend(attributes.labels.unsupported(tid, &self.labels));
            found.extend(attributes.in_place_of_programs(tid, root));
            found
        });
        self.processes
            .keys()
            .filter_map(|&pid| programs::unsupported(pid))
            .chain(of_threads)
            .collect()
    }

    /// A thread of a 64-bit program that has what only 32-bit code has use for.
    fn in_mixed_program(&self, process: &Process, tid: HostPid) -> Option<Unsupported> {
        let (_, attributes) = self.processes.get(&process.pid)?;
        programs::of_segments(process, tid, attributes.abi)
    }

    /// Whether the filters of those that have some can be read.
    fn filters_are_readable(&self) -> bool {
        let mut modes = self.threads.values().map(|(_, attributes)| attributes.status.seccomp);
        modes.all(|mode| mode == 0) || kernel::seccomp::may_read()
    }

    /// Those of a process that stands still; `process` is of the inventory that was taken since.
    pub(crate) fn of_process(
        &mut self,
        dir: &Dir,
        process: &Process,
    ) -> Result<ProcessAttributes, Error> {
        match self.processes.remove(&process.pid) {
            Some((mark, attributes)) if holds(mark, process_mark(process)) => {
                if self.cross_check {
                    let again = ProcessAttributes::read(process.pid, dir, Wanted::Yes)?;
                    compared(process.pid, attributes.differs(&again))?;
                    let known = process.in_process.as_ref().map(|known| known.settings);
                    compared(process.pid, known.and_then(|known| again.differs_from(&known)))?;
                }
                Ok(attributes)
            }
            _ => {
                let found = programs::unsupported(process.pid);
                unsupported::refuse(process.pid, found.into_iter().collect())?;
                ProcessAttributes::read(process.pid, dir, Wanted::of_process(process))
            }
        }
    }

    /// Those of one of its threads.
    pub(crate) fn of_thread(
        &mut self,
        dir: &Dir,
        process: &Process,
        tid: HostPid,
    ) -> Result<ThreadAttributes, Error> {
        match self.threads.remove(&tid) {
            Some((mark, attributes)) if holds(mark, thread_mark(process, tid)) => {
                if self.cross_check {
                    let again = ThreadAttributes::read(dir, tid, Wanted::Yes, &self.labels)?;
                    compared(tid, attributes.differs(&again))?;
                    let known = process.threads.get(&tid).and_then(|thread| thread.in_task);
                    let differs = |known: InTask| again.differs_from(&known.settings);
                    compared(tid, known.and_then(differs))?;
                }
                Ok(attributes)
            }
            _ => {
                let attributes = ThreadAttributes::read(
                    dir,
                    tid,
                    Wanted::of_thread(process, tid),
                    &self.labels,
                )?;
                let mut found = attributes.of_status(tid);
                let mode = attributes.status.seccomp;
                let readable = || mode == 0 || kernel::seccomp::may_read();
                found.extend(of_seccomp(process, tid, mode, readable()));
                found.extend(attributes.labels.unsupported(tid, &self.labels));
                unsupported::refuse(process.pid, found)?;
                Ok(attributes)
            }
        }
    }
}

fn compared(pid: HostPid, differs: Option<&'static str>) -> Result<(), Error> {
    differs.map_or(Ok(()), |field| Err(Error::CrossCheck { pid, field }))
}

fn holds(then: Option<NonZeroU64>, now: Option<NonZeroU64>) -> bool {
    then.is_some() && then == now
}

fn process_mark(process: &Process) -> Option<NonZeroU64> {
    process.in_process.as_ref()?.mark
}

fn thread_mark(process: &Process, tid: HostPid) -> Option<NonZeroU64> {
    process.threads.get(&tid)?.in_task?.mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_is_no_promise() {
        let mark = NonZeroU64::new;
        assert!(holds(mark(3), mark(3)));
        assert!(!holds(mark(3), mark(4)));
        assert!(!holds(None, None));
        assert!(!holds(mark(3), None));
    }
}
