//! `iter/task_file`: open files.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_d_path;
use aya_log_ebpf::debug;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::{FileRecord, Header, KIND_FILE, NAME_BYTES};

use crate::read::{Context, at, field, offset};
use crate::{Meta, Name, emit, fitting};

#[repr(C)]
struct FileContext {
    meta: *mut Meta,
    task: *mut c_void,
    fd: u32,
    file: *mut c_void,
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, fd, file) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).fd, (*context).file) };
    if task == 0 || file.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let seq = unsafe { (*meta).seq };
    let mut name = Name::new();
    let name_bytes = path(file, &mut name);
    if name_bytes == 0 {
        let tid: i32 = field(task, o::TASK_PID);
        debug!(
            &Context(context.cast()),
            "path of descriptor {} of task {} is too long for its record: left to /proc", fd, tid
        );
    }
    let record = describe(task, fd, file as u64, name_bytes);
    emit(seq, &record);
    name.emit(seq, name_bytes);
    0
}

/// The path of a file as a reader of /proc sees it: its length with the zero byte, 0 if it does not
/// fit.
///
/// `file` must come unchanged from the context or from a field read of it, so that the verifier
/// knows it for a `struct file`.
#[inline(always)]
pub(crate) fn path(file: *mut c_void, name: &mut Name) -> u32 {
    // SAFETY: the verifier checks that this is the `f_path` of a `struct file`; the buffer's length
    // is its own.
    let length = unsafe {
        let path = file.cast::<u8>().add(offset(o::FILE_PATH) as usize);
        bpf_d_path(path.cast(), name.start().cast(), NAME_BYTES as u32)
    };
    fitting(length)
}

#[inline(always)]
fn describe(task: u64, fd: u32, file: u64, name_bytes: u32) -> FileRecord {
    let inode: u64 = field(file, o::FILE_INODE);
    let mode: u16 = field(inode, o::INODE_MODE);
    let super_block: u64 = field(inode, o::INODE_SB);
    FileRecord {
        header: Header { kind: KIND_FILE, bytes: size_of::<FileRecord>() as u32 + name_bytes },
        fd: fd as i32,
        close_on_exec: close_on_exec(task, fd),
        file,
        position: field(file, o::FILE_POS),
        operations: field(file, o::FILE_OP),
        inode: field(inode, o::INODE_INO),
        flags: field(file, o::FILE_FLAGS),
        mode: u32::from(mode),
        device: field(super_block, o::SUPER_BLOCK_DEV),
        name_bytes,
        magic: field(super_block, o::SUPER_BLOCK_MAGIC),
    }
}

/// 1 if the descriptor's bit is set in the table's bitmap.
#[inline(always)]
fn close_on_exec(task: u64, fd: u32) -> u32 {
    let table: u64 = field(field(task, o::TASK_FILES), o::FILES_FDT);
    let bits: u64 = field(table, o::FDTABLE_CLOSE_ON_EXEC);
    if bits == 0 {
        return 0;
    }
    let word: u64 = at(bits + u64::from(fd / 64) * 8);
    ((word >> (fd % 64)) & 1) as u32
}
