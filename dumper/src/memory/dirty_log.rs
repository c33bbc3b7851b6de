//! The dirty log of one process: its writes are logged while it runs.
//!
//! Its larger anonymous mappings are registered with a userfaultfd that writes are noted by. A page
//! that is found written is protected and then copied, in this order: what is written during the
//! copying, or later, is found the next time. So of every page that is protected a copy is there,
//! and what is not protected when the process stands still is copied then.
//!
//! What may happen to memory meanwhile, and why it is right all the same:
//!
//! | | |
//! |---|---|
//! | written, by the program or by the kernel for it | it is no longer protected |
//! | given back (`MADV_DONTNEED`), then perhaps touched again | it is not there, or not protected: the quick scan (0.3 ms per GiB) reports every page of a page table that is not protected; where a whole table has gone, probing one page of each finds out |
//! | mapped anew, moved by `mremap`, of another program after an exec, of a forked child | the kernel takes the registration away: there is no `uw` in its flags, so all of it is copied frozen |
//! | guarded (`MADV_GUARD_INSTALL`) | it counts as written; the scan tells it apart, so that it is no page |
//! | a huge page | it is protected whole; a write splits it, and it stays split until the kernel joins it again by itself |
//! | swapped out, merged, migrated | the mark goes along, or is lost, which counts as written |
//! | written by a device | a device writes past page tables: with a file open for direct I/O, or a context of asynchronous I/O, whose requests may hold such a file that is closed, or an io_uring, nothing is copied early |
//!
//! Private mappings of files are left out: there a page that was given back looks, by the mark
//! that the kernel leaves in its place, as one that is swapped out and unchanged.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use collector::{Mapping, OpenFile, Process, VmFlags};
use ids::{HostPid, ImagePid};
use images::Folder;
use kernel::arena::Arena;
use kernel::pagemap::{PageMap, PageRun, clip};
use kernel::userfaultfd::WriteLog;
use support::mappings::of_mapping;

use super::copies::{Copies, Target, windows};
use super::copy::{cut, in_a_row, into_memory};
use super::look::{Look, look, parts, without_holes};
use super::origin::ProcessMemory;
use super::pages::Round;
use super::room::Room;
use super::runs::{bytes, coalesce, joined, subtract, union};
use crate::clock::Clock;
use crate::error::Error;
use crate::inject::{Gadgets, userfaultfd_of};
use crate::processes::denies_parasites;
use crate::threads::share;
use crate::tracers;

/// Mappings that are registered in one call: the kernel holds a lock of the process meanwhile.
const MAPPINGS: usize = 64;
/// Bytes that a mapping has to hold on the average: many small ones take longer to look through
/// twice than to copy.
const WORTH_A_MAPPING: u64 = 32 << 10;
/// Bytes that are worth several threads to look at.
const MUCH: u64 = 512 << 20;
/// The dirty log of one process: which of its pages were written since they were last copied.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    pid: HostPid,
    write_log: WriteLog,
    map: PageMap,
    memory: ProcessMemory,
    /// How many threads there is use for at most.
    threads: usize,
    /// What was registered, in parts of few mappings.
    parts: Vec<PageRun>,
    /// The same, as large as possible.
    spans: Vec<PageRun>,
    /// Pages that an earlier checkpoint holds.
    inherited: Vec<PageRun>,
    /// Pages that were copied into pages files of their own, if a first round was.
    copies: Option<Copies>,
    /// What was copied into memory later.
    rounds: Vec<Round>,
    /// All pages that have been copied at some time.
    covered: Vec<PageRun>,
    /// Pages that could not be copied.
    doubtful: Vec<PageRun>,
    /// For how long its leader stood still to hand over the userfaultfd.
    pub(super) handover: Duration,
}

/// Pages of a process that stands still.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Pages that have to be copied now.
    pub(crate) changed: Vec<PageRun>,
    /// Pages that have been copied already, and are unchanged since.
    pub(crate) kept: Vec<PageRun>,
    /// Guard regions, in which there is no page.
    pub(crate) guards: Vec<PageRun>,
}

