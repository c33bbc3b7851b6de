//! Where pages come from, and by which of two ways they are read.
//!
//! `process_vm_readv` takes a thousand ranges in a call and copies a page once; `/proc/PID/mem`
//! takes one range, and copies each page twice. But the first pins the pages, and for that the
//! kernel gives the process copies of its own of all that it shares with its kin since a fork: a
//! dump of a family would multiply its memory. So it is used only for a process that is known to
//! share nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use ids::HostPid;
use kernel::memory::{self, MemoryFile};
use kernel::pagemap::{PAGE_SIZE, PageMap, PageRun};

/// Of pages that have so many times as many around them it is not looked up whether they are shared.
const SPARSE: u64 = 16;

/// Where the pages of a set of runs come from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Addresses of a process.
    Process(ProcessMemory),
    /// Offsets in the file behind shared memory.
    Segment(File),
}

/// The memory of a process.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    pid: HostPid,
    /// It shares none of its pages.
    pub(super) alone: bool,
    /// Where that is not known, it can be looked up.
    pub(super) map: Option<PageMap>,
    /// Opened when it is needed.
    file: OnceLock<MemoryFile>,
}

impl Origin {
    /// Reads ranges (address or offset, and bytes), one behind the other, of memory that stands
    /// still.
    pub(super) fn read(&self, ranges: &[(u64, usize)], to: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Process(memory) => {
                let look_up = || memory.map.as_ref().is_some_and(|map| is_alone(map, ranges));
                memory.read(memory.alone || look_up(), ranges, to)
            }
            Self::Segment(file) => each(ranges, to, |offset, to| read_to_end(file, offset, to)),
        }
    }
}

