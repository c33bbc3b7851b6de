//! Opens everything, once, in the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::sync::Arc;

use images::messages::{FdinfoEntry, FileEntry};
use kernel::reserved::Reserved;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::images::FileImages;
use super::ipc::IpcNamespaces;
use super::keep::Keep;
use super::keepers::{Keepers, Room, is_late, open_now};
use super::leases::Leases;
use super::networks::Networks;
use super::opener::Opener;
use super::opening::Opening;
use super::{Error, OpenContext, OpenFiles, inherited, table};

/// Numbers left to the rest of the restore: its pipes, images, shared memory.
const SPARE: usize = 64;

/// From so many files on it costs less to take the numbers of the tasks than to move the files.
const MANY: usize = 32;

/// The first number that no table of the images has, nor an epoll.
fn base(images: &FileImages) -> Result<RawFd, Error> {
    let numbers = images.tables.values().flatten().map(|entry| entry.fd);
    let highest = numbers.max().map_or(0, |highest| highest.saturating_add(1));
    // Beyond the standard streams, so that messages still go where they should.
    let base = RawFd::try_from(highest.max(3))
        .map_err(|_| Error::image("descriptor table", "a descriptor is too large"))?;
    Ok(base)
}

/// Raises the limit of open files as far as it goes, and sees whether it allows all at once; else
/// what room it leaves.
fn make_room(base: RawFd, files: usize, work: usize) -> Result<Option<Room>, Error> {
    let failed = |errno| Error::kernel("get the limit of open files".to_owned(), errno);
    let (soft, mut hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let needed = u64::from(base.unsigned_abs()) + (files + work) as u64;
    // To raise the hard limit takes a right that not everybody has.
    if needed > hard && setrlimit(Resource::RLIMIT_NOFILE, needed, needed).is_ok() {
        hard = needed;
    } else if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .map_err(|errno| Error::kernel("raise the limit of open files".to_owned(), errno))?;
    }
    if needed <= hard {
        return Ok(None);
    }
    let room = Room::new(hard, work, open_now()?);
    if let Some(room) = room
        && u64::from(base.unsigned_abs()) <= hard
    {
        return Ok(Some(room));
    }
    let object = format!("{files} open files, numbered up to {}", base - 1);
    Err(Error::refused_of_none(support::host::open_files(hard), object))
}

