//! Opens everything, once, in the coordinator.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use images::messages::{FdinfoEntry, FileEntry, InetSkEntry, PipeEntry, RegFileEntry, fd_type};
use kernel::reserved::Reserved;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::approve::Approver;
use super::images::FileImages;
use super::keep::Keep;
use super::keepers::{Keepers, Room, open_now};
use super::regular::Opener;
use super::terminals::{Terminal, has_hung_up, hung_up};
use super::{Error, OpenContext, OpenFiles, events, inet_sockets, kernel, pipes, unix_sockets};

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

/// What has been opened so far.
struct Opening<'a> {
    files: &'a BTreeMap<u32, Box<FileEntry>>,
    keep: Keep,
    opened: BTreeMap<u32, OwnedFd>,
    /// Where not all can be open at once.
    room: Option<Room>,
    keepers: Keepers,
}

impl Opening<'_> {
    fn add(&mut self, id: u32, fd: OwnedFd) -> Result<(), Error> {
        let failed =
            |source: io::Error| Error::Kernel { operation: format!("keep file {id}"), source };
        self.opened.insert(id, self.keep.keep(fd).map_err(failed)?);
        self.have_room_for(1)
    }

    /// Hands over what is open where there would not be room for `files` more.
    fn have_room_for(&mut self, files: usize) -> Result<(), Error> {
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

fn missing(file: &FileEntry) -> Error {
    Error::image(format!("file {}", file.id), "what its kind needs is missing")
}

/// The path of a fifo: the entry it names, or in old images the one with its own id.
fn path_of<'a>(
    files: &'a BTreeMap<u32, Box<FileEntry>>,
    regf_id: Option<u32>,
    file: &FileEntry,
) -> Result<&'a RegFileEntry, Error> {
    let id = regf_id.unwrap_or(file.id);
    files.get(&id).and_then(|file| file.reg.as_ref()).ok_or_else(|| missing(file))
}

