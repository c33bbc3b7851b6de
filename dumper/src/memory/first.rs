//! What is copied of a tracked process first, and copied over when it has been written since.
//!
//! A file system lets one thread at a time write to a file. So each thread that copies has a file
//! of its own, and as a page map speaks of one file, each file is in a parent checkpoint of its own.

use std::io;
use std::sync::{Arc, Mutex};

use images::messages::{PagemapEntry, PagemapHead, page_flags};
use images::names;
use images::{Folder, PageSink};
use kernel::pagemap::{PageMap, PageRun, clip};

use super::copy::{Piece, cut, in_a_row, share, that_pay};
use super::origin::{Memory, is_alone};
use super::runs::{bytes, subtract, union};
use crate::clock::Clock;
use crate::error::Error;

/// Pages that are protected in one call: the kernel holds a lock of the process meanwhile, for some
/// 140 ns a page.
pub(super) const SLICE: u64 = 4096;

/// Bytes that one thread takes at a time. Of the largest memory there are so many windows.
const WINDOW: u64 = 16 << 20;
const WINDOWS: u64 = 4096;

/// A process whose memory is read while it runs.
#[derive(Debug)]
pub(super) struct Target<'t> {
    pub(super) pid: i32,
    pub(super) map: &'t PageMap,
    pub(super) memory: &'t Memory,
    /// Pages that could not be read.
    pub(super) lost: &'t Mutex<Vec<PageRun>>,
    pub(super) threads: usize,
}

/// How a thread reads it.
pub(super) struct Reader<'t> {
    map: PageMap,
    memory: &'t Memory,
    lost: &'t Mutex<Vec<PageRun>>,
    buffer: Vec<u8>,
}

impl<'t> Target<'t> {
    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> Error + use<> {
        let pid = self.pid;
        move |source| Error::Process { operation, pid, source }
    }

    /// As many as pay for copying `bytes`.
    pub(super) fn readers(&self, bytes: u64) -> Result<Vec<Reader<'t>>, Error> {
        let maps = self.map.clones(that_pay(self.threads, bytes));
        let maps = maps.map_err(self.failed("open the page map again"))?.into_iter();
        let (memory, lost) = (self.memory, self.lost);
        Ok(maps.map(|map| Reader { map, memory, lost, buffer: Vec::new() }).collect())
    }
}

impl Reader<'_> {
    /// Reads a piece. What a process shares with its kin since a fork must be read in another way than
    /// what is its own: whether it is, is looked up at once before, so that the process may at most
    /// fork between.
    pub(super) fn read(&self, piece: &Piece, to: &mut [u8]) {
        let alone = is_alone(&self.map, &piece.ranges);
        self.memory.read_running(alone, &piece.ranges, to, self.lost);
    }
}

/// Cuts spans into windows that threads take in turns, at places where no huge page is cut.
pub(super) fn windows(spans: &[PageRun]) -> Vec<PageRun> {
    let largest = WINDOW.max(bytes(spans) / WINDOWS / WINDOW * WINDOW);
    let mut windows = Vec::new();
    for span in spans {
        let mut at = span.start;
        while at < span.end {
            let end = span.end.min((at / largest + 1) * largest);
            windows.push(PageRun::new(at, end));
            at = end;
        }
    }
    windows
}

/// The first copy of a process.
#[derive(Debug)]
pub(super) struct First(Vec<Stripe>);

/// What of it is in one pages file.
#[derive(Debug)]
struct Stripe {
    id: u32,
    sink: Arc<dyn PageSink>,
    runs: Vec<PageRun>,
    /// Where in the file each of them begins.
    offsets: Vec<u64>,
    bytes: u64,
}

impl First {
    /// Protects all pages in `spans` that are not protected, and copies them into pages files, one in
    /// each folder.
    pub(super) fn copy(
        folders: &[Folder<'_>],
        target: &Target<'_>,
        spans: &[PageRun],
        clock: &Clock,
    ) -> Result<Self, Error> {
        let mut stripes = Vec::with_capacity(folders.len());
        for folder in folders {
            let (id, sink) = folder.pages()?;
            let (runs, offsets) = (Vec::new(), Vec::new());
            stripes.push(Stripe { id, sink, runs, offsets, bytes: 0 });
        }
        let readers = target.readers(bytes(spans))?;
        let states = stripes.iter_mut().zip(readers).collect();
        let failed = target.failed("protect the memory");
        share(states, windows(spans), |window, (stripe, reader)| {
            let mut at = window.start;
            while at < window.end {
                let mut batch = Vec::new();
                let rest = PageRun::new(at, window.end);
                at = reader.map.written(rest, true, SLICE, &mut batch).map_err(&failed)?;
                stripe.append(target.pid, &batch, reader)?;
                clock.check("copy memory that is in use")?;
            }
            Ok(())
        })?;
        Ok(Self(stripes))
    }

    /// Copies those of the pages that it has once more. Returns the others.
    pub(super) fn copy_again(
        &self,
        target: &Target<'_>,
        written: &[PageRun],
    ) -> Result<Vec<PageRun>, Error> {
        let mut others = written.to_vec();
        let mut work = Vec::new();
        for stripe in &self.0 {
            let again = clip(&others, &stripe.runs);
            others = subtract(&others, &again);
            work.push(cut(in_a_row(&again, 0)).into_iter().map(move |piece| (stripe, piece)));
        }
        let again = bytes(written) - bytes(&others);
        // Threads had better not write to the same file.
        let work = in_turns(work);
        share(target.readers(again)?, work, |(stripe, piece), reader| {
            stripe.copy_again(target.pid, &piece, reader)
        })?;
        Ok(others)
    }

    /// Its pages.
    pub(super) fn runs(&self) -> Vec<PageRun> {
        self.0.iter().fold(Vec::new(), |all, stripe| union(&all, &stripe.runs))
    }

    /// Bytes in its pages files.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.bytes).sum()
    }

