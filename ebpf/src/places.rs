//! Where a process is: its program, its working and its root directory.

use core::ffi::c_void;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_d_path;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::{Header, KIND_PLACE, NAME_BYTES, PlaceRecord, place};

use crate::read::{load, offset};
use crate::{Name, emit, fitting};

/// Emits the three places of a process; none of a thread of the kernel or one that has ended.
#[inline(always)]
pub(crate) fn emit_places(seq: *mut seq_file, task: u64, tgid: i32) {
    let memory: u64 = load(task, o::TASK_MM);
    let file_system: u64 = load(task, o::TASK_FS);
    if memory == 0 || file_system == 0 {
        return;
    }
    let program: u64 = load(memory, o::MM_EXE_FILE);
    if program != 0 {
        emit_place(seq, program + u64::from(offset(o::FILE_PATH)), tgid, place::PROGRAM);
    }
    emit_place(seq, file_system + u64::from(offset(o::FS_PWD)), tgid, place::WORKING_DIRECTORY);
    emit_place(seq, file_system + u64::from(offset(o::FS_ROOT)), tgid, place::ROOT_DIRECTORY);
}

/// `path` must be in a structure that the verifier knows.
#[inline(never)]
fn emit_place(seq: *mut seq_file, path: u64, tgid: i32, place: u32) {
    let mut name = Name::new();
    // SAFETY: the verifier checks that this is a `struct path`; the buffer's length is its own.
    let length = unsafe {
        bpf_d_path(path as *mut c_void as *mut _, name.start().cast(), NAME_BYTES as u32)
    };
    let name_bytes = fitting(length);
    let inode: u64 = load(load(path, o::PATH_DENTRY), o::DENTRY_INODE);
    let super_block: u64 = load(inode, o::INODE_SB);
    emit(
        seq,
        &PlaceRecord {
            header: Header {
                kind: KIND_PLACE,
                bytes: size_of::<PlaceRecord>() as u32 + name_bytes,
            },
            tgid,
            place,
            inode: load(inode, o::INODE_INO),
            magic: load(super_block, o::SUPER_BLOCK_MAGIC),
            device: load(super_block, o::SUPER_BLOCK_DEV),
            name_bytes,
        },
    );
    name.emit(seq, name_bytes);
}
