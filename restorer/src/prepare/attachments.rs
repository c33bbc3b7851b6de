//! System V segments in the new address space.
//!
//! Only shmat(2) attaches a segment, and attaches the whole of it. A task may have unmapped, protected or moved parts of it
//! since. So it is attached in an empty place, the parts that are wanted are moved to where they belong, and the rest goes:
//! what comes of one attachment is detached together, as before.

use std::collections::BTreeMap;

use images::MappingKind;
use images::messages::VmaEntry;
use parasite::restorer::{Attachment, Piece};

use super::Descriptors;
use crate::load::{Body, huge_page_shift};

const PROT_WRITE: u32 = 2;
const SHM_RDONLY: u32 = 0o1_0000;

/// Whether it was attached to be read only (`SHM_RDONLY`). Images without a word on that let it be written.
pub(crate) fn is_read_only(vma: &VmaEntry) -> bool {
    let flags = vma.fdflags.map(|flags| flags.cast_signed() & libc::O_ACCMODE);
    flags == Some(libc::O_RDONLY) && vma.prot & PROT_WRITE == 0
}

/// The size of the largest pages that a task has attached.
pub(super) fn alignment(body: &Body) -> u64 {
    let attached = body.mappings.iter().filter(|mapping| mapping.kind == MappingKind::SystemV);
    let shifts = attached.filter_map(|mapping| huge_page_shift(&mapping.vma));
    shifts.filter_map(|shift| 1u64.checked_shl(shift)).max().unwrap_or(images::PAGE_SIZE)
}

/// What is to be attached, and the pieces of each in a row.
pub(super) fn of(body: &Body, descriptors: &Descriptors) -> (Vec<Attachment>, Vec<Piece>) {
    let namespace = body.ids.ipc_ns_id.unwrap_or_default();
    // By id, by where the segment would begin, and by rights: what differs there was attached by another call.
    let mut groups: BTreeMap<(u64, u64, bool), Vec<Piece>> = BTreeMap::new();
    let attached = body.mappings.iter().filter(|mapping| mapping.kind == MappingKind::SystemV);
    for mapping in attached {
        let vma = &mapping.vma;
        let key = (vma.shmid, vma.start.wrapping_sub(vma.pgoff), is_read_only(vma));
        let piece = Piece { start: vma.start, bytes: vma.end - vma.start, offset: vma.pgoff };
        groups.entry(key).or_default().push(piece);
    }
    let (mut attachments, mut all) = (Vec::new(), Vec::new());
    for ((id, _, read_only), pieces) in groups {
        attachments.push(Attachment {
            id: id as u32,
            flags: if read_only { SHM_RDONLY } else { 0 },
            bytes: descriptors.segment_sizes.get(&(namespace, id)).copied().unwrap_or(0),
            pieces: pieces.len() as u64,
        });
        all.extend(pieces);
    }
    (attachments, all)
}
