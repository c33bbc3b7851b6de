//! Copying pages: out of a process or a shared segment, by as many threads as pay.

use std::io;

use ids::HostPid;
use kernel::memory::IOV_MAX;
use kernel::pagemap::PageRun;

use crate::error::Error;

/// Bytes of the pieces that the copying is cut into: large enough that system calls cost nothing
/// beside the copying, small enough that a piece stays in a processor's cache between reading and
/// writing.
pub(super) const PIECE: usize = 256 << 10;

/// Below this many bytes starting a second thread costs more than it saves.
const WORTH_A_THREAD: u64 = 4 << 20;

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

pub(super) fn failed(pid: HostPid) -> impl Fn(io::Error) -> Error {
    move |source| Error::Process { operation: "copy the memory", pid, source }
}

/// How many threads there is use for at most. To be asked while the target runs: the answer is in
/// files of the control group.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// Threads, of at most so many, that pay for copying `bytes`.
pub(super) fn that_pay(threads: usize, bytes: u64) -> usize {
    match bytes {
        0..WORTH_A_THREAD => 1,
        _ => threads,
    }
}

/// The same of bytes that are in so many pieces, each of which takes a call.
pub(super) fn that_pay_for(threads: usize, bytes: u64, pieces: usize) -> usize {
    /// As long as a thread takes to start.
    const WORTH_A_THREAD: usize = 128;
    if pieces < WORTH_A_THREAD { that_pay(threads, bytes) } else { threads }
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
    use kernel::pagemap::PAGE_SIZE;

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
}
