//! Which pages hold anything, found when the target stands still.

use std::collections::BTreeMap;
use std::io;

use collector::{Inventory, Process, VmFlags};
use images::ImageWriter;
use kernel::pagemap::{PageMap, PageRun, push};

use super::copy::{Origin, processors, share_among};
use super::early::{Early, Marked, private_bytes};
use super::pages::Pages;
use super::runs::{subtract, union};
use super::shared::{Segment, Segments, segment_runs};
use crate::error::Error;
use crate::ids::is_zombie;
use crate::mappings::{self, Kind};

/// Bytes of memory of no file, side by side, that are worth a walk of their own.
const LARGE: u64 = 1 << 20;

/// Processes of which the page maps are worth a thread.
const WORTH_A_THREAD: usize = 8;

/// What will be needed of the memory of one process.
#[derive(Debug)]
pub(crate) struct PlannedMemory {
    map: PageMap,
    /// Empty, with its file.
    pages: Pages,
}

impl PlannedMemory {
    pub(crate) fn open(writer: &ImageWriter, pid: i32) -> Result<Self, Error> {
        Ok(Self { map: open(pid)?, pages: Pages::new(writer, pid, Origin::Process(pid))? })
    }
}

fn open(pid: i32) -> Result<PageMap, Error> {
    PageMap::open(pid).map_err(|source| Error::Process {
        operation: "open the page map",
        pid,
        source,
    })
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
        work.push((planned, subtract(&own, &known), subtract(&anonymous, tracked), vdso));
    }
    let threads = processors().min(work.len().div_ceil(WORTH_A_THREAD));
    share_among(threads, work.iter_mut().collect(), |(planned, others, anonymous, vdso), _| {
        planned.read(others, anonymous, *vdso)
    })?;
    memory.pages = work.into_iter().map(|(planned, ..)| planned.pages).collect();
    memory.process_pages = memory.pages.len();
    for (key, Segment { file, pid, bytes }) in segments.0 {
        let failed = |source| Error::Process { operation: "read shared memory", pid, source };
        let runs = segment_runs(&file, bytes).map_err(failed)?;
        memory.scanned += bytes / kernel::pagemap::PAGE_SIZE;
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
    /// Finds the pages in `others` and in `anonymous` memory that hold anything, and adds them to
    /// those that are known.
    fn read(
        &mut self,
        others: &[PageRun],
        anonymous: &[PageRun],
        vdso: Option<PageRun>,
    ) -> Result<(), Error> {
        let pid = self.pages.pid;
        let failed = |source| Error::Process { operation: "read the page map", pid, source };
        let mut found = pages_of(&mut self.map, others, anonymous).map_err(failed)?;
        if found.is_empty() && !others.is_empty() {
            // No process is without its stack: it has executed another program since the map was
            // opened, which is still that of the old one.
            self.map = open(pid)?;
            found = pages_of(&mut self.map, others, anonymous).map_err(failed)?;
        }
        if let Some(vdso) = vdso {
            found = union(&found, &[vdso]);
        }
        self.pages.runs = match self.pages.runs.is_empty() {
            true => found,
            false => union(&self.pages.runs, &found),
        };
        Ok(())
    }
}

/// The pages in `spans`, and in `anonymous` memory, that hold anything.
fn pages_of(
    map: &mut PageMap,
    spans: &[PageRun],
    anonymous: &[PageRun],
) -> io::Result<Vec<PageRun>> {
    let mut found = Vec::new();
    let mut rest = spans;
    for large in anonymous {
        // A walk goes over all that lies between the first and the last span.
        let (before, behind) = rest.split_at(rest.partition_point(|span| span.start < large.start));
        found.extend(map.private_pages(before)?);
        match map.anonymous_pages(*large, &mut found) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                found.extend(map.private_pages(&[*large])?);
            }
            done => done?,
        }
        rest = behind;
    }
    found.extend(map.private_pages(rest)?);
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