/// Whether a mapping is one that can be logged.
pub(super) fn can_log(mapping: &Mapping) -> bool {
    mapping.kind.is_anonymous()
        && of_mapping(mapping).is_none()
        && mapping.flags.contains(VmFlags::MAY_WRITE)
        // A mapping has one userfaultfd, and this one is the program's.
        && !mapping.flags.contains(VmFlags::UFFD_MISSING)
        // The kernel registers none of it.
        && !mapping.flags.contains(VmFlags::DROPPABLE)
}

/// Whether the process has a userfaultfd: what we register it could not (EBUSY).
fn serves_faults(process: &Process) -> bool {
    process.files.iter().any(OpenFile::is_userfaultfd)
}

/// Groups of mappings that can be logged and lie side by side.
fn neighbours(mappings: &[Mapping]) -> impl Iterator<Item = &[Mapping]> {
    mappings
        .chunk_by(|a, b| a.end == b.start && can_log(a) && can_log(b))
        .filter(|group| can_log(&group[0]))
}

/// What of `mappings` is worth logging: where those that lie side by side hold at least `least`
/// bytes together, if all of that is `worth` it. In parts of few mappings.
fn worth_logging(
    map: &mut PageMap,
    pid: HostPid,
    mappings: &[Mapping],
    (least, worth): (u64, u64),
) -> Result<Vec<PageRun>, Error> {
    let mut parts = Vec::new();
    let mut total = 0;
    for group in neighbours(mappings) {
        let span = PageRun::new(group[0].start, group[group.len() - 1].end);
        let least = least.max(group.len() as u64 * WORTH_A_MAPPING);
        let enough = least.max(worth.saturating_sub(total));
        let held = held(map, span, enough).map_err(|source| Error::Process {
            operation: "read the page map",
            pid,
            source,
        })?;
        if held >= least {
            total += held;
            parts.extend(
                group
                    .chunks(MAPPINGS)
                    .map(|part| PageRun::new(part[0].start, part[part.len() - 1].end)),
            );
        }
    }
    if total < worth {
        parts.clear();
    }
    Ok(parts)
}

/// Bytes in a span, not counting further than `enough`.
fn held(map: &mut PageMap, span: PageRun, enough: u64) -> io::Result<u64> {
    let mut held = 0;
    for window in windows(&[span]) {
        let mut content = Vec::new();
        map.anonymous_pages(window, &mut content)?;
        held += bytes(&content);
        if held >= enough {
            break;
        }
    }
    Ok(held)
}

impl DirtyLog {
    /// Starts to log the writes to the mappings of `process`, where those that lie side by side hold at least
    /// so many bytes together, if all of them hold so many. `None` if they do not.
    pub(super) fn begin(
        process: &Process,
        gadgets: &Gadgets,
        worth: (u64, u64),
        threads: usize,
    ) -> Result<Option<Self>, Error> {
        let pid = process.pid;
        let failed = |operation| move |source| Error::Process { operation, pid, source };
        let mut map = PageMap::open(pid).map_err(failed("open the page map"))?;
        let mut worth = worth_logging(&mut map, pid, &process.mappings, worth)?;
        // Where write and execute exclude each other, no code can be brought in that makes a userfaultfd; nor into what another one traces.
        let closed = denies_parasites(process) || tracers::is_traced(process);
        if worth.is_empty() || closed || serves_faults(process) {
            return Ok(None);
        }
        let handed = userfaultfd_of(process, gadgets);
        let handed = handed.map_err(|source| Error::Inject { pid, source })?;
        let Some((fd, handover)) = handed else {
            tracing::debug!(%pid, "its filters of system calls let no userfaultfd be made in it");
            return Ok(None);
        };
        let write_log = match WriteLog::begin(fd) {
            Ok(write_log) => write_log,
            Err(error) => {
                tracing::info!(%pid, %error, "its writes cannot be tracked: its memory is copied frozen");
                return Ok(None);
            }
        };
        // What cannot be registered, because it has gone or is somebody else's, is copied frozen.
        worth.retain(|span| write_log.register(span.start, span.bytes()).is_ok());
        Ok((!worth.is_empty())
            .then(|| Self { handover, ..Self::with(pid, write_log, map, worth, threads) }))
    }

