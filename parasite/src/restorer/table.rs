//! Where the blob finds its tables.

use core::marker::PhantomData;

/// Entries that lie in a row, `offset` bytes behind the start of [`Arguments`](super::Arguments).
#[repr(C)]
#[derive(Debug)]
pub struct Table<T> {
    /// Bytes from the start of [`Arguments`](super::Arguments).
    pub offset: u64,
    /// Number of entries.
    pub count: u64,
    entries: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    /// The table at that place.
    #[must_use]
    pub const fn new(offset: u64, count: u64) -> Self {
        Self { offset, count, entries: PhantomData }
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new(0, 0)
    }
}
