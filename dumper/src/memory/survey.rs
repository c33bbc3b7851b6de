//! Which pages hold anything, found when the target stands still.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;

use collector::{Inventory, Mapping, Process, VmFlags};
use ids::HostPid;
use images::{ImageWriter, MappingKind};
use kernel::pagemap::{PAGE_SIZE, PageMap, PageRun, push};

use super::copies::windows;
use super::origin::{Origin, ProcessMemory as Source, shares_nothing};
use super::pages::Pages;
use super::pre_copy::{Marked, PreCopy, private_bytes};
use super::runs::{bytes, joined, subtract, union};
use super::shared::{Segments, runs_of};
use crate::clock::Clock;
use crate::error::Error;
use crate::processes::{is_zombie, lenders};
use crate::segment::{Key, Segment};
use crate::threads::share;
use crate::userfaults::is_served;

/// Bytes of memory of no file, side by side, that are worth a walk of their own.
const LARGE: u64 = 1 << 20;
/// Bytes that are quicker to walk over than to begin another walk.
const NEAR: u64 = 128 << 10;

/// Mappings, and bytes of memory of no file, that are looked through in one go.
const FEW: usize = 512;
const LITTLE: u64 = 64 << 20;
/// Of the largest memory there are so many parts; more of it is not in use than that which is.
const PARTS: u64 = 256;

/// Mappings, and bytes of memory of no file, of a process that are worth another thread.
const MANY: usize = 1000;
const MUCH: u64 = 512 << 20;

/// Processes of which the page maps are worth a thread.
const WORTH_A_THREAD: usize = 8;

/// Bytes of private memory up to which it is found out whether a process shares any: to copy less than
/// that by the slower way takes less than to find out.
const WORTH_ASKING: u64 = 256 << 20;

/// What will be needed of the memory of one process.
#[derive(Debug)]
pub(crate) struct PlannedMemory {
    map: PageMap,
    /// Empty, with its file.
    pages: Pages,
    known: Option<Known>,
}

/// What holds for as long as the mark of the mappings does.
#[derive(Debug)]
struct Known {
    mark: NonZeroU64,
    /// Mappings that hold nothing of the process's own.
    empty: Vec<PageRun>,
    /// The process shares no page of its own with another. (A fork counts as a change of the
    /// mappings.)
    alone: bool,
}

impl PlannedMemory {
    pub(crate) fn open(writer: &ImageWriter, pid: HostPid) -> Result<Self, Error> {
        let pages = Pages::begin(writer, pid, Origin::Process(Source::of(pid)))?;
        Ok(Self { map: open(pid)?, pages, known: None })
    }
}

fn open(pid: HostPid) -> Result<PageMap, Error> {
    PageMap::open(pid).map_err(|source| Error::Process {
        operation: "open the page map",
        pid,
        source,
    })
}

/// Learns what can be learned of the memory of a tree that runs; `inventory` is the last one that
/// is taken of it.
pub(crate) fn learn(planned: &mut BTreeMap<HostPid, PlannedMemory>, inventory: &Inventory) {
    for (pid, planned) in planned {
        let Some(process) = inventory.processes.get(pid) else { continue };
        if let Err(error) = planned.learn(process, has_kin(process, inventory)) {
            tracing::debug!(%pid, %error, "read the page map of a running process");
        }
    }
}

/// Whether a process has a parent or a child in the tree that runs the same program: likely they share
/// memory.
fn has_kin(process: &Process, inventory: &Inventory) -> bool {
    let program = |process: &Process| {
        let places = process.in_process.as_ref()?.places.as_ref()?;
        Some((places.program.device, places.program.inode))
    };
    let own = program(process);
    let related =
        |other: &&Process| other.ppid == Some(process.pid) || Some(other.pid) == process.ppid;
    inventory.processes.values().filter(related).any(|other| program(other) == own)
}

/// The pages of a tree.
#[derive(Debug, Default)]
pub(crate) struct TreePages {
    /// Private pages, by process, and then those of the segments.
    pub(crate) pages: Vec<Pages>,
    /// How many of `pages` belong to processes.
    pub(crate) process_pages: usize,
    /// Shared memory, and the number that the images give it.
    pub(crate) segments: BTreeMap<Key, u64>,
    /// Pages looked at.
    pub(crate) scanned: u64,
}