    /// Goes on with the logging that another dump began. `inherited` are the pages that its
    /// checkpoint holds. `None` if the process has executed another program since, or serves faults itself.
    pub(super) fn resume(
        process: &Process,
        fd: OwnedFd,
        inherited: &[PageRun],
        threads: usize,
    ) -> Result<Option<Self>, Error> {
        let pid = process.pid;
        let write_log = WriteLog::resume(fd);
        if !write_log.is_alive() || serves_faults(process) {
            return Ok(None);
        }
        let map = PageMap::open(pid).map_err(|source| Error::Process {
            operation: "open the page map",
            pid,
            source,
        })?;
        let marked = |mapping: &&Mapping| {
            can_log(mapping) && mapping.flags.contains(VmFlags::UFFD_WRITE_PROTECT)
        };
        let parts = process.mappings.iter().filter(marked);
        let parts = parts.map(|mapping| PageRun::new(mapping.start, mapping.end));
        // To register once more what this userfaultfd has changes nothing; what another one has
        // cannot be.
        let parts =
            parts.filter(|part| write_log.register(part.start, part.bytes()).is_ok()).collect();
        let mut log = Self::with(pid, write_log, map, parts, threads);
        log.inherited = clip(inherited, &log.spans);
        log.covered = log.inherited.clone();
        Ok(Some(log))
    }

    /// Logs mappings that are newer than the logging as well, by the rules of
    /// [`DirtyLog::begin`].
    pub(super) fn extend(&mut self, process: &Process, least: u64) -> Result<(), Error> {
        let new = |mapping: &&Mapping| !mapping.flags.contains(VmFlags::UFFD_WRITE_PROTECT);
        let new: Vec<Mapping> = process.mappings.iter().filter(new).cloned().collect();
        let mut worth = worth_logging(&mut self.map, self.pid, &new, (least, 0))?;
        worth.retain(|span| self.write_log.register(span.start, span.bytes()).is_ok());
        self.parts.append(&mut worth);
        self.parts.sort_by_key(|part| part.start);
        self.spans = coalesce(&self.parts, 0);
        Ok(())
    }

    /// What of a mapping was registered here.
    pub(super) fn own_part(&self, mapping: &Mapping) -> Vec<PageRun> {
        clip(&[PageRun::new(mapping.start, mapping.end)], &self.spans)
    }

    /// Bytes that were written since they were last protected.
    pub(super) fn written_bytes(&mut self) -> Result<u64, Error> {
        let written = self.written(&self.spans.clone(), false)?;
        Ok(bytes(&written))
    }

