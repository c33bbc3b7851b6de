//! Where addresses are free.

use arch::memory::{END_OF_SPACE, PAGE_SIZE};

use crate::host::Range;

/// A place for `bytes` in the middle of the largest gap between `taken` ranges: whatever the
/// tasks map while they are being made, they map beside what they have.
pub(crate) fn place(taken: impl Iterator<Item = Range>, bytes: u64) -> Option<u64> {
    place_below(END_OF_SPACE, taken, bytes)
}

/// The same where addresses are to be below `end`.
pub(crate) fn place_below(end: u64, taken: impl Iterator<Item = Range>, bytes: u64) -> Option<u64> {
    /// The kernel keeps the first pages free (`vm.mmap_min_addr`).
    const LOWEST: u64 = 0x1_0000;
    let mut taken: Vec<Range> = taken.filter(|range| range.start < end).collect();
    taken.sort_by_key(|range| range.start);
    taken.push(Range { start: end, end });
    let mut free_from = LOWEST;
    let mut largest = Range { start: 0, end: 0 };
    for range in taken {
        let gap = Range { start: free_from, end: range.start.max(free_from) };
        if gap.bytes() > largest.bytes() {
            largest = gap;
        }
        free_from = free_from.max(range.end);
    }
    let spare = largest.bytes().checked_sub(bytes)?;
    Some((largest.start + spare / 2) & !(PAGE_SIZE - 1)).filter(|&start| start >= largest.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_goes_into_the_middle_of_the_largest_gap() {
        let taken = [
            Range { start: 0x40_0000, end: 0x50_0000 },
            Range { start: 0x7000_0000_0000, end: 0x7fff_ffff_f000 },
            Range { start: 0x45_0000, end: 0x46_0000 },
        ];
        let at = place(taken.into_iter(), 0x10_0000).unwrap();
        assert!(at > 0x50_0000 && at + 0x10_0000 < 0x7000_0000_0000, "{at:#x}");
        assert_eq!(at % 4096, 0);
        let low = place_below(1 << 32, taken.into_iter(), 0x10_0000).unwrap();
        assert!(low > 0x50_0000 && low + 0x10_0000 < 1 << 32, "{low:#x}");
        assert_eq!(place_below(1 << 32, taken.into_iter(), 1 << 32), None);
        assert_eq!(place([Range { start: 0, end: END_OF_SPACE }].into_iter(), 1), None);
        let only = Range { start: 0x3000_0000_0000, end: 0x7fff_ffff_f000 };
        assert!(place([only].into_iter(), 0x3000_0000_0000).is_none());
    }
}
