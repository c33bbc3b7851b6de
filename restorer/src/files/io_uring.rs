//! io_urings: made, brought to what the kernel had counted, and filled with what was in them. What is registered with one
//! is registered when all files are there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use images::messages::{FdinfoEntry, FileEntry, IoUringFileEntry, fd_type};
use kernel::io_uring::{
    Counts, Layout, Ring, Shape, choose_places, register_eventfd, register_files, setup,
};

use support::Refusal;

use super::beside::{Beside, Part};
use super::content::Needs;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::keep::Keep;
use super::opener::Opener;
use super::opening::{Opening, flagged};
use super::user::User;
use super::{Error, InstallTask, OpenFiles};

/// An io_uring.
#[derive(Debug)]
pub(super) struct IoUring;

/// The rings, to be mapped, by the ids of their entries.
#[derive(Debug, Default)]
struct Mappable(std::collections::BTreeMap<u32, (OwnedFd, Layout)>);

impl Part for Mappable {
    fn keep(&mut self, keep: Keep) -> std::io::Result<()> {
        for (fd, _) in self.0.values_mut() {
            *fd = keep.keep(fd.try_clone()?)?;
        }
        Ok(())
    }
}

/// More requests than a dump lets pass.
const FARTHEST: u64 = 200_000_000;
/// More places than a dump tells.
const PLACES: usize = 512;

impl FileKind for IoUring {
    fn r#type(&self) -> u32 {
        fd_type::IO_URING
    }

    fn check(&self, file: &FileEntry, images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        let wrong = |reason: &str| Err(Error::image(what(entry), reason));
        if let Some(refusal) = support::rings::of_ring(entry.setup, 0, 0) {
            return Err(Error::refused(file.id, refusal, what(entry)));
        }
        if !shape(entry).is_possible() {
            return wrong("there is no ring of its size");
        }
        let counts = counts(entry);
        if counts.unread > counts.completed.min(entry.cq_entries) {
            return wrong("more completions wait than there are");
        }
        if counts.steps() > FARTHEST {
            return Err(Error::refused(file.id, support::rings::TOO_FAR, what(entry)));
        }
        let is_issued =
            entry.setup & setup::SINGLE_ISSUER != 0 && entry.setup & setup::R_DISABLED == 0;
        if is_issued != entry.submitter.is_some()
            || is_issued && counts.completed > counts.submitted
        {
            return wrong("who may submit to it cannot be");
        }
        if entry.files.len() > PLACES {
            return wrong("it has more registered files than there can be");
        }
        let files = entry.files.iter().filter_map(|place| place.file).chain(entry.eventfd);
        for id in files {
            match images.files.get(&id) {
                None => return wrong("a file that it refers to is not in the images"),
                Some(other) if other.r#type == fd_type::IO_URING => {
                    return wrong("an io_uring is registered with it");
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn beyond(&self, file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        Some((support::rings::OF_USER, format!("io_uring of file {}", file.id)))
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = entry(file)?;
            let (ring, layout) = make(entry)?;
            let operation = || format!("keep {}", what(entry));
            let mapped = ring
                .try_clone()
                .map_err(|source| Error::Kernel { operation: operation(), source })?;
            opening.beside.of::<Mappable>().0.insert(entry.id, (mapped, layout));
            opening.add(file.id, flagged(ring, entry.flags, &what(entry))?)?;
        }
        Ok(())
    }

    fn map(
        &self,
        _opener: &mut Opener,
        beside: &mut Beside,
        file: &FileEntry,
        _with: u32,
        _needs: Needs,
    ) -> Result<OwnedFd, Error> {
        let entry = entry(file)?;
        let (ring, _) = beside.of::<Mappable>().0.get(&entry.id).ok_or_else(|| missing(file))?;
        ring.try_clone()
            .map_err(|source| Error::Kernel { operation: format!("map {}", what(entry)), source })
    }

    fn own(
        &self,
        files: &OpenFiles,
        _entry: &FdinfoEntry,
        file: &FileEntry,
        task: &InstallTask,
    ) -> Result<(), Error> {
        let entry = entry(file)?;
        if entry.files.is_empty() && entry.eventfd.is_none() {
            return Ok(());
        }
        let ring = files.opened(file.id, task)?;
        let failed = |doing: &str| {
            let operation = format!("{doing} {}", what(entry));
            |source| Error::Kernel { operation, source }
        };
        if !entry.files.is_empty() {
            let opened = entry
                .files
                .iter()
                .map(|place| place.file.map(|id| files.opened(id, task)).transpose());
            let opened = opened.collect::<Result<Vec<_>, Error>>()?;
            let number = |file: &Option<_>| file.as_ref().map_or(-1, number_of);
            let numbers: Vec<i32> = opened.iter().map(number).collect();
            let tags: Vec<u64> =
                entry.files.iter().map(|place| place.tag.unwrap_or_default()).collect();
            register_files(&ring, &numbers, &tags).map_err(failed("register files with"))?;
            let (start, end) = (entry.free_start.unwrap_or(0), entry.free_end.unwrap_or(0));
            if end != 0 && (start, end as usize) != (0, numbers.len()) {
                choose_places(&ring, [start, end]).map_err(failed("set free places of"))?;
            }
        }
        if let Some(id) = entry.eventfd {
            let eventfd = files.opened(id, task)?;
            let later = entry.eventfd_async.unwrap_or_default();
            register_eventfd(&ring, &eventfd, later).map_err(failed("register an eventfd with"))?;
        }
        Ok(())
    }
}

fn number_of(file: &impl AsFd) -> i32 {
    file.as_fd().as_raw_fd()
}

fn entry(file: &FileEntry) -> Result<&IoUringFileEntry, Error> {
    file.uring.as_deref().ok_or_else(|| missing(file))
}

fn what(entry: &IoUringFileEntry) -> String {
    format!("io_uring {}", entry.id)
}

fn shape(entry: &IoUringFileEntry) -> Shape {
    // Whoever has its worker threads from another ring has them from nobody here: they are made as there is need.
    let flags = entry.setup & !setup::ATTACH_WQ;
    // Nobody submits to it before its thread is there.
    let flags = if entry.submitter.is_some() { flags | setup::R_DISABLED } else { flags };
    Shape { flags, submissions: entry.sq_entries, completions: entry.cq_entries }
}

fn counts(entry: &IoUringFileEntry) -> Counts {
    Counts {
        submitted: entry.submitted,
        completed: entry.completed,
        unread: entry.unread,
        no_drain: entry.no_drain.unwrap_or_default(),
    }
}

/// A ring to which one thread of a process alone may submit, which brings it to where it stood.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// The id of its entry.
    pub(crate) file: u32,
    /// A descriptor of the process.
    pub(crate) fd: i32,
    /// The thread.
    pub(crate) submitter: u32,
    pub(crate) submitted: u32,
    pub(crate) completed: u32,
    pub(crate) unread: u32,
    pub(crate) entries: u32,
    pub(crate) no_drain: bool,
    pub(crate) layout: Layout,
    pub(crate) queues: Vec<u8>,
    pub(crate) submissions: Vec<u8>,
}

