//! Which pages hold anything, found when the target stands still.

use std::collections::BTreeMap;
use std::io;

use collector::{Inventory, Process, VmFlags};
use images::ImageWriter;
use kernel::pagemap::{PageMap, PageRun};

use super::copy::Origin;
use super::early::{Early, Marked, private_bytes};
use super::pages::Pages;
use super::runs::{subtract, union};
use super::shared::{Segment, Segments, segment_runs};
use crate::error::Error;
use crate::ids::is_zombie;
use crate::mappings::{self, Kind};

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
    for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
        let pid = process.pid;
        let planned = match planned.remove(&pid) {
            Some(planned) => planned,
            // Born since the plan.
            None => PlannedMemory::open(writer, pid)?,
        };
        let tracked = marked.get(&pid).map_or(&[][..], |spans| spans);
        let (pages, scanned) = of_process(process, planned, early, tracked, &mut segments)?;
        memory.scanned += scanned;
        memory.pages.push(pages);
    }
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

fn of_process(
    process: &Process,
    planned: PlannedMemory,
    early: &mut Early,
    tracked: &[PageRun],
    segments: &mut Segments,
) -> Result<(Pages, u64), Error> {
    let PlannedMemory { mut map, mut pages } = planned;
    let pid = process.pid;
    let mut own = Vec::with_capacity(process.mappings.len());
    let mut vdso = None;
    for mapping in &process.mappings {
        let span = PageRun::new(mapping.start, mapping.end);
        match mappings::classify(mapping) {
            Ok(Kind::Anonymous | Kind::Heap | Kind::File { shared: false, .. }) => own.push(span),
            // Its code is needed to tell whether a restored program can keep calling it.
            Ok(Kind::Vdso) => vdso = Some(span),
            Ok(Kind::SharedAnonymous) => segments.note(pid, mapping)?,
            _ => {}
        }
    }
    let scanned = own.iter().map(PageRun::pages).sum();
    let failed = |source| Error::Process { operation: "read the page map", pid, source };
    early.sort(&mut pages, tracked)?;
    let others = subtract(&own, tracked);
    let mut found = private_pages(&mut map, &others, tracked).map_err(failed)?;
    if found.is_empty() && !others.is_empty() {
        // No process is without its stack: it has executed another program since the map was
        // opened, which is still that of the old one.
        map = open(pid)?;
        found = private_pages(&mut map, &others, tracked).map_err(failed)?;
    }
    pages.runs = union(&pages.runs, &found);
    if let Some(vdso) = vdso {
        pages.runs = union(&pages.runs, &[vdso]);
    }
    Ok((pages, scanned))
}

/// The pages in `spans` that hold anything. A walk goes over all that lies between the first and
/// the last span, so what is `tracked`, and large, is gone around.
fn private_pages(
    map: &mut PageMap,
    spans: &[PageRun],
    tracked: &[PageRun],
) -> io::Result<Vec<PageRun>> {
    let mut found = Vec::new();
    let mut rest = spans;
    for around in tracked {
        let (before, behind) =
            rest.split_at(rest.partition_point(|span| span.start < around.start));
        found.extend(map.private_pages(before)?);
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
