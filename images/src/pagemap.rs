//! Page maps: which pages of an address space are stored, and where.

use std::io::Read;

use crate::error::Error;
use crate::messages::{PagemapEntry, PagemapHead, page_flags};
use crate::reader::ImageReader;

/// Bytes of a page. Images are made of pages of the machine that wrote them; 4 KiB on all that are
/// supported.
pub const PAGE_SIZE: u64 = 4096;

/// Pages that follow one another in memory, and in the pages file if they are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Address of the first.
    pub start: u64,
    /// How many there are.
    pub pages: u64,
    /// The bits of [`page_flags`].
    pub flags: u32,
    /// Where they begin in the pages file, if they are there.
    pub offset: Option<u64>,
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
        self.flags & page_flags::PARENT != 0
    }

    /// The pages may be brought in later.
    pub fn lazy(&self) -> bool {
        self.flags & page_flags::LAZY != 0
    }

    /// The pages are in this checkpoint's pages file.
    pub fn present(&self) -> bool {
        self.offset.is_some()
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
        let mut map = Self { pages_id: head.pages_id, runs: Vec::new() };
        let mut stored = 0;
        while let Some(entry) = reader.next_as::<PagemapEntry>()? {
            map.runs.push(run(name, &entry, &mut stored)?);
        }
        // CRIU writes lazy pages and others through different buffers, so a later run may be at a lower address.
        map.runs.sort_by_key(|run| run.start);
        if let Some(pair) = map.runs.windows(2).find(|pair| pair[0].end() > pair[1].start) {
            return Err(Error::invalid(name, format!("pages at {:#x} twice", pair[1].start)));
        }
        Ok(map)
    }

    /// Pages in the pages file.
    pub fn stored_pages(&self) -> u64 {
        self.runs.iter().filter(|run| run.present()).map(|run| run.pages).sum()
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
    let mut flags = entry.flags.unwrap_or(page_flags::PRESENT);
    if entry.in_parent() {
        flags = (flags | page_flags::PARENT) & !page_flags::PRESENT;
    }
    let start = entry.vaddr;
    let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| start.checked_add(bytes));
    if !start.is_multiple_of(PAGE_SIZE) || pages == 0 || end.is_none() {
        return Err(Error::invalid(name, format!("{pages} pages at {start:#x}")));
    }
    let offset = (flags & page_flags::PRESENT != 0).then_some(*stored);
    if offset.is_some() {
        *stored = stored
            .checked_add(pages * PAGE_SIZE)
            .ok_or_else(|| Error::invalid(name, "more pages than any file holds"))?;
    }
    Ok(PageRun { start, pages, flags, offset })
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
