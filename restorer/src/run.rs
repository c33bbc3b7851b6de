//! Where pages are, and where they go.

use images::PAGE_SIZE;

/// Pages that are put back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Address (or offset in a segment).
    pub(crate) start: u64,
    pub(crate) pages: u64,
    /// Where they are: index of a pages file and offset in it. Zeros when nowhere.
    pub(crate) place: Option<(usize, u64)>,
}

impl Run {
    pub(crate) fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes()
    }
}
