//! The pages of one address space or shared segment: which they are, where their bytes are while
//! the dump goes on, and what their page map says in the end.

use std::io;
use std::sync::Arc;

use ids::HostPid;
use images::messages::{PagemapEntry, PagemapHead, page_flags};
use images::{Image, ImageWriter, PageSink, Progress};
use kernel::arena::Arena;
use kernel::pagemap::{PageRun, clip};

use super::copy::PIECE;
use super::origin::Origin;
use super::runs::{self, subtract};
use crate::error::Error;

/// Pages that were copied together while the process ran.
#[derive(Debug)]
pub(crate) struct Round {
    pub(super) runs: Vec<PageRun>,
    /// Their bytes, one run behind the other.
    pub(super) bytes: Arena,
    /// The pages of `runs` that no pages file has a newer copy of.
    pub(super) newest: Vec<PageRun>,
}

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Copied while the target stood still; the offset among those.
    Frozen(u64),
    /// Copied in an earlier round: its index, and the offset in it.
    Round(usize, u64),
    /// In the parent checkpoint.
    Parent,
}

/// A run and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    run: PageRun,
    source: Source,
}

/// Pages of one address space, or of one shared segment.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Process or segment that they belong to, for messages.
    pub(crate) pid: HostPid,
    pub(crate) origin: Origin,
    /// Pages to copy while the target stands still, in ascending order.
    pub(crate) runs: Vec<PageRun>,
    /// Pages that have been copied already, and are unchanged since.
    pub(crate) kept: Vec<PageRun>,
    /// The copies, the newest last. What is in none of them is in the parent checkpoint.
    pub(crate) rounds: Vec<Round>,
    /// Of a process: where nothing can be, as it has said by `MADV_GUARD_INSTALL`.
    pub(crate) guards: Vec<PageRun>,
    /// Of shared memory: how far any mapping of it reaches.
    pub(super) mapped: Option<u64>,
    /// Number and pages file; made when it is needed, for one that was not known in the plan.
    file: Option<(u32, Arc<dyn PageSink>)>,
    /// First byte in the arena, when they are there.
    pub(super) in_arena: Option<usize>,
    /// All of them in order, once [`Pages::settle`] has said.
    placed: Vec<Placed>,
}

impl Pages {
    /// Pages that will be written to a pages file that is made when they are settled: making one takes a
    /// file system some 50 us.
    pub(crate) fn new(pid: HostPid, origin: Origin) -> Self {
        Self {
            pid,
            origin,
            runs: Vec::new(),
            kept: Vec::new(),
            rounds: Vec::new(),
            guards: Vec::new(),
            mapped: None,
            file: None,
            in_arena: None,
            placed: Vec::new(),
        }
    }

    /// Pages with their pages file.
    pub(crate) fn begin(writer: &ImageWriter, pid: HostPid, origin: Origin) -> Result<Self, Error> {
        Ok(Self { file: Some(writer.pages()?), ..Self::new(pid, origin) })
    }

    /// Bytes that are copied while the target stands still.
    pub(crate) fn frozen_bytes(&self) -> u64 {
        runs::bytes(&self.runs)
    }

    /// Bytes in the pages file. Only once they are settled.
    pub(crate) fn bytes(&self) -> u64 {
        self.stored().map(|(placed, _)| placed.run.bytes()).sum()
    }

    /// Pages that are left to the parent checkpoint. Only once they are settled.
    pub(crate) fn in_parent(&self) -> u64 {
        let parent = self.placed.iter().filter(|placed| placed.source == Source::Parent);
        parent.map(|placed| placed.run.pages()).sum()
    }

    /// How many of these are among those.
    pub(super) fn in_parent_of(&self, copied: &[PageRun]) -> u64 {
        let parent = self.placed.iter().filter(|placed| placed.source == Source::Parent);
        let runs: Vec<_> = parent.map(|placed| placed.run).collect();
        clip(&runs, copied).iter().map(PageRun::pages).sum()
    }

    /// Puts all that is known of them in order, and takes room for it. This takes time, so if at all possible it
    /// is done when the target no longer waits.
    pub(crate) fn settle(&mut self, writer: &ImageWriter) -> Result<(), Error> {
        if self.file.is_none() {
            self.file = Some(writer.pages()?);
        }
        if self.placed.is_empty() {
            self.placed = place(&self.runs, &self.kept, &self.rounds);
            let reserved = self.file()?.1.reserve(self.bytes());
            reserved.map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// Number and pages file. Only once they are settled.
    fn file(&self) -> Result<&(u32, Arc<dyn PageSink>), Error> {
        let missing = || self.failed(io::ErrorKind::NotFound.into());
        self.file.as_ref().ok_or_else(missing)
    }

    /// Writes to a place in the pages file. Only once they are settled.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file()?.1.write_all_at(bytes, offset).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Pages { pid: self.pid, source }
    }

    /// What goes into the pages file, with offsets.
    fn stored(&self) -> impl Iterator<Item = (Placed, u64)> + '_ {
        let stored = self.placed.iter().filter(|placed| placed.source != Source::Parent);
        stored.scan(0, |offset, placed| {
            let here = *offset;
            *offset += placed.run.bytes();
            Some((*placed, here))
        })
    }

