//! Page maps: which pages of an address space are stored, and where.

use std::io::Read;

use crate::error::Error;
use crate::messages::{PagemapEntry, PagemapHead, page_flags};
use crate::reader::ImageReader;

/// Bytes of a page. Images are made of pages of the machine that wrote them; 4 KiB on all that are
/// supported.
pub const PAGE_SIZE: u64 = 4096;

/// Where pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPlace {
    /// In the checkpoint's pages file, from this offset on.
    Stored(u64),
    /// In the parent checkpoint.
    Parent,
    /// Nowhere: they are to be brought in later, from where the dump was made.
    Lazy,
    /// Nowhere: they are zeros.
    Zero,
}

/// Pages that follow one another in memory, and where they are too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Address of the first.
    pub start: u64,
    /// How many there are.
    pub pages: u64,
    /// Where they are.
    pub place: RunPlace,
}

impl PageRun {
    /// Bytes of the run.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// Address after the last page.
    pub fn end(&self) -> u64 {
        self.start + self.bytes()
    }

    /// The pages are in the parent checkpoint.
    pub fn in_parent(&self) -> bool {
        self.place == RunPlace::Parent
    }

    /// The pages are in this checkpoint's pages file.
    pub fn is_stored(&self) -> bool {
        matches!(self.place, RunPlace::Stored(_))
    }
}

/// Runs that are read one by one.
#[derive(Debug, Default)]
pub(crate) struct PageRuns {
    runs: Vec<PageRun>,
    /// Bytes of those that are stored.
    stored: u64,
}

impl PageRuns {
    /// Adds one, which is stored behind those before it.
    pub(crate) fn add(&mut self, name: &str, entry: &PagemapEntry) -> Result<(), Error> {
        self.runs.push(run(name, entry, &mut self.stored)?);
        Ok(())
    }

    /// All of them in ascending order.
    pub(crate) fn in_order(mut self, name: &str) -> Result<Vec<PageRun>, Error> {
        // CRIU writes lazy pages and others through different buffers, so a later run may be at a lower address.
        self.runs.sort_by_key(|run| run.start);
        match self.runs.windows(2).find(|pair| pair[0].end() > pair[1].start) {
            Some(pair) => Err(Error::invalid(name, format!("pages at {:#x} twice", pair[1].start))),
            None => Ok(self.runs),
        }
    }
}

/// The page map of an address space, or of a piece of shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMap {
    /// Number of the pages file.
    pub pages_id: u32,
    /// In ascending order, without overlap.
    pub runs: Vec<PageRun>,
}

impl PageMap {
    /// Reads a page map and finds where each run is in the pages file.
    pub(crate) fn read<R: Read>(
        name: &str,
        mut reader: ImageReader<R, PagemapHead>,
    ) -> Result<Self, Error> {
        let head = reader
            .next_entry()?
            .ok_or_else(|| Error::Count { name: name.to_owned(), found: "none" })?;
        let mut runs = PageRuns::default();
        while let Some(entry) = reader.next_as::<PagemapEntry>()? {
            runs.add(name, &entry)?;
        }
        Ok(Self { pages_id: head.pages_id, runs: runs.in_order(name)? })
    }

    /// Pages in the pages file.
    pub fn stored_pages(&self) -> u64 {
        self.runs.iter().filter(|run| run.is_stored()).map(|run| run.pages).sum()
    }

    /// How long the pages file has to be.
    pub(crate) fn needed_bytes(&self) -> u64 {
        let end = |run: &PageRun| match run.place {
            RunPlace::Stored(offset) => offset + run.bytes(),
            RunPlace::Parent | RunPlace::Lazy | RunPlace::Zero => 0,
        };
        self.runs.iter().map(end).max().unwrap_or(0)
    }

    /// Bytes in the pages file.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_pages() * PAGE_SIZE
    }

    /// The run that the page at `address` is in.
    pub fn find(&self, address: u64) -> Option<&PageRun> {
        let after = self.runs.partition_point(|run| run.start <= address);
        self.runs[..after].last().filter(|run| address < run.end())
    }
}

fn run(name: &str, entry: &PagemapEntry, stored: &mut u64) -> Result<PageRun, Error> {
    let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
    let start = entry.vaddr;
    let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| start.checked_add(bytes));
    if !start.is_multiple_of(PAGE_SIZE) || pages == 0 || end.is_none() {
        return Err(Error::invalid(name, format!("{pages} pages at {start:#x}")));
    }
    let flags = match entry.in_parent() {
        true => page_flags::PARENT,
        false => entry.flags.unwrap_or(page_flags::PRESENT),
    };
    let offset = *stored;
    let has = |flag: u32| flags & flag != 0;
    if has(page_flags::PRESENT) {
        *stored = stored
            .checked_add(pages * PAGE_SIZE)
            .ok_or_else(|| Error::invalid(name, "more pages than any file holds"))?;
    }
    // What CRIU calls lazy may be stored as well: it need not come first then.
    let place = match () {
        () if has(page_flags::PARENT) => RunPlace::Parent,
        () if has(page_flags::PRESENT) => RunPlace::Stored(offset),
        () if has(page_flags::LAZY) => RunPlace::Lazy,
        () => RunPlace::Zero,
    };
    Ok(PageRun { start, pages, place })
}

impl PagemapEntry {
    /// An entry for `pages` pages from `vaddr`, readable by every CRIU 4 (4.0 knows the 32-bit count only).
    pub fn run(vaddr: u64, pages: u64, flags: u32) -> Self {
        Self {
            vaddr,
            compat_nr_pages: u32::try_from(pages).unwrap_or(0),
            in_parent: None,
            flags: Some(flags),
            nr_pages: Some(pages),
        }
    }
}
