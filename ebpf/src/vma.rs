//! `iter/task_vma`: mappings.

use core::ffi::c_void;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::{
    Header, KIND_POLICY, KIND_VMA, NAME_BYTES, PolicyRecord, VmaRecord, backing, beside,
    name as kind,
};

use crate::file::{is_locked_by, path};
use crate::read::{field, offset};
use crate::settings::memory_policy;
use crate::{Meta, Name, emit, fitting};

#[repr(C)]
pub(crate) struct VmaContext {
    pub(crate) meta: *mut Meta,
    pub(crate) task: *mut c_void,
    pub(crate) vma: *mut c_void,
}

/// The file stands in for one of a stacked file system (include/linux/fs.h, Linux 6.5 and later).
const FMODE_BACKING: u32 = 1 << 25;

#[unsafe(link_section = "iter/task_vma")]
#[unsafe(no_mangle)]
extern "C" fn task_vma(context: *mut VmaContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, vma) = unsafe { ((*context).meta, (*context).task as u64, (*context).vma) };
    if task == 0 || vma.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let seq = unsafe { (*meta).seq };
    let mut record = describe(vma as u64);
    let mut name = Name::new();
    // Read as a field of the mapping, not by a helper: the verifier must know it for a file.
    // SAFETY: the verifier checks that this is the pointer of a `struct vm_area_struct`.
    let file = unsafe {
        core::ptr::read_volatile(
            vma.cast::<u8>().add(offset(o::VMA_FILE) as usize).cast::<*mut c_void>(),
        )
    };
    let anonymous: u64 = field(vma as u64, o::VMA_ANON_NAME);
    if !file.is_null() {
        mapped_file(&mut record, file as u64);
        if anonymous == 0 {
            record.name_kind = kind::PATH;
            record.name_bytes = path(file, &mut name);
        }
    } else {
        special(&mut record, vma as u64, &mut name);
    }
    if anonymous != 0 && record.name_kind == kind::NONE {
        record.name_kind = if file.is_null() { kind::ANONYMOUS } else { kind::ANONYMOUS_SHARED };
        record.name_bytes = text(anonymous + u64::from(offset(o::ANON_NAME_TEXT)), &mut name);
    }
    let name_bytes = record.name_bytes;
    record.header.bytes = size_of::<VmaRecord>() as u32 + name_bytes;
    emit(seq, &record);
    name.emit(seq, name_bytes);
    policy(seq, vma as u64);
    0
}

/// Few mappings have one, so that it has a record of its own.
#[inline(never)]
fn policy(seq: *mut seq_file, vma: u64) {
    let policy: u64 = field(vma, o::VMA_POLICY);
    if policy == 0 {
        return;
    }
    let mut record = PolicyRecord {
        header: Header { kind: KIND_POLICY, bytes: size_of::<PolicyRecord>() as u32 },
        start: field(vma, o::VMA_START),
        ..PolicyRecord::default()
    };
    memory_policy(&mut record.policy, policy);
    emit(seq, &record);
}

#[inline(always)]
fn describe(vma: u64) -> VmaRecord {
    VmaRecord {
        header: Header { kind: KIND_VMA, bytes: 0 },
        start: field(vma, o::VMA_START),
        end: field(vma, o::VMA_END),
        flags: field(vma, o::VMA_FLAGS),
        page_offset: field(vma, o::VMA_PGOFF),
        inode: 0,
        device: 0,
        backing: backing::NONE,
        name_kind: kind::NONE,
        beside: 0,
        name_bytes: 0,
    }
}

#[inline(always)]
fn mapped_file(record: &mut VmaRecord, file: u64) {
    let inode: u64 = field(file, o::FILE_INODE);
    let mode: u32 = field(file, o::FILE_MODE);
    record.backing = if mode & FMODE_BACKING == 0 { backing::FILE } else { backing::STACKED };
    record.inode = field(inode, o::INODE_INO);
    record.device = field(field(inode, o::INODE_SB), o::SUPER_BLOCK_DEV);
    if is_locked_by(field(inode, o::INODE_LOCKS)) {
        record.beside = beside::LOCKS;
    }
}

/// Mappings that the kernel itself makes (vDSO and the like) have operations that can name them,
/// and keep the name behind their private pointer.
#[inline(always)]
fn special(record: &mut VmaRecord, vma: u64, name: &mut Name) {
    let operations: u64 = field(vma, o::VMA_OPS);
    let namer: u64 = field(operations, o::VM_OPS_NAME);
    if namer == 0 {
        return;
    }
    let mapping: u64 = field(vma, o::VMA_PRIVATE_DATA);
    let address: u64 = field(mapping, o::SPECIAL_MAPPING_NAME);
    if address != 0 {
        record.name_kind = kind::SPECIAL;
        record.name_bytes = text(address, name);
    }
}

/// Copies a text that ends with a zero byte: its length with that byte, 0 if there is none.
#[inline(always)]
fn text(address: u64, name: &mut Name) -> u32 {
    // SAFETY: the helper checks the address, and the buffer is that long.
    let length = unsafe {
        bpf_probe_read_kernel_str(name.start().cast(), NAME_BYTES as u32, address as *const _)
    };
    fitting(length)
}
