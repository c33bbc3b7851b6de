//! A running process makes a userfaultfd and hands it over: all that has to happen inside it so
//! that its writes can be logged from outside.
//!
//! Only its leader is stopped, and has the parasite for a moment, which makes the descriptor, closes
//! it again and leaves. While it is there it is taken over. Abandoned at any instant, the parasite
//! does the same alone: the process keeps nothing. Where its system calls are filtered all its threads
//! stand still for that moment.
//!
//! Everything happens in a thread of its own, so that on any error, by its end, the kernel lets
//! go of the leader.

use std::cmp::Ordering;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use arch::fpu::Layout;
use arch::regs::Abi;
use collector::Process;
use freezer::Frozen;
use ids::HostPid;
use images::MappingKind;
use kernel::kcmp::Resource;
use kernel::pidfd::PidFd;
use kernel::ptrace::{Options, Running, Stop, Stopped};
use kernel::sched::Urgent;

use super::parasite::{MAKE_USERFAULTFD, calls_of_handover};
use super::{Error, Gadgets, Infection, Original, Request, Room};
use crate::filters::{at_worst_fails, first_denied};
use crate::mappings;
use crate::processes::is_filtered;
use crate::threads::with_this_log;

/// How long the leader may take to stop.
const PATIENCE: Duration = Duration::from_millis(200);
/// How many milliseconds all threads of a process may, one try after another: the first ones wait for the last.
const PATIENCE_WITH_ALL: [u64; 6] = [5, 10, 20, 40, 60, 60];

/// What is handed over, and for how long the leader stood still for that.
type Handed = (OwnedFd, Duration);

/// Has the leader of a process make a userfaultfd, which is ours alone then. The process runs
/// on, whatever becomes of this. `None` where its filters of system calls could end it for that.
pub(crate) fn userfaultfd_of(
    process: &Process,
    gadgets: &Gadgets,
) -> Result<Option<Handed>, Error> {
    let pid = process.pid;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("donate".to_owned())
            .spawn_scoped(scope, with_this_log(|| uffd_handover(process, gadgets)))
            .map_err(|source| Error::Memory { operation: "start a thread for", tid: pid, source })?
            .join()
            .unwrap_or(Err(Error::NoRoom { tid: pid }))
    })
}

/// What stops the leader.
const OPTIONS: Options = Options::SYSCALL_GOOD;

fn uffd_handover(process: &Process, gadgets: &Gadgets) -> Result<Option<Handed>, Error> {
    let pid = process.pid;
    let failed = |operation| move |source| Error::Memory { operation, tid: pid, source };
    let pidfd = PidFd::open(pid).map_err(failed("open the process"))?;
    let layout = Layout::of_this_processor();
    let filtered = is_filtered(pid);
    if filtered && (shares_tables(process) || maps_rings(process)) {
        return Ok(None);
    }
    // The leader stands still for as long as this thread is kept waiting.
    let _urgent = Urgent::begin();
    let mut since = Instant::now();
    let (thread, _others) = match filtered {
        false => (freezer::stop_thread(Running::seize(pid, OPTIONS)?, PATIENCE)?, None),
        true => {
            let mut all = stop_all(pid)?;
            since = all.since;
            let leader = all.processes.get_mut(&pid).and_then(|threads| threads.remove(&pid));
            (leader.ok_or(Error::NoRoom { tid: pid })?, Some(all))
        }
    };
    let gone = kernel::ptrace::Error::Gone { operation: "stop", tid: pid };
    let stopped = thread.stopped.ok_or(gone)?;
    // What job control has stopped is left alone.
    if let stop @ Stop::Group(_) = stopped.stop() {
        return Err(Error::Unexpected { tid: pid, during: "when interrupted", stop });
    }
    let mut making = OPTIONS;
    if filtered {
        if !is_let_through(gadgets.abi, &stopped)? || !is_alone(pid) {
            stopped.detach(0)?;
            return Ok(None);
        }
        making |= Options::SUSPEND_SECCOMP;
    } else if is_filtered(pid) {
        // Since just now, while its other threads run.
        stopped.detach(0)?;
        return Ok(None);
    }
    let original = Original::of(&stopped, &stopped.rseq()?, &mut Vec::new())?;
    // Only the leader stands still, or so it may be.
    let room = Room { others_run: true, ..Room::of(&layout, (process, process), pid, 0) };
    let bytes = Request::region_bytes(0);
    let region = mappings::free_range(gadgets.abi, &process.mappings, bytes)
        .ok_or(Error::NoRoom { tid: pid })?;
    let request = Request {
        pid,
        gadgets: *gadgets,
        region,
        bell: 0,
        timers: Vec::new(),
        uffd_handover: true,
    };
    let (mut infection, running) = Infection::begin(stopped, request, original, &room)?;
    let running = infection.map(running)?;
    let running = infection.run(running)?;
    let (leaving, taken) = infection.donation(running, OPTIONS, making, |fd| pidfd.get(fd))?;
    let running = infection.leave(leaving)?;
    let running = infection.left(running)?;
    infection.cured(running)?.detach(0)?;
    let stood_still = since.elapsed();
    for signal in infection.postponed {
        pidfd.signal(signal).map_err(failed("send a signal again"))?;
    }
    taken.map(|fd| Some((fd, stood_still)))
}

