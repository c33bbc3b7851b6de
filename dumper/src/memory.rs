//! Memory: which pages are content, and where their bytes go.
//!
//! While the target stands still its pages are only copied; where to depends on what happens to
//! it next. If it runs on, they go into an [`Arena`] that was filled with pages beforehand and
//! are written when it runs. If it is to end anyway, or there is not memory enough, they go
//! straight into the pages file. Either way the work is cut into pieces that several threads
//! take.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use images::messages::{PagemapEntry, PagemapHead, page_flags};
use images::{Image, ImageWriter, Progress};
use kernel::arena::Arena;
use kernel::memory::{IOV_MAX, MemoryFile, read_ranges};
use kernel::pagemap::PageRun;

use crate::error::Error;

/// Bytes of the pieces that the copying is cut into: large enough that system calls cost nothing
/// beside the copying, small enough that a piece stays in a processor's cache between reading and
/// writing.
const PIECE: usize = 1 << 20;

/// Below this many bytes starting a second thread costs more than it saves.
const WORTH_A_THREAD: u64 = 16 << 20;

/// Where the pages of a set of runs come from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Addresses of a process.
    Process(i32),
    /// Offsets in the file behind shared memory.
    Segment(File),
}

/// Pages of one address space, or of one shared segment.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Process or segment that they belong to, for messages.
    pub(crate) pid: i32,
    pub(crate) origin: Origin,
    /// Which, by rising address.
    pub(crate) runs: Vec<PageRun>,
    /// Number of the pages file.
    id: u32,
    file: File,
    /// First byte in the arena, when they are there.
    in_arena: Option<usize>,
}

impl Pages {
    /// Pages that will be written to a new pages file of `writer`.
    pub(crate) fn new(writer: &ImageWriter, pid: i32, origin: Origin) -> Result<Self, Error> {
        let (id, file) = writer.pages()?;
        Ok(Self { pid, origin, runs: Vec::new(), id, file, in_arena: None })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(PageRun::bytes).sum()
    }

    /// Writes the page map.
    pub(crate) fn encode_map(
        &self,
        writer: &ImageWriter,
        image: &Image<PagemapHead>,
    ) -> Result<(), Error> {
        let mut sink = writer.image(image)?;
        sink.put(&PagemapHead { pages_id: self.id })?;
        // Not marked as lazy: CRIU would then leave out pages of private file mappings, too, which
        // its lazy restore never brings in.
        for run in &self.runs {
            sink.put_as(&PagemapEntry::run(run.start, run.pages(), page_flags::PRESENT))?;
        }
        Ok(sink.finish()?)
    }

    /// Cuts the runs into pieces.
    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        let mut piece = Piece { pages: self, ranges: Vec::new(), bytes: 0, offset: 0 };
        for run in &self.runs {
            let mut at = run.start;
            while at < run.end {
                let bytes = ((run.end - at) as usize).min(PIECE - piece.bytes);
                piece.ranges.push((at, bytes));
                piece.bytes += bytes;
                at += bytes as u64;
                if piece.bytes == PIECE || piece.ranges.len() == IOV_MAX {
                    let offset = piece.offset + piece.bytes as u64;
                    let next = Piece { pages: self, ranges: Vec::new(), bytes: 0, offset };
                    pieces.push(std::mem::replace(&mut piece, next));
                }
            }
        }
        if piece.bytes > 0 {
            pieces.push(piece);
        }
        pieces
    }
}

/// A part of the pages that one thread copies at a time.
struct Piece<'a> {
    pages: &'a Pages,
    ranges: Vec<(u64, usize)>,
    bytes: usize,
    /// Where it begins in the pages file.
    offset: u64,
}

impl Piece<'_> {
    fn read(&self, to: &mut [u8]) -> io::Result<()> {
        match &self.pages.origin {
            Origin::Process(pid) => read_process(*pid, &self.ranges, to),
            Origin::Segment(file) => {
                let mut rest = to;
                for &(offset, bytes) in &self.ranges {
                    let (here, later) = rest.split_at_mut(bytes);
                    file.read_exact_at(here, offset)?;
                    rest = later;
                }
                Ok(())
            }
        }
    }
}

/// Reads ranges of a process. The quick way stops at pages that the process itself may not read
/// (`PROT_NONE` mappings can have content); those come through `/proc/PID/mem`.
fn read_process(pid: i32, ranges: &[(u64, usize)], to: &mut [u8]) -> io::Result<()> {
    if let Ok(read) = read_ranges(pid, ranges, to)
        && read == to.len()
    {
        return Ok(());
    }
    let memory = MemoryFile::open(pid)?;
    let mut rest = to;
    for &(address, bytes) in ranges {
        let (here, later) = rest.split_at_mut(bytes);
        memory.read_exact(address, here)?;
        rest = later;
    }
    Ok(())
}

/// Where frozen pages are copied to.
#[derive(Debug)]
pub(crate) enum Store {
    /// Memory that is there already.
    Arena(Arena),
    /// The pages files.
    Files,
}

impl Store {
    /// Chooses for a target that holds about `expected` bytes of private and shared memory.
    ///
    /// A target that runs on must not wait for a file system; but a copy of a target that fills
    /// half of the memory there is would put the machine at risk, so that one waits.
    pub(crate) fn choose(runs_on: bool, expected: u64) -> Self {
        // A target keeps allocating between the plan and the freeze.
        let wanted = expected + expected / 8 + (1 << 20);
        if !runs_on || wanted > available_memory() / 2 {
            return Self::Files;
        }
        match usize::try_from(wanted).map(Arena::new) {
            Ok(Ok(arena)) => Self::Arena(arena),
            _ => Self::Files,
        }
    }

