//! One process whose writes are tracked while it runs.
//!
//! Its larger anonymous mappings are registered with a userfaultfd that writes are noted by. A page
//! that is found written is protected and then copied, in this order: what is written during the
//! copying, or later, is found the next time. So of every page that is protected a copy is there,
//! and what is not protected when the process stands still is copied then.
//!
//! What needs no care of its own for this reason: pages of mappings that are newer than the
//! registration, that were moved by `mremap`, that a forked child has, or another program after
//! an exec are not protected (the kernel takes their registration away). Memory that was given
//! back, and what has grown, has no protected pages.
//!
//! Private mappings of files are left out: there a page that was given back looks, by the mark
//! that the kernel leaves in its place, as one that is swapped out and unchanged.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use collector::{Mapping, Process, VmFlags};
use images::Folder;
use images::messages::{PagemapEntry, PagemapHead, page_flags};
use images::names;
use kernel::arena::Arena;
use kernel::pagemap::{PAGE_SIZE, PageMap, PageRun, clip};
use kernel::userfaultfd::WriteTracker;

use super::copy::{cut, in_a_row, into_memory, share, that_pay};
use super::origin::Memory;
use super::pages::Round;
use super::runs::{bytes, coalesce, subtract, union};
use crate::clock::Clock;
use crate::error::Error;
use crate::inject::{Codes, userfaultfd_of};
use crate::mappings::{self, Kind};

/// Pages that are protected, or unprotected, in one call: the kernel holds a lock of the process
/// meanwhile, for some 140 ns a page.
const SLICE: u64 = 4096;
/// Bytes that are looked at in one call, for the same reason.
const WINDOW: u64 = 128 << 20;
/// Mappings that are registered in one call, for the same reason.
const MAPPINGS: usize = 64;
/// Bytes that a mapping has to hold on the average: many small ones take longer to look through
/// twice than to copy.
const WORTH_A_MAPPING: u64 = 32 << 10;
/// Pages that are protected before they are copied.
const BATCH: u64 = 16 * SLICE;
/// Runs of unprotected pages that are looked at one by one; more are looked at together.
const FEW: usize = 4096;
/// Bytes that a page table covers: a hole as large is not reported by the quick scan.
const TABLE: u64 = 2 << 20;

/// A tracked process.
#[derive(Debug)]
pub(crate) struct Tracked {
    pid: i32,
    tracker: WriteTracker,
    map: PageMap,
    /// What was registered, in parts of few mappings.
    parts: Vec<PageRun>,
    /// The same, as large as possible.
    spans: Vec<PageRun>,
    /// Pages that an earlier checkpoint holds.
    inherited: Vec<PageRun>,
    /// Pages that were copied first, into a pages file of their own.
    first: Option<First>,
    rounds: Vec<Round>,
    /// All pages of which there is a copy.
    covered: Vec<PageRun>,
    /// Pages that could not be copied.
    doubtful: Vec<PageRun>,
}

#[derive(Debug)]
struct First {
    id: u32,
    file: File,
    runs: Vec<PageRun>,
    bytes: u64,
}

impl First {
    /// Copies some of its pages over.
    fn copy_again(
        &self,
        pid: i32,
        runs: &[PageRun],
        lost: &Mutex<Vec<PageRun>>,
    ) -> Result<(), Error> {
        let places: Vec<(PageRun, u64)> = in_a_row(&self.runs, 0).collect();
        let threads = that_pay(2, bytes(runs));
        share(
            threads,
            cut(in_a_row(runs, 0)),
            || Ok(Vec::new()),
            |piece, buffer| {
                buffer.resize(piece.bytes, 0);
                Memory::of(pid).read_running(&piece.ranges, buffer, lost);
                let mut rest = &buffer[..];
                for &(start, bytes) in &piece.ranges {
                    let (mut here, later) = rest.split_at(bytes);
                    rest = later;
                    let mut at = start;
                    let mut index = places.partition_point(|(run, _)| run.end <= at);
                    // A range may lie in several runs that touch.
                    while let Some((run, offset)) = places.get(index).filter(|_| !here.is_empty()) {
                        let count = here.len().min((run.end - at) as usize);
                        let (part, left) = here.split_at(count);
                        self.file
                            .write_all_at(part, offset + (at - run.start))
                            .map_err(|source| Error::Pages { pid, source })?;
                        at += count as u64;
                        here = left;
                        index += 1;
                    }
                }
                Ok(())
            },
        )
    }
}

/// Pages of a process that stands still.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Those that have to be copied.
    pub(crate) changed: Vec<PageRun>,
    /// Those of which a copy is there.
    pub(crate) kept: Vec<PageRun>,
}

