//! Shared anonymous memory in huge pages that was dumped as a memfd.
//!
//! The kernel keeps such memory in a nameless file that it calls `/anon_hugepage`, and CRIU writes a memfd of that
//! name for it. Here it becomes what it was. (That of small pages, `/dev/zero`, is a memfd in the images where CRIU cannot
//! tell its device from that of memfds, or where it is open as a file: it is made as one, by `files/memfd.rs`.)

use std::collections::BTreeMap;

use images::MappingKind;
use images::checkpoint::Mapping;

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
