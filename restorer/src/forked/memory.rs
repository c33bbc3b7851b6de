//! The memory of one task that is built before it makes its children.

use std::ops::Range;
use std::os::fd::RawFd;

use kernel::spare::{Backing, SpareMemory};
use parasite::restorer::{Read, Segment};

use super::{Layout, Part};
use crate::error::Error;
use crate::load::Checkpoint;
use crate::reads::reads;
use crate::run::Run;

/// What a task does to build it.
#[derive(Debug, Default)]
pub(crate) struct TaskMemory {
    /// What it maps, as it was not born with it.
    maps: Vec<New>,
    /// What its parent has there, and it has not.
    gone: Vec<Run>,
    /// What it has where its parent has nothing.
    fresh: (Vec<Read>, Vec<Segment>),
    /// What it has where its parent has something, too.
    compared: (Vec<Read>, Vec<Segment>),
}

/// A mapping.
#[derive(Debug)]
struct New {
    at: u64,
    bytes: u64,
    flags: u32,
    backing: Backing,
}

impl Layout {
    /// What a process has to do. `mapped` tells the descriptors of files by id and flags, `stores` are those of pages files.
    pub(crate) fn task(
        &self,
        checkpoint: &Checkpoint,
        process: usize,
        mapped: impl Fn((u32, u32)) -> Option<RawFd>,
        stores: &[RawFd],
    ) -> Result<TaskMemory, Error> {
        let mut memory = TaskMemory::default();
        let Some(parts) = self.parts.get(&process) else { return Ok(memory) };
        let runs = |process: usize, part: &Part| {
            let body = checkpoint.processes[process].body.as_ref();
            let range = part.stretch.start..part.stretch.end;
            body.map_or_else(Vec::new, |body| clip(&body.runs, range))
        };
        let (mut fresh, mut compared) = (Vec::new(), Vec::new());
        for part in parts {
            // What nobody has written is zeros already, if it is of no file.
            let is_told = |run: &Run| run.stored().is_some() || part.stretch.kind.file.is_some();
            let there = |run: Run| Run { start: part.at + (run.start - part.stretch.start), ..run };
            let own = runs(process, part);
            let Some(giver) = part.giver else {
                let lost = || {
                    let object = format!("mapping {:#x}", part.stretch.start);
                    Error::image(object, "the file that it maps is not in the images")
                };
                memory.maps.push(new(part, &mapped).ok_or_else(lost)?);
                fresh.extend(own.into_iter().filter(is_told).map(there));
                continue;
            };
            let given = runs(giver, part);
            memory.gone.extend(cut(&given, &own).1.into_iter().map(there));
            let (both, alone) = cut(&own, &given);
            compared.extend(both.into_iter().map(there));
            fresh.extend(alone.into_iter().filter(is_told).map(there));
        }
        memory.fresh = reads(&fresh, stores);
        memory.compared = reads(&compared, stores);
        Ok(memory)
    }
}

fn new(part: &Part, mapped: impl Fn((u32, u32)) -> Option<RawFd>) -> Option<New> {
    let kind = part.stretch.kind;
    let backing = match kind.file {
        None => Backing::Anonymous,
        Some(file) => Backing::File(mapped(file)?, kind.base.wrapping_add(part.stretch.start)),
    };
    Some(New { at: part.at, bytes: part.stretch.bytes(), flags: kind.flags, backing })
}

/// What of runs in ascending order is in a range.
fn clip(runs: &[Run], range: Range<u64>) -> Vec<Run> {
    let from = runs.partition_point(|run| run.end() <= range.start);
    let inside = runs[from..].iter().take_while(|run| run.start < range.end);
    inside.map(|run| piece(run, run.start.max(range.start), run.end().min(range.end))).collect()
}

/// A piece of a run, between two addresses in it.
fn piece(run: &Run, start: u64, end: u64) -> Run {
    let source = run.source.after(start - run.start);
    Run { start, pages: (end - start) / images::PAGE_SIZE, source }
}

/// What of `runs` is where `others` are, and what is not; both are in ascending order.
fn cut(runs: &[Run], others: &[Run]) -> (Vec<Run>, Vec<Run>) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let mut others = others.iter().peekable();
    for run in runs {
        let mut at = run.start;
        while at < run.end() {
            while others.next_if(|other| other.end() <= at).is_some() {}
            let next = others.peek().filter(|other| other.start < run.end());
            match next {
                Some(other) if other.start <= at => {
                    let end = other.end().min(run.end());
                    inside.push(piece(run, at, end));
                    at = end;
                }
                _ => {
                    let end = next.map_or(run.end(), |other| other.start);
                    outside.push(piece(run, at, end));
                    at = end;
                }
            }
        }
    }
    (inside, outside)
}

impl TaskMemory {
    /// Builds it, in the task.
    pub(crate) fn build(&self, spare: &SpareMemory) -> Result<(), Error> {
        for New { at, bytes, flags, backing } in &self.maps {
            spare
                .map(*at, *bytes as usize, flags.cast_signed(), *backing)
                .map_err(Error::kernel("map memory that children have, too"))?;
        }
        for run in &self.gone {
            let given_back = spare.discard(run.start, run.bytes() as usize);
            given_back.map_err(Error::kernel("give back memory of the parent"))?;
        }
        each(&self.fresh, |ranges, read| match read.fd {
            ..0 => ranges.iter().try_for_each(|&(at, bytes)| spare.zero(at, bytes)),
            fd => spare.read(ranges, fd, read.offset),
        })?;
        let mut room = Vec::new();
        each(&self.compared, |ranges, read| match read.fd {
            ..0 => ranges.iter().try_for_each(|&(at, bytes)| spare.clear(at, bytes)),
            fd => {
                let bytes: usize = ranges.iter().map(|(_, bytes)| bytes).sum();
                room.resize(bytes.max(room.len()), 0);
                spare.update(ranges, fd, read.offset, &mut room)
            }
        })
    }
}

/// Calls for each read, with the places that it fills.
fn each(
    (reads, segments): &(Vec<Read>, Vec<Segment>),
    mut call: impl FnMut(&[(u64, usize)], &Read) -> std::io::Result<()>,
) -> Result<(), Error> {
    let mut ranges = Vec::new();
    for read in reads {
        let filled = segments.iter().skip(read.first as usize).take(read.segments as usize);
        ranges.clear();
        ranges.extend(filled.map(|segment| (segment.start, segment.bytes as usize)));
        call(&ranges, read).map_err(Error::kernel("read memory that is shared since a fork"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunSource;

    fn run(start: u64, pages: u64, at: u64) -> Run {
        Run { start: start << 12, pages, source: RunSource::Stored(0, at << 12) }
    }

    #[test]
    fn runs_are_cut_where_others_begin_and_end() {
        let runs = [run(1, 4, 10), run(8, 2, 20)];
        let others = [run(0, 2, 0), run(3, 1, 0), run(9, 5, 0)];
        let (inside, outside) = cut(&runs, &others);
        assert_eq!(inside, [run(1, 1, 10), run(3, 1, 12), run(9, 1, 21)]);
        assert_eq!(outside, [run(2, 1, 11), run(4, 1, 13), run(8, 1, 20)]);
        assert_eq!(cut(&runs, &[]), (vec![], runs.to_vec()));
        assert_eq!(clip(&runs, 2 << 12..9 << 12), [run(2, 3, 11), run(8, 1, 20)]);
    }
}