/// Whether a mapping is one that can be tracked.
pub(super) fn trackable(mapping: &Mapping) -> bool {
    matches!(mappings::classify(mapping), Ok(Kind::Anonymous | Kind::Heap))
        && mapping.flags.contains(VmFlags::MAY_WRITE)
}

/// Groups of mappings that can be tracked and lie side by side.
fn neighbours(mappings: &[Mapping]) -> impl Iterator<Item = &[Mapping]> {
    mappings
        .chunk_by(|a, b| a.end == b.start && trackable(a) && trackable(b))
        .filter(|group| trackable(&group[0]))
}

/// What of `mappings` is worth tracking: where those that lie side by side hold at least `least`
/// bytes together. In parts of few mappings.
fn worth_tracking(
    map: &mut PageMap,
    pid: i32,
    mappings: &[Mapping],
    least: u64,
) -> Result<Vec<PageRun>, Error> {
    let mut worth = Vec::new();
    let mut content = Vec::new();
    for group in neighbours(mappings) {
        content.clear();
        let span = PageRun::new(group[0].start, group[group.len() - 1].end);
        map.anonymous_pages(span, &mut content).map_err(|source| Error::Process {
            operation: "read the page map",
            pid,
            source,
        })?;
        if bytes(&content) >= least.max(group.len() as u64 * WORTH_A_MAPPING) {
            worth.extend(
                group
                    .chunks(MAPPINGS)
                    .map(|part| PageRun::new(part[0].start, part[part.len() - 1].end)),
            );
        }
    }
    Ok(worth)
}

impl Tracked {
    /// Starts to track the mappings of `process`, where those that lie side by side hold at least
    /// `least` bytes together. `None` if none do.
    pub(super) fn begin(
        process: &Process,
        codes: &Codes,
        least: u64,
    ) -> Result<Option<Self>, Error> {
        let pid = process.pid;
        let failed = |operation| move |source| Error::Process { operation, pid, source };
        let mut map = PageMap::open(pid).map_err(failed("open the page map"))?;
        let mut worth = worth_tracking(&mut map, pid, &process.mappings, least)?;
        if worth.is_empty() {
            return Ok(None);
        }
        let fd = userfaultfd_of(process, codes).map_err(|source| Error::Inject { pid, source })?;
        let tracker = WriteTracker::begin(fd).map_err(failed("track the writes"))?;
        // What cannot be registered, because it has gone or is somebody else's, is copied frozen.
        worth.retain(|span| tracker.register(span.start, span.bytes()).is_ok());
        Ok((!worth.is_empty()).then(|| Self::with(pid, tracker, map, worth)))
    }

    /// Goes on with the tracking that another dump began. `inherited` are the pages that its
    /// checkpoint holds. `None` if the process has executed another program since.
    pub(super) fn resume(
        process: &Process,
        fd: OwnedFd,
        inherited: &[PageRun],
    ) -> Result<Option<Self>, Error> {
        let pid = process.pid;
        let tracker = WriteTracker::resume(fd);
        if !tracker.is_alive() {
            return Ok(None);
        }
        let map = PageMap::open(pid).map_err(|source| Error::Process {
            operation: "open the page map",
            pid,
            source,
        })?;
        let marked = |mapping: &&Mapping| {
            trackable(mapping) && mapping.flags.contains(VmFlags::UFFD_WRITE_PROTECT)
        };
        let parts = process.mappings.iter().filter(marked);
        let parts = parts.map(|mapping| PageRun::new(mapping.start, mapping.end));
        // To register once more what this userfaultfd has changes nothing; what another one has
        // cannot be.
        let parts =
            parts.filter(|part| tracker.register(part.start, part.bytes()).is_ok()).collect();
        let mut tracked = Self::with(pid, tracker, map, parts);
        tracked.inherited = clip(inherited, &tracked.spans);
        tracked.covered = tracked.inherited.clone();
        Ok(Some(tracked))
    }

    /// Tracks mappings that are newer than the tracking as well, by the rules of
    /// [`Tracked::begin`].
    pub(super) fn extend(&mut self, process: &Process, least: u64) -> Result<(), Error> {
        let new = |mapping: &&Mapping| !mapping.flags.contains(VmFlags::UFFD_WRITE_PROTECT);
        let new: Vec<Mapping> = process.mappings.iter().filter(new).cloned().collect();
        let mut worth = worth_tracking(&mut self.map, self.pid, &new, least)?;
        worth.retain(|span| self.tracker.register(span.start, span.bytes()).is_ok());
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
        let mut written = Vec::new();
        for span in self.spans.clone() {
            self.written(span, false, &mut written)?;
        }
        Ok(bytes(&written))
    }

