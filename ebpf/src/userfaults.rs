//! `iter/task_file` and `iter/task_vma`: userfaultfds, and the mappings whose faults they serve.

use stasis_ebpf_common::offsets::{self as o, ABSENT};
use stasis_ebpf_common::{Header, KIND_SERVED, KIND_USERFAULT, ServedRecord, UserfaultRecord};

use crate::emit;
use crate::file::{ANON_INODE_FS, FileContext};
use crate::read::{field, load, offset};
use crate::vma::VmaContext;

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file_userfault(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, fd, file) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).fd, (*context).file as u64) };
    if task == 0 || file == 0 || lacks_fields() {
        return 0;
    }
    let magic: u64 = load(load(load(file, o::FILE_INODE), o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    if magic != ANON_INODE_FS {
        return 0;
    }
    let of: u64 = field(file, o::FILE_PRIVATE);
    // As numbers, to be compared.
    let (served, own): (u64, u64) = (field(of, o::USERFAULT_MEMORY), field(task, o::TASK_MM));
    let record = UserfaultRecord {
        header: Header { kind: KIND_USERFAULT, bytes: size_of::<UserfaultRecord>() as u32 },
        context: of,
        fd: fd as i32,
        flags: field(of, o::USERFAULT_FLAGS),
        features: field(of, o::USERFAULT_FEATURES),
        own: u32::from(served == own),
    };
    // SAFETY: as above.
    emit(unsafe { (*meta).seq }, &record);
    0
}

#[unsafe(link_section = "iter/task_vma")]
#[unsafe(no_mangle)]
extern "C" fn task_vma_served(context: *mut VmaContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, vma) = unsafe { ((*context).meta, (*context).task as u64, (*context).vma) };
    if task == 0 || vma.is_null() || lacks_fields() {
        return 0;
    }
    let by: u64 = field(vma as u64, o::VMA_USERFAULT);
    if by == 0 {
        return 0;
    }
    let record = ServedRecord {
        header: Header { kind: KIND_SERVED, bytes: size_of::<ServedRecord>() as u32 },
        start: field(vma as u64, o::VMA_START),
        context: by,
    };
    // SAFETY: as above.
    emit(unsafe { (*meta).seq }, &record);
    0
}

fn lacks_fields() -> bool {
    let lacks = |index| offset(index) == ABSENT;
    lacks(o::USERFAULT_MEMORY)
        || lacks(o::USERFAULT_FLAGS)
        || lacks(o::USERFAULT_FEATURES)
        || lacks(o::VMA_USERFAULT)
}
