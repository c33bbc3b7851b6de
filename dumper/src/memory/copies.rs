//! Copies of a logged process's pages in pages files: all of it first, and then what has been written since.
//!
//! No file is gone back in: what is copied again goes into a file of its own, and the newest copy counts. A page map
//! speaks of one file, all of it, so each file is in a folder of its own, a parent checkpoint whose own parent is the
//! one made before it. A file system lets one thread at a time write to a file: so where there is much to copy there
//! is a file for each thread.

use std::io;
use std::sync::{Arc, Mutex};

use ids::{HostPid, ImagePid};
use images::messages::{PagemapEntry, PagemapHead, page_flags};
use images::names;
use images::{Folder, PageSink};
use kernel::files::begin_to_write;
use kernel::pagemap::{PAGE_SIZE, PageMap, PageRun, clip};

use super::copy::{Piece, cut, in_a_row, that_pay};
use super::origin::{ProcessMemory, is_alone};
use super::runs::{bytes, subtract, union};
use crate::clock::Clock;
use crate::error::Error;
use crate::threads::share;

/// Pages that are protected in one call: the kernel holds a lock of the process meanwhile, for some
/// 140 ns a page.
const SLICE: u64 = 4096;

/// Bytes that one thread takes at a time. Of the largest memory there are so many windows.
const WINDOW: u64 = 16 << 20;
const WINDOWS: u64 = 4096;

/// Bytes of old copies in a row that are given back to the disk: where they are on it already, a hole takes the file
/// system a millisecond and more.
const WORTH_A_HOLE: u64 = 1 << 20;

/// A process whose memory is read while it runs.
#[derive(Debug)]
pub(super) struct Target<'t> {
    pub(super) pid: HostPid,
    pub(super) map: &'t PageMap,
    pub(super) memory: &'t ProcessMemory,
    /// Pages that could not be read.
    pub(super) lost: &'t Mutex<Vec<PageRun>>,
    pub(super) threads: usize,
}

/// How a thread reads it.
pub(super) struct Reader<'t> {
    map: PageMap,
    memory: &'t ProcessMemory,
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

/// All copies of a process's pages in pages files, the oldest first.
#[derive(Debug)]
pub(super) struct Copies(Vec<Layer>);

/// Those in one pages file.
#[derive(Debug)]
struct Layer {
    /// Which folder it is in; a later one is newer.
    folder: usize,
    id: u32,
    sink: Arc<dyn PageSink>,
    /// The pages, in the order of the file, which is that of their addresses.
    runs: Vec<PageRun>,
}

