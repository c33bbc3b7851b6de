//! What page tables tell of logged memory: which pages are written, and which are still there.

use std::io;

use kernel::pagemap::{PAGE_SIZE, PageMap, PageRun, clip};

use super::copies::windows;
use super::runs::{bytes, coalesce};

/// If of so many pages more than one begins a run of unprotected ones, all are looked at together.
const FEW: u64 = 64;
/// Bytes that a page table covers: a hole as large is not reported by the quick scan.
const TABLE: u64 = 2 << 20;

/// Cuts spans into about so many parts of the same size, at places where no page table is cut.
pub(super) fn parts(spans: &[PageRun], count: usize) -> Vec<Vec<PageRun>> {
    let size = (bytes(spans) / count as u64).next_multiple_of(TABLE).max(TABLE);
    let mut parts = vec![Vec::new()];
    let mut room = size;
    for span in spans {
        let mut at = span.start;
        while at < span.end {
            if room == 0 {
                parts.push(Vec::new());
                room = size;
            }
            // A part that does not begin with a table is a little larger.
            let end = span.end.min((at + room).next_multiple_of(TABLE));
            parts.last_mut().into_iter().for_each(|part| part.push(PageRun::new(at, end)));
            room = room.saturating_sub(end - at);
            at = end;
        }
    }
    parts
}

/// What a look at logged memory tells.
pub(super) struct Look {
    /// Pages that were written and hold anything.
    pub(super) written: Vec<PageRun>,
    /// All that are not protected.
    pub(super) unprotected: Vec<PageRun>,
}

/// Looks at logged memory; with `protect` what was written is protected again.
pub(super) fn look(map: &mut PageMap, spans: &[PageRun], protect: bool) -> io::Result<Look> {
    let mut unprotected = Vec::new();
    for &span in spans {
        map.unprotected(span, &mut unprotected)?;
    }
    // Some of them hold nothing at all.
    let near = clip(&coalesce(&unprotected, 32 * PAGE_SIZE), spans);
    let many = near.len() as u64 > bytes(spans) / PAGE_SIZE / FEW;
    let mut written = Vec::new();
    for window in windows(if many { spans } else { &near }) {
        map.written(window, protect, 0, &mut written)?;
        if protect {
            // That scan passes over them.
            map.look_for_guards(window)?;
        }
    }
    Ok(Look { written, unprotected })
}

/// Leaves out what is no longer there. Where there is a page table, the scan has told of every
/// page that is not; so one page of each tells whether there is a table.
pub(super) fn without_holes(map: &mut PageMap, kept: &[PageRun]) -> io::Result<Vec<PageRun>> {
    let mut there = Vec::with_capacity(kept.len());
    let mut last = (u64::MAX, false);
    for run in kept {
        let mut at = run.start;
        while at < run.end {
            let table = at / TABLE;
            if last.0 != table {
                last = (table, map.holds_page(at)?);
            }
            let end = run.end.min((table + 1) * TABLE);
            if last.1 {
                kernel::pagemap::push(&mut there, at, end);
            } else {
                // Unless it is this one page that the kernel has taken back meanwhile.
                map.anonymous_pages(PageRun::new(at, end), &mut there)?;
            }
            at = end;
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_even_and_cut_no_table() {
        let spans = [
            PageRun::new(PAGE_SIZE, 100 * TABLE),
            PageRun::new(200 * TABLE, 200 * TABLE + PAGE_SIZE),
            PageRun::new(300 * TABLE + PAGE_SIZE, 400 * TABLE),
        ];
        let cut = parts(&spans, 8);
        assert!((7..=9).contains(&cut.len()), "{}", cut.len());
        let all: Vec<PageRun> = cut.iter().flatten().copied().collect();
        assert_eq!(coalesce(&all, 0), spans);
        for part in &cut {
            let last = part.last().unwrap();
            assert!(last.end % TABLE == 0 || spans.iter().any(|span| span.end == last.end));
            assert!(bytes(part) <= 26 * TABLE);
        }
        assert_eq!(parts(&spans[1..2], 8).len(), 1);
    }
}