pub(super) fn open(images: FileImages, context: &OpenContext) -> Result<OpenFiles, Error> {
    let highest = base(&images)?;
    let wanted = images.wanted();
    let room = make_room(highest, wanted.len(), context.work.max(SPARE))?;
    let base = room.map_or(highest, |room| room.base);
    let FileImages { files, tables, pipes, fifos, queues, remaps, ghosts, terminals } = images;
    let mut opener = Opener::new(context, ghosts, remaps)?;
    let mut opening = Opening {
        files: &files,
        // What is handed over is out of the way then.
        keep: Keep(if room.is_some() { 0 } else { base }),
        opened: BTreeMap::new(),
        room,
        keepers: Keepers::new(context.numbers.clone()),
    };
    let mut kinds: BTreeMap<u32, Vec<&FileEntry>> = BTreeMap::new();
    for file in wanted.iter().filter_map(|id| files.get(id)) {
        kinds.entry(file.r#type).or_default().push(file);
    }
    let of_kind = |kind: u32| kinds.get(&kind).map_or(&[][..], |files| files);

    // What gets a number from the base on at once need not be moved there.
    let reserved = match room.is_none() && wanted.len() > MANY {
        true => Reserved::below(base).ok(),
        false => None,
    };
    opening.regular(of_kind(fd_type::REG), &mut opener).map_err(|error| {
        let all = files.values().filter_map(|file| file.reg.as_ref());
        opener.with_all_changed(error, all)
    })?;
    opening.pipes(of_kind(fd_type::PIPE), &pipes)?;
    opening.fifos(of_kind(fd_type::FIFO), &fifos, &mut opener)?;
    // Of sockets others are made for a moment, for which there may be no numbers but these.
    drop(reserved);
    opening.inet(of_kind(fd_type::INETSK))?;
    for kind in [fd_type::EVENTFD, fd_type::TIMERFD, fd_type::SIGNALFD, fd_type::EVENTPOLL] {
        opening.events(of_kind(kind))?;
    }
    let ttys = of_kind(fd_type::TTY);
    if !ttys.is_empty() {
        opening.terminals(ttys, &terminals, context.shell_job)?;
    }
    // Last, because they leave names in file systems, which no error must leave behind.
    opening.unix(of_kind(fd_type::UNIXSK), &queues, &opener.approver)?;
    let Opening { mut opened, keepers: mut kept, .. } = opening;
    if room.is_some() {
        kept.take(&mut opened, base)?;
        let late = tables.values().flatten().filter(|entry| is_late(entry, base));
        kept.take_late(late.map(|entry| entry.id), base)?;
    }
    opener
        .keep(Keep(base))
        .map_err(|source| Error::Kernel { operation: "keep deleted files".to_owned(), source })?;
    let holders = holders(&files, &tables);
    let held = BTreeMap::new();
    Ok(OpenFiles { base, opened, held, kept, opener, files, tables, holders, terminals })
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

impl Opening<'_> {
    fn regular(&mut self, files: &[&FileEntry], opener: &mut Opener) -> Result<(), Error> {
        let entries = files.iter().map(|file| file.reg.as_ref().ok_or_else(|| missing(file)));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        // What may have changed comes before what has an effect: a device, or a ghost that is made.
        let (plain, others): (Vec<&RegFileEntry>, Vec<&RegFileEntry>) =
            entries.into_iter().partition(|entry| opener.is_plain(entry));
        for entry in plain.into_iter().chain(others) {
            self.add(entry.id, opener.open(entry)?)?;
        }
        Ok(())
    }

    fn pipes(&mut self, files: &[&FileEntry], contents: &pipes::Contents) -> Result<(), Error> {
        let mut by_pipe: BTreeMap<u32, Vec<&PipeEntry>> = BTreeMap::new();
        for file in files {
            let entry = file.pipe.as_ref().ok_or_else(|| missing(file))?;
            by_pipe.entry(entry.pipe_id).or_default().push(entry);
        }
        for entries in by_pipe.values() {
            self.have_room_for(entries.len() + 2)?;
            let ends = pipes::open(entries, contents)?;
            for (entry, fd) in entries.iter().zip(ends) {
                self.add(entry.id, fd)?;
            }
        }
        Ok(())
    }

    fn fifos(
        &mut self,
        files: &[&FileEntry],
        contents: &pipes::Contents,
        opener: &mut Opener,
    ) -> Result<(), Error> {
        let all = self.files;
        let mut by_pipe: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for file in files {
            let entry = file.fifo.as_ref().ok_or_else(|| missing(file))?;
            by_pipe
                .entry(entry.pipe_id)
                .or_default()
                .push((entry, path_of(all, entry.regf_id, file)?));
        }
        for entries in by_pipe.values() {
            self.have_room_for(entries.len() + 2)?;
            let ends = pipes::open_fifo(entries, contents, opener)?;
            for ((entry, _), fd) in entries.iter().zip(ends) {
                self.add(entry.id, fd)?;
            }
        }
        Ok(())
    }

    fn unix(
        &mut self,
        files: &[&FileEntry],
        queues: &unix_sockets::Queues,
        approver: &Approver,
    ) -> Result<(), Error> {
        let entries = files
            .iter()
            .map(|file| file.usk.as_deref().ok_or_else(|| missing(file)))
            .collect::<Result<Vec<_>, _>>()?;
        // All are made before the first is complete, some of them with another.
        self.have_room_for(entries.len() * 2)?;
        let sockets = unix_sockets::open(&entries, queues, approver)?;
        for (entry, fd) in entries.iter().zip(sockets) {
            self.add(entry.id, fd)?;
        }
        Ok(())
    }

    fn inet(&mut self, files: &[&FileEntry]) -> Result<(), Error> {
        self.have_room_for(files.len())?;
        let mut sockets: Vec<(&InetSkEntry, OwnedFd)> = Vec::new();
        for file in files {
            let entry = file.isk.as_deref().ok_or_else(|| missing(file))?;
            sockets.push((entry, inet_sockets::open(entry)?));
        }
        for (entry, socket) in sockets {
            inet_sockets::finish(&socket, entry)?;
            self.add(entry.id, socket)?;
        }
        Ok(())
    }

    fn events(&mut self, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let fd = match file.r#type {
                fd_type::EVENTFD => file.efd.as_ref().map(events::eventfd),
                fd_type::TIMERFD => file.tfd.as_ref().map(events::timerfd),
                fd_type::SIGNALFD => file.sgfd.as_ref().map(events::signalfd),
                _ => file.epfd.as_ref().map(events::epoll),
            };
            self.add(file.id, fd.ok_or_else(|| missing(file))??)?;
        }
        Ok(())
    }

    fn terminals(
        &mut self,
        files: &[&FileEntry],
        infos: &BTreeMap<u32, images::messages::TtyInfoEntry>,
        shell_job: bool,
    ) -> Result<(), Error> {
        let mut caller = None;
        for file in files {
            let entry = file.tty.as_ref().ok_or_else(|| missing(file))?;
            let info = infos.get(&entry.tty_info_id).ok_or_else(|| missing(file))?;
            if has_hung_up(info) {
                self.add(file.id, hung_up(entry)?)?;
                continue;
            }
            if !shell_job {
                return Err(Error::refused(
                    "terminal of the job",
                    "it was outside the tree",
                    "restore with --shell-job, from the terminal it shall have",
                ));
            }
            let terminal = match &caller {
                Some(terminal) => terminal,
                None => caller.insert(Terminal::of_caller()?),
            };
            self.add(file.id, terminal.open(entry, info)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