/// Finds the pages that hold anything, of a tree that stands still; `held` is what it has of memory by
/// descriptors and ids.
pub(crate) fn find(
    planned: &mut BTreeMap<HostPid, PlannedMemory>,
    pre_copy: &mut PreCopy,
    marked: &Marked,
    writer: &ImageWriter,
    inventory: &Inventory,
    held: BTreeMap<Key, Segment>,
    clock: &Clock,
) -> Result<TreePages, Error> {
    const STEP: &str = "find the pages";
    let mut memory = TreePages::default();
    let mut segments = Segments::of(held);
    let mut work = Vec::new();
    let lenders = lenders(inventory);
    let own = |process: &&Process| !is_zombie(process) && !lenders.contains_key(&process.pid);
    for process in inventory.processes.values().filter(own) {
        let pid = process.pid;
        let mut planned = match planned.remove(&pid) {
            Some(planned) => planned,
            // Born since the plan.
            None => PlannedMemory::open(writer, pid)?,
        };
        let logged = marked.get(&pid).map_or(&[][..], |spans| spans);
        clock.check(STEP)?;
        pre_copy.sort(&mut planned.pages, logged)?;
        let Spans { own, anonymous, whole } = spans(process, &mut segments)?;
        memory.scanned += own.iter().map(PageRun::pages).sum::<u64>();
        let known = union(logged, &anonymous);
        let (others, anonymous) = (subtract(&own, &known), subtract(&anonymous, logged));
        work.push((planned, process, others, anonymous, whole));
    }
    let at_once = pre_copy.threads.min(work.len().div_ceil(WORTH_A_THREAD));
    let each = pre_copy.threads / at_once.max(1);
    share(
        vec![(); at_once],
        work.iter_mut().collect(),
        |(planned, process, others, anonymous, whole), ()| {
            clock.check(STEP)?;
            planned.read(process, others, anonymous, whole, each)
        },
    )?;
    memory.pages = work.into_iter().map(|(planned, ..)| planned.into_pages()).collect();
    memory.process_pages = memory.pages.len();
    let by_key: Vec<(Key, Segment)> = segments.by_key.into_iter().collect();
    let runs = parts_of(&by_key, pre_copy.threads, &|| clock.check(STEP))?;
    for ((key, segment), runs) in by_key.into_iter().zip(runs) {
        let Segment { file, pid, bytes, mapped, number } = segment;
        memory.scanned += bytes / PAGE_SIZE;
        let mut pages = Pages::new(pid, Origin::Segment(file));
        pages.runs = runs;
        pages.mapped = Some(mapped);
        memory.pages.push(pages);
        memory.segments.insert(key, number);
    }
    Ok(memory)
}

/// What is to be copied of each segment, looked for by so many threads if that pays.
fn parts_of(
    segments: &[(Key, Segment)],
    threads: usize,
    is_in_time: &(dyn Fn() -> Result<(), Error> + Sync),
) -> Result<Vec<Vec<PageRun>>, Error> {
    /// As many as are looked at in the time that a thread takes to start.
    const AT_ONCE: usize = 64;
    let mut found = vec![Vec::new(); segments.len()];
    let work: Vec<_> = segments.chunks(AT_ONCE).zip(found.chunks_mut(AT_ONCE)).collect();
    share(vec![(); threads.min(work.len())], work, |(segments, found), ()| {
        is_in_time()?;
        for ((_, segment), found) in segments.iter().zip(found) {
            let pid = segment.pid;
            let failed = |source| Error::Process { operation: "read shared memory", pid, source };
            *found = runs_of(segment).map_err(failed)?;
        }
        Ok::<(), Error>(())
    })?;
    Ok(found)
}

/// Whether the kernel may take the contents of a mapping.
const fn is_droppable(mapping: &Mapping) -> bool {
    mapping.flags.contains(VmFlags::DROPPABLE)
}

/// Mappings of a process that are its own.
struct Spans {
    own: Vec<PageRun>,
    /// Those of them that are large and of no file, which are quicker to look through.
    anonymous: Vec<PageRun>,
    /// What is copied whole: the vDSO, whose code is needed to tell whether a restored program can keep calling it, and
    /// the rings of asynchronous I/O, which the kernel writes to.
    whole: Vec<PageRun>,
}

