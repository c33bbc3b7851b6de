//! Shared anonymous memory that was dumped as a memfd.
//!
//! The kernel keeps such memory in a nameless file that it calls `/dev/zero`. Where CRIU cannot
//! tell the device of these files from that of memfds, it writes a memfd of that name; and for such memory in huge
//! pages it always does. Here it becomes what it was.

use std::collections::BTreeMap;

use images::MappingKind;
use images::checkpoint::Mapping;

/// The kernel's names for shared anonymous memory, and what mappings of it are.
const NAMES: [(&[u8], MappingKind); 2] = [
    (b"/dev/zero", MappingKind::SharedAnonymous),
    (b"/anon_hugepage", MappingKind::HugePages { shared: true }),
];

/// Ids of files that are shared anonymous memory, and which each is.
#[derive(Debug, Default)]
pub(super) struct Nameless {
    segments: BTreeMap<u64, (u64, MappingKind)>,
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
            let Some(inode) = inode else { continue };
            // A memfd may have any name; in huge pages it is refused by its own.
            let kind = NAMES.iter().find(|(name, kind)| {
                let huge = matches!(kind, MappingKind::HugePages { .. });
                inode.name == *name && inode.hugetlb_flag.is_some() == huge
            });
            if let Some((_, kind)) = kind {
                segments.insert(memfd.id.into(), (inode.shmid.into(), *kind));
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
            if let Some(&(shmid, kind)) = self.segments.get(&mapping.vma.shmid) {
                mapping.vma.shmid = shmid;
                mapping.kind = kind;
            }
        }
    }
}