    fn with(pid: i32, tracker: WriteTracker, map: PageMap, parts: Vec<PageRun>) -> Self {
        let spans = coalesce(&parts, 0);
        Self {
            pid,
            parts,
            tracker,
            map,
            spans,
            inherited: Vec::new(),
            first: None,
            rounds: Vec::new(),
            covered: Vec::new(),
            doubtful: Vec::new(),
        }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> Error + use<> {
        let pid = self.pid;
        move |source| Error::Process { operation, pid, source }
    }

    /// Protects and copies everything that is not protected, into a pages file of `folder`.
    /// Returns how many bytes that was.
    pub(super) fn first_round(&mut self, folder: &Folder<'_>, clock: &Clock) -> Result<u64, Error> {
        let (id, file) = folder.pages()?;
        let mut first = First { id, file, runs: Vec::new(), bytes: 0 };
        let lost = Mutex::default();
        for span in self.spans.clone() {
            let mut at = span.start;
            while at < span.end {
                let mut batch = Vec::new();
                while at < span.end && bytes(&batch) < BATCH * PAGE_SIZE {
                    at = self.protect_slice(PageRun::new(at, span.end), &mut batch)?;
                }
                self.copy_to_file(&batch, &mut first, &lost)?;
                clock.check("copy memory that is in use")?;
            }
        }
        self.covered = union(&self.inherited, &first.runs);
        let copied = first.bytes;
        self.first = Some(first);
        self.doubt(lost);
        Ok(copied)
    }

    /// Protects written pages from the start of `span`; returns how far it came.
    fn protect_slice(&mut self, span: PageRun, found: &mut Vec<PageRun>) -> Result<u64, Error> {
        let window = PageRun::new(span.start, span.end.min(span.start + WINDOW));
        self.map.written(window, true, SLICE, found).map_err(self.failed("protect the memory"))
    }

    fn copy_to_file(
        &self,
        batch: &[PageRun],
        first: &mut First,
        lost: &Mutex<Vec<PageRun>>,
    ) -> Result<(), Error> {
        let pid = self.pid;
        let threads = that_pay(2, bytes(batch));
        share(
            threads,
            cut(in_a_row(batch, first.bytes)),
            || Ok(Vec::new()),
            |piece, buffer| {
                buffer.resize(piece.bytes, 0);
                Memory::of(pid).read_running(&piece.ranges, buffer, lost);
                first
                    .file
                    .write_all_at(buffer, piece.offset)
                    .map_err(|source| Error::Pages { pid, source })
            },
        )?;
        first.bytes += bytes(batch);
        first.runs.extend_from_slice(batch);
        Ok(())
    }

    /// Protects and copies what was written since the last round. Pages that were copied first are
    /// copied over; others go into memory, of which at most `budget` bytes are taken. Returns
    /// how many bytes were copied, and how many of them are in memory.
    pub(super) fn next_round(&mut self, budget: u64) -> Result<(u64, u64), Error> {
        let mut written = Vec::new();
        for span in self.spans.clone() {
            self.written(span, true, &mut written)?;
        }
        let again = match &self.first {
            Some(first) => clip(&written, &first.runs),
            None => Vec::new(),
        };
        let new = subtract(&written, &again);
        let lost = Mutex::default();
        if let Some(first) = &self.first {
            first.copy_again(self.pid, &again, &lost)?;
        }
        self.copy_to_memory(new.clone(), budget, &lost)?;
        self.doubt(lost);
        Ok((bytes(&written), bytes(&new)))
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
        let pid = self.pid;
        share(
            that_pay(2, total),
            work,
            || Ok(()),
            |(piece, to), ()| {
                Memory::of(pid).read_running(&piece.ranges, to, lost);
                Ok(())
            },
        )?;
        self.covered = union(&self.covered, &runs);
        self.rounds.push(Round { runs, bytes: memory });
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
            runs.iter().filter(|run| self.tracker.unprotect(run.start, run.bytes()).is_err());
        let kept: Vec<PageRun> = kept.copied().collect();
        self.doubtful = union(&self.doubtful, &kept);
    }

    /// The pages in `span` that were written and hold anything.
    fn written(
        &mut self,
        span: PageRun,
        protect: bool,
        found: &mut Vec<PageRun>,
    ) -> Result<(), Error> {
        let failed = self.failed("read what was written");
        let mut unprotected = Vec::new();
        self.map.unprotected(span, &mut unprotected).map_err(&failed)?;
        // Some of them hold nothing at all.
        let mut near = coalesce(&unprotected, 32 * PAGE_SIZE);
        if near.len() > FEW {
            near = vec![span];
        }
        for part in near {
            let mut at = part.start;
            while at < part.end {
                let window = PageRun::new(at, part.end.min(at + WINDOW));
                at = self.map.written(window, protect, 0, found).map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Sorts the pages in `spans`, which are the tracked mappings of the process as it stands
    /// still. With `protect` those that have to be copied are protected again.
    pub(super) fn sort(&mut self, spans: &[PageRun], protect: bool) -> Result<Sorted, Error> {
        let failed = self.failed("read what was written");
        let mut sorted = Sorted::default();
        let mut unprotected = Vec::new();
        for &span in spans {
            self.map.unprotected(span, &mut unprotected).map_err(&failed)?;
        }
        let mut near = coalesce(&unprotected, 32 * PAGE_SIZE);
        if near.len() > FEW {
            near = spans.to_vec();
        }
        for part in clip(&near, spans) {
            self.map.written(part, protect, 0, &mut sorted.changed).map_err(&failed)?;
        }
        let mut doubtful = Vec::new();
        for part in clip(&self.doubtful, spans) {
            self.map.anonymous_pages(part, &mut doubtful).map_err(&failed)?;
        }
        sorted.changed = union(&sorted.changed, &doubtful);
        let kept = subtract(&clip(&self.covered, spans), &unprotected);
        let kept = self.without_holes(&kept).map_err(&failed)?;
        sorted.kept = subtract(&kept, &sorted.changed);
        Ok(sorted)
    }

    /// Takes no copy for good any more: all is to be copied when the process stands still.
    pub(super) fn forget(&mut self) {
        self.covered.clear();
        self.inherited.clear();
        self.rounds.clear();
        self.doubtful.clone_from(&self.spans);
    }

    /// Leaves out what is no longer there. Where there is a page table, the scan has told of every
    /// page that is not; so one page of each tells whether there is a table.
    fn without_holes(&mut self, kept: &[PageRun]) -> io::Result<Vec<PageRun>> {
        let mut there = Vec::with_capacity(kept.len());
        let mut last = (u64::MAX, false);
        for run in kept {
            let mut at = run.start;
            while at < run.end {
                let table = at / TABLE;
                if last.0 != table {
                    last = (table, self.map.holds_page(at)?);
                }
                let end = run.end.min((table + 1) * TABLE);
                if last.1 {
                    kernel::pagemap::push(&mut there, at, end);
                } else {
                    // Unless it is this one page that the kernel has taken back meanwhile.
                    self.map.anonymous_pages(PageRun::new(at, end), &mut there)?;
                }
                at = end;
            }
        }
        Ok(there)
    }

    /// Gives the tracking away, to be gone on with.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.tracker.into_fd()
    }

    /// The copies in memory; they are to be written with what is copied while the process stands
    /// still.
    pub(super) fn take_rounds(&mut self) -> Vec<Round> {
        std::mem::take(&mut self.rounds)
    }

    /// Writes the page map of what was copied first, if anything was.
    pub(super) fn encode_first(&self, folder: &Folder<'_>) -> Result<(), Error> {
        let Some(first) = &self.first else { return Ok(()) };
        let mut sink = folder.image(&names::pagemap(self.pid.cast_unsigned()))?;
        sink.put(&PagemapHead { pages_id: first.id })?;
        let stored = first.runs.iter().map(|run| (run, page_flags::PRESENT));
        let inherited = subtract(&self.inherited, &first.runs);
        let inherited = inherited.iter().map(|run| (run, page_flags::PARENT));
        let mut all: Vec<_> = stored.chain(inherited).collect();
        all.sort_by_key(|(run, _)| run.start);
        for (run, flags) in all {
            sink.put_as(&PagemapEntry::run(run.start, run.pages(), flags))?;
        }
        Ok(sink.finish()?)
    }

    /// Bytes that are in the pages file of the first round.
    pub(super) fn first_bytes(&self) -> u64 {
        self.first.as_ref().map_or(0, |first| first.bytes)
    }

    /// Bytes of which there is a copy.
    pub(super) fn covered_bytes(&self) -> u64 {
        bytes(&self.covered)
    }

    /// Stops to track. The kernel would do it by itself, in one step for which the whole process
    /// waits. This takes the protection off in small steps, and then the registration, which is quick
    /// when nothing is protected. (The registration cannot be taken off in steps: a mapping would be
    /// two for a while, and the process may be about to move it as one.)
    pub(super) fn end(self) {
        for span in &self.parts {
            let mut at = span.start;
            while at < span.end {
                let end = span.end.min(at + SLICE * PAGE_SIZE);
                // Where nothing is mapped any more, or something else, there is nothing to do.
                if self.tracker.unprotect(at, end - at).is_err() && !self.tracker.is_alive() {
                    return;
                }
                at = end;
                // Whoever waits for the lock goes first.
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        }
        for span in &self.parts {
            if let Err(error) = self.tracker.unregister(span.start, span.bytes()) {
                tracing::debug!(pid = self.pid, %error, "left to the descriptor's end");
            }
        }
    }
}
