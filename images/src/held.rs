//! What a checkpoint holds of an address space, or of shared memory, wherever its pages are: in its own pages file, or in that of
//! a parent.

use crate::error::Error;
use crate::lineage::Lineage;
use crate::messages::PagemapHead;
use crate::names::Image;
use crate::pagemap::{PAGE_SIZE, PageMap, PageRun, RunPlace};

/// Where pages are, parents looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// In a pages file of the checkpoint that is so many levels up (0 is the one that was asked), from an offset on.
    Stored {
        /// How many parents up.
        level: usize,
        /// Number of the pages file there.
        pages_id: u32,
        /// Where in the file.
        offset: u64,
    },
    /// Nowhere: they are to be brought in later, from where the dump was made.
    Lazy,
    /// Nowhere: they are zeros.
    Zero,
}

impl Held {
    /// The place of what is so many bytes behind.
    #[must_use]
    pub const fn after(self, bytes: u64) -> Self {
        match self {
            Self::Stored { level, pages_id, offset } => {
                Self::Stored { level, pages_id, offset: offset + bytes }
            }
            nowhere => nowhere,
        }
    }
}

/// Pages that follow one another in memory, and where they are too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldRun {
    /// Address of the first.
    pub start: u64,
    /// How many there are.
    pub pages: u64,
    /// Where they are.
    pub held: Held,
}

impl HeldRun {
    /// Address after the last page.
    pub fn end(&self) -> u64 {
        self.start + self.pages * PAGE_SIZE
    }
}

impl Lineage {
    /// All pages that a page map of the checkpoint has, by rising address; those that it has left to its parents are looked up there.
    /// `map` is what `image` says.
    ///
    /// # Errors
    /// If a parent cannot be read, or has not what was left to it.
    pub fn held(
        &mut self,
        image: &Image<PagemapHead>,
        map: &PageMap,
    ) -> Result<Vec<HeldRun>, Error> {
        let mut found = Vec::with_capacity(map.runs.len());
        let mut in_parent = Vec::new();
        for run in &map.runs {
            match here(0, map, run, (run.start, run.end())) {
                Some(held) => found.push(held),
                None => in_parent.push((run.start, run.end())),
            }
        }
        for level in 1.. {
            if in_parent.is_empty() {
                break;
            }
            let map = self.level(level)?.page_map(image)?.unwrap_or_default();
            in_parent = self.above((image.name(), &map), level, &in_parent, &mut found)?;
        }
        found.sort_by_key(|run| run.start);
        Ok(found)
    }

    /// Finds `wanted` ranges in a parent; returns what is in the next one up.
    fn above(
        &mut self,
        (name, map): (&str, &PageMap),
        level: usize,
        wanted: &[(u64, u64)],
        found: &mut Vec<HeldRun>,
    ) -> Result<Vec<(u64, u64)>, Error> {
        let mut further = Vec::new();
        for &(start, end) in wanted {
            let mut at = start;
            while at < end {
                let Some(run) = map.find(at) else {
                    let path = self.level(level)?.path().display();
                    let what = format!("the page at {at:#x} should be in {path}, and is not");
                    return Err(Error::invalid(name, what));
                };
                let until = end.min(run.end());
                match here(level, map, run, (at, until)) {
                    Some(held) => found.push(held),
                    None => further.push((at, until)),
                }
                at = until;
            }
        }
        Ok(further)
    }
}

/// Where a part of a run is; `None` if that is a parent.
fn here(level: usize, map: &PageMap, run: &PageRun, (start, end): (u64, u64)) -> Option<HeldRun> {
    let held = match run.place {
        RunPlace::Stored(offset) => {
            Held::Stored { level, pages_id: map.pages_id, offset: offset + (start - run.start) }
        }
        RunPlace::Parent => return None,
        RunPlace::Lazy => Held::Lazy,
        RunPlace::Zero => Held::Zero,
    };
    Some(HeldRun { start, pages: (end - start) / PAGE_SIZE, held })
}
