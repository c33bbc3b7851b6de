//! What the reader of an iterator over open files asks for.

/// The value of the map `ASKED`, by the number of the thread that reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What to write out of each file: [`FILES`], [`HOLDERS`] or both.
    pub what: u32,
    /// How many words there are at `bits`.
    pub words: u32,
    /// Where in the reader's memory there is a bit for each descriptor that it wants; 0 for all.
    pub bits: u64,
}

/// The words of an [`Asked`].
pub const ASKED_WORDS: usize = size_of::<Asked>() / 8;

impl From<Asked> for [u64; ASKED_WORDS] {
    fn from(asked: Asked) -> Self {
        [u64::from(asked.words) << 32 | u64::from(asked.what), asked.bits]
    }
}

/// A [`FileRecord`](crate::FileRecord).
pub const FILES: u32 = 1;
/// A [`HoldersRecord`](crate::HoldersRecord).
pub const HOLDERS: u32 = 2;