    fn with(
        pid: HostPid,
        write_log: WriteLog,
        map: PageMap,
        parts: Vec<PageRun>,
        threads: usize,
    ) -> Self {
        let spans = coalesce(&parts, 0);
        Self {
            pid,
            memory: ProcessMemory::of(pid),
            threads,
            parts,
            write_log,
            map,
            spans,
            inherited: Vec::new(),
            copies: None,
            rounds: Vec::new(),
            covered: Vec::new(),
            doubtful: Vec::new(),
            handover: Duration::ZERO,
        }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> Error + use<> {
        let pid = self.pid;
        move |source| Error::Process { operation, pid, source }
    }

    fn target<'t>(&'t self, lost: &'t Mutex<Vec<PageRun>>) -> Target<'t> {
        let Self { pid, map, memory, threads, .. } = self;
        Target { pid: *pid, map, memory, lost, threads: *threads }
    }

    /// Protects and copies everything that is not protected, into pages files of these folders. Returns
    /// how many bytes that was.
    pub(super) fn first_round(
        &mut self,
        folders: &[Folder<'_>],
        clock: &Clock,
    ) -> Result<u64, Error> {
        let lost = Mutex::default();
        let target = Target { threads: folders.len(), ..self.target(&lost) };
        let copies = Copies::first(folders, &target, &self.spans, clock)?;
        self.covered = union(&self.inherited, &copies.runs());
        let copied = copies.bytes();
        self.copies = Some(copies);
        self.doubt(lost);
        Ok(copied)
    }

    /// Protects and copies what was written since the last round, to where the round has room. Returns how many
    /// bytes that was.
    pub(super) fn next_round(&mut self, room: &mut Room<'_>) -> Result<u64, Error> {
        let written = self.written(&self.spans.clone(), true)?;
        let total = bytes(&written);
        let lost = Mutex::default();
        let folders = match self.copies {
            Some(_) if total > room.in_memory => room.folders(total)?,
            _ => Vec::new(),
        };
        match self.copies.take() {
            Some(mut copies) if !folders.is_empty() => {
                copies.again(room.after, &folders, &self.target(&lost), &written)?;
                self.copies = Some(copies);
                self.covered = union(&self.covered, &written);
                // What was copied into memory before is older.
                for round in &mut self.rounds {
                    round.newest = subtract(&round.newest, &written);
                }
            }
            copies => {
                self.copies = copies;
                self.copy_to_memory(written, room.budget, &lost)?;
                room.is_full |= total > room.budget;
                room.in_memory = room.in_memory.saturating_sub(total);
                room.budget = room.budget.saturating_sub(total);
            }
        }
        self.doubt(lost);
        Ok(total)
    }

    fn copy_to_memory(
        &mut self,
        runs: Vec<PageRun>,
        budget: u64,
        lost: &Mutex<Vec<PageRun>>,
    ) -> Result<(), Error> {
        let total = bytes(&runs);
        let memory = match total {
            0 => return Ok(()),
            _ if total > budget => None,
            _ => Arena::new(total as usize).ok(),
        };
        let Some(mut memory) = memory else {
            self.give_up(&runs);
            return Ok(());
        };
        let work = into_memory(cut(in_a_row(&runs, 0)), &mut memory);
        share(self.target(lost).readers(total)?, work, |(piece, to), reader| {
            reader.read(&piece, to);
            Ok::<(), Error>(())
        })?;
        self.covered = union(&self.covered, &runs);
        self.rounds.push(Round { newest: runs.clone(), runs, bytes: memory });
        Ok(())
    }

    fn doubt(&mut self, lost: Mutex<Vec<PageRun>>) {
        let mut lost = lost.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        lost.sort_by_key(|run| run.start);
        self.give_up(&lost);
    }

    /// Has the kernel say of pages, to this dump and to those that come after it, that they were
    /// written: there is no copy of them. Those that it will not say it of are noted.
    fn give_up(&mut self, runs: &[PageRun]) {
        let kept =
            runs.iter().filter(|run| self.write_log.unprotect(run.start, run.bytes()).is_err());
        let kept: Vec<PageRun> = kept.copied().collect();
        self.doubtful = union(&self.doubtful, &kept);
    }

    /// The pages in `spans` that were written and hold anything; with `protect` they are protected
    /// again.
    fn written(&mut self, spans: &[PageRun], protect: bool) -> Result<Vec<PageRun>, Error> {
        let look = |map: &mut PageMap, part: &[PageRun]| Ok(look(map, part, protect)?.written);
        self.each_part(spans, look).map(joined)
    }

    /// Sorts the pages in `spans`, which are the logged mappings of the process as it stands
    /// still. With `protect` those that have to be copied are protected again.
    pub(super) fn sort(&mut self, spans: &[PageRun], protect: bool) -> Result<Sorted, Error> {
        // Those that were met before may have gone.
        self.map.take_guards();
        let covered = std::mem::take(&mut self.covered);
        let sorted = self.each_part(spans, |map, part| {
            let Look { written, unprotected } = look(map, part, protect)?;
            let kept = subtract(&clip(&covered, part), &unprotected);
            Ok((without_holes(map, &kept)?, written))
        });
        self.covered = covered;
        let (kept, changed): (Vec<_>, Vec<_>) = sorted?.into_iter().unzip();
        let mut doubtful = Vec::new();
        for part in clip(&self.doubtful, spans) {
            let pages = self.map.anonymous_pages(part, &mut doubtful);
            pages.map_err(self.failed("read what was written"))?;
        }
        let changed = union(&joined(changed), &doubtful);
        let guards = self.map.take_guards();
        Ok(Sorted { kept: subtract(&joined(kept), &changed), changed, guards })
    }

    /// What `look` finds in each of the parts of `spans`, which several threads take in turns if there
    /// is much in them.
    fn each_part<T: Send>(
        &mut self,
        spans: &[PageRun],
        look: impl Fn(&mut PageMap, &[PageRun]) -> io::Result<T> + Sync,
    ) -> Result<Vec<T>, Error> {
        let failed = self.failed("read what was written");
        let threads = match bytes(spans) {
            0..MUCH => 1,
            _ => self.threads,
        };
        let mut others = self.map.clones(threads - 1).map_err(&failed)?;
        let maps = std::iter::once(&mut self.map).chain(&mut others).collect();
        let parts = if threads > 1 { parts(spans, 4 * threads) } else { vec![spans.to_vec()] };
        let mut found: Vec<Option<T>> = parts.iter().map(|_| None).collect();
        let work = parts.iter().zip(&mut found).collect();
        share(maps, work, |(part, found), map| {
            *found = Some(look(map, part).map_err(&failed)?);
            Ok::<(), Error>(())
        })?;
        self.map.join(others);
        Ok(found.into_iter().flatten().collect())
    }

    /// Takes no copy for good any more: all is to be copied when the process stands still.
    pub(super) fn forget(&mut self) {
        self.covered.clear();
        self.inherited.clear();
        self.rounds.clear();
        self.doubtful.clone_from(&self.spans);
    }

    /// Gives the logging away, to be gone on with.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.write_log.into_fd()
    }

    /// The copies in memory; they are to be written with what is copied while the process stands
    /// still.
    pub(super) fn take_rounds(&mut self) -> Vec<Round> {
        std::mem::take(&mut self.rounds)
    }

    /// Writes the page maps of what was copied into pages files, if anything was.
    pub(super) fn encode(&self, folders: &[Folder<'_>], pid: ImagePid) -> Result<(), Error> {
        match &self.copies {
            Some(copies) => copies.encode(folders, pid, &self.inherited),
            None => Ok(()),
        }
    }

    /// The pages that are in those pages files.
    pub(super) fn copied(&self) -> Vec<PageRun> {
        self.copies.as_ref().map_or_else(Vec::new, Copies::runs)
    }

    /// Bytes that are in those pages files.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.copies.as_ref().map_or(0, Copies::bytes)
    }

    /// Bytes of which there is a copy.
    pub(super) fn covered_bytes(&self) -> u64 {
        bytes(&self.covered)
    }

    /// Stops logging. The kernel goes through all page tables of what was logged for that, and whoever makes or changes mappings
    /// waits: 25 ms per GiB of pages of 4 KiB, whether they are protected or not. So to take the protection off before, in small steps,
    /// spares nobody anything. Nor can the registration be taken off in steps: a mapping would be two for a while, and the process
    /// may be about to move it as one. To have it registered for missing pages in between, which the kernel does not go through
    /// anything for, would leave pages protected that lie beside what the process has replaced, and have others' accesses fail.
    pub(super) fn end(self) {
        for span in &self.parts {
            if let Err(error) = self.write_log.unregister(span.start, span.bytes()) {
                tracing::debug!(pid = %self.pid, %error, "left to the descriptor's end");
            }
        }
    }
}