fn spans(process: &Process, segments: &mut Segments) -> Result<Spans, Error> {
    let own = Vec::with_capacity(process.mappings.len());
    let mut spans = Spans { own, anonymous: Vec::new(), whole: Vec::new() };
    for mapping in &process.mappings {
        let span = PageRun::new(mapping.start, mapping.end);
        match mapping.kind {
            // Programs keep there what must be nowhere else, and in no second process: the states of random
            // number generators. They expect to lose it.
            MappingKind::Anonymous if is_droppable(mapping) => {}
            kind if kind.is_anonymous() => {
                spans.own.push(span);
                push(&mut spans.anonymous, span.start, span.end);
            }
            MappingKind::File { shared: false }
            | MappingKind::HugePages { shared: false }
            | MappingKind::PrivateOfSharedAnonymous => {
                spans.own.push(span);
            }
            MappingKind::Vdso | MappingKind::AioRing => {
                push(&mut spans.whole, span.start, span.end);
            }
            kind if kind.is_shared_anonymous() => segments.note(process.pid, mapping)?,
            _ => {}
        }
    }
    spans.anonymous.retain(|span| span.bytes() >= LARGE);
    Ok(spans)
}

impl PlannedMemory {
    /// Finds the mappings that hold nothing of the process's own, and cannot come to while they are
    /// as they are: those of files that may not be written to. And whether it shares what it
    /// has.
    fn learn(&mut self, process: &Process, has_kin: bool) -> io::Result<()> {
        let Some(mark) = mark(process) else { return Ok(()) };
        let of_file = |mapping: &&Mapping| {
            mapping.kind == MappingKind::File { shared: false }
                && !mapping.flags.contains(VmFlags::WRITE)
        };
        let closed = process.mappings.iter().filter(of_file);
        let closed: Vec<_> =
            closed.map(|mapping| PageRun::new(mapping.start, mapping.end)).collect();
        // The kernel holds a lock of the process during each walk, and the process runs.
        let mut own = Vec::new();
        for few in windows(&closed).chunk_by(|a, b| a.start / LITTLE == b.start / LITTLE) {
            for few in few.chunks(FEW) {
                own.push(pages_of(&mut self.map, few)?);
            }
        }
        let own = joined(own);
        let first_in = |span: &PageRun| own.get(own.partition_point(|run| run.end <= span.start));
        let empty = closed
            .into_iter()
            .filter(|span| first_in(span).is_none_or(|run| run.start >= span.end));
        // Huge pages are not in the sums that tell.
        let shared_unseen = |mapping: &Mapping| {
            mapping.flags.contains(VmFlags::MERGEABLE) || mapping.flags.contains(VmFlags::HUGE_TLB)
        };
        let pid = process.pid;
        let alone = !has_kin
            && !process.mappings.iter().any(shared_unseen)
            && private_bytes(pid) <= WORTH_ASKING
            && shares_nothing(pid);
        self.known = Some(Known { mark, empty: empty.collect(), alone });
        if !alone && let Origin::Process(memory) = &self.pages.origin {
            memory.file()?;
        }
        Ok(())
    }

    /// Finds the pages in `others` and in `anonymous` memory that hold anything, by as many
    /// threads as pay, and adds them to those that are known.
    fn read(
        &mut self,
        process: &Process,
        others: &[PageRun],
        anonymous: &[PageRun],
        whole: &[PageRun],
        threads: usize,
    ) -> Result<(), Error> {
        let pid = self.pages.pid;
        let failed = |source| Error::Process { operation: "read the page map", pid, source };
        let holds = |known: &Known| mark(process) == Some(known.mark);
        let (empty, alone) = match self.known.take() {
            Some(known) if holds(&known) => (known.empty, known.alone),
            // It may have executed another program since they were opened.
            Some(_) => {
                self.open_again()?;
                (Vec::new(), false)
            }
            None => (Vec::new(), false),
        };
        // Those that were met while it ran may have gone.
        self.map.take_guards();
        let others = subtract(others, &empty);
        let mut found = match pages_of(&mut self.map, &others) {
            Ok(found) if !found.is_empty() || others.is_empty() => found,
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(failed(error)),
            // No process is without its stack: so it has.
            Ok(_) | Err(_) => {
                self.open_again()?;
                pages_of(&mut self.map, &others).map_err(failed)?
            }
        };
        let threads = match process.mappings.len() > MANY || bytes(anonymous) > MUCH {
            true => threads,
            false => 1,
        };
        let own = anonymous_pages(pid, &mut self.map, parts(process, anonymous), threads)?;
        // What is not there is another thing than zeros, for who serves it.
        let mut there = Vec::new();
        for mapping in process.mappings.iter().filter(|mapping| is_served(mapping.flags)) {
            let span = PageRun::new(mapping.start, mapping.end);
            self.map.pages_there(span, &mut there).map_err(failed)?;
        }
        for more in [own, std::mem::take(&mut self.pages.runs), whole.to_vec(), there] {
            if !more.is_empty() {
                found = union(&found, &more);
            }
        }
        self.pages.runs = found;
        for span in unread(process) {
            self.map.look_for_guards(span).map_err(failed)?;
        }
        self.pages.guards = union(&self.pages.guards, &self.map.take_guards());
        if let Origin::Process(memory) = &mut self.pages.origin {
            memory.alone = alone;
        }
        Ok(())
    }