    /// Writes the page maps, each into the folder of its pages file; the next folder is the parent of each,
    /// and the parent of the last one holds what is `inherited`.
    pub(super) fn encode(
        &self,
        folders: &[Folder<'_>],
        pid: i32,
        inherited: &[PageRun],
    ) -> Result<(), Error> {
        let mut above = subtract(inherited, &self.runs());
        for (stripe, folder) in self.0.iter().zip(folders).rev() {
            let mut sink = folder.image(&names::pagemap(pid.cast_unsigned()))?;
            sink.put(&PagemapHead { pages_id: stripe.id })?;
            let stored = stripe.runs.iter().map(|run| (run, page_flags::PRESENT));
            let left = above.iter().map(|run| (run, page_flags::PARENT));
            let mut all: Vec<_> = stored.chain(left).collect();
            all.sort_by_key(|(run, _)| run.start);
            for (run, flags) in all {
                sink.put_as(&PagemapEntry::run(run.start, run.pages(), flags))?;
            }
            sink.finish()?;
            above = union(&above, &stripe.runs);
        }
        Ok(())
    }
}

impl Stripe {
    fn append(
        &mut self,
        pid: i32,
        batch: &[PageRun],
        reader: &mut Reader<'_>,
    ) -> Result<(), Error> {
        let start = self.sink.reserve(bytes(batch));
        let start = start.map_err(|source| Error::Pages { pid, source })?;
        let mut buffer = std::mem::take(&mut reader.buffer);
        for piece in cut(in_a_row(batch, start)) {
            buffer.resize(piece.bytes, 0);
            reader.read(&piece, &mut buffer);
            self.sink
                .write_all_at(&buffer, piece.offset)
                .map_err(|source| Error::Pages { pid, source })?;
        }
        reader.buffer = buffer;
        for (run, offset) in in_a_row(batch, start) {
            self.runs.push(run);
            self.offsets.push(offset);
        }
        self.bytes += bytes(batch);
        Ok(())
    }

    /// Copies pages over those that it has.
    fn copy_again(&self, pid: i32, piece: &Piece, reader: &mut Reader<'_>) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut reader.buffer);
        buffer.resize(piece.bytes, 0);
        reader.read(piece, &mut buffer);
        let mut rest = &buffer[..];
        for &(start, bytes) in &piece.ranges {
            let (mut here, later) = rest.split_at(bytes);
            rest = later;
            let mut at = start;
            let mut index = self.runs.partition_point(|run| run.end <= at);
            // A range may lie in several runs that touch.
            while let (Some(run), false) = (self.runs.get(index), here.is_empty()) {
                let count = here.len().min((run.end - at) as usize);
                let (part, left) = here.split_at(count);
                self.sink
                    .write_all_at(part, self.offsets[index] + (at - run.start))
                    .map_err(|source| Error::Pages { pid, source })?;
                at += count as u64;
                here = left;
                index += 1;
            }
        }
        reader.buffer = buffer;
        Ok(())
    }
}

/// Takes one of each in turn.
fn in_turns<T>(mut lists: Vec<impl Iterator<Item = T>>) -> Vec<T> {
    let mut taken = Vec::new();
    loop {
        let before = taken.len();
        taken.extend(lists.iter_mut().filter_map(Iterator::next));
        if taken.len() == before {
            return taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use kernel::pagemap::PAGE_SIZE;

    use super::*;

    #[test]
    fn windows_cover_the_spans() {
        let spans = [PageRun::new(PAGE_SIZE, 3 * WINDOW), PageRun::new(1 << 32, (1 << 32) + 1)];
        let windows = windows(&spans);
        assert_eq!(windows.len(), 4);
        assert!(windows.iter().all(|window| window.bytes() <= WINDOW));
        assert_eq!(bytes(&windows), bytes(&spans));
        let terabytes = PageRun::new(0, 1 << 46);
        assert!(super::windows(&[terabytes]).len() as u64 <= 2 * WINDOWS);
    }

    #[test]
    fn each_has_its_turn() {
        let lists = [vec![1, 2, 3], vec![], vec![4, 5]];
        let taken = in_turns(lists.into_iter().map(Vec::into_iter).collect());
        assert_eq!(taken, [1, 4, 2, 5, 3]);
    }
}
