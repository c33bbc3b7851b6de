//! What the reader of an iterator over open files asks for.

/// The value of the map `ASKED`, by the number of the thread that reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What to write out of each file: [`FILES`], [`HOLDERS`] or both.
    pub what: u32,
    /// How many words there are at `wanted`.
    pub count: u32,
    /// Where in the reader's memory there is a word for each descriptor: [`NEVER`], [`ALWAYS`], or the
    /// file's [`print`](crate::HoldersRecord::print), if it is wanted only when it has another one.
    /// Those behind the last are not wanted. 0 if all are.
    pub wanted: u64,
}

/// The words of an [`Asked`].
pub const ASKED_WORDS: usize = size_of::<Asked>() / 8;

impl From<Asked> for [u64; ASKED_WORDS] {
    fn from(asked: Asked) -> Self {
        [u64::from(asked.count) << 32 | u64::from(asked.what), asked.wanted]
    }
}

/// A [`FileRecord`](crate::FileRecord).
pub const FILES: u32 = 1;
/// A [`HoldersRecord`](crate::HoldersRecord).
pub const HOLDERS: u32 = 2;

/// A descriptor that is not wanted.
pub const NEVER: u64 = 0;
/// A descriptor that is wanted.
pub const ALWAYS: u64 = 1;
