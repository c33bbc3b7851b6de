//! Runs of pages, put together to calls that read them.

use std::os::fd::RawFd;

use images::PAGE_SIZE;
use parasite::restorer::{Read, Segment};

use crate::run::{Run, RunSource};

/// Segments that the kernel takes in one call.
const MAX_SEGMENTS: usize = 1024;
/// Bytes of one read: what two threads share out between them, and what is still in the
/// processor's cache when it is read into after it was cleared.
const MAX_READ: u64 = 2 << 20;

/// Groups runs that lie in a row in their file, in the order of the file, into reads as large as
/// the kernel takes.
pub(crate) fn reads(runs: &[Run], stores: &[RawFd]) -> (Vec<Read>, Vec<Segment>) {
    let mut ordered: Vec<&Run> = runs.iter().collect();
    ordered.sort_by_key(|run| run.source);
    let mut reads: Vec<Read> = Vec::new();
    let mut segments: Vec<Segment> = Vec::new();
    // Where the last read ends in its file, and how much it takes.
    let mut end = None;
    let mut taken = 0;
    for run in ordered {
        let mut rest = *run;
        while rest.pages > 0 {
            let bytes = rest.bytes().min(MAX_READ);
            let joins = rest.stored().is_some()
                && end == Some(rest.source)
                && taken + bytes <= MAX_READ
                && reads.last().is_some_and(|read| (read.segments as usize) < MAX_SEGMENTS);
            if !joins {
                let (fd, offset) = match rest.source {
                    RunSource::Stored(store, offset) => (stores[store], offset),
                    RunSource::Zero => (-1, 0),
                };
                reads.push(Read { fd, segments: 0, first: segments.len() as u64, offset });
                taken = 0;
            }
            // A run that follows the last one in memory too lengthens it.
            match segments.last_mut() {
                Some(last) if joins && last.start + last.bytes == rest.start => last.bytes += bytes,
                _ => {
                    segments.push(Segment { start: rest.start, bytes });
                    if let Some(read) = reads.last_mut() {
                        read.segments += 1;
                    }
                }
            }
            taken += bytes;
            rest.start += bytes;
            rest.pages -= bytes / PAGE_SIZE;
            rest.source = rest.source.after(bytes);
            end = Some(rest.source);
        }
    }
    (reads, segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_in_a_row_are_read_together() {
        let stores = [70, 71];
        let run = |start, pages, source| Run { start, pages, source };
        let runs = [
            run(0x1000, 1, RunSource::Stored(0, 0)),
            run(0x2000, 1, RunSource::Stored(0, 4096)),
            run(0x8000, 2, RunSource::Stored(0, 8192)),
            run(0x1_0000, 1, RunSource::Zero),
            run(0x2_0000, 1, RunSource::Stored(1, 0)),
        ];
        let (reads, segments) = reads(&runs, &stores);
        assert_eq!(reads.len(), 3);
        assert_eq!((reads[0].fd, reads[0].segments), (-1, 1));
        assert_eq!((reads[1].fd, reads[1].segments, reads[1].offset), (70, 2, 0));
        assert_eq!((reads[2].fd, reads[2].segments), (71, 1));
        assert_eq!(segments[1], Segment { start: 0x1000, bytes: 0x2000 });
        assert_eq!(segments[2], Segment { start: 0x8000, bytes: 0x2000 });
    }

    #[test]
    fn long_runs_are_read_in_pieces() {
        let stores = [70];
        let pages = 3 * MAX_READ / PAGE_SIZE / 2;
        let (reads, segments) =
            reads(&[Run { start: 0, pages, source: RunSource::Stored(0, 4096) }], &stores);
        assert_eq!(reads.len(), 2);
        assert_eq!(reads[1].offset, 4096 + MAX_READ);
        assert_eq!(segments.iter().map(|segment| segment.bytes).sum::<u64>(), pages * PAGE_SIZE);
    }
}
