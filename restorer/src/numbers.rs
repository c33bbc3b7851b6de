//! The numbers of processes and threads: those that the tree is to have must be free, and those of
//! our own must not be among them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ids::{HostPid, ImagePid};
use kernel::pidfd::{End, PidFd};
use kernel::process::{exists, group_exists};
use kernel::procfs::{Dir, ProcFile, Stat, Status, processes};

use crate::error::Error;
use crate::load::Checkpoint;
use crate::plan::Plan;
use crate::record::Record;

/// How long what has ended may keep its number: its parent may be about to wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel's mark of a task that is ending (`PF_EXITING`).
const EXITING: u32 = 0x4;

/// `SIGKILL` as a set of signals.
const KILLED: u64 = 1 << (libc::SIGKILL - 1);

/// The numbers that are to be given out here: those of tasks and of threads, if the tree comes back into this
/// process's pid namespace. In one of its own all are free.
fn wanted(plan: &Plan) -> impl Iterator<Item = HostPid> + '_ {
    plan.numbers.iter().filter(|_| !plan.inside).map(|number| number.in_own_namespace())
}

/// Every number that is to be given out must be one that this machine has, and free. What is
/// ending is waited for.
pub(crate) fn check(plan: &Plan, records: Option<&Path>) -> Result<(), Error> {
    let limit = pid_max();
    if let Some(id) = wanted(plan).find(|id| id.get() >= limit) {
        return Err(Error::refused(
            support::host::number_too_high(id, limit).of(id.get(), format!("process {id}")),
        ));
    }
    let deadline = Instant::now() + PATIENCE;
    for id in wanted(plan).filter(|&id| exists(id)) {
        if await_free(id, deadline)? {
            continue;
        }
        return Err(match records.and_then(|place| Record::of_root(place, id)) {
            Some(record) => Error::refused(
                support::host::runs_already(&record.images).of(id.get(), format!("process {id}")),
            ),
            None => taken(id),
        });
    }
    // All who had these numbers are gone: what they left behind is not of the tree.
    if let Some(id) = wanted(plan).find(|&id| group_exists(id)) {
        return Err(left_behind(id));
    }
    Ok(())
}

/// The same in a pid namespace of others that the tree is born into.
pub(crate) fn check_in(plan: &Plan, namespace: &OwnedFd) -> Result<(), Error> {
    let failed = |source| Error::kernel("look who is in the pid namespace")(source);
    let namespace = kernel::namespaces::id(namespace).map_err(failed)?;
    let wanted: BTreeSet<ImagePid> = plan.numbers.iter().copied().collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Some((id, by)) =
            processes()?.into_iter().find_map(|pid| has_one(pid, namespace, &wanted))
        else {
            return Ok(());
        };
        let stat = Dir::open(by).and_then(|dir| Stat::read(&dir));
        // Who is gone by now has left its number.
        let is_ending =
            stat.is_ok_and(|stat| stat.is_dead() || stat.flags & EXITING != 0) || !exists(by);
        // Whoever is to wait for it may be about to.
        if is_ending && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let refusal = support::host::number_taken_inside(by);
        return Err(Error::refused(refusal.of(id.get(), format!("process {id}"))));
    }
}

/// A wanted number that a process has that is in the pid namespace, be it that of a thread, its group or its session.
fn has_one(
    pid: HostPid,
    namespace: u64,
    wanted: &BTreeSet<ImagePid>,
) -> Option<(ImagePid, HostPid)> {
    let dir = Dir::open(pid).ok()?;
    let link = dir.link("ns/pid").ok()?;
    if link.to_str() != Some(&format!("pid:[{namespace}]")) {
        return None;
    }
    let status = Status::read(&dir).ok()?;
    let threads = dir.threads().unwrap_or_default().into_iter().filter_map(|thread| {
        let status = Dir::open(thread).and_then(|dir| Status::read(&dir)).ok()?;
        status.ns_pid.last().copied()
    });
    let leaders = [&status.ns_pgid, &status.ns_sid].map(|levels| levels.last().copied().flatten());
    let own = status.ns_pid.last().copied().into_iter();
    let mut all = own.chain(leaders.into_iter().flatten()).chain(threads);
    all.find(|number| wanted.contains(number)).map(|number| (number, pid))
}

