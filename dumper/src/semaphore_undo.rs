//! What the end of a thread undoes in sets of System V semaphores (`SEM_UNDO`).
//!
//! The kernel keeps a list of it, which the threads of a process have in common (`CLONE_SYSVSEM`), and which nothing but
//! its own structures tell of. What is in the images is what would be added to each semaphore; a restore does what the
//! thread has done once more. Of a set in an IPC namespace of the tree's own the images have the values that it is at;
//! one in the dumper's namespace stays where it is, and the kernel undoes in it what the tree did as soon as that is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use collector::settings::undoes_semaphores;
use collector::{Collector, Inventory, Process, SemaphoreUndo, Thread};
use ids::HostPid;
use images::messages::{SemaphoreAdjustmentEntry, SemaphoreUndoEntry, ThreadCoreEntry};
use kernel::namespaces::{inside, of_process};
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::sysv::is_gone;
use kernel::sysv::semaphores::Set;
use kernel::user_namespaces::has_rights;
use support::ipc::{UNDO, UNDO_BEYOND, UNDO_FORBIDDEN, UNDO_OF_SOME_THREADS, UNDO_SHARED};
use support::{Refusal, Unsupported};

use crate::error::Error;
use crate::processes::is_zombie;

/// What is to be undone, by threads.
#[derive(Debug, Default)]
pub(crate) struct ToUndo(BTreeMap<HostPid, OfThread>);

/// What is to be undone for a thread.
#[derive(Debug, Default, PartialEq, Eq)]
struct OfThread {
    /// It has that for itself.
    is_own: bool,
    sets: Vec<SemaphoreUndoEntry>,
}

impl ToUndo {
    /// Says in the image of a thread what is to be undone for it.
    pub(crate) fn tell(&self, tid: HostPid, entry: &mut ThreadCoreEntry) {
        if let Some(known) = self.0.get(&tid) {
            entry.semaphore_undo.clone_from(&known.sets);
            entry.own_semaphore_undo = known.is_own.then_some(true);
        }
    }
}

/// Finds what is to be undone for a tree, and what stands in the way of that.
pub(crate) fn look(
    collector: &mut Collector,
    inventory: &Inventory,
) -> Result<(ToUndo, Vec<Unsupported>), Error> {
    let (mut found, mut refused) = (ToUndo::default(), Vec::new());
    for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
        if !process.threads.values().any(has_some) {
            continue;
        }
        let pid = process.pid;
        let known = collector.semaphore_undo(pid);
        // Without BPF nothing would have said that there is some.
        let Some(known) = known.map_err(|source| Error::Inventory { pid, source })? else {
            continue;
        };
        let failed = |source: io::Error| Error::Process { operation: READ, pid, source };
        let living = process.threads.values().filter(|thread| !matches!(thread.state, 'Z' | 'X'));
        let living: BTreeSet<HostPid> = living.map(|thread| thread.tid).collect();
        let made = divide(pid, &living, &known)
            .map_or_else(|refusal| Ok(Err(refusal)), |parts| of_parts(process, &parts, &known))
            .map_err(failed)?;
        match made {
            Ok(threads) => found.0.extend(threads),
            Err(refusal) => refused.push(refusal.of(pid, UNDO)),
        }
    }
    Ok((found, refused))
}

const READ: &str = "read what is to be undone in the System V semaphores of";

fn has_some(thread: &Thread) -> bool {
    thread.in_task.is_some_and(|known| undoes_semaphores(&known.settings))
}

/// A thread that undoes a list at its end, or none.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    tid: HostPid,
    is_own: bool,
    list: Option<u64>,
}

/// Finds out which of the threads of the process `leader` has which list. All have one in common, but for those that have
/// one for themselves: so threads are made.
fn divide(
    leader: HostPid,
    living: &BTreeSet<HostPid>,
    known: &[SemaphoreUndo],
) -> Result<Vec<Part>, Refusal> {
    let mut lists: BTreeMap<u64, (u32, BTreeSet<HostPid>)> = BTreeMap::new();
    for undo in known.iter().filter(|undo| living.contains(&undo.tid)) {
        lists.entry(undo.list).or_insert((undo.users, BTreeSet::new())).1.insert(undo.tid);
    }
    if lists.values().any(|(users, threads)| *users as usize != threads.len()) {
        return Err(UNDO_SHARED);
    }
    let of_leader = lists.iter().find(|(_, (_, threads))| threads.contains(&leader));
    let largest = || lists.iter().max_by_key(|(_, (_, threads))| threads.len());
    let common = match living.contains(&leader) {
        true => of_leader,
        false => largest(),
    };
    let common = common.map(|(list, (_, threads))| (*list, threads));
    let mut parts = Vec::new();
    for (&list, (_, threads)) in &lists {
        let is_own = common.is_none_or(|(of_most, _)| of_most != list);
        if is_own && threads.len() > 1 {
            return Err(UNDO_OF_SOME_THREADS);
        }
        parts.extend(threads.first().map(|&tid| Part { tid, is_own, list: Some(list) }));
    }
    if let Some((_, threads)) = common {
        // What has nothing to undo has a list of its own as well, or none.
        let others = living.iter().filter(|tid| !threads.contains(tid));
        let others = others.filter(|tid| !lists.values().any(|(_, of)| of.contains(tid)));
        parts.extend(others.map(|&tid| Part { tid, is_own: true, list: None }));
    }
    Ok(parts)
}

