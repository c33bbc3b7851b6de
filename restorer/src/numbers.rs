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
    wanted(plan).try_for_each(|id| await_group(id, deadline))
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

/// What a process has in its `stat`, if it is there.
fn stat_of(number: HostPid) -> Option<Stat> {
    Dir::open(number).and_then(|dir| Stat::read(&dir)).ok()
}

/// A process with its name.
fn named(number: HostPid) -> String {
    match stat_of(number) {
        Some(stat) => format!("process {number} ({})", stat.comm.to_string_lossy()),
        None => format!("process {number}"),
    }
}

/// The parent of a process, with its name.
fn parent(stat: &Stat) -> String {
    stat.ppid.map_or_else(|| "a process outside of this pid namespace".to_owned(), named)
}

/// Says who has a number, and why.
fn taken(id: HostPid) -> Error {
    let object = format!("process {id}");
    match stat_of(id) {
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

/// Waits until no process group and no session has a number, if all who are in it are ending.
fn await_group(id: HostPid, deadline: Instant) -> Result<(), Error> {
    while group_exists(id) {
        let members = members(id);
        let lives = |stat: &&Stat| !stat.is_dead() && stat.flags & EXITING == 0;
        if let Some(stat) = members.iter().find(lives) {
            return Err(left_behind(id, Some(stat)));
        }
        for stat in &members {
            let Ok(process) = PidFd::open(stat.pid) else { continue };
            let end = process.await_end(true, deadline);
            let end =
                end.map_err(Error::kernel(format!("wait for the end of process {}", stat.pid)))?;
            if end != End::Gone {
                return Err(left_behind(id, Some(stat)));
            }
        }
        // Whoever keeps it cannot be seen, or cannot be waited for.
        if (members.is_empty() || Instant::now() >= deadline) && group_exists(id) {
            return Err(left_behind(id, members.first()));
        }
    }
    Ok(())
}

/// The processes of the group or session that has a number.
fn members(id: HostPid) -> Vec<Stat> {
    let is_member = |stat: &Stat| stat.pgrp == Some(id) || stat.session == Some(id);
    processes().unwrap_or_default().into_iter().filter_map(stat_of).filter(is_member).collect()
}

/// Says who keeps a number in use, as a member of the group or session that has it.
fn left_behind(id: HostPid, member: Option<&Stat>) -> Error {
    let refusal = match member {
        Some(stat) if stat.is_dead() => {
            support::host::number_of_group_of_zombie(stat.pid, &parent(stat), stat.ppid)
        }
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// A group in which there is a zombie alone is about to be free; one in which somebody lives is not.
    #[test]
    fn groups_whose_members_are_ending_are_waited_for() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let id = HostPid::new(child.id().cast_signed()).unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        let said = await_group(id, later).unwrap_err().to_string();
        assert!(said.contains("(cat) is in; end that process"), "{said}");

        drop(child.stdin.take());
        PidFd::open(id).unwrap().await_end(false, later).unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        let said = await_group(id, soon).unwrap_err().to_string();
        assert!(said.contains(&format!("zombie {id} is in")), "{said}");
        assert!(said.contains("or end the parent: kill"), "{said}");

        let waits = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            child.wait().unwrap()
        });
        await_group(id, later).unwrap();
        waits.join().unwrap();
    }
}