/// Reads as much as there is; what lies behind the end is zeros.
fn read_to_end(file: &File, offset: u64, to: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < to.len() {
        match file.read_at(&mut to[done..], offset + done as u64) {
            Ok(0) => {
                to[done..].fill(0);
                break;
            }
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl ProcessMemory {
    /// The memory of a process of which it is not known yet whether it shares any.
    pub(super) fn of(pid: HostPid) -> Self {
        Self { pid, alone: false, map: None, file: OnceLock::new() }
    }

    /// `/proc/PID/mem`, open.
    pub(super) fn file(&self) -> io::Result<&MemoryFile> {
        match self.file.get() {
            Some(file) => Ok(file),
            None => {
                let file = MemoryFile::open_to_read(self.pid)?;
                Ok(self.file.get_or_init(|| file))
            }
        }
    }

    /// Reads ranges of a process that runs, which shares none of them if it is `alone` there. Pages
    /// that have gone meanwhile read as zeros, and are noted in `lost`.
    pub(super) fn read_running(
        &self,
        alone: bool,
        ranges: &[(u64, usize)],
        to: &mut [u8],
        lost: &Mutex<Vec<PageRun>>,
    ) {
        if self.read(alone, ranges, to).is_ok() {
            return;
        }
        let file = self.file().ok();
        let read =
            |address, to: &mut [u8]| file.is_some_and(|file| file.read_exact(address, to).is_ok());
        let page_by_page = |start, here: &mut [u8]| {
            let pages = here.chunks_mut(PAGE_SIZE as usize);
            for (page, address) in pages.zip((start..).step_by(PAGE_SIZE as usize)) {
                if !read(address, page) {
                    page.fill(0);
                    let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
                    lost.push(PageRun::new(address, address + page.len() as u64));
                }
            }
            Ok(())
        };
        // It does not fail.
        each(ranges, to, page_by_page).ok();
    }

    fn read(&self, alone: bool, ranges: &[(u64, usize)], to: &mut [u8]) -> io::Result<()> {
        let read = match alone {
            true => memory::read_ranges(self.pid, ranges, to).unwrap_or(0),
            false => 0,
        };
        if read == to.len() {
            return Ok(());
        }
        // It stops at what the process itself may not read.
        let file = self.file()?;
        let mut before = 0;
        each(ranges, to, |address, to| {
            let done = read.saturating_sub(before).min(to.len());
            before += to.len();
            file.read_exact(address + done as u64, &mut to[done..])
        })
    }
}

/// Calls `read` for each of the ranges with its part of `to`.
fn each(
    ranges: &[(u64, usize)],
    to: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = to;
    for &(start, bytes) in ranges {
        let (here, later) = rest.split_at_mut(bytes);
        read(start, here)?;
        rest = later;
    }
    Ok(())
}

/// Whether a process shares none of the pages in some ranges, by rising address, with another. Where they
/// lie far apart it takes less to read them in the slower way than to find out.
pub(super) fn is_alone(map: &PageMap, ranges: &[(u64, usize)]) -> bool {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return false };
    let around = PageRun::new(first.0, last.0 + last.1 as u64);
    let bytes: usize = ranges.iter().map(|range| range.1).sum();
    around.bytes() <= SPARSE * bytes as u64 && map.is_alone(around).unwrap_or(false)
}

/// Whether a process shares no page of its own memory with another, as a copy of it since a fork or
/// by the kernel's merging of equal pages (that goes on in mappings that allow it, which the caller
/// has to look for). Takes some 16 ms for each GiB.
pub(super) fn shares_nothing(pid: HostPid) -> bool {
    let sums = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    all_is_its_own(&sums)
}

fn all_is_its_own(sums: &str) -> bool {
    let sum = |name: &str| {
        let mut fields = sums.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(field, rest)| (field == name).then(|| rest.trim().to_owned()))
    };
    // Of a page that two share each has half. What is swapped out may be shared unseen.
    let anonymous = sum("Anonymous");
    anonymous.is_some() && anonymous == sum("Pss_Anon") && sum("Swap").as_deref() == Some("0 kB")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn what_is_shared_is_seen_in_the_sums() {
        let own = "55d0-7fff ---p 00000000 00:00 0  [rollup]\nRss: 30 kB\nPss_Anon:   20 kB\n\
                   Anonymous:    20 kB\nSwap:   0 kB\n";
        assert!(all_is_its_own(own));
        for (from, to) in [("Pss_Anon:   20", "Pss_Anon:   18"), ("Swap:   0", "Swap:   4")] {
            assert!(!all_is_its_own(&own.replace(from, to)));
        }
        assert!(!all_is_its_own(""), "a kernel that does not tell");
    }

    #[test]
    fn pages_that_are_gone_are_noted() {
        let own = [7u8; 3 * PAGE];
        let at = (own.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
        // Nothing is mapped at the lowest addresses.
        let ranges = [(at, PAGE), (0x1000, PAGE)];
        for alone in [false, true] {
            let memory = ProcessMemory::of(HostPid::own());
            let lost = Mutex::default();
            let mut to = vec![1; 2 * PAGE];
            memory.read_running(alone, &ranges, &mut to, &lost);
            let (first, second) = to.split_at(PAGE);
            assert!(first.iter().all(|&byte| byte == 7) && second.iter().all(|&byte| byte == 0));
            assert_eq!(lost.into_inner().unwrap(), [PageRun::new(0x1000, 0x2000)]);
        }
    }

    #[test]
    fn both_ways_read_the_same() {
        let own: Vec<u8> = (0..3 * PAGE).map(|at| (at / 7) as u8).collect();
        let start = own.as_ptr() as u64;
        // What lies one behind the other need not in the process.
        let ranges = [(start + PAGE as u64, PAGE), (start + 5, 100), (start, 5)];
        let expected = [&own[PAGE..2 * PAGE], &own[5..105], &own[..5]].concat();
        for alone in [false, true] {
            let memory = ProcessMemory::of(HostPid::own());
            let mut to = vec![0; expected.len()];
            memory.read(alone, &ranges, &mut to).unwrap();
            assert_eq!(to, expected);
            // Nothing is mapped at the lowest addresses.
            let mut to = vec![0; 2 * PAGE];
            assert!(memory.read(alone, &[(start, PAGE), (0x1000, PAGE)], &mut to).is_err());
        }
    }
}
