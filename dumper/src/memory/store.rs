//! Where pages are copied to while the target stands still.

use std::os::unix::fs::FileExt;

use images::Progress;
use kernel::arena::Arena;

use super::copy::{cut, failed, in_a_row, into_memory, share};
use super::pages::Pages;
use crate::clock::Clock;
use crate::error::Error;

/// What is said to have taken the time when it runs out.
const STEP: &str = "copy the memory";

/// Where frozen pages are copied to.
#[derive(Debug)]
pub(crate) enum Store {
    /// Memory that is there already.
    Arena(Arena),
    /// The pages files.
    Files,
}

impl Store {
    /// Chooses for a target of which about `expected` bytes will have to be copied.
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
    pub(crate) fn copy(&mut self, sets: &mut [Pages], clock: &Clock) -> Result<(), Error> {
        let total: u64 = sets.iter().map(Pages::frozen_bytes).sum();
        if let Self::Arena(arena) = self
            && total > arena.len() as u64
        {
            // It grew by more than was foreseen: slower, and right.
            *self = Self::Files;
        }
        match self {
            Self::Files => {
                sets.iter_mut().for_each(Pages::settle);
                copy_to_files(sets, total, clock)
            }
            Self::Arena(arena) => {
                let mut start = 0;
                for set in sets.iter_mut() {
                    set.in_arena = Some(start);
                    start += set.frozen_bytes() as usize;
                }
                copy_to_arena(arena, sets, total, clock)
            }
        }
    }

    /// Writes what is in memory.
    pub(crate) fn write(&self, sets: &[Pages], progress: &mut dyn Progress) -> Result<(), Error> {
        for set in sets {
            let frozen = match (self, set.in_arena) {
                (Self::Arena(arena), Some(start)) => Some(&arena[start..]),
                _ => None,
            };
            set.write(frozen, progress)?;
        }
        Ok(())
    }
}

fn copy_to_arena(arena: &mut [u8], sets: &[Pages], total: u64, clock: &Clock) -> Result<(), Error> {
    let mut rest = arena;
    let mut work = Vec::new();
    for set in sets {
        let (here, later) = rest.split_at_mut(set.frozen_bytes() as usize);
        let pieces = into_memory(cut(in_a_row(&set.runs, 0)), here);
        work.extend(pieces.into_iter().map(|(piece, to)| (set, piece, to)));
        rest = later;
    }
    share(work, total, |(set, piece, to), _| {
        clock.check(STEP)?;
        piece.read(&set.origin, to).map_err(failed(set.pid))
    })
}

fn copy_to_files(sets: &[Pages], total: u64, clock: &Clock) -> Result<(), Error> {
    let work: Vec<_> = sets
        .iter()
        .flat_map(|set| cut(set.frozen_places()).into_iter().map(move |piece| (set, piece)))
        .collect();
    share(work, total, |(set, piece), buffer| {
        clock.check(STEP)?;
        buffer.resize(piece.bytes, 0);
        piece.read(&set.origin, buffer).map_err(failed(set.pid))?;
        set.file
            .write_all_at(buffer, piece.offset)
            .map_err(|source| Error::Pages { pid: set.pid, source })
    })
}

/// Bytes of memory that can be had without swapping; 0 when the kernel does not say.
pub(super) fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}