impl Copies {
    /// Protects all pages in `spans` that are not protected, and copies them into pages files, one in
    /// each folder.
    pub(super) fn first(
        folders: &[Folder<'_>],
        target: &Target<'_>,
        spans: &[PageRun],
        clock: &Clock,
    ) -> Result<Self, Error> {
        let layers = folders.iter().enumerate();
        let layers = layers.map(|(index, folder)| Layer::begin(index, folder));
        let mut layers = layers.collect::<Result<Vec<_>, _>>()?;
        let readers = target.readers(bytes(spans))?;
        let states = layers.iter_mut().zip(readers).collect();
        let failed = target.failed("protect the memory");
        share(states, windows(spans), |window, (layer, reader)| {
            let mut at = window.start;
            while at < window.end {
                let mut batch = Vec::new();
                let rest = PageRun::new(at, window.end);
                at = reader.map.written(rest, true, SLICE, &mut batch).map_err(&failed)?;
                for piece in layer.take(target.pid, &batch)? {
                    copy(target.pid, &piece, reader, &*layer.sink)?;
                }
                clock.check("copy memory that is in use")?;
            }
            // The disk works while the rest is copied: in the end less is waited for.
            if let Some(file) = layer.sink.file() {
                begin_to_write(file);
            }
            Ok::<(), Error>(())
        })?;
        Ok(Self(layers))
    }

    /// Copies pages that have been written since, into as many of the folders as there is use for. `after` is how many
    /// there were before these.
    pub(super) fn again(
        &mut self,
        after: usize,
        folders: &[Folder<'_>],
        target: &Target<'_>,
        written: &[PageRun],
    ) -> Result<(), Error> {
        let mut layers = Vec::new();
        let mut work = Vec::new();
        for (index, portion) in portions(written, folders.len()).iter().enumerate() {
            let mut layer = Layer::begin(after + index, &folders[index])?;
            let pieces = layer.take(target.pid, portion)?.into_iter();
            let sink = Arc::clone(&layer.sink);
            work.push(pieces.map(move |piece| (Arc::clone(&sink), piece)));
            layers.push(layer);
        }
        // Threads had better not write to the same file.
        let work = in_turns(work);
        share(target.readers(bytes(written))?, work, |(sink, piece), reader| {
            copy(target.pid, &piece, reader, &*sink)
        })?;
        self.0.append(&mut layers);
        Ok(())
    }

    /// Its pages.
    pub(super) fn runs(&self) -> Vec<PageRun> {
        self.0.iter().fold(Vec::new(), |all, layer| union(&all, &layer.runs))
    }

    /// Bytes in its pages files.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|layer| bytes(&layer.runs)).sum()
    }

    /// Writes the page maps, each into the folder of its pages file. What one leaves to its parent is in the folder
    /// before it, or further down; what is `inherited` below all of them.
    pub(super) fn encode(
        &self,
        folders: &[Folder<'_>],
        pid: ImagePid,
        inherited: &[PageRun],
    ) -> Result<(), Error> {
        self.give_back();
        let mut below = inherited.to_vec();
        for (index, folder) in folders.iter().enumerate() {
            let (id, runs) = match self.0.iter().find(|layer| layer.folder == index) {
                Some(layer) => (layer.id, &layer.runs[..]),
                // A folder that other processes needed.
                None => (folder.pages()?.0, &[][..]),
            };
            let mut sink = folder.image(&names::pagemap(pid.unsigned()))?;
            sink.put(&PagemapHead { pages_id: id })?;
            let left = subtract(&below, runs);
            let stored = runs.iter().map(|run| (run, page_flags::PRESENT));
            let left = left.iter().map(|run| (run, page_flags::PARENT));
            let mut all: Vec<_> = stored.chain(left).collect();
            all.sort_by_key(|(run, _)| run.start);
            for (run, flags) in all {
                sink.put_as(&PagemapEntry::run(run.start, run.pages(), flags))?;
            }
            sink.finish()?;
            below = union(&below, runs);
        }
        Ok(())
    }

    /// Gives the disk space of outdated copies back: nobody reads a copy of which there is a newer one. If that fails, only space is
    /// lost.
    fn give_back(&self) {
        let mut newer = Vec::new();
        for layer in self.0.iter().rev() {
            for (start, bytes) in layer.places(&newer).filter(|(_, bytes)| *bytes >= WORTH_A_HOLE) {
                if let Err(error) = layer.sink.give_back(start, bytes) {
                    tracing::debug!(%error, "the room of old copies stays taken");
                    return;
                }
            }
            newer = union(&newer, &layer.runs);
        }
    }
}

impl Layer {
    fn begin(index: usize, folder: &Folder<'_>) -> Result<Self, Error> {
        let (id, sink) = folder.pages()?;
        Ok(Self { folder: index, id, sink, runs: Vec::new() })
    }

    /// Takes room for pages that lie behind all others; says how they are to be copied there.
    fn take(&mut self, pid: HostPid, pages: &[PageRun]) -> Result<Vec<Piece>, Error> {
        let start = self.sink.reserve(bytes(pages));
        let start = start.map_err(|source| Error::Pages { pid, source })?;
        self.runs.extend_from_slice(pages);
        Ok(cut(in_a_row(pages, start)))
    }

    /// Where in the file those of its pages are that are in `runs` as well: offset and bytes.
    fn places(&self, runs: &[PageRun]) -> impl Iterator<Item = (u64, u64)> {
        let mut own = in_a_row(&self.runs, 0).peekable();
        let mut places: Vec<(u64, u64)> = Vec::new();
        for part in clip(&self.runs, runs) {
            let mut at = part.start;
            // A part may lie in several runs that touch.
            while at < part.end {
                while own.next_if(|(run, _)| run.end <= at).is_some() {}
                let Some((run, offset)) = own.peek() else { break };
                let (end, start) = (part.end.min(run.end), offset + (at - run.start));
                match places.last_mut() {
                    Some((last, bytes)) if *last + *bytes == start => *bytes += end - at,
                    _ => places.push((start, end - at)),
                }
                at = end;
            }
        }
        places.into_iter()
    }
}

/// Copies a piece to where it belongs.
fn copy(
    pid: HostPid,
    piece: &Piece,
    reader: &mut Reader<'_>,
    sink: &dyn PageSink,
) -> Result<(), Error> {
    let mut buffer = std::mem::take(&mut reader.buffer);
    buffer.resize(piece.bytes, 0);
    reader.read(piece, &mut buffer);
    let written = sink.write_all_at(&buffer, piece.offset);
    reader.buffer = buffer;
    written.map_err(|source| Error::Pages { pid, source })
}

/// Cuts pages into as many portions of the same size, or fewer.
fn portions(runs: &[PageRun], count: usize) -> Vec<Vec<PageRun>> {
    let most = bytes(runs).div_ceil(count.max(1) as u64).next_multiple_of(PAGE_SIZE);
    let mut portions: Vec<Vec<PageRun>> = Vec::new();
    let mut room = 0;
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            if room == 0 {
                portions.push(Vec::new());
                room = most;
            }
            let end = run.end.min(at + room);
            if let Some(last) = portions.last_mut() {
                last.push(PageRun::new(at, end));
            }
            room -= end - at;
            at = end;
        }
    }
    portions
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
    use std::path::Path;

