//! How many huge pages a restore needs.
//!
//! The kernel sets all of a mapping aside as it is made, of shared memory what no other mapping has set aside and nothing
//! is in yet. Where it is to leave that (`MAP_NORESERVE`) it takes pages as they are filled: without one, the task that
//! fills it is killed.

use std::collections::BTreeMap;

use images::MappingKind;
use images::checkpoint::Mapping;
use kernel::sysv::segments::Segment;

use crate::load::{Body, Checkpoint, SystemVSegment, huge_page_shift};

/// The huge pages of a checkpoint, by their size: two to the power of that.
pub(crate) fn needed(checkpoint: &Checkpoint) -> BTreeMap<u32, u64> {
    let mut found: BTreeMap<u32, u64> = BTreeMap::new();
    let mut add = |shift: u32, pages: u64| {
        let sum = found.entry(shift).or_default();
        *sum = sum.saturating_add(pages);
    };
    let all = || checkpoint.living().flat_map(|(_, body)| &body.mappings);
    for segment in &checkpoint.segments {
        let Some(shift) = segment.huge else { continue };
        let held = segment.runs.iter().map(|run| (run.start, run.end()));
        let kind = MappingKind::HugePages { shared: true };
        let mapped = set_aside(all().filter(|it| it.kind == kind && it.vma.shmid == segment.shmid));
        add(shift, pages(shift, held.chain(mapped)));
    }
    // One that is still there has its pages.
    let is_there = |segment: &&SystemVSegment| {
        segment.is_outside && Segment::read(segment.entry.desc.id.cast_signed()).is_ok()
    };
    for segment in checkpoint.system_v.iter().filter(|segment| !is_there(segment)) {
        let shift = segment.huge.into_iter();
        shift.for_each(|shift| add(shift, pages(shift, [(0, segment.bytes())].into_iter())));
    }
    for memfd in &checkpoint.huge_memfds {
        let kind = MappingKind::File { shared: true };
        let of_it = all().filter(|it| it.kind == kind && memfd.files.contains(&it.vma.shmid));
        let held = memfd.held.iter().copied();
        add(memfd.shift, pages(memfd.shift, held.chain(set_aside(of_it))));
    }
    for (_, body) in checkpoint.living() {
        for (shift, pages) in private(body) {
            add(shift, pages);
        }
    }
    found
}

/// What mappings of shared memory set aside of it, from offset to offset.
fn set_aside<'a>(mappings: impl Iterator<Item = &'a Mapping>) -> impl Iterator<Item = (u64, u64)> {
    let mappings = mappings.filter(|mapping| !is_spared(mapping));
    mappings.map(|Mapping { vma, .. }| {
        (vma.pgoff, vma.pgoff.saturating_add(vma.end.saturating_sub(vma.start)))
    })
}

fn is_spared(mapping: &Mapping) -> bool {
    mapping.vma.flags & libc::MAP_NORESERVE.cast_unsigned() != 0
}

/// The pages of each private mapping of huge pages: all of it, or what is filled.
fn private(body: &Body) -> impl Iterator<Item = (u32, u64)> {
    let own = |mapping: &&Mapping| {
        matches!(
            mapping.kind,
            MappingKind::HugePages { shared: false } | MappingKind::File { shared: false }
        )
    };
    body.mappings.iter().filter(own).filter_map(|mapping| {
        let (start, end) = (mapping.vma.start, mapping.vma.end);
        let shift = huge_page_shift(&mapping.vma)?;
        if !is_spared(mapping) {
            return Some((shift, pages(shift, [(start, end)].into_iter())));
        }
        let first = body.runs.partition_point(|run| run.end() <= start);
        let filled = body.runs[first..].iter().take_while(|run| run.start < end);
        let filled = filled.map(|run| (run.start.max(start), run.end().min(end)));
        Some((shift, pages(shift, filled)))
    })
}

/// How many pages there is something of in these ranges, which may overlap.
fn pages(shift: u32, ranges: impl Iterator<Item = (u64, u64)>) -> u64 {
    let size = 1_u64.checked_shl(shift).unwrap_or(u64::MAX);
    let mut touched: Vec<(u64, u64)> =
        ranges.map(|(start, end)| (start / size, end.div_ceil(size))).collect();
    touched.sort_unstable();
    let (mut count, mut reached) = (0_u64, 0_u64);
    for (start, end) in touched {
        count = count.saturating_add(end.saturating_sub(start.max(reached)));
        reached = reached.max(end);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_count_once() {
        const HUGE: u64 = 1 << 21;
        let count = |ranges: &[(u64, u64)]| pages(21, ranges.iter().copied());
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[(0, 1)]), 1);
        assert_eq!(count(&[(4096, HUGE + 4096), (0, HUGE)]), 2);
        assert_eq!(count(&[(5 * HUGE, 7 * HUGE), (0, 6 * HUGE), (0, HUGE)]), 7);
        assert_eq!(count(&[(HUGE, HUGE)]), 0);
        assert_eq!(count(&[(0, u64::MAX)]), u64::MAX / HUGE + 1);
    }
}
