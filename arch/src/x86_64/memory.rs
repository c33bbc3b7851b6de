//! Address space: its end, its pages, and the kernel's flags of its mappings.

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// Where the addresses end that a native task can map. (Five levels of page tables reach further
/// for whoever asks by a hint; no mapping of an ordinary program lies there.)
pub const END_OF_SPACE: u64 = 0x7fff_ffff_f000;

/// The mapping that every native process has without having made it, at the top of the address
/// space.
pub const GATE: &[u8] = b"[vsyscall]";

/// The bits of the kernel's flags of a mapping that hold its protection key, a number.
pub const PROTECTION_KEY: u64 = 0xf << 32;

/// The kernel's flags of a mapping that do not have the same place on all processors
/// (include/linux/mm.h), by bit, with their letters in `/proc/PID/smaps`. Some have moved, and have
/// two places here that no kernel uses for anything else.
pub const VM_FLAGS: [(u32, [u8; 2]); 7] = [
    (24, *b"ar"),
    (37, *b"ss"),
    (38, *b"ui"),
    (40, *b"dp"),
    (41, *b"ui"),
    (42, *b"sl"),
    (63, *b"sl"),
];