    /// Copies the pages of all `sets`. The only part of the memory work that the target waits
    /// for.
    pub(crate) fn copy(&mut self, sets: &mut [Pages]) -> Result<(), Error> {
        let total: u64 = sets.iter().map(Pages::bytes).sum();
        if let Self::Arena(arena) = self
            && total > arena.len() as u64
        {
            // It grew by more than was foreseen: slower, and right.
            *self = Self::Files;
        }
        match self {
            Self::Files => copy_to_files(sets),
            Self::Arena(arena) => {
                let mut start = 0;
                for set in sets.iter_mut() {
                    set.in_arena = Some(start);
                    start += set.bytes() as usize;
                }
                copy_to_arena(arena, sets)
            }
        }
    }

    /// Writes what [`Store::copy`] left in memory.
    pub(crate) fn write(&self, sets: &[Pages], progress: &mut dyn Progress) -> Result<(), Error> {
        let Self::Arena(arena) = self else { return Ok(()) };
        for set in sets {
            let Some(start) = set.in_arena else { continue };
            let bytes = &arena[start..start + set.bytes() as usize];
            for (index, piece) in bytes.chunks(16 * PIECE).enumerate() {
                set.file
                    .write_all_at(piece, (index * 16 * PIECE) as u64)
                    .map_err(|source| Error::Pages { pid: set.pid, source })?;
                progress.advance(piece.len() as u64);
            }
        }
        Ok(())
    }
}

fn failed(pid: i32) -> impl Fn(io::Error) -> Error {
    move |source| Error::Process { operation: "copy the memory", pid, source }
}

/// Has each of `work` done, by as many threads as pay for `bytes`.
fn share<W: Send>(
    work: Vec<W>,
    bytes: u64,
    run: impl Fn(W, &mut Vec<u8>) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let threads = match bytes {
        0..WORTH_A_THREAD => 1,
        _ => std::thread::available_parallelism().map_or(1, usize::from).min(8),
    };
    let work = Mutex::new(work.into_iter());
    let next = || work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let worker = || {
        let mut buffer = Vec::new();
        while let Some(piece) = next() {
            run(piece, &mut buffer)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        let mut done = worker();
        for other in others {
            done = done.and(other.join().unwrap_or(Err(Error::Panicked)));
        }
        done
    })
}

fn copy_to_arena(arena: &mut [u8], sets: &[Pages]) -> Result<(), Error> {
    let mut rest = arena;
    let mut work = Vec::new();
    let mut total = 0;
    for piece in sets.iter().flat_map(Pages::pieces) {
        let (here, later) = rest.split_at_mut(piece.bytes);
        total += piece.bytes as u64;
        work.push((piece, here));
        rest = later;
    }
    share(work, total, |(piece, to), _| piece.read(to).map_err(failed(piece.pages.pid)))
}

fn copy_to_files(sets: &[Pages]) -> Result<(), Error> {
    let work: Vec<_> = sets.iter().flat_map(Pages::pieces).collect();
    let total = sets.iter().map(Pages::bytes).sum();
    share(work, total, |piece, buffer| {
        let pid = piece.pages.pid;
        buffer.resize(piece.bytes, 0);
        piece.read(buffer).map_err(failed(pid))?;
        piece
            .pages
            .file
            .write_all_at(buffer, piece.offset)
            .map_err(|source| Error::Pages { pid, source })
    })
}

/// Bytes of memory that can be had without swapping; 0 when the kernel does not say.
fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

/// The parts of a shared segment's file that have content, found by its holes.
pub(crate) fn segment_runs(file: &File, bytes: u64) -> io::Result<Vec<PageRun>> {
    use nix::unistd::{Whence, lseek};
    let mut runs = Vec::new();
    let mut at = 0i64;
    let end = i64::try_from(bytes).unwrap_or(i64::MAX);
    while at < end {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        if start >= end {
            break;
        }
        let stop = lseek(file, start, Whence::SeekHole)?.min(end);
        runs.push(PageRun::new(start.cast_unsigned(), stop.cast_unsigned()));
        at = stop;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_runs_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let page = 4096;
        let pages = Pages {
            pid: 1,
            origin: Origin::Process(1),
            runs: vec![
                PageRun::new(0x10000, 0x10000 + page),
                PageRun::new(0x4000_0000, 0x4000_0000 + 3 * PIECE as u64),
            ],
            id: 1,
            file: File::create(dir.path().join("pages")).unwrap(),
            in_arena: None,
        };
        let pieces = pages.pieces();
        let mut offset = 0;
        for piece in &pieces {
            assert_eq!(piece.offset, offset);
            assert_eq!(piece.ranges.iter().map(|(_, bytes)| bytes).sum::<usize>(), piece.bytes);
            assert!(piece.bytes <= PIECE);
            offset += piece.bytes as u64;
        }
        assert_eq!(offset, pages.bytes());
        assert_eq!(pieces.len(), 4);
    }

    #[test]
    fn holes_of_a_segment_are_not_content() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("segment"))
            .unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1], 5 * 4096).unwrap();
        let runs = segment_runs(&file, 1 << 20).unwrap();
        assert_eq!(runs, [PageRun::new(5 * 4096, 6 * 4096)]);
    }
}
