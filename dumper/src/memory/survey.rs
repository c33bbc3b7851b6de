//! Which pages hold anything, found when the target stands still.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;

use collector::{Inventory, Mapping, Process, VmFlags};
use images::ImageWriter;
use kernel::pagemap::{PAGE_SIZE, PageMap, PageRun, push};

use super::copy::{Origin, processors, share_among};
use super::early::{Early, Marked, private_bytes};
use super::pages::Pages;
use super::runs::{bytes, subtract, union};
use super::shared::{Segment, Segments, segment_runs};
use crate::error::Error;
use crate::ids::is_zombie;
use crate::mappings::{self, Kind};

/// Bytes of memory of no file, side by side, that are worth a walk of their own.
const LARGE: u64 = 1 << 20;

/// Mappings, and bytes of memory of no file, of a process that are worth two threads.
const MANY: usize = 4000;
const MUCH: u64 = 512 << 20;

/// Processes of which the page maps are worth a thread.
const WORTH_A_THREAD: usize = 8;

/// What will be needed of the memory of one process.
#[derive(Debug)]
pub(crate) struct PlannedMemory {
    map: PageMap,
    /// Empty, with its file.
    pages: Pages,
    /// Mappings that hold nothing of its own for as long as this mark of theirs holds.
    quiet: Option<(NonZeroU64, Vec<PageRun>)>,
}

impl PlannedMemory {
    pub(crate) fn open(writer: &ImageWriter, pid: i32) -> Result<Self, Error> {
        let pages = Pages::new(writer, pid, Origin::Process(pid))?;
        Ok(Self { map: open(pid)?, pages, quiet: None })
    }
}

fn open(pid: i32) -> Result<PageMap, Error> {
    PageMap::open(pid).map_err(|source| Error::Process {
        operation: "open the page map",
        pid,
        source,
    })
}

/// Learns what can be learned of the memory of a tree that runs; `inventory` is the last one that
/// is taken of it.
pub(crate) fn learn(planned: &mut BTreeMap<i32, PlannedMemory>, inventory: &Inventory) {
    for (pid, planned) in planned {
        let Some(process) = inventory.processes.get(pid) else { continue };
        if let Err(error) = planned.learn(process) {
            tracing::debug!(pid, %error, "read the page map of a running process");
        }
    }
}

/// The pages of a tree.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Private pages, by process, and then those of the segments.
    pub(crate) pages: Vec<Pages>,
    /// How many of `pages` belong to processes.
    pub(crate) process_pages: usize,
    /// Shared anonymous segments (device, inode) and the number that the images give them.
    pub(crate) segments: BTreeMap<(u64, u64), u64>,
    /// Pages looked at.
    pub(crate) scanned: u64,
}

/// Finds the pages that hold anything, of a tree that stands still.
pub(crate) fn find(
    planned: &mut BTreeMap<i32, PlannedMemory>,
    early: &mut Early,
    marked: &Marked,
    writer: &ImageWriter,
    inventory: &Inventory,
) -> Result<Memory, Error> {
    let mut memory = Memory::default();
    let mut segments = Segments::default();
    let mut work = Vec::new();
    for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
        let pid = process.pid;
        let mut planned = match planned.remove(&pid) {
            Some(planned) => planned,
            // Born since the plan.
            None => PlannedMemory::open(writer, pid)?,
        };
        let tracked = marked.get(&pid).map_or(&[][..], |spans| spans);
        early.sort(&mut planned.pages, tracked)?;
        let Spans { own, anonymous, vdso } = spans(process, &mut segments)?;
        memory.scanned += own.iter().map(PageRun::pages).sum::<u64>();
        let known = union(tracked, &anonymous);
        let (others, anonymous) = (subtract(&own, &known), subtract(&anonymous, tracked));
        work.push((planned, process, others, anonymous, vdso));
    }
    let threads = processors().min(work.len().div_ceil(WORTH_A_THREAD));
    share_among(
        threads,
        work.iter_mut().collect(),
        |(planned, process, others, anonymous, vdso), _| {
            planned.read(process, others, anonymous, *vdso)
        },
    )?;
    memory.pages = work.into_iter().map(|(planned, ..)| planned.pages).collect();
    memory.process_pages = memory.pages.len();
    for (key, Segment { file, pid, bytes }) in segments.0 {
        let failed = |source| Error::Process { operation: "read shared memory", pid, source };
        let runs = segment_runs(&file, bytes).map_err(failed)?;
        memory.scanned += bytes / PAGE_SIZE;
        let mut pages = Pages::new(writer, pid, Origin::Segment(file))?;
        pages.runs = runs;
        memory.pages.push(pages);
        memory.segments.insert(key, key.1);
    }
    Ok(memory)
}

/// Mappings of a process that are its own.
struct Spans {
    own: Vec<PageRun>,
    /// Those of them that are large and of no file, which are quicker to look through.
    anonymous: Vec<PageRun>,
    /// Its code is needed to tell whether a restored program can keep calling it.
    vdso: Option<PageRun>,
}

fn spans(process: &Process, segments: &mut Segments) -> Result<Spans, Error> {
    let own = Vec::with_capacity(process.mappings.len());
    let mut spans = Spans { own, anonymous: Vec::new(), vdso: None };
    for mapping in &process.mappings {
        let span = PageRun::new(mapping.start, mapping.end);
        match mappings::classify(mapping) {
            Ok(Kind::Anonymous | Kind::Heap) => {
                spans.own.push(span);
                push(&mut spans.anonymous, span.start, span.end);
            }
            Ok(Kind::File { shared: false, .. }) => spans.own.push(span),
            Ok(Kind::Vdso) => spans.vdso = Some(span),
            Ok(Kind::SharedAnonymous) => segments.note(process.pid, mapping)?,
            _ => {}
        }
    }
    spans.anonymous.retain(|span| span.bytes() >= LARGE);
    Ok(spans)
}

