//! Every living process, prepared: its memory, its files, what its restorer is told.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;

use ids::ImagePid;
use kernel::spare::SpareMemory;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::shared::Shared;
use crate::capacity;
use crate::error::Error;
use crate::files::{Needs, OpenFiles};
use crate::forked::Layout;
use crate::host::Host;
use crate::kept_locks::KeptByMapping;
use crate::load::{Body, Checkpoint};
use crate::mapped;
use crate::namespaces::Sets;
use crate::nested_users::NestedMade;
use crate::plan::{Part, Plan, Table};
use crate::prepare::{self, Descriptors, LaidOut, Region};
use crate::registrars::Desks;
use crate::task::PreparedTask;
use crate::turns::AllTurns;

/// How many descriptors the restore needs for itself in every task: programs and directories, mapped
/// files, pages files, shared memory, and a few more.
pub(super) fn work(checkpoint: &Checkpoint) -> usize {
    const MORE: usize = 64;
    let mut files = BTreeSet::new();
    for (_, body) in checkpoint.living() {
        let paths = [body.mm.exe_file_id, body.fs.cwd_id, body.fs.root_id];
        files.extend(paths.map(|id| (id, libc::O_RDONLY.cast_unsigned())));
        files.extend(mapped_ids(body).map(|(key, _)| key));
    }
    files.len() + checkpoint.stores.len() + checkpoint.segments.len() + MORE
}

/// The files that a process maps, with the flags to open them with, and what of them must be as it was.
fn mapped_ids(body: &Body) -> impl Iterator<Item = ((u32, u32), Needs)> + '_ {
    let mapped = body.mappings.iter().filter(|mapping| mapping.kind.is_of_file());
    mapped.filter_map(|mapping| {
        let id = u32::try_from(mapping.vma.shmid).ok()?;
        Some(((id, mapped::open_flags(mapping)), mapped::needs(mapping)))
    })
}

/// What the tasks have of their parents' memory, and the addresses where it is built.
pub(super) fn forked(
    (checkpoint, plan): (&Checkpoint, &Plan),
    host: &Host,
) -> (Layout, Option<SpareMemory>) {
    // Where memory is counted, what a task is born with and has not itself would be counted, too.
    let is_limited = |limit| getrlimit(limit).map_or(true, |(soft, _)| soft != RLIM_INFINITY);
    if capacity::is_counted()
        || is_limited(Resource::RLIMIT_AS)
        || is_limited(Resource::RLIMIT_DATA)
    {
        return <(Layout, Option<SpareMemory>)>::default();
    }
    let layout = Layout::new(checkpoint, plan, &host.mappings);
    let Some(range) = layout.range else { return (layout, None) };
    match SpareMemory::reserve(range.start, range.bytes() as usize) {
        Ok(spare) => (layout, Some(spare)),
        Err(error) => {
            tracing::warn!(
                "reserve {} addresses: {error}: no memory is shared since a fork",
                range.bytes()
            );
            (Layout::default(), None)
        }
    }
}

