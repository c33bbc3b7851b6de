//! Shared anonymous memory, of which a dump has one copy however many processes map it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use collector::Mapping;
use ids::HostPid;
use images::MappingKind;
use kernel::pagemap::{PAGE_SIZE, PageRun};

use crate::error::Error;
use crate::segment::{APART, Key, Segment};

/// The segments that processes map.
#[derive(Debug, Default)]
pub(super) struct Segments {
    pub(super) by_key: BTreeMap<Key, Segment>,
    /// The numbers that the images give them.
    numbers: BTreeSet<u64>,
}

impl Segments {
    /// Those that are known otherwise.
    pub(super) fn of(by_key: BTreeMap<Key, Segment>) -> Self {
        let numbers = by_key.values().map(|segment| segment.number).collect();
        Self { by_key, numbers }
    }

    /// Notes a mapping; the first of a segment opens its file.
    pub(super) fn note(&mut self, pid: HostPid, mapping: &Mapping) -> Result<(), Error> {
        let reach = mapping.offset + (mapping.end - mapping.start);
        let key = Key::File(mapping.device, mapping.inode);
        if let Some(segment) = self.by_key.get_mut(&key) {
            segment.mapped = segment.mapped.max(reach);
            segment.bytes = segment.bytes.max(reach);
            return Ok(());
        }
        let failed = |source| Error::Process { operation: "open the shared memory", pid, source };
        let file = File::open(link(pid, mapping)).map_err(failed)?;
        // Of huge pages what is mapped is carried.
        let size = match mapping.kind {
            MappingKind::SharedAnonymous => file.metadata().map_err(failed)?.len(),
            _ => 0,
        };
        let size = size.next_multiple_of(PAGE_SIZE);
        let mut number = mapping.inode;
        while !self.numbers.insert(number) {
            number += APART;
        }
        self.by_key
            .insert(key, Segment { file, pid, bytes: reach.max(size), mapped: reach, number });
        Ok(())
    }
}

/// How much of a mapped segment holds anything; as much as is mapped, where the kernel does not say.
pub(super) fn allocated(pid: HostPid, mapping: &Mapping) -> u64 {
    /// The unit of `st_blocks`.
    const BLOCK: u64 = 512;
    let mapped = mapping.end - mapping.start;
    // Of huge pages all of a segment is copied.
    if matches!(mapping.kind, MappingKind::HugePages { .. }) {
        return mapped;
    }
    std::fs::metadata(link(pid, mapping)).map_or(mapped, |metadata| metadata.blocks() * BLOCK)
}

/// The kernel's link to the file of a mapping.
fn link(pid: HostPid, mapping: &Mapping) -> String {
    format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end)
}

/// What is to be copied of a segment: the parts that have content. A restore takes a segment to be as large as what
/// is mapped or copied of it: so its last page counts as such where mappings do not reach the end.
pub(super) fn runs_of(segment: &Segment) -> io::Result<Vec<PageRun>> {
    let Segment { file, bytes, mapped, .. } = segment;
    let mut runs = segment_runs(file, 0, *mapped)?;
    if mapped < bytes {
        runs.extend(segment_runs(file, *mapped, *bytes)?);
        if runs.last().is_none_or(|run| run.end < *bytes) {
            runs.push(PageRun::new(bytes - PAGE_SIZE, *bytes));
        }
    }
    Ok(runs)
}

/// The parts of a shared segment's file that have content, found by its holes.
fn segment_runs(file: &File, from: u64, to: u64) -> io::Result<Vec<PageRun>> {
    use nix::unistd::{Whence, lseek};
    let mut runs = Vec::new();
    // Of huge pages the kernel tells no holes, but whether there is anything.
    if file.metadata()?.blocks() == 0 {
        return Ok(runs);
    }
    let mut at = i64::try_from(from).unwrap_or(i64::MAX);
    let end = i64::try_from(to).unwrap_or(i64::MAX);
    while at < end {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        if start >= end {
            break;
        }
        let stop = lseek(file, start, Whence::SeekHole)?.min(end);
        // What lies behind the end of the file in its last page is zeros.
        let pages = stop.cast_unsigned().next_multiple_of(PAGE_SIZE);
        runs.push(PageRun::new(start.cast_unsigned(), pages));
        at = stop;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_of_a_segment_are_not_content() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("segment"))
            .unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1], 5 * 4096).unwrap();
        let runs = segment_runs(&file, 0, 1 << 20).unwrap();
        assert_eq!(runs, [PageRun::new(5 * 4096, 6 * 4096)]);
        file.write_all_at(&[1], 1 << 20).unwrap();
        let runs = segment_runs(&file, 0, (1 << 20) + 1).unwrap();
        assert_eq!(runs[1], PageRun::new(1 << 20, (1 << 20) + 4096));
    }

    /// Many processes may map much of which there is little: a server with its workers.
    #[test]
    fn of_a_segment_counts_what_is_there() {
        // A size that no other mapping has.
        const BYTES: u64 = 0x371_3000;
        let mut memory = kernel::shared_memory::SharedMemory::new(BYTES as usize, 0).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let range = |line: &str| -> Option<(u64, u64)> {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
        };
        let mut ranges = maps.lines().filter_map(range);
        let (start, end) = ranges.find(|(start, end)| end - start == BYTES).unwrap();
        let mapping = |kind, end| Mapping {
            start,
            end,
            flags: collector::VmFlags::default(),
            offset: 0,
            device: 0,
            inode: 0,
            protection_key: 0,
            policy: None,
            locked: None,
            name: std::ffi::OsString::new(),
            kind,
        };
        let own = HostPid::own();
        let shared = mapping(MappingKind::SharedAnonymous, end);
        assert_eq!(allocated(own, &shared), 0);
        memory.fill(0, PAGE_SIZE, &File::open("/dev/zero").unwrap(), 0).unwrap();
        assert_eq!(allocated(own, &shared), PAGE_SIZE);
        // Where the kernel says nothing of it, and of huge pages.
        assert_eq!(
            allocated(own, &mapping(MappingKind::SharedAnonymous, end - PAGE_SIZE)),
            BYTES - PAGE_SIZE
        );
        assert_eq!(allocated(own, &mapping(MappingKind::HugePages { shared: true }, end)), BYTES);
    }
}