/// Looks at the sets.
fn of_parts(
    process: &Process,
    parts: &[Part],
    known: &[SemaphoreUndo],
) -> io::Result<Result<Vec<(HostPid, OfThread)>, Refusal>> {
    let boot = kernel::boot::boot();
    let mut found = Vec::new();
    for part in parts {
        let mut sets = Vec::new();
        let of_list =
            known.iter().filter(|undo| undo.tid == part.tid && Some(undo.list) == part.list);
        for undo in of_list {
            if undo.more {
                return Ok(Err(UNDO_BEYOND));
            }
            let Some(id) = undo.set else { continue };
            let set =
                of_process(process.pid, "ipc").and_then(|it| inside("ipc", it, || Set::read(id)));
            let set = match set {
                Ok(set) => set,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            if set.values.len() > undo.adjustments.len() {
                return Ok(Err(UNDO_BEYOND));
            }
            let Some(entry) = entry(&set, &undo.adjustments, boot) else { continue };
            let status = Dir::open(part.tid).and_then(|dir| Status::read(&dir));
            if !set.may_be_changed_by(&status.map_err(io::Error::other)?, rights(process)?) {
                return Ok(Err(UNDO_FORBIDDEN));
            }
            sets.push(entry);
        }
        found.push((part.tid, OfThread { is_own: part.is_own, sets }));
    }
    Ok(Ok(found))
}

/// Whether the capabilities of a process are rights over the IPC namespace that it is in.
fn rights(process: &Process) -> io::Result<bool> {
    let Some(user) = process.namespaces.get("user") else { return Ok(true) };
    has_rights(*user, of_process(process.pid, "ipc")?)
}

/// What is to be undone in a set, if it is anything: a thread that has given back what it took has it there as nothing.
fn entry(set: &Set, adjustments: &[i16], boot: Option<u64>) -> Option<SemaphoreUndoEntry> {
    let adjustments = (0..).zip(adjustments).take(set.values.len()).filter(|(_, by)| **by != 0);
    let adjustments: Vec<_> = adjustments
        .map(|(semaphore, &by)| SemaphoreAdjustmentEntry { semaphore, by: by.into() })
        .collect();
    (!adjustments.is_empty()).then(|| SemaphoreUndoEntry {
        set: set.id.cast_unsigned(),
        key: set.owner.key,
        semaphores: set.values.len() as u32,
        boot,
        adjustments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    fn undo(tid: i32, list: u64, users: u32) -> SemaphoreUndo {
        let (set, adjustments, more) = (Some(1), vec![1], false);
        SemaphoreUndo { tid: pid(tid), list, users, set, adjustments, more }
    }

    fn divided(living: &[i32], known: &[SemaphoreUndo]) -> Result<Vec<(i32, bool)>, Refusal> {
        let living = living.iter().map(|&tid| pid(tid)).collect();
        let parts = divide(pid(10), &living, known)?;
        Ok(parts.iter().map(|part| (part.tid.get(), part.is_own)).collect())
    }

    #[test]
    fn threads_have_a_list_in_common_or_for_themselves() {
        let common = [undo(10, 1, 3), undo(11, 1, 3), undo(12, 1, 3)];
        assert_eq!(divided(&[10, 11, 12], &common), Ok(vec![(10, false)]));
        let one_apart = [undo(10, 1, 2), undo(11, 1, 2), undo(12, 2, 1)];
        assert_eq!(
            divided(&[10, 11, 12, 13], &one_apart),
            Ok(vec![(10, false), (12, true), (13, true)])
        );
        assert_eq!(divided(&[10, 11, 12], &[undo(12, 2, 1)]), Ok(vec![(12, true)]));
        let dead_leader = [undo(11, 1, 2), undo(12, 1, 2)];
        assert_eq!(divided(&[11, 12], &dead_leader), Ok(vec![(11, false)]));
    }

    #[test]
    fn what_others_have_is_refused() {
        assert_eq!(divided(&[10], &[undo(10, 1, 2)]), Err(UNDO_SHARED));
        let some = [undo(11, 1, 2), undo(12, 1, 2)];
        assert_eq!(divided(&[10, 11, 12], &some), Err(UNDO_OF_SOME_THREADS));
    }

    #[test]
    fn what_is_behind_the_set_is_not_told() {
        let set = Set { id: 5, owner: kernel::sysv::Owner::default(), values: vec![0, 0] };
        let found = entry(&set, &[0, -3, 99], Some(7)).unwrap();
        assert_eq!(found.adjustments, [SemaphoreAdjustmentEntry { semaphore: 1, by: -3 }]);
        assert_eq!(entry(&set, &[0, 0, 99], Some(7)), None);
    }
}