impl PlannedMemory {
    /// Finds the mappings that hold nothing of the process's own, and cannot come to while they are
    /// as they are: those of files that may not be written to.
    fn learn(&mut self, process: &Process) -> io::Result<()> {
        let Some(mark) = mark(process) else { return Ok(()) };
        let of_file = |mapping: &&Mapping| {
            matches!(mappings::classify(mapping), Ok(Kind::File { shared: false, .. }))
                && !mapping.flags.contains(VmFlags::WRITE)
        };
        let closed = process.mappings.iter().filter(of_file);
        let closed: Vec<_> =
            closed.map(|mapping| PageRun::new(mapping.start, mapping.end)).collect();
        let own = self.map.private_pages(&closed)?;
        let first_in = |span: &PageRun| own.get(own.partition_point(|run| run.end <= span.start));
        let empty = closed
            .into_iter()
            .filter(|span| first_in(span).is_none_or(|run| run.start >= span.end));
        self.quiet = Some((mark, empty.collect()));
        Ok(())
    }

    /// Finds the pages in `others` and in `anonymous` memory that hold anything, and adds them to
    /// those that are known.
    fn read(
        &mut self,
        process: &Process,
        others: &[PageRun],
        anonymous: &[PageRun],
        vdso: Option<PageRun>,
    ) -> Result<(), Error> {
        let pid = self.pages.pid;
        let failed = |source| Error::Process { operation: "read the page map", pid, source };
        let quiet = self.quiet.take().filter(|(then, _)| mark(process) == Some(*then));
        let quiet = quiet.map(|(_, spans)| spans).unwrap_or_default();
        let others = subtract(others, &quiet);
        let around = union(&quiet, anonymous);
        let mut found = pages_of(&mut self.map, &others, &around).map_err(failed)?;
        if found.is_empty() && !others.is_empty() {
            // No process is without its stack: it has executed another program since the map was
            // opened, which is still that of the old one.
            self.map = open(pid)?;
            found = pages_of(&mut self.map, &others, &around).map_err(failed)?;
        }
        let many = process.mappings.len() > MANY || bytes(anonymous) > MUCH;
        let own = anonymous_pages(pid, &mut self.map, anonymous, many).map_err(failed)?;
        for more in [own, std::mem::take(&mut self.pages.runs), vdso.into_iter().collect()] {
            if !more.is_empty() {
                found = union(&found, &more);
            }
        }
        self.pages.runs = found;
        Ok(())
    }
}

/// What changes with every change of the process's mappings.
fn mark(process: &Process) -> Option<NonZeroU64> {
    process.in_process.as_ref()?.mappings_mark
}

/// The pages in `spans` that hold anything. A walk goes over all that lies between the first and
/// the last span, so what is large, or need not be looked at, is gone around.
fn pages_of(map: &mut PageMap, spans: &[PageRun], around: &[PageRun]) -> io::Result<Vec<PageRun>> {
    let mut found = Vec::new();
    let mut rest = spans;
    for large in around {
        let (before, behind) = rest.split_at(rest.partition_point(|span| span.start < large.start));
        found.extend(map.private_pages(before)?);
        rest = behind;
    }
    found.extend(map.private_pages(rest)?);
    Ok(found)
}

/// The pages in spans of anonymous memory that hold anything. Two threads look for them where there
/// are `many` mappings, or much memory.
fn anonymous_pages(
    pid: i32,
    map: &mut PageMap,
    spans: &[PageRun],
    many: bool,
) -> io::Result<Vec<PageRun>> {
    let half = bytes(spans) / 2 / PAGE_SIZE * PAGE_SIZE;
    if !many || half == 0 || processors() < 2 {
        return look_through(map, spans);
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut before = 0;
    for span in spans {
        let middle = span.start + (half - before).min(span.bytes());
        push(&mut first, span.start, middle);
        push(&mut second, middle, span.end);
        before += middle - span.start;
    }
    for halves in [&mut first, &mut second] {
        halves.retain(|span| span.bytes() > 0);
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(|| look_through(&mut PageMap::open(pid)?, &second));
        let mut found = look_through(map, &first)?;
        let panicked = |_| Err(io::Error::other("a thread panicked"));
        found.extend(other.join().unwrap_or_else(panicked)?);
        Ok(found)
    })
}

fn look_through(map: &mut PageMap, spans: &[PageRun]) -> io::Result<Vec<PageRun>> {
    let mut found = Vec::new();
    for span in spans {
        match map.anonymous_pages(*span, &mut found) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                found.extend(map.private_pages(&[*span])?);
            }
            done => done?,
        }
    }
    Ok(found)
}

/// An estimate of the memory that a dump of the tree will hold.
pub(crate) fn resident_bytes(inventory: &Inventory) -> u64 {
    let shared: u64 = inventory
        .processes
        .values()
        .flat_map(|process| &process.mappings)
        .filter(|mapping| mapping.flags.contains(VmFlags::MAY_SHARE))
        .filter(|mapping| mapping.name == "/dev/zero (deleted)")
        .map(|mapping| mapping.end - mapping.start)
        .sum();
    inventory.processes.keys().map(|&pid| private_bytes(pid)).sum::<u64>() + shared
}
