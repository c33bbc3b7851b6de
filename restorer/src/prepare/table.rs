//! Tables that follow the arguments, one behind the other.

use parasite::plain::{Plain, bytes_of};
use parasite::restorer::{Special, Table};

/// Every table starts at a multiple of this, the largest alignment of any entry.
const ALIGN: usize = 8;

/// The tables so far, with room for the arguments in front.
#[derive(Debug)]
pub(super) struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    /// Leaves `head` bytes for the arguments.
    pub(super) fn new(head: usize) -> Self {
        Self { bytes: vec![0; head.next_multiple_of(ALIGN)] }
    }

    /// Appends a table.
    pub(super) fn put<T: Plain>(&mut self, entries: &[T]) -> Table<T> {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let table = Table::new(self.bytes.len() as u64, entries.len() as u64);
        self.bytes.extend_from_slice(bytes_of(entries));
        table
    }

    /// Bytes with the last table, which says where the vDSO goes, in so many pieces at most.
    pub(super) fn len_with(&self, pieces: usize) -> usize {
        self.bytes.len().next_multiple_of(ALIGN) + pieces * size_of::<Special>()
    }

    /// Puts the arguments in front.
    pub(super) fn finish(mut self, head: &[u8]) -> Vec<u8> {
        self.bytes[..head.len()].copy_from_slice(head);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_where_they_say() {
        let mut tables = Tables::new(12);
        let bytes = tables.put(&[1u8, 2, 3]);
        let words = tables.put(&[0x0102_0304_0506_0708u64]);
        assert_eq!((bytes.offset, bytes.count), (16, 3));
        assert_eq!((words.offset, words.count), (24, 1));
        assert_eq!(tables.len_with(0), 32);
        let all = tables.finish(&[9; 12]);
        assert_eq!(&all[..12], &[9; 12]);
        assert_eq!(&all[16..19], &[1, 2, 3]);
        assert_eq!(all[24], 8);
    }
}