/// Whether a process has rings of an io_uring mapped, which may be there without a descriptor.
fn maps_rings(process: &Process) -> bool {
    process.mappings.iter().any(|mapping| mapping.kind == MappingKind::IoUringRing)
}

/// Stops all threads of a process.
fn stop_all(pid: HostPid) -> Result<Frozen, freezer::StopError> {
    let [first @ .., last] = PATIENCE_WITH_ALL.map(Duration::from_millis);
    for patience in first {
        match freezer::stop_process(pid, patience) {
            // They run for as long as some of them have stood still.
            Err(freezer::StopError::DidNotStop { .. }) => std::thread::sleep(patience),
            stopped => return stopped,
        }
    }
    freezer::stop_process(pid, last)
}

/// The same of a process that stands still, whatever has been born since the inventory was taken: whether nobody else has either, nor
/// it an io_uring.
fn is_alone(pid: HostPid) -> bool {
    let shares = |other: &HostPid| {
        [Resource::Memory, Resource::Files]
            .into_iter()
            .any(|resource| kernel::kcmp::resources(pid, *other, resource) == Ok(Ordering::Equal))
    };
    let is_ring = |entry: std::fs::DirEntry| {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        link.to_string_lossy().contains("[io_uring]")
    };
    let others = kernel::procfs::processes();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let has_others = |all: Vec<HostPid>| all.iter().any(|other| *other != pid && shares(other));
    let has_rings = |mut all: std::fs::ReadDir| all.any(|file| file.is_ok_and(is_ring));
    others.is_ok_and(|all| !has_others(all)) && files.is_ok_and(|all| !has_rings(all))
}

/// Whether another process has the memory or the descriptors of one, which would run on while that stands still. Who has filters is not
/// trusted: he could write into the parasite, or keep a descriptor that his filters do not let him make. (The kernel does what
/// an io_uring was asked for whether the process stands still or not.)
fn shares_tables(process: &Process) -> bool {
    let own = |table: Option<HostPid>| table == Some(process.pid);
    !own(process.tables.memory)
        || !own(process.tables.files)
        || process.tables.others[..2] != [None; 2]
}

/// Whether a leader with filters may have the parasite: they let pass what that calls, and at worst have the making of a
/// userfaultfd fail, as those of container engines do. For that one call they are to be suspended. Left alone, the parasite finds
/// that it has made nothing, and leaves.
fn is_let_through(abi: Abi, stopped: &Stopped) -> Result<bool, Error> {
    let filters = match stopped.seccomp_filters() {
        Ok(filters) if !filters.is_empty() => filters,
        // Strict mode; or who dumps may not read them.
        Ok(_) | Err(kernel::ptrace::Error::Refused { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let passes = first_denied(&filters, &calls_of_handover(abi)).is_none();
    if !passes || !at_worst_fails(&filters, &MAKE_USERFAULTFD) {
        return Ok(false);
    }
    // Whether they may be.
    let may = stopped.set_options(OPTIONS | Options::SUSPEND_SECCOMP);
    match may.and_then(|()| stopped.set_options(OPTIONS)) {
        Ok(()) => Ok(true),
        Err(kernel::ptrace::Error::Refused { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