    fn into_pages(mut self) -> Pages {
        if let Origin::Process(memory) = &mut self.pages.origin {
            memory.map = Some(self.map);
        }
        self.pages
    }

    fn open_again(&mut self) -> Result<(), Error> {
        let pid = self.pages.pid;
        self.map = open(pid)?;
        self.pages.origin = Origin::Process(Source::of(pid));
        Ok(())
    }
}

/// Mappings with guard regions of which the page map is not read for pages, or may not be.
fn unread(process: &Process) -> impl Iterator<Item = PageRun> {
    let guarded = process.mappings.iter().filter(|mapping| mapping.flags.contains(VmFlags::GUARD));
    let unread = guarded.filter(|mapping| {
        is_droppable(mapping) || mapping.kind.is_of_file() || mapping.kind.is_shared_memory()
    });
    unread.map(|mapping| PageRun::new(mapping.start, mapping.end))
}

/// What changes with every change of the process's mappings.
fn mark(process: &Process) -> Option<NonZeroU64> {
    process.in_process.as_ref()?.mappings_mark
}

/// The pages in `spans` that hold anything. A walk goes over all that lies between the first and
/// the last span, so what is far apart is walked through apart.
fn pages_of(map: &mut PageMap, spans: &[PageRun]) -> io::Result<Vec<PageRun>> {
    let mut found = Vec::new();
    for near in spans.chunk_by(|a, b| b.start - a.end <= NEAR) {
        found.extend(map.private_pages(near)?);
    }
    Ok(found)
}

/// Cuts spans of anonymous memory into parts that take about as long to look through as one
/// another. What counts is how many mappings there are, and how much memory.
fn parts(process: &Process, spans: &[PageRun]) -> Vec<PageRun> {
    let largest = LITTLE.max(bytes(spans) / PARTS / PAGE_SIZE * PAGE_SIZE);
    let mut parts = Vec::new();
    let mut mappings = &process.mappings[..];
    for span in spans {
        let mut part = PageRun::new(span.start, span.start);
        let mut count = 0;
        mappings = &mappings[mappings.partition_point(|mapping| mapping.end <= span.start)..];
        for mapping in mappings.iter().take_while(|mapping| mapping.start < span.end) {
            let end = mapping.end.min(span.end);
            while part.end < end {
                part.end = end.min(part.start + largest);
                count += 1;
                if count == FEW || part.bytes() == largest {
                    parts.push(part);
                    part = PageRun::new(part.end, part.end);
                    count = 0;
                }
            }
        }
        if part.bytes() > 0 {
            parts.push(part);
        }
    }
    parts
}

/// The pages in parts of anonymous memory that hold anything, found by so many threads.
fn anonymous_pages(
    pid: HostPid,
    map: &mut PageMap,
    parts: Vec<PageRun>,
    threads: usize,
) -> Result<Vec<PageRun>, Error> {
    let failed = |source| Error::Process { operation: "read the page map", pid, source };
    let mut others = map.clones(threads - 1).map_err(failed)?;
    let maps = std::iter::once(&mut *map).chain(&mut others).collect();
    let mut found = vec![Vec::new(); parts.len()];
    let work = parts.into_iter().zip(&mut found).collect();
    share(maps, work, |(part, found), map| look_through(map, part, found).map_err(failed))?;
    map.join(others);
    Ok(joined(found))
}

fn look_through(map: &mut PageMap, span: PageRun, found: &mut Vec<PageRun>) -> io::Result<()> {
    match map.anonymous_pages(span, found) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            found.extend(map.private_pages(&[span])?);
            Ok(())
        }
        done => done,
    }
}

/// An estimate of the memory that a dump of the tree will hold. Shared memory counts once, with what is there of it.
pub(crate) fn resident_bytes(inventory: &Inventory) -> u64 {
    let mut segments = BTreeMap::new();
    for process in inventory.processes.values() {
        for mapping in process.mappings.iter().filter(|mapping| mapping.kind.is_shared_memory()) {
            let key = (mapping.device, mapping.inode);
            segments.entry(key).or_insert_with(|| super::shared::allocated(process.pid, mapping));
        }
    }
    let lenders = lenders(inventory);
    let own = inventory.processes.keys().filter(|pid| !lenders.contains_key(pid));
    let private = own.map(|&pid| private_bytes(pid));
    private.chain(segments.into_values()).sum()
}
