//! io_urings: what the kernel counts, which the inventory tells ([`crate::rings`]), and what is in their memory, which is
//! mapped here for a moment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::Duration;

use collector::{Mapping, OpenFile, Process, RegisteredFile, Ring, VmFlags};
use ids::HostPid;
use images::MappingKind;
use images::messages::{
    FdinfoEntry, FileEntry, IoUringFileEntry, RingFileEntry, fd_type, vma_status,
};
use kernel::io_uring::{self, Counts, Memory, Shape, place, setup};
use kernel::procfs::Detail;
use support::Refusal;
use support::rings::{
    EVENTFD_ELSEWHERE, ISSUER, MANY_FILES, OF_USER, RING_WITHOUT_FILE, TOO_FAR, UNSEEN,
    WRITTEN_OVER, file_elsewhere, of_ring, operation, waiting,
};

use super::beside::Part;
use super::file_kind::FileKind;
use super::made_in_task::MadeInTask;
use super::problem::{Doing, Problem, unexpected};
use super::survey::Survey;

/// An io_uring.
#[derive(Debug)]
pub(super) struct IoUring;

/// What a mapping of a ring, and the link text of one, are called.
const NAME: &str = "anon_inode:[io_uring]";

/// A restore makes up for requests one by one: for so many that takes some ten seconds.
const FARTHEST: u64 = 200_000_000;

/// The rings that have been looked at.
#[derive(Debug, Default)]
struct Found {
    /// Their entries by their inodes; `None` where several have the same.
    by_inode: BTreeMap<u64, Option<u32>>,
    /// Whose descriptors they refer to, by their entries.
    holders: BTreeMap<u32, (HostPid, Ring)>,
}

impl Part for Found {}

