//! Memfds in huge pages: what they need of the machine, and those that were no memfds.
//!
//! The kernel keeps shared anonymous memory in huge pages in a nameless file that it calls `/anon_hugepage`, and CRIU writes a memfd of
//! that name for it. Here it becomes what it was. (That of small pages, `/dev/zero`, is a memfd in the images where CRIU cannot
//! tell its device from that of memfds, or where it is open as a file: it is made as one, by `files/memfd.rs`.)

use std::collections::{BTreeMap, BTreeSet};

use crate::run::Run;
use images::MappingKind;
use images::checkpoint::Mapping;
use images::messages::MemfdInodeEntry;
use kernel::huge_pages::{HUGE_MASK, HUGE_SHIFT};

/// The kernel's name for it.
const NAME: &[u8] = b"/anon_hugepage";
const KIND: MappingKind = MappingKind::HugePages { shared: true };

/// Ids of files that are such memory, and the number of that.
#[derive(Debug, Default)]
pub(super) struct Nameless {
    segments: BTreeMap<u64, u64>,
    /// How large each is.
    sizes: BTreeMap<u64, u64>,
}

impl Nameless {
    /// Looks through the memfds.
    pub(super) fn of(checkpoint: &images::Checkpoint) -> Self {
        let (mut segments, mut sizes) = (BTreeMap::new(), BTreeMap::new());
        let memfds = checkpoint.files.entries.values().filter_map(|file| file.memfd.as_ref());
        for memfd in memfds {
            let inode = checkpoint.memfds.get(&memfd.inode_id.into());
            // A memfd may have any name; in huge pages it is refused by this one.
            let inode = inode.filter(|inode| inode.name == NAME && inode.hugetlb_flag.is_some());
            if let Some(inode) = inode {
                segments.insert(memfd.id.into(), inode.shmid.into());
                sizes.insert(inode.shmid.into(), inode.size);
            }
        }
        Self { segments, sizes }
    }

    /// How large a segment is, if this tells it.
    pub(super) fn size(&self, shmid: u64) -> u64 {
        self.sizes.get(&shmid).copied().unwrap_or(0)
    }

    /// Makes mappings of such memory mappings of shared memory again.
    pub(super) fn correct(&self, mappings: &mut [Mapping]) {
        let shared = MappingKind::File { shared: true };
        for mapping in mappings.iter_mut().filter(|mapping| mapping.kind == shared) {
            // (Files have their numbers in the same row as memfds, and no two the same.)
            if let Some(&shmid) = self.segments.get(&mapping.vma.shmid) {
                mapping.vma.shmid = shmid;
                mapping.kind = KIND;
            }
        }
    }
}

/// A memfd in huge pages.
#[derive(Debug)]
pub(crate) struct HugeMemfd {
    /// Their size: two to the power of that.
    pub(crate) shift: u32,
    /// The ids of files that are it, by which mappings name it.
    pub(crate) files: BTreeSet<u64>,
    /// What it holds, from offset to offset.
    pub(crate) held: Vec<(u64, u64)>,
}

/// The memfds in huge pages.
pub(super) fn huge_memfds(
    read: &images::Checkpoint,
    runs: &BTreeMap<u64, Vec<Run>>,
) -> Vec<HugeMemfd> {
    let memfds = read.memfds.values();
    let huge = memfds.filter_map(|memfd| {
        let size = memfd.hugetlb_flag? >> HUGE_SHIFT & HUGE_MASK;
        Some((memfd, if size == 0 { kernel::huge_pages::default_shift()? } else { size }))
    });
    let files = |inode: u64| {
        let all = read.files.entries.values().filter_map(|file| file.memfd.as_ref());
        all.filter(move |file| u64::from(file.inode_id) == inode)
            .map(|file| file.id.into())
            .collect()
    };
    let held = |memfd: &MemfdInodeEntry| {
        let runs = runs.get(&memfd.shmid.into()).into_iter().flatten();
        runs.map(|run| (run.start, run.end())).collect()
    };
    huge.map(|(memfd, shift)| HugeMemfd { shift, files: files(memfd.inode_id), held: held(memfd) })
        .collect()
}