/// Prepares every living process.
pub(super) fn all(
    (checkpoint, plan): (&Checkpoint, &Plan),
    (host, forked): (&Host, &Layout),
    (turns, (nested_users, desks), sets): (&AllTurns, (&NestedMade, &Desks), &Sets),
    files: &mut OpenFiles,
    shared: &Shared,
    helpers: &BTreeMap<ImagePid, ImagePid>,
    park_signal: i32,
) -> Result<Vec<Option<PreparedTask>>, Error> {
    let base = files.base();
    let mut prepared = Vec::new();
    // By memory.
    let mut regions: BTreeMap<usize, Vec<(usize, LaidOut)>> = BTreeMap::new();
    for (index, process) in checkpoint.processes.iter().enumerate() {
        let Some(body) = &process.body else {
            prepared.push(None);
            continue;
        };
        let task = plan.tasks.iter().find(|task| task.process == Some(index));
        let part = task.map_or(Part::Alone, |task| task.descriptors.part);
        let place = task.and_then(|task| task.born_in);
        let born_in = place.and_then(|user| sets.nested_users().ids(user));
        let entered = sets.nested_users().number(process.pid).filter(|it| place != Some(*it));
        let asked = plan
            .asked
            .iter()
            .find(|birth| birth.process == process.pid && birth.task != process.pid);
        let spaces: Vec<_> =
            asked.iter().flat_map(|birth| &birth.numbers).map(|(space, _)| *space).collect();
        let descriptors = Descriptors {
            exe: files.program(body.mm.exe_file_id)?,
            mapped: mapped(body, files)?,
            segments: shared.segments.clone(),
            segment_sizes: shared.segment_sizes.clone(),
            issued: files.issued(body.ids.files_id),
            serving: files.serving(body.ids.files_id),
            stores: shared.stores.clone(),
            base,
            late: if part == Part::Other {
                (Vec::new(), -1)
            } else {
                files.late(body.ids.files_id)
            },
            turns: turns.at(Table::Descriptors, body).map(|turns| {
                let others = if let Part::First { others } = part { others } else { 0 };
                (turns.done.number(), others)
            }),
            user_namespace: nested_users.of(process.pid).filter(|_| entered.is_some()),
            is_without_rights: sets.users().is_some()
                || born_in.is_some()
                || entered.is_some() && body.threads.len() > 1,
            born_in,
            has_uprobes: checkpoint.has_uprobes,
            entered: entered.and_then(|user| sets.nested_users().ids(user)),
            registrars: desks.descriptors(&spaces),
        };
        // Their numbers may be those that the restore has for itself.
        if descriptors.user_namespace.is_some() && descriptors.late.1 >= 0 {
            let refusal = support::users::NESTED_LATE;
            return Err(Error::refused(refusal.of(process.pid.get(), "user namespace")));
        }
        let helper = helpers.get(&process.pid).copied();
        let region = prepare::region(
            host,
            process,
            (body, checkpoint.mappings(body)),
            &descriptors,
            (park_signal, helper),
            (forked, index),
        )?;
        regions.entry(body.lender.unwrap_or(index)).or_default().push((index, region));
        prepared.push(Some(PreparedTask {
            memory: forked.task(
                checkpoint,
                index,
                |file| descriptors.mapped.get(&file).copied(),
                &descriptors.stores,
            )?,
            region: Region::default(),
            kept_locks: kept_locks(process.pid, body, &descriptors)?,
            cwd: files.working_directory(body.fs.cwd_id)?,
            root: files.root_directory(body.fs.root_id)?,
        }));
    }
    for regions in regions.into_values() {
        // Who makes a memory comes before the others that have it.
        let (indices, regions): (Vec<usize>, Vec<LaidOut>) = regions.into_iter().unzip();
        for (index, region) in indices.into_iter().zip(prepare::place_all(host, regions)?) {
            if let Some(Some(task)) = prepared.get_mut(index) {
                task.region = region;
            }
        }
    }
    Ok(prepared)
}

fn mapped(body: &Body, files: &mut OpenFiles) -> Result<BTreeMap<(u32, u32), RawFd>, Error> {
    let mut wanted: BTreeMap<(u32, u32), Needs> = BTreeMap::new();
    for (key, needs) in mapped_ids(body) {
        let most = wanted.entry(key).or_insert(needs);
        *most = needs.max(*most);
    }
    let open = |((id, flags), needs)| Ok(((id, flags), files.mapped(id, flags, needs)?));
    wanted.into_iter().map(open).collect()
}

/// The locks that nothing but mappings of a process keep.
fn kept_locks(
    pid: ImagePid,
    body: &Body,
    descriptors: &Descriptors,
) -> Result<Vec<KeptByMapping>, Error> {
    let kept = body.mappings.iter().filter_map(|mapping| {
        let id = u32::try_from(mapping.vma.shmid).ok().filter(|_| mapping.kind.is_of_file())?;
        let fd = descriptors.mapped.get(&(id, mapped::open_flags(mapping)))?;
        KeptByMapping::of(pid, &mapping.vma, *fd)
    });
    kept.collect()
}
