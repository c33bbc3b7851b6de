//! Address space: its end, its pages, and the kernel's flags of its mappings.

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// Where the addresses end that a native task can map. (Five levels of page tables reach further
/// for whoever asks by a hint; no mapping of an ordinary program lies there.)
pub const END_OF_SPACE: u64 = 0x7fff_ffff_f000;