impl FileKind for IoUring {
    fn types(&self) -> &'static [u32] {
        &[fd_type::IO_URING]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.is_ring()
    }

    /// Its kind of file cannot be sent since Linux 6.7.
    fn can_be_sent(&self) -> bool {
        false
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        if survey.context.for_user {
            return Err(Problem::Refused(OF_USER));
        }
        // Its mappings are of it, whatever becomes of it.
        let found = survey.out.beside.of::<Found>();
        let other = found.by_inode.insert(file.inode, Some(entry.id));
        if other.is_some() {
            found.by_inode.insert(file.inode, None);
        }
        let fown = survey.owner(process.pid, file)?;
        let ring = survey.context.rings.get(&(process.pid, file.fd)).cloned();
        let ring = ring.ok_or(Problem::Refused(UNSEEN))?;
        judge(&ring).map_err(Problem::Refused)?;
        if let Some(number) = requests(survey, process, file)?.first() {
            return Err(Problem::Refused(waiting(&operation(*number))));
        }
        let fd = survey.held.borrow(process.pid, file.fd)?;
        let mut uring = IoUringFileEntry {
            id: entry.id,
            flags: file.flags,
            fown,
            setup: ring.flags,
            sq_entries: ring.submission_entries,
            cq_entries: ring.completion_entries,
            submitted: ring.submitted,
            completed: ring.completed,
            no_drain: ring.has_no_drain().then_some(true),
            free_start: Some(ring.free_places[0]),
            free_end: Some(ring.free_places[1]),
            eventfd_async: ring.eventfd_async.then_some(true),
            submitter: submitter(survey, process, file, &ring)?,
            ..IoUringFileEntry::default()
        };
        if survey.frozen {
            read(&mut uring, &fd)?;
        }
        let found = survey.out.beside.of::<Found>();
        found.holders.insert(entry.id, (process.pid, ring));
        Ok(FileEntry { r#type: fd_type::IO_URING, uring: Some(Box::new(uring)), ..entry })
    }

    fn is_mapped(&self, _inode: u64, name: &OsStr) -> bool {
        name == NAME
    }

    fn writes_memory(&self) -> bool {
        true
    }

    fn mapping_status(&self) -> u32 {
        vma_status::IO_URING
    }

    fn mapped_as(
        &self,
        survey: &mut Survey<'_>,
        mapping: &Mapping,
    ) -> Option<Result<u32, Problem>> {
        let found = survey.out.beside.of::<Found>().by_inode.get(&mapping.inode);
        Some(match found {
            Some(Some(id)) => Ok(*id),
            // Before Linux 6.5 all have one inode, and nobody can tell whose memory a mapping is.
            Some(None) => Err(Problem::Refused(support::rings::UNKNOWN)),
            None => Err(Problem::Refused(RING_WITHOUT_FILE)),
        })
    }

    /// The files that are registered have their entries by now.
    fn complete(&self, survey: &mut Survey<'_>) {
        let holders = std::mem::take(&mut survey.out.beside.of::<Found>().holders);
        for (id, (pid, ring)) in holders {
            let referred = files(survey, pid, &ring)
                .and_then(|files| Ok((files, eventfd(survey, pid, &ring)?)));
            let uring = survey.out.files.iter_mut().find(|file| file.id == id);
            let uring = uring.and_then(|file| file.uring.as_mut());
            match (referred, uring) {
                (Ok((files, eventfd)), Some(uring)) => {
                    uring.files = files;
                    uring.eventfd = eventfd;
                }
                (Ok(_), None) => {}
                (Err(refusal), _) => {
                    let object = format!("descriptor {} ({NAME})", ring.fd);
                    survey.refusals.push(refusal.of(pid, object));
                }
            }
        }
    }
}

/// Requests that wait for something. While a ring is at work its lock is held, and the kernel tells nothing of it but the head of
/// the file: so it is asked again, each time after a pause.
fn requests(
    survey: &mut Survey<'_>,
    process: &Process,
    file: &OpenFile,
) -> Result<Vec<u32>, Problem> {
    const TRIES: usize = 100;
    const PAUSE: Duration = Duration::from_micros(100);
    for _ in 0..TRIES {
        if let Detail::IoUring { waiting } = survey.fdinfo(process.pid, file)?.detail {
            return Ok(waiting);
        }
        std::thread::sleep(PAUSE);
    }
    Err(unexpected("an io_uring"))
}

/// What the kernel keeps of it.
fn judge(ring: &Ring) -> Result<(), Refusal> {
    if let Some(refusal) = of_ring(ring.flags, ring.has, ring.buffers) {
        return Err(refusal);
    }
    if ring.files.len() != ring.places as usize {
        return Err(MANY_FILES);
    }
    let counts =
        Counts { submitted: ring.submitted, completed: ring.completed, unread: 0, no_drain: false };
    if counts.steps() > FARTHEST { Err(TOO_FAR) } else { Ok(()) }
}

/// The thread that alone may submit, as the images call it.
fn submitter(
    survey: &Survey<'_>,
    process: &Process,
    file: &OpenFile,
    ring: &Ring,
) -> Result<Option<u32>, Problem> {
    let has = |flag| ring.flags & flag != 0;
    if !has(setup::SINGLE_ISSUER) || has(setup::R_DISABLED) {
        return Ok(None);
    }
    let shape = shape(ring.flags, ring.submission_entries, ring.completion_entries);
    let layout = match shape.is_possible() {
        true => io_uring::Ring::new(shape).doing("make one like")?.layout(),
        false => return Err(Problem::Refused(UNSEEN)),
    };
    let has_mapped = |places: &[u64], bytes: usize| {
        process.mappings.iter().any(|mapping| {
            mapping.kind == MappingKind::IoUringRing
                && mapping.inode == file.inode
                && places.contains(&mapping.offset)
                && mapping.end - mapping.start >= bytes as u64
                && mapping.flags.contains(VmFlags::WRITE)
        })
    };
    let thread = ring.submitter.filter(|tid| process.threads.contains_key(tid));
    let can_be = ring.completed <= ring.submitted
        && has_mapped(&[place::QUEUES, place::COMPLETIONS], layout.queues)
        && has_mapped(&[place::SUBMISSIONS], layout.submissions);
    match thread.filter(|_| can_be) {
        None => Err(Problem::Refused(ISSUER)),
        Some(_) if !survey.frozen => Ok(None),
        Some(tid) => match survey.numbers.message(Some(tid)) {
            0 => Err(Problem::Refused(ISSUER)),
            number => Ok(Some(number)),
        },
    }
}

const fn shape(flags: u32, submissions: u32, completions: u32) -> Shape {
    Shape { flags, submissions, completions }
}

/// The memory of a ring that nothing happens to.
fn read(uring: &mut IoUringFileEntry, fd: &impl std::os::fd::AsFd) -> Result<(), Problem> {
    let shape = shape(uring.setup, uring.sq_entries, uring.cq_entries);
    if !shape.is_possible() {
        return Err(Problem::Refused(UNSEEN));
    }
    // Only the kernel tells what it makes of a shape.
    let layout = io_uring::Ring::new(shape).doing("make one like")?.layout();
    let memory = Memory::of(fd, shape, layout).doing("map")?;
    let ends = memory.ends();
    let unread = ends.completed.wrapping_sub(ends.taken);
    let filled = ends.filled.wrapping_sub(ends.submitted);
    // Counts that have gone once around are too far as well, and refused for that.
    if (ends.submitted, ends.completed) != (uring.submitted, uring.completed)
        || unread > shape.completions.min(uring.completed)
        || filled > shape.submissions
    {
        return Err(Problem::Refused(WRITTEN_OVER));
    }
    uring.unread = unread;
    (uring.queues, uring.submissions) = memory.read();
    Ok(())
}

/// The entries of the registered files.
fn files(survey: &Survey<'_>, pid: HostPid, ring: &Ring) -> Result<Vec<RingFileEntry>, Refusal> {
    let files = ring.files.iter().enumerate().map(|(place, registered)| {
        let tag = Some(registered.tag).filter(|tag| *tag != 0);
        let file = match registered.file {
            RegisteredFile::None => None,
            RegisteredFile::Descriptor(fd) => match entry_of(survey, pid, fd) {
                Some(entry) if !is_made_in_task(survey, entry.id) => Some(entry.id),
                _ => return Err(file_elsewhere(place)),
            },
            RegisteredFile::Elsewhere => return Err(file_elsewhere(place)),
        };
        Ok(RingFileEntry { file, tag })
    });
    files.collect()
}

fn is_made_in_task(survey: &Survey<'_>, id: u32) -> bool {
    survey.out.beside.get::<MadeInTask>().is_some_and(|files| files.0.contains(&id))
}

/// The entry of the eventfd that is told of completions.
fn eventfd(survey: &mut Survey<'_>, pid: HostPid, ring: &Ring) -> Result<Option<u32>, Refusal> {
    let Some(wanted) = ring.eventfd else { return Ok(None) };
    let Some(process) = survey.inventory.processes.get(&pid) else { return Ok(None) };
    for file in process.files.iter().filter(|file| file.target == "anon_inode:[eventfd]") {
        let Ok(info) = survey.fdinfo(pid, file) else { continue };
        if matches!(info.detail, Detail::Eventfd { id: Some(id), .. } if id == wanted)
            && let Some(entry) = entry_of(survey, pid, file.fd)
        {
            return Ok(Some(entry.id));
        }
    }
    Err(EVENTFD_ELSEWHERE)
}

fn entry_of<'s>(survey: &'s Survey<'_>, pid: HostPid, fd: i32) -> Option<&'s FdinfoEntry> {
    let table = survey.out.tables.get(survey.tables.get(&pid)?)?;
    table.iter().find(|entry| entry.fd == fd.cast_unsigned())
}