/// Waits until a number is free if what has it is ending; whether it is.
fn await_free(id: HostPid, deadline: Instant) -> Result<bool, Error> {
    let Ok(dir) = Dir::open(id) else { return Ok(!exists(id)) };
    let (stat, status) = (Stat::read(&dir), Status::read(&dir));
    let killed = |status: &Status| (status.pending | status.shared_pending) & KILLED != 0;
    let ending = stat.is_ok_and(|stat| stat.is_dead() || stat.flags & EXITING != 0)
        || status.as_ref().is_ok_and(killed);
    // A thread ends with its process, which alone can be waited for.
    let process = PidFd::open(status.map_or(id, |status| status.tgid));
    let Some(process) = process.ok().filter(|_| ending) else { return Ok(!exists(id)) };
    let end = process.await_end(true, deadline);
    let end = end.map_err(Error::kernel(format!("wait for the end of process {id}")))?;
    Ok(end == End::Gone && !exists(id))
}

/// Says who has a number, and why.
fn taken(id: HostPid) -> Error {
    let of = |number: HostPid| Dir::open(number).and_then(|dir| Stat::read(&dir)).ok();
    let named = |number: HostPid| match of(number) {
        Some(stat) => format!("process {number} ({})", stat.comm.to_string_lossy()),
        None => format!("process {number}"),
    };
    let parent = |stat: &Stat| {
        stat.ppid.map_or_else(|| "a process outside of this pid namespace".to_owned(), named)
    };
    let object = format!("process {id}");
    match of(id) {
        Some(stat) if stat.is_dead() => Error::refused(
            support::host::number_of_zombie(&parent(&stat), stat.ppid).of(id, object),
        ),
        Some(stat) => Error::refused(
            support::host::number_taken(id, &named(id), char::from(stat.state), &parent(&stat))
                .of(id, object),
        ),
        None => Error::refused(support::host::NUMBER_WAS_TAKEN.of(id, object)),
    }
}

/// Says who keeps a number in use, as a member of the group or session that has it.
fn left_behind(id: HostPid) -> Error {
    let stat = |pid| Dir::open(pid).and_then(|dir| Stat::read(&dir)).ok();
    let is_member = |stat: &Stat| stat.pgrp == Some(id) || stat.session == Some(id);
    let mut members =
        processes().unwrap_or_default().into_iter().filter_map(stat).filter(is_member);
    let refusal = match members.next() {
        Some(stat) => {
            let who = format!("process {} ({})", stat.pid, stat.comm.to_string_lossy());
            support::host::number_of_group(stat.pid, &who)
        }
        None => support::host::NUMBER_WAS_TAKEN,
    };
    Error::refused(refusal.of(id, format!("process {id}")))
}

/// The number at which process numbers end.
pub(crate) fn pid_max() -> i32 {
    /// What the kernel starts with.
    const DEFAULT: i32 = 1 << 15;
    kernel::sysctl::read("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT)
}

/// Numbers that are free, wanted by nobody in the tree, and far from where the kernel gives out
/// numbers next.
pub(crate) fn spare(plan: &Plan) -> impl Iterator<Item = HostPid> + use<> {
    // Also of a tree that has numbers elsewhere: processes that pass there have them, too.
    let wanted: BTreeSet<HostPid> =
        plan.numbers.iter().chain(&plan.inner).map(|number| number.in_own_namespace()).collect();
    (1..pid_max())
        .rev()
        .filter_map(HostPid::new)
        .filter(move |id| !wanted.contains(id) && !exists(*id))
}

/// Numbers for threads that help processes with much memory to read it.
pub(crate) fn helpers(checkpoint: &Checkpoint, plan: &Plan) -> BTreeMap<ImagePid, ImagePid> {
    /// Bytes that are worth a thread.
    const MUCH: u64 = 32 << 20;
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return BTreeMap::new();
    }
    let numbers = (1..pid_max()).rev().filter_map(ImagePid::new);
    let is_free = |number: &ImagePid| plan.inside || !exists(number.in_own_namespace());
    let is_wanted = |it: &ImagePid| plan.numbers.contains(it) || plan.inner.contains(it);
    let mut free = numbers.filter(|number| !is_wanted(number)).filter(is_free);
    let large = checkpoint
        .living()
        .filter(|(_, body)| body.runs.iter().map(|run| run.bytes()).sum::<u64>() >= MUCH);
    // Where children are born elsewhere no thread is made.
    let large = large.filter(|(process, _)| checkpoint.levels.for_children(process.pid).is_none());
    large.filter_map(|(process, _)| Some((process.pid, free.next()?))).collect()
}