impl OpenFiles {
    /// The rings in a table of descriptors to which one thread alone may submit.
    pub(crate) fn issued(&self, files_id: u32) -> Vec<Issued> {
        let mut seen = std::collections::BTreeSet::new();
        let table = self.tables.get(&files_id).map_or(&[][..], |table| table).iter();
        let rings = table.filter_map(|descriptor| {
            let entry = self.files.get(&descriptor.id)?.uring.as_deref()?;
            let submitter = entry.submitter.filter(|_| seen.insert(entry.id))?;
            let (_, layout) = self.beside.get::<Mappable>()?.0.get(&entry.id)?;
            Some(Issued {
                file: entry.id,
                fd: descriptor.fd.cast_signed(),
                submitter,
                submitted: entry.submitted,
                completed: entry.completed,
                unread: entry.unread,
                entries: entry.sq_entries,
                no_drain: entry.no_drain.unwrap_or_default(),
                layout: *layout,
                queues: entry.queues.clone(),
                submissions: entry.submissions.clone(),
            })
        });
        rings.collect()
    }
}

fn make(entry: &IoUringFileEntry) -> Result<(OwnedFd, Layout), Error> {
    let failed = |doing: &str| {
        let operation = format!("{doing} {}", what(entry));
        |source| Error::Kernel { operation, source }
    };
    let ring = Ring::new(shape(entry)).map_err(failed("make"))?;
    let layout = ring.layout();
    if (entry.queues.len(), entry.submissions.len()) != (layout.queues, layout.submissions) {
        return Err(Error::image(what(entry), "its memory is of another size than this kernel's"));
    }
    if entry.submitter.is_some() {
        return Ok((ring.into_fd(), layout));
    }
    let mut memory = ring.map().map_err(failed("map"))?;
    ring.advance(&mut memory, counts(entry)).map_err(failed("count the requests of"))?;
    let reached = memory.ends();
    memory.write(&entry.queues, &entry.submissions).map_err(failed("fill"))?;
    let ends = memory.ends();
    if (ends.submitted, ends.completed, ends.taken)
        != (reached.submitted, reached.completed, reached.taken)
    {
        return Err(Error::image(what(entry), "its memory does not say what was counted"));
    }
    Ok((ring.into_fd(), layout))
}
