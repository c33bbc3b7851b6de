//! Where pages are copied to while the target stands still.

use ids::HostPid;
use images::{ImageWriter, Progress};
use kernel::arena::Arena;
use support::room::of_encryption;

use super::copy::{cut, failed, in_a_row, into_memory, that_pay_for};
use super::pages::Pages;
use crate::clock::Clock;
use crate::error::Error;
use crate::threads::share;

/// What is said to have taken the time when it runs out.
const STEP: &str = "copy the memory";

/// Where frozen pages are copied to, and by how many threads.
#[derive(Debug)]
pub(crate) struct FrozenPages {
    destination: Destination,
    threads: usize,
    /// What goes to the files is encrypted on its way.
    encrypts: bool,
}

#[derive(Debug)]
enum Destination {
    /// Memory that is there already.
    Arena(Arena),
    /// The pages files.
    Files,
}

impl FrozenPages {
    /// Chooses for a target of which about `expected` bytes will have to be copied, by at most so
    /// many threads, one of so many that are dumped at once.
    ///
    /// A target that runs on must not wait for a file system; but a copy of a target that fills
    /// half of the memory there is would put the machine at risk, so that one waits. None waits for what is encrypted.
    ///
    /// # Errors
    /// If the checkpoint is to be encrypted, and there is no memory for what has not been yet.
    pub(crate) fn choose(
        pid: HostPid,
        (runs_on, encrypts): (bool, bool),
        expected: u64,
        (threads, sharers): (usize, usize),
    ) -> Result<Self, Error> {
        // A target keeps allocating between the plan and the freeze.
        let wanted = expected + expected / 8 + (1 << 20);
        let available = available_memory() / sharers as u64;
        let left = if encrypts { available - available / 4 } else { available / 2 };
        if encrypts && let Some(found) = of_encryption(pid, wanted, left) {
            return Err(Error::Refused { root: pid, found: vec![found] });
        }
        let arena = match (runs_on || encrypts) && wanted <= left {
            true => usize::try_from(wanted).ok().and_then(|wanted| Arena::new(wanted).ok()),
            false => None,
        };
        let destination = arena.map_or(Destination::Files, Destination::Arena);
        Ok(Self { destination, threads, encrypts })
    }

    /// Copies the pages of all `sets`. The only part of the memory work that the target waits
    /// for.
    pub(crate) fn copy(
        &mut self,
        sets: &mut [Pages],
        writer: &ImageWriter,
        clock: &Clock,
    ) -> Result<(), Error> {
        let total: u64 = sets.iter().map(Pages::frozen_bytes).sum();
        let threads = that_pay_for(self.threads, total, sets.len());
        if let Destination::Arena(arena) = &self.destination
            && self.encrypts
            && total > arena.len() as u64
            && total <= available_memory() / 2
            && let Some(larger) = usize::try_from(total).ok().and_then(|it| Arena::new(it).ok())
        {
            self.destination = Destination::Arena(larger);
        }
        match &mut self.destination {
            Destination::Arena(arena) if total <= arena.len() as u64 => {
                let mut start = 0;
                for set in sets.iter_mut() {
                    set.in_arena = Some(start);
                    start += set.frozen_bytes() as usize;
                }
                copy_to_arena(arena, sets, threads, clock)
            }
            // It may have grown by more than was foreseen: slower, and right.
            destination => {
                *destination = Destination::Files;
                sets.iter_mut().try_for_each(|set| set.settle(writer))?;
                copy_to_files(sets, threads, clock)
            }
        }
    }

    /// Writes what is in memory.
    pub(crate) fn write(&self, sets: &[Pages], progress: &mut dyn Progress) -> Result<(), Error> {
        for set in sets {
            let frozen = match (&self.destination, set.in_arena) {
                (Destination::Arena(arena), Some(start)) => Some(&arena[start..]),
                _ => None,
            };
            set.write(frozen, progress)?;
        }
        Ok(())
    }
}

fn copy_to_arena(
    arena: &mut [u8],
    sets: &[Pages],
    threads: usize,
    clock: &Clock,
) -> Result<(), Error> {
    let mut rest = arena;
    let mut work = Vec::new();
    for set in sets {
        let (here, later) = rest.split_at_mut(set.frozen_bytes() as usize);
        let pieces = into_memory(cut(in_a_row(&set.runs, 0)), here);
        work.extend(pieces.into_iter().map(|(piece, to)| (set, piece, to)));
        rest = later;
    }
    share(vec![(); threads], work, |(set, piece, to), ()| {
        clock.check(STEP)?;
        set.origin.read(&piece.ranges, to).map_err(failed(set.pid))
    })
}

fn copy_to_files(sets: &[Pages], threads: usize, clock: &Clock) -> Result<(), Error> {
    let work: Vec<_> = sets
        .iter()
        .flat_map(|set| cut(set.frozen_places()).into_iter().map(move |piece| (set, piece)))
        .collect();
    share(vec![Vec::new(); threads], work, |(set, piece), buffer| {
        clock.check(STEP)?;
        buffer.resize(piece.bytes, 0);
        set.origin.read(&piece.ranges, buffer).map_err(failed(set.pid))?;
        set.write_at(buffer, piece.offset)
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