    /// Where in the pages file those go that are copied while the target stands still.
    pub(super) fn frozen_places(&self) -> impl Iterator<Item = (PageRun, u64)> + '_ {
        let frozen = |placed: Placed| matches!(placed.source, Source::Frozen(_));
        self.stored()
            .filter(move |(placed, _)| frozen(*placed))
            .map(|(placed, at)| (placed.run, at))
    }

    /// Writes the page map.
    pub(crate) fn encode_map(
        &self,
        writer: &ImageWriter,
        image: &Image<PagemapHead>,
    ) -> Result<(), Error> {
        let mut sink = writer.image(image)?;
        sink.put(&PagemapHead { pages_id: self.file()?.0 })?;
        // Not marked as lazy: CRIU would then leave out pages of private file mappings, too, which
        // its lazy restore never brings in.
        let flags = |placed: &Placed| match placed.source {
            Source::Parent => page_flags::PARENT,
            _ => page_flags::PRESENT,
        };
        // What follows in memory and is of the same kind follows in the file as well. CRIU leaves out a run that
        // goes beyond what is mapped.
        let follows = |a: &Placed, b: &Placed| {
            a.run.end == b.run.start && flags(a) == flags(b) && self.mapped != Some(b.run.start)
        };
        for group in self.placed.chunk_by(follows) {
            let start = group[0].run.start;
            let pages = group.iter().map(|placed| placed.run.pages()).sum();
            sink.put_as(&PagemapEntry::run(start, pages, flags(&group[0])))?;
        }
        Ok(sink.finish()?)
    }

    /// Writes what is in memory into the pages file; `frozen` is what was copied while the target
    /// stood still, `None` if that is in the file already.
    pub(super) fn write(
        &self,
        frozen: Option<&[u8]>,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let mut gathered = Vec::with_capacity(PIECE);
        let mut offset = 0;
        for (placed, at) in self.stored() {
            let (memory, first) = match (placed.source, frozen) {
                (Source::Frozen(first), Some(frozen)) => (frozen, first),
                (Source::Round(round, first), _) => (&*self.rounds[round].bytes, first),
                _ => continue,
            };
            let bytes = &memory[first as usize..][..placed.run.bytes() as usize];
            for (index, piece) in bytes.chunks(16 * PIECE).enumerate() {
                let here = at + (index * 16 * PIECE) as u64;
                if gathered.len() + piece.len() > PIECE || here != offset + gathered.len() as u64 {
                    self.write_at(&gathered, offset)?;
                    progress.advance(gathered.len() as u64);
                    gathered.clear();
                    offset = here;
                }
                if piece.len() > PIECE {
                    self.write_at(piece, here)?;
                    progress.advance(piece.len() as u64);
                    offset = here + piece.len() as u64;
                } else {
                    gathered.extend_from_slice(piece);
                }
            }
        }
        self.write_at(&gathered, offset)?;
        progress.advance(gathered.len() as u64);
        Ok(())
    }
}

/// Finds for all pages where their newest copy is.
fn place(frozen: &[PageRun], kept: &[PageRun], rounds: &[Round]) -> Vec<Placed> {
    let mut placed = Vec::with_capacity(frozen.len() + kept.len());
    let mut offset = 0;
    for &run in frozen {
        placed.push(Placed { run, source: Source::Frozen(offset) });
        offset += run.bytes();
    }
    let mut left = kept.to_vec();
    for (index, round) in rounds.iter().enumerate().rev() {
        if left.is_empty() {
            break;
        }
        let mut first = 0;
        let mut copies = round.runs.iter().map(|run| {
            let here = first;
            first += run.bytes();
            (*run, here)
        });
        let mut copy = copies.next();
        for run in clip(&round.newest, &left) {
            let mut at = run.start;
            // A run of what is left may lie in several copies that touch.
            while let Some((copied, start)) = copy
                && at < run.end
            {
                if copied.end <= at {
                    copy = copies.next();
                    continue;
                }
                let part = PageRun::new(at, run.end.min(copied.end));
                let source = Source::Round(index, start + (at - copied.start));
                placed.push(Placed { run: part, source });
                at = part.end;
            }
        }
        left = subtract(&left, &round.newest);
    }
    placed.extend(left.into_iter().map(|run| Placed { run, source: Source::Parent }));
    placed.sort_by_key(|placed| placed.run.start);
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::pagemap::PAGE_SIZE;

    fn runs(pages: &[(u64, u64)]) -> Vec<PageRun> {
        pages.iter().map(|&(a, b)| PageRun::new(a * PAGE_SIZE, b * PAGE_SIZE)).collect()
    }

    fn round(pages: &[(u64, u64)]) -> Round {
        Round { runs: runs(pages), bytes: Arena::new(1).unwrap(), newest: runs(pages) }
    }

    #[test]
    fn the_newest_copy_counts() {
        let rounds = [round(&[(2, 8), (20, 22)]), round(&[(3, 4), (6, 9)])];
        let placed =
            place(&runs(&[(7, 8), (30, 31)]), &runs(&[(0, 7), (8, 10), (20, 21)]), &rounds);
        let seen: Vec<_> = placed
            .iter()
            .map(|placed| {
                let source = match placed.source {
                    Source::Frozen(at) => ('f', 0, at / PAGE_SIZE),
                    Source::Round(round, at) => ('r', round, at / PAGE_SIZE),
                    Source::Parent => ('p', 0, 0),
                };
                (placed.run.start / PAGE_SIZE, placed.run.end / PAGE_SIZE, source)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (0, 2, ('p', 0, 0)),
                (2, 3, ('r', 0, 0)),
                (3, 4, ('r', 1, 0)),
                (4, 6, ('r', 0, 2)),
                (6, 7, ('r', 1, 1)),
                (7, 8, ('f', 0, 0)),
                (8, 9, ('r', 1, 3)),
                (9, 10, ('p', 0, 0)),
                (20, 21, ('r', 0, 6)),
                (30, 31, ('f', 0, 1)),
            ]
        );
    }
}
