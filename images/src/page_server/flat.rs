//! The page maps of a checkpoint and of what was copied early inside it, as one.

use crate::error::Error;
use crate::pagemap::{PAGE_SIZE, PageMap, RunPlace};

/// Pages, and where their newest copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) pages: u64,
    /// The map whose pages file has them, and the offset there; `None` of what is in the parent.
    pub(super) at: Option<(usize, u64)>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.pages * PAGE_SIZE
    }
}

/// Finds for each page of the first map where its newest copy is: the next map is that of its parent, and so on. What is in none of
/// them is in the parent of all.
pub(super) fn flat(name: &str, maps: &[PageMap]) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let Some(first) = maps.first() else { return Ok(pieces) };
    for run in &first.runs {
        let whole = pieces.len();
        find(name, maps, 0, run.start, run.end(), &mut pieces)?;
        merge(&mut pieces, whole);
    }
    Ok(pieces)
}

fn find(
    name: &str,
    maps: &[PageMap],
    level: usize,
    mut start: u64,
    end: u64,
    pieces: &mut Vec<Piece>,
) -> Result<(), Error> {
    let Some(map) = maps.get(level) else {
        pieces.push(Piece { start, pages: (end - start) / PAGE_SIZE, at: None });
        return Ok(());
    };
    while start < end {
        let lost = || Error::invalid(name, format!("the page at {start:#x} is in no copy"));
        let run = map.find(start).ok_or_else(lost)?;
        let stop = run.end().min(end);
        match run.place {
            RunPlace::Stored(offset) => pieces.push(Piece {
                start,
                pages: (stop - start) / PAGE_SIZE,
                at: Some((level, offset + (start - run.start))),
            }),
            RunPlace::Parent => find(name, maps, level + 1, start, stop, pieces)?,
            RunPlace::Lazy | RunPlace::Zero => return Err(lost()),
        }
        start = stop;
    }
    Ok(())
}

/// Joins what follows in memory, and in the same file or in the parent, of pieces from the one numbered `from`.
fn merge(pieces: &mut Vec<Piece>, from: usize) {
    let mut last = from;
    for next in from + 1..pieces.len() {
        let (before, here) = (pieces[last], pieces[next]);
        let follows = match (before.at, here.at) {
            (None, None) => true,
            (Some((level, offset)), Some((other, there))) => {
                level == other && offset + before.pages * PAGE_SIZE == there
            }
            _ => false,
        };
        if follows && before.end() == here.start {
            pieces[last].pages += here.pages;
        } else {
            last += 1;
            pieces[last] = here;
        }
    }
    pieces.truncate((last + 1).min(pieces.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pagemap::PageRun;

    fn map(runs: &[(u64, u64, Option<u64>)]) -> PageMap {
        let run = |&(start, end, offset): &(u64, u64, Option<u64>)| PageRun {
            start: start * PAGE_SIZE,
            pages: end - start,
            place: offset.map_or(RunPlace::Parent, |offset| RunPlace::Stored(offset * PAGE_SIZE)),
        };
        PageMap { pages_id: 1, runs: runs.iter().map(run).collect() }
    }

    /// First page, how many, and which map has them, and where.
    type Shown = (u64, u64, Option<(usize, u64)>);

    fn shown(maps: &[PageMap]) -> Vec<Shown> {
        let pieces = flat("x", maps).unwrap().into_iter();
        let page = |at: (usize, u64)| (at.0, at.1 / PAGE_SIZE);
        pieces.map(|piece| (piece.start / PAGE_SIZE, piece.pages, piece.at.map(page))).collect()
    }

    #[test]
    fn the_newest_copy_of_each_page_is_found() {
        let maps = [
            map(&[(0, 4, Some(0)), (4, 12, None), (20, 21, Some(4))]),
            map(&[(2, 5, Some(0)), (5, 30, None)]),
            map(&[(5, 7, Some(3)), (7, 9, Some(5)), (9, 30, None)]),
        ];
        let all = shown(&maps);
        assert_eq!(
            all,
            [
                (0, 4, Some((0, 0))),
                (4, 1, Some((1, 2))),
                (5, 4, Some((2, 3))),
                (9, 3, None),
                (20, 1, Some((0, 4))),
            ]
        );
        assert_eq!(shown(&[]), []);
    }

    /// Runs that are apart in the first map stay apart: CRIU leaves out one that goes beyond what is mapped.
    #[test]
    fn runs_stay_apart() {
        let maps = [map(&[(0, 2, Some(0)), (2, 4, Some(2))])];
        assert_eq!(shown(&maps), [(0, 2, Some((0, 0))), (2, 2, Some((0, 2)))]);
    }

    #[test]
    fn a_page_that_no_map_has_is_an_error() {
        let maps = [map(&[(0, 4, None)]), map(&[(0, 2, Some(0)), (3, 4, None)])];
        assert!(flat("x", &maps).unwrap_err().to_string().contains("0x2000"));
    }
}