    use images::store::Memory;
    use images::{ImageWriter, Images, RunPlace, WriteOptions};

    use super::*;

    fn pid(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    fn run(from: u64, to: u64) -> PageRun {
        PageRun::new(from * PAGE_SIZE, to * PAGE_SIZE)
    }

    /// A layer whose pages all are `byte`.
    fn layer(index: usize, folder: &Folder<'_>, runs: &[PageRun], byte: u8) -> Layer {
        let mut layer = Layer::begin(index, folder).unwrap();
        for piece in layer.take(pid(7), runs).unwrap() {
            layer.sink.write_all_at(&vec![byte; piece.bytes], piece.offset).unwrap();
        }
        layer
    }

    /// In memory, where no byte can be written twice. Old copies are zeros once they are given back.
    #[test]
    fn the_newest_layer_that_has_a_page_counts() {
        let memory = Memory::default();
        let new = memory.create(Path::new("c"), WriteOptions::default()).unwrap();
        let writer = ImageWriter::of(Box::new(new));
        let folders = writer.pre_copies(3).unwrap();
        let copies = Copies(vec![
            layer(0, &folders[0], &[run(100, 150), run(150, 900)], 1),
            layer(2, &folders[2], &[run(140, 640), run(800, 801)], 2),
        ]);
        assert_eq!(copies.bytes(), 1301 * PAGE_SIZE);
        copies.encode(&folders, ImagePid::new(7).unwrap(), &[run(90, 101), run(950, 951)]).unwrap();
        let inventory = images::messages::InventoryEntry { img_version: 2, ..Default::default() };
        for (index, folder) in folders.iter().enumerate() {
            folder.write_one(&names::inventory(), &inventory).unwrap();
            if index > 0 {
                folder.link_parent(Path::new("..")).unwrap();
            }
        }
        writer.write_one(&names::inventory(), &inventory).unwrap();
        writer.commit().unwrap();
        let byte = |page: u64| {
            let at = format!("c/{}", names::PRE_COPIES[2]);
            let store = memory.open(at.as_ref()).unwrap();
            let mut there = Images::of(Arc::new(store)).unwrap();
            loop {
                let map = there.page_map(&names::pagemap(7)).unwrap().unwrap();
                let run = *map.find(page * PAGE_SIZE).unwrap();
                let RunPlace::Stored(offset) = run.place else {
                    match there.parent().unwrap() {
                        Some(parent) => there = parent,
                        None => return None,
                    }
                    continue;
                };
                let mut byte = [9];
                let pages = there.pages(map.pages_id).unwrap();
                pages.read_exact_at(&mut byte, offset + page * PAGE_SIZE - run.start).unwrap();
                return Some(byte[0]);
            }
        };
        let found = [90, 100, 139, 140, 150, 639, 640, 799, 800, 801, 899, 950].map(byte);
        let (first, again) = (Some(1), Some(2));
        let expected =
            [None, first, first, again, again, again, first, first, again, first, first, None];
        assert_eq!(found, expected);
    }

    #[test]
    fn old_copies_are_found_in_the_file() {
        let memory = Memory::default();
        let new = memory.create(Path::new("c"), WriteOptions::default()).unwrap();
        let writer = ImageWriter::of(Box::new(new));
        let layer = layer(0, &writer.here(), &[run(10, 12), run(12, 14), run(20, 30)], 1);
        let places = |runs: &[PageRun]| {
            let pages = layer.places(runs).map(|(at, bytes)| (at / PAGE_SIZE, bytes / PAGE_SIZE));
            pages.collect::<Vec<_>>()
        };
        assert_eq!(places(&[run(11, 13), run(25, 40)]), [(1, 2), (9, 5)]);
        assert_eq!(places(&[run(0, 22)]), [(0, 6)]);
        assert_eq!(places(&[run(14, 20)]), []);
    }

    #[test]
    fn portions_are_of_one_size_and_hold_all() {
        let runs = [run(0, 5), run(7, 8), run(10, 14)];
        assert_eq!(
            portions(&runs, 3),
            [vec![run(0, 4)], vec![run(4, 5), run(7, 8), run(10, 12)], vec![run(12, 14)]]
        );
        assert_eq!(portions(&runs, 1), [runs.to_vec()]);
        assert_eq!(portions(&[run(3, 4)], 4), [[run(3, 4)]]);
        assert!(portions(&[], 2).is_empty());
    }

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
