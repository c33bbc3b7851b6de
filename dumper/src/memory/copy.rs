//! Copying pages: out of a process or a shared segment, by as many threads as pay.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use kernel::memory::{IOV_MAX, MemoryFile};
use kernel::pagemap::{PAGE_SIZE, PageRun};

use crate::error::Error;

/// Bytes of the pieces that the copying is cut into: large enough that system calls cost nothing
/// beside the copying, small enough that a piece stays in a processor's cache between reading and
/// writing.
pub(super) const PIECE: usize = 1 << 20;

/// Below this many bytes starting a second thread costs more than it saves.
const WORTH_A_THREAD: u64 = 4 << 20;

/// Where the pages of a set of runs come from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Addresses of a process.
    Process(i32),
    /// Offsets in the file behind shared memory.
    Segment(File),
}

/// A part of the pages that one thread copies at a time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Address (or offset in the segment) and bytes.
    pub(super) ranges: Vec<(u64, usize)>,
    pub(super) bytes: usize,
    /// Where it goes.
    pub(super) offset: u64,
}

/// Cuts runs, each of which goes to an offset of its own, into pieces.
pub(super) fn cut(runs: impl IntoIterator<Item = (PageRun, u64)>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut piece = Piece::default();
    for (run, offset) in runs {
        if offset != piece.offset + piece.bytes as u64 {
            let next = Piece { offset, ..Piece::default() };
            pieces.push(std::mem::replace(&mut piece, next));
        }
        let mut at = run.start;
        while at < run.end {
            let bytes = ((run.end - at) as usize).min(PIECE - piece.bytes);
            piece.ranges.push((at, bytes));
            piece.bytes += bytes;
            at += bytes as u64;
            if piece.bytes == PIECE || piece.ranges.len() == IOV_MAX {
                let offset = piece.offset + piece.bytes as u64;
                pieces.push(std::mem::replace(&mut piece, Piece { offset, ..Piece::default() }));
            }
        }
    }
    pieces.push(piece);
    pieces.retain(|piece| piece.bytes > 0);
    pieces
}

/// Gives runs one behind the other their offsets, from `first`.
pub(super) fn in_a_row(runs: &[PageRun], first: u64) -> impl Iterator<Item = (PageRun, u64)> + '_ {
    runs.iter().scan(first, |offset, run| {
        let here = *offset;
        *offset += run.bytes();
        Some((*run, here))
    })
}

impl Piece {
    /// Reads it from memory that stands still.
    pub(super) fn read(&self, origin: &Origin, to: &mut [u8]) -> io::Result<()> {
        match origin {
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

    /// Reads it from a process that runs. Pages that have gone meanwhile read as zeros, and are
    /// noted in `lost`.
    pub(super) fn read_running(&self, pid: i32, to: &mut [u8], lost: &Mutex<Vec<PageRun>>) {
        let memory = MemoryFile::open(pid);
        let read = |address, to: &mut [u8]| {
            memory.as_ref().is_ok_and(|m| m.read_exact(address, to).is_ok())
        };
        let mut rest = to;
        for &(start, bytes) in &self.ranges {
            let (here, later) = rest.split_at_mut(bytes);
            rest = later;
            if read(start, here) {
                continue;
            }
            let pages = here.chunks_mut(PAGE_SIZE as usize);
            for (page, address) in pages.zip((start..).step_by(PAGE_SIZE as usize)) {
                if !read(address, page) {
                    page.fill(0);
                    let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
                    lost.push(PageRun::new(address, address + page.len() as u64));
                }
            }
        }
    }
}

/// Reads ranges of a process by `/proc/PID/mem`. `process_vm_readv` would pin the pages, and for that
/// the kernel gives the process copies of its own of all that it shares with its kin since a
/// fork: a dump of a family would multiply its memory. It would also stop at what the process
/// itself may not read.
fn read_process(pid: i32, ranges: &[(u64, usize)], to: &mut [u8]) -> io::Result<()> {
    let memory = MemoryFile::open(pid)?;
    let mut rest = to;
    for &(address, bytes) in ranges {
        let (here, later) = rest.split_at_mut(bytes);
        memory.read_exact(address, here)?;
        rest = later;
    }
    Ok(())
}

pub(super) fn failed(pid: i32) -> impl Fn(io::Error) -> Error {
    move |source| Error::Process { operation: "copy the memory", pid, source }
}

/// Has each of `work` done, by as many threads as pay for copying `bytes`.
pub(super) fn share<W: Send>(
    work: Vec<W>,
    bytes: u64,
    run: impl Fn(W, &mut Vec<u8>) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let threads = match bytes {
        0..WORTH_A_THREAD => 1,
        _ => processors(),
    };
    share_among(threads, work, run)
}

/// Processors that there is use for.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// Has each of `work` done, by so many threads.
pub(super) fn share_among<W: Send>(
    threads: usize,
    work: Vec<W>,
    run: impl Fn(W, &mut Vec<u8>) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let work = Mutex::new(work.into_iter());
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
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

/// Pairs pieces that go into memory one behind the other with the parts of it.
pub(super) fn into_memory(pieces: Vec<Piece>, memory: &mut [u8]) -> Vec<(Piece, &mut [u8])> {
    let mut rest = memory;
    let mut work = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (here, later) = rest.split_at_mut(piece.bytes);
        work.push((piece, here));
        rest = later;
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_runs_in_order() {
        let runs = [
            PageRun::new(0x10000, 0x10000 + PAGE_SIZE),
            PageRun::new(0x4000_0000, 0x4000_0000 + 3 * PIECE as u64),
        ];
        let pieces = cut(in_a_row(&runs, 0));
        let mut offset = 0;
        for piece in &pieces {
            assert_eq!(piece.offset, offset);
            assert_eq!(piece.ranges.iter().map(|(_, bytes)| bytes).sum::<usize>(), piece.bytes);
            assert!(piece.bytes <= PIECE);
            offset += piece.bytes as u64;
        }
        assert_eq!(offset, runs[0].bytes() + runs[1].bytes());
        assert_eq!(pieces.len(), 4);
    }

    #[test]
    fn what_goes_elsewhere_is_a_piece_of_its_own() {
        let run = |page: u64| PageRun::new(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
        let pieces = cut([(run(1), 0), (run(3), PAGE_SIZE), (run(5), 7 * PAGE_SIZE)]);
        let places: Vec<_> =
            pieces.iter().map(|piece| (piece.offset, piece.ranges.len())).collect();
        assert_eq!(places, [(0, 2), (7 * PAGE_SIZE, 1)]);
    }

    #[test]
    fn pages_that_are_gone_are_noted() {
        let own = [7u8; 3 * PAGE_SIZE as usize];
        let at = (own.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
        // Nothing is mapped at the lowest addresses.
        let ranges = vec![(at, PAGE_SIZE as usize), (0x1000, PAGE_SIZE as usize)];
        let piece = Piece { ranges, bytes: 2 * PAGE_SIZE as usize, offset: 0 };
        let lost = Mutex::default();
        let mut to = vec![1; piece.bytes];
        piece.read_running(std::process::id() as i32, &mut to, &lost);
        let (first, second) = to.split_at(PAGE_SIZE as usize);
        assert!(first.iter().all(|&byte| byte == 7) && second.iter().all(|&byte| byte == 0));
        assert_eq!(lost.into_inner().unwrap(), [PageRun::new(0x1000, 0x2000)]);
    }
}
