//! N mappings of a page each, every other one without the right to write, so that no two are
//! joined; every fourth has been written.

use std::fs;

use super::count;
use crate::memory::Region;
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, check, pattern};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn may_write(index: usize) -> bool {
    index.is_multiple_of(2)
}

/// What a mapping holds: something, or nothing because nobody has ever written there.
fn contents(index: usize) -> Option<Vec<u8>> {
    (index % 4 == 1 || index.is_multiple_of(8)).then(|| pattern(index as u64, 64))
}

/// The lines of `/proc/self/maps` within the region: where they are and what may be done there.
fn lines(region: &Region, number: usize) -> Vec<String> {
    let range = region.addr()..region.addr() + number * PAGE;
    let text = fs::read_to_string("/proc/self/maps").expect("read maps");
    let of_region = text.lines().filter(|line| {
        let start = line.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok());
        start.is_some_and(|start| range.contains(&start))
    });
    of_region.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let number = count(500);
    let region = Region::map(number * PAGE, RW, libc::MAP_PRIVATE, None);
    for (index, page) in region.bytes().chunks_mut(PAGE).enumerate() {
        if let Some(bytes) = contents(index) {
            page[..bytes.len()].copy_from_slice(&bytes);
        }
    }
    for index in (0..number).filter(|index| !may_write(*index)) {
        let start = region.addr() + index * PAGE;
        // SAFETY: the page is in our own mapping; nothing refers to it now.
        let done = unsafe { libc::mprotect(start as *mut libc::c_void, PAGE, libc::PROT_READ) };
        check(done).expect("mprotect");
    }
    let before = lines(&region, number);
    assert_eq!(before.len(), number, "a mapping for each page");

    pulse::ready_then_wait(stage)?;

    let mut found = Findings::default();
    for (before, after) in before.iter().zip(&lines(&region, number)) {
        found.same("mapping", before, after);
    }
    for index in 0..number {
        let page = (region.addr() + index * PAGE) as *const u8;
        // SAFETY: the page is in our own mapping, may be read, and nobody writes it.
        let page = unsafe { std::slice::from_raw_parts(page, PAGE) };
        let mut expected = contents(index).unwrap_or_default();
        expected.resize(PAGE, 0);
        found.must(&format!("contents of mapping {index}"), page == expected);
    }
    found.outcome()
}
