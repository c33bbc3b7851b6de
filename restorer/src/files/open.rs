//! Opens everything, once, in the coordinator.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use images::messages::{FdinfoEntry, FileEntry};
use kernel::descriptors::set_status_flags;
use kernel::reserved::Reserved;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::images::FileImages;
use super::keep::Keep;
use super::keepers::{Keepers, Room, open_now};
use super::regular::Opener;
use super::table::{self, Beside};
use super::{Error, OpenContext, OpenFiles, kernel};

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
    let failed = |errno| kernel("get the limit of open files".to_owned(), errno);
    let (soft, mut hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let needed = u64::from(base.unsigned_abs()) + (files + work) as u64;
    // To raise the hard limit takes a right that not everybody has.
    if needed > hard && setrlimit(Resource::RLIMIT_NOFILE, needed, needed).is_ok() {
        hard = needed;
    } else if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .map_err(|errno| kernel("raise the limit of open files".to_owned(), errno))?;
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
    Err(Error::refused(
        format!("{files} open files, numbered up to {}", base - 1),
        format!("the hard limit of open files here, {hard}, does not allow them"),
        "raise the hard limit of open files (ulimit -Hn)",
    ))
}

/// What has been opened so far, and what it is opened by.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) files: &'a BTreeMap<u32, Box<FileEntry>>,
    pub(super) beside: Beside,
    pub(super) opener: Opener,
    /// The root joins the caller's terminal.
    pub(super) shell_job: bool,
    keep: Keep,
    opened: BTreeMap<u32, OwnedFd>,
    /// Where not all can be open at once.
    room: Option<Room>,
    keepers: Keepers,
    /// Free numbers, for processes that are made for a file.
    pub(super) numbers: Vec<i32>,
    /// What is opened when the tree is there, with what keeps its number until then.
    later: BTreeMap<u32, OwnedFd>,
}

impl Opening<'_> {
    /// Takes an open file description of the images.
    pub(super) fn add(&mut self, id: u32, fd: OwnedFd) -> Result<(), Error> {
        let failed =
            |source: io::Error| Error::Kernel { operation: format!("keep file {id}"), source };
        self.opened.insert(id, self.keep.keep(fd).map_err(failed)?);
        self.have_room_for(1)
    }

    /// Hands over what is open where there would not be room for `files` more.
    /// Leaves a file to be opened when the processes of the tree are there; its kind does so
    /// ([`FileKind::open_later`](super::file_kind::FileKind::open_later)).
    pub(super) fn later(&mut self, id: u32) -> Result<(), Error> {
        let failed =
            |source: io::Error| Error::Kernel { operation: format!("keep file {id}"), source };
        let stand_in = File::open("/dev/null").map_err(failed)?;
        self.later.insert(id, self.keep.keep(stand_in.into()).map_err(failed)?);
        Ok(())
    }

    pub(super) fn have_room_for(&mut self, files: usize) -> Result<(), Error> {
        let Some(Room { base, batch }) = self.room else { return Ok(()) };
        if files > batch {
            return Err(Error::refused(
                format!("{files} sockets"),
                format!("the hard limit of open files allows {batch} of them at a time"),
                "raise the hard limit of open files (ulimit -Hn)",
            ));
        }
        match self.opened.len() + files > batch {
            true => self.keepers.take(&mut self.opened, base),
            false => Ok(()),
        }
    }
}

/// Sets the flags of a new file that its entry has, but for the one that comes with the owner.
pub(super) fn flagged(fd: OwnedFd, flags: u32, what: &str) -> Result<OwnedFd, Error> {
    const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();
    set_status_flags(&fd, flags & !O_ASYNC)
        .map_err(|source| Error::Kernel { operation: format!("set flags of {what}"), source })?;
    Ok(fd)
}

pub(super) fn open(images: FileImages, context: &OpenContext) -> Result<OpenFiles, Error> {
    let highest = base(&images)?;
    let wanted = images.wanted();
    let room = make_room(highest, wanted.len(), context.work.max(SPARE))?;
    let base = room.map_or(highest, |room| room.base);
    let FileImages { files, tables, beside, remaps, ghosts, .. } = images;
    let mut opening = Opening {
        files: &files,
        beside,
        opener: Opener::new(context, ghosts, remaps)?,
        shell_job: context.shell_job,
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
        if let Some(files) = kinds.get(&kind.r#type()) {
            kind.open(&mut opening, files)?;
        }
    }
    let Opening { mut beside, mut opener, mut opened, keepers: mut kept, mut later, .. } = opening;
    if room.is_some() {
        kept.take(&mut opened, base)?;
        let late = tables.values().flatten().filter(|entry| is_late(entry, base));
        for (id, fd) in std::mem::take(&mut later) {
            let fd = Keep(base)
                .keep(fd)
                .map_err(|source| Error::Kernel { operation: format!("keep file {id}"), source })?;
            later.insert(id, fd);
        }
        if let Some(entry) = late.clone().find(|entry| later.contains_key(&entry.id)) {
            return Err(Error::refused(
                format!("descriptor {}", entry.fd),
                "its number is among the last below the hard limit of open files, and it can only be \
                 opened when the tree is there",
                "raise the hard limit of open files (ulimit -Hn)",
            ));
        }
        kept.take_late(late.map(|entry| entry.id), base)?;
    }
    opener
        .keep(Keep(base))
        .and_then(|()| beside.keep(Keep(base)))
        .map_err(|source| Error::Kernel { operation: "keep deleted files".to_owned(), source })?;
    let holders = holders(&files, &tables);
    let held = BTreeMap::new();
    Ok(OpenFiles { base, opened, held, kept, opener, files, tables, holders, beside, later })
}

/// Whether a descriptor has one of the numbers that are the restore's own.
pub(super) fn is_late(entry: &FdinfoEntry, base: RawFd) -> bool {
    entry.fd.cast_signed() >= base
}

/// The table of each file in which what is to be done once for it is done: the first that has it,
/// and for an epoll the first that also has every number it watches.
fn holders(
    files: &BTreeMap<u32, Box<FileEntry>>,
    tables: &BTreeMap<u32, Vec<FdinfoEntry>>,
) -> BTreeMap<u32, u32> {
    let mut holders = BTreeMap::new();
    for (table, entries) in tables.iter().rev() {
        holders.extend(entries.iter().map(|entry| (entry.id, *table)));
    }
    let epolls = files.values().filter_map(|file| Some((file.id, file.epfd.as_ref()?)));
    for (id, epoll) in epolls {
        let all_watched = |table: &[FdinfoEntry]| {
            epoll.tfd.iter().all(|watched| table.iter().any(|entry| entry.fd == watched.tfd))
        };
        let mut of_epoll =
            tables.iter().filter(|(_, table)| table.iter().any(|entry| entry.id == id));
        if let Some((table, _)) = of_epoll.find(|(_, table)| all_watched(table)) {
            holders.insert(id, *table);
        }
    }
    holders
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
