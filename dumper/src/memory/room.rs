//! Where a round of copying has room.

use images::{Folder, ImageWriter, names};

use crate::error::Error;

/// Bytes of a round that go into memory: to make files for so few takes longer than to copy them.
const IN_MEMORY: u64 = 16 << 20;
/// Bytes that are worth several threads with a file of its own each.
pub(super) const WORTH_A_FILE: u64 = 64 << 20;

/// Room for what a round copies of all processes: memory, and folders with a pages file for each process.
#[derive(Debug)]
pub(super) struct Room<'w> {
    writer: &'w ImageWriter,
    /// How many folders there were before this round.
    pub(super) after: usize,
    /// How many there may be.
    most: usize,
    /// How many there are by now.
    pub(super) taken: usize,
    threads: usize,
    /// Bytes that go into memory before folders are taken.
    pub(super) in_memory: u64,
    /// Bytes that go into memory where no folder can be had.
    pub(super) budget: u64,
    /// Something had room nowhere.
    pub(super) is_full: bool,
}

impl<'w> Room<'w> {
    /// Of a round that comes after so many folders and may take `budget` bytes of memory. Without a folder before
    /// them there are none for it, either.
    pub(super) fn of_round(
        writer: &'w ImageWriter,
        after: usize,
        threads: usize,
        budget: u64,
    ) -> Self {
        let most = if after == 0 { 0 } else { names::PRE_COPIES.len() };
        let in_memory = budget.min(IN_MEMORY);
        Self { writer, after, most, taken: after, threads, in_memory, budget, is_full: false }
    }

    /// Folders for so many bytes of a process; none if there are no more.
    pub(super) fn folders(&mut self, bytes: u64) -> Result<Vec<Folder<'w>>, Error> {
        let wanted = if bytes < WORTH_A_FILE { 1 } else { files(self.threads) };
        let end = self.most.min(self.after + wanted);
        self.taken = self.taken.max(end);
        match end > self.after {
            true => Ok(self.writer.pre_copies(end)?.split_off(self.after)),
            false => Ok(Vec::new()),
        }
    }
}

/// How many files so many threads had better write to.
pub(super) fn files(threads: usize) -> usize {
    const MOST: usize = 4;
    threads.min(MOST)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use images::WriteOptions;
    use images::store::Memory;

    use super::*;

    #[test]
    fn a_round_takes_folders_behind_those_there_are_until_there_are_no_more() {
        let new = Memory::default().create(Path::new("c"), WriteOptions::default()).unwrap();
        let writer = ImageWriter::of(Box::new(new));
        let taken = |after, bytes| {
            let mut room = Room::of_round(&writer, after, 2, 1 << 30);
            (room.folders(bytes).unwrap().len(), room.taken)
        };
        assert_eq!(taken(2, IN_MEMORY), (1, 3));
        assert_eq!(taken(2, WORTH_A_FILE), (2, 4));
        let most = names::PRE_COPIES.len();
        assert_eq!(taken(most - 1, WORTH_A_FILE), (1, most));
        assert_eq!(taken(most, WORTH_A_FILE), (0, most));
        assert_eq!(taken(0, WORTH_A_FILE), (0, 0));
        assert_eq!(Room::of_round(&writer, 2, 2, 1).in_memory, 1);
    }
}
