//! The contents of pages that two checkpoints hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use images::messages::PagemapHead;
use images::store::Identity;
use images::{Error, Held, HeldRun, Image, Images, Lineage, PAGE_SIZE, PageMap, PageSource, names};

/// Bytes of either that are compared at a time.
const AT_ONCE: usize = 256 << 10;

/// A checkpoint whose pages are read, with its parents.
#[derive(Debug)]
pub(super) struct Side {
    lineage: Lineage,
    /// By how many parents up the checkpoint is, and the number of the file.
    sources: BTreeMap<(usize, u32), Arc<dyn PageSource>>,
    buffer: Vec<u8>,
}

/// How many pages of a run are the same, and how many are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) same: u64,
    pub(super) changed: u64,
    /// Nobody can compare these.
    pub(super) unknown: u64,
}

/// Where pages are that are in a file, as nobody else's are.
type Place = (Identity, u32, u64);

impl Side {
    pub(super) fn of(images: &Images) -> Result<Self, Error> {
        let lineage = Lineage::of(images)?;
        Ok(Self { lineage, sources: BTreeMap::new(), buffer: vec![0; AT_ONCE] })
    }

    /// All pages of a page map, parents looked through.
    pub(super) fn held(
        &mut self,
        image: &Image<PagemapHead>,
        map: Option<&PageMap>,
    ) -> Result<Vec<HeldRun>, Error> {
        map.map_or(Ok(Vec::new()), |map| self.lineage.held(image, map))
    }

    fn place(&mut self, held: Held) -> Result<Option<Place>, Error> {
        let Held::Stored { level, pages_id, offset } = held else { return Ok(None) };
        Ok(Some((self.lineage.level(level)?.identity()?, pages_id, offset)))
    }

    /// Fills the first bytes of the buffer with what is held.
    fn read(&mut self, held: Held, bytes: usize) -> Result<&[u8], Error> {
        let buffer = &mut self.buffer[..bytes];
        match held {
            Held::Stored { level, pages_id, offset } => {
                let source = match self.sources.get(&(level, pages_id)) {
                    Some(source) => source,
                    None => {
                        let pages = self.lineage.level(level)?.pages(pages_id)?;
                        self.sources.entry((level, pages_id)).or_insert(pages)
                    }
                };
                source.read_exact_at(buffer, offset).map_err(|source| Error::Io {
                    operation: "read",
                    name: names::pages(pages_id),
                    source,
                })?;
            }
            Held::Zero | Held::Lazy => buffer.fill(0),
        }
        Ok(buffer)
    }
}

/// Compares so many pages that both hold.
pub(super) fn compare(
    (before, old): (&mut Side, Held),
    (after, new): (&mut Side, Held),
    pages: u64,
) -> Result<Outcome, Error> {
    if old == Held::Lazy || new == Held::Lazy {
        return Ok(Outcome { unknown: pages, ..Outcome::default() });
    }
    if before.place(old)? == after.place(new)? {
        return Ok(Outcome { same: pages, ..Outcome::default() });
    }
    let page = PAGE_SIZE as usize;
    let mut outcome = Outcome::default();
    let mut done = 0;
    while done < pages * PAGE_SIZE {
        let bytes = usize::try_from(pages * PAGE_SIZE - done).unwrap_or(AT_ONCE).min(AT_ONCE);
        let old = before.read(old.after(done), bytes)?;
        let new = after.read(new.after(done), bytes)?;
        let differing = old.chunks(page).zip(new.chunks(page)).filter(|(old, new)| old != new);
        let changed = differing.count() as u64;
        outcome.changed += changed;
        outcome.same += bytes as u64 / PAGE_SIZE - changed;
        done += bytes as u64;
    }
    Ok(outcome)
}

/// A part of an address space in which neither side has two runs: its bounds, and where each has it.
pub(super) type Piece = (u64, u64, Option<Held>, Option<Held>);

/// Takes two lists of runs apart into pieces that at least one of them has, by rising address.
pub(super) fn pieces<'r>(
    old: &'r [HeldRun],
    new: &'r [HeldRun],
) -> impl Iterator<Item = Piece> + 'r {
    let (mut i, mut j, mut at) = (0, 0, 0);
    std::iter::from_fn(move || {
        i += old[i..].iter().take_while(|run| run.end() <= at).count();
        j += new[j..].iter().take_while(|run| run.end() <= at).count();
        let next = [old.get(i), new.get(j)];
        let start = next.iter().flatten().map(|run| run.start.max(at)).min()?;
        let bound = |run: &&HeldRun| if run.start <= start { run.end() } else { run.start };
        let end = next.iter().flatten().map(bound).min()?;
        let held = |run: Option<&HeldRun>| {
            run.filter(|run| run.start <= start).map(|run| run.held.after(start - run.start))
        };
        at = end;
        Some((start, end, held(next[0]), held(next[1])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_taken_apart_where_either_begins_or_ends() {
        let run = |page: u64, pages: u64, offset: u64| HeldRun {
            start: page * PAGE_SIZE,
            pages,
            held: Held::Stored { level: 0, pages_id: 1, offset: offset * PAGE_SIZE },
        };
        let old = [run(1, 4, 0), run(5, 1, 9), run(20, 1, 5)];
        let new = [run(3, 4, 0), run(30, 2, 4)];
        let at = |held: Option<Held>| match held {
            Some(Held::Stored { offset, .. }) => Some(offset / PAGE_SIZE),
            _ => None,
        };
        let found: Vec<_> = pieces(&old, &new)
            .map(|(start, end, a, b)| (start / PAGE_SIZE, end / PAGE_SIZE, at(a), at(b)))
            .collect();
        assert_eq!(
            found,
            [
                (1, 3, Some(0), None),
                (3, 5, Some(2), Some(0)),
                (5, 6, Some(9), Some(2)),
                (6, 7, None, Some(3)),
                (20, 21, Some(5), None),
                (30, 32, None, Some(4)),
            ]
        );
        assert_eq!(pieces(&[], &[]).count(), 0);
    }
}
