//! Where pages are, and where they go.

use images::PAGE_SIZE;

/// Where pages are. What is at one place follows in the order of the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RunSource {
    /// Nowhere: they are zeros.
    Zero,
    /// In a pages file: its index, and the offset in it.
    Stored(usize, u64),
}

impl RunSource {
    /// The place that is so many bytes behind.
    pub(crate) fn after(self, bytes: u64) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Stored(store, offset) => Self::Stored(store, offset + bytes),
        }
    }
}

/// Pages that are put back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Address (or offset in a segment).
    pub(crate) start: u64,
    pub(crate) pages: u64,
    pub(crate) source: RunSource,
}

impl Run {
    pub(crate) fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes()
    }

    /// The pages file, and the offset in it, if they are in one.
    pub(crate) fn stored(&self) -> Option<(usize, u64)> {
        match self.source {
            RunSource::Stored(store, offset) => Some((store, offset)),
            RunSource::Zero => None,
        }
    }
}
