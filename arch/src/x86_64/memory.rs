//! Address space: its end, its pages, and the kernel's flags of its mappings.

use super::compat::END_OF_SPACE as END_OF_COMPAT;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// Where the addresses end that a native task can map. (Five levels of page tables reach further
/// for whoever asks by a hint; no mapping of an ordinary program lies there.)
pub const END_OF_SPACE: u64 = 0x7fff_ffff_f000;

/// The soft limit of the stack (`RLIMIT_STACK`, bytes) with which a native program that is started
/// without randomised addresses gets new mappings below `base`: the kernel leaves the stack its
/// limit and a gap of 256 pages (arch/x86/mm/mmap.c, `mmap_base`). `None` where no limit does that:
/// the kernel leaves 128 MiB at least, and a program of an unlimited stack has its mappings in the
/// lower half, in ascending order. It reckons two bases alike, the other one for mappings that calls of 32-bit code ask for: a base
/// below 4 GiB is that one.
#[must_use]
pub const fn stack_limit_for(base: u64) -> Option<u64> {
    const GAP: u64 = 256 * PAGE_SIZE;
    const LEAST: u64 = 128 << 20;
    let end = if base < END_OF_COMPAT { END_OF_COMPAT } else { END_OF_SPACE };
    let possible = base.is_multiple_of(PAGE_SIZE) && base > end / 2 && base <= end - LEAST;
    if possible { Some(end - base - GAP) } else { None }
}

/// The mapping that every native process has without having made it, at the top of the address
/// space.
pub const GATE: &[u8] = b"[vsyscall]";

/// Whether an address space has it, by the kernel's flags of the space (`mm_context_t.flags`, 0 where they are not known): a program of
/// 32-bit code has none when it begins.
#[must_use]
pub const fn has_gate(space_flags: u64) -> bool {
    /// `MM_CONTEXT_HAS_VSYSCALL` (arch/x86/include/asm/mmu.h). A 32-bit program has another one.
    const HAS_GATE: u64 = 1 << 1;
    space_flags == 0 || space_flags & HAS_GATE != 0
}

/// The bits of the kernel's flags of a mapping that hold its protection key, a number.
pub const PROTECTION_KEY: u64 = 0xf << 32;

/// How many protection keys there are.
pub const PROTECTION_KEYS: usize = 16;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_found_for_the_upper_half_only() {
        assert_eq!(stack_limit_for(0x7f12_3456_7000), Some(0xed_cb99_8000));
        assert_eq!(stack_limit_for(END_OF_SPACE - (128 << 20)), Some(127 << 20));
        // The base of a 32-bit program with the usual limit: 128 MiB and what chance has added.
        assert_eq!(stack_limit_for(0xf7f5_6000), Some(0x7fa_8000));
        for impossible in [0, 0x7f12_3456_7008, 0x2aaa_aaaa_a000, END_OF_SPACE, u64::MAX - 0xfff] {
            assert_eq!(stack_limit_for(impossible), None, "{impossible:#x}");
        }
    }
}