pub(super) fn open(images: FileImages, context: &OpenContext) -> Result<OpenFiles, Error> {
    let highest = base(&images)?;
    let wanted = images.wanted();
    let is_later = |file: &FileEntry| {
        table::of_type(file.r#type).is_some_and(|kind| kind.is_later(file, &context.roots))
    };
    let files = wanted.iter().filter_map(|id| images.files.get(id));
    let later: Vec<_> = files.filter(|file| is_later(file)).collect();
    // Queues are filled before the tree is there.
    if let Some(file) =
        later.iter().find(|file| images.sent.values().any(|sent| sent.contains(&file.id)))
    {
        let object = format!("file {}", file.id);
        return Err(Error::refused(file.id, support::sockets::NOT_SENT, object));
    }
    let room = make_room(highest, wanted.len(), context.work.max(SPARE) + 2 * later.len())?;
    let base = room.map_or(highest, |room| room.base);
    let FileImages {
        files,
        tables,
        beside,
        remaps,
        ghosts,
        sent: on_their_way,
        pids,
        inherited,
        ..
    } = images;
    let kinds = files.values().filter_map(|file| table::of_type(file.r#type));
    let watches = kinds.into_iter().any(|kind| kind.watches());
    let mut opening = Opening {
        files: &files,
        beside,
        opener: Opener::new(context, ghosts, remaps, &files, watches)?,
        shell_job: context.shell_job,
        gives_masters: context.gives_masters,
        orphans: Vec::new(),
        external_unix: context.external_unix,
        connections: context.connections,
        members: &pids,
        // What is handed over is out of the way then.
        keep: Keep(if room.is_some() { 0 } else { base }),
        opened: BTreeMap::new(),
        room,
        keepers: Keepers::new(context.numbers.clone()),
        numbers: context.numbers.clone(),
        later: BTreeMap::new(),
    };
    let mut kinds: BTreeMap<u32, Vec<&FileEntry>> = BTreeMap::new();
    for file in wanted.iter().filter_map(|id| files.get(id)) {
        kinds.entry(file.r#type).or_default().push(file);
    }
    // What gets a number from the base on at once need not be moved there.
    let mut reserved = match room.is_none() && wanted.len() > MANY {
        true => Reserved::below(base).ok(),
        false => None,
    };
    for kind in table::all() {
        if kind.opens_others() {
            drop(reserved.take());
        }
        let Some(files) = kinds.get(&kind.r#type()) else { continue };
        let files = inherited::take(&mut opening, kind, files, &inherited)?;
        if !files.is_empty() {
            kind.open(&mut opening, &files)?;
        }
    }
    let Opening {
        mut beside, mut opener, mut opened, keepers: mut kept, mut later, orphans, ..
    } = opening;
    if room.is_some() {
        kept.take(&mut opened, base)?;
        let late = tables.values().flatten().filter(|entry| is_late(entry, base));
        for (id, window) in std::mem::take(&mut later) {
            let window = window
                .keep(Keep(base))
                .map_err(|source| Error::Kernel { operation: format!("keep file {id}"), source })?;
            later.insert(id, window);
        }
        if let Some(entry) = late.clone().find(|entry| later.contains_key(&entry.id)) {
            let object = format!("file {}", entry.id);
            return Err(Error::refused(entry.id, support::host::LAST_DESCRIPTOR, object));
        }
        kept.take_late(late.map(|entry| entry.id), base)?;
    }
    // All sockets are there.
    opener.networks = Networks::default();
    opener.ipc = IpcNamespaces::default();
    opener
        .keep(Keep(base))
        .and_then(|()| beside.keep(Keep(base)))
        .map_err(|source| Error::Kernel { operation: "keep deleted files".to_owned(), source })?;
    let mut holders = holders(&files, &tables);
    let sent = receivers(&files, &tables, &on_their_way, &mut holders);
    holders.extend(beside.get::<Leases>().into_iter().flat_map(Leases::tables));
    let held = BTreeMap::new();
    let connections = context.connections;
    Ok(OpenFiles {
        connections,
        base,
        opened,
        held,
        kept,
        opener,
        files,
        tables,
        sent,
        holders,
        beside,
        later,
        orphans,
        levels: Arc::clone(&context.levels),
    })
}

/// Adds to `holders` the tables of those to whom files are on their way, `sent`, where nobody has them yet;
/// these files are returned. It is one that has every number that is wanted with the file ([`owned_with`]), if there is one.
fn receivers(
    files: &BTreeMap<u32, Box<FileEntry>>,
    tables: &BTreeMap<u32, Vec<FdinfoEntry>>,
    sent: &BTreeMap<u32, BTreeSet<u32>>,
    holders: &mut BTreeMap<u32, u32>,
) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut new: Vec<u32> = sent.keys().copied().filter(|id| holders.contains_key(id)).collect();
    while let Some(to) = new.pop() {
        let Some(&table) = holders.get(&to) else { continue };
        for &id in sent.get(&to).into_iter().flatten() {
            if holders.contains_key(&id) {
                continue;
            }
            let wanted = files.get(&id).map_or_else(Vec::new, |file| owned_with(file));
            let has_all =
                |table: &u32| has_all(tables.get(table).map_or(&[], |table| table), &wanted);
            let by = [table].into_iter().chain(tables.keys().copied()).find(has_all);
            holders.insert(id, by.unwrap_or(table));
            found.insert(id);
            new.push(id);
        }
    }
    found
}

/// The table of each file in which what is to be done once for it is done: the first that has it,
/// and the first that also has every number that is wanted with the file ([`owned_with`]), if there is one.
fn holders(
    files: &BTreeMap<u32, Box<FileEntry>>,
    tables: &BTreeMap<u32, Vec<FdinfoEntry>>,
) -> BTreeMap<u32, u32> {
    let mut holders = BTreeMap::new();
    for (table, entries) in tables.iter().rev() {
        holders.extend(entries.iter().map(|entry| (entry.id, *table)));
    }
    for file in files.values() {
        let wanted = owned_with(file);
        let mut of_file =
            tables.iter().filter(|(_, table)| table.iter().any(|entry| entry.id == file.id));
        if !wanted.is_empty()
            && let Some((table, _)) = of_file.find(|(_, table)| has_all(table, &wanted))
        {
            holders.insert(file.id, *table);
        }
    }
    holders
}

/// The numbers that a task has to have in which what is to be done once for a file is done.
fn owned_with(file: &FileEntry) -> Vec<u32> {
    table::of_type(file.r#type).map_or_else(Vec::new, |kind| kind.owned_with(file))
}

fn has_all(table: &[FdinfoEntry], wanted: &[u32]) -> bool {
    wanted.iter().all(|fd| table.iter().any(|entry| entry.fd == *fd))
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
