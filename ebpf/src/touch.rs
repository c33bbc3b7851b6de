//! How often open files have been touched: changed in a way that their marks may not show, or got at
//! by somebody new who can change them.
//!
//! A mark tells a thing from what it was, but not that it has been something else meanwhile: a
//! socket whose option was set and set back has the mark of before. Whoever reads it between two
//! looks at its mark needs to know: so the count of its settings' changes is a part of the mark.
//! And of a file that is known to be changed by certain processes alone, somebody needs to know
//! when others open it.
//!
//! The counts are by inode. Inodes share them, and they only ever grow: none is lost, and a touch of
//! another's is a look for nothing. Readers map them into their memory.

use aya_ebpf::helpers::generated::bpf_get_current_task;
use aya_ebpf::maps::Array;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::track::{TOUCHED, TOUCHED_UNKNOWN, touched_place};

use crate::read::{at, field};
use crate::track::add;

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MAPPABLE: u32 = 1 << 10;

/// By a hash of the inode's address; behind them, that of calls on nobody knows what.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "CHANGED")]
static CHANGED: Array<u64> = Array::with_max_entries(TOUCHED as u32, MAPPABLE);

/// The file behind a descriptor of the task that runs; 0 for none.
#[inline(always)]
fn behind(fd: u32) -> u64 {
    // SAFETY: the helper takes nothing and gives the address of the task that runs.
    let task = unsafe { bpf_get_current_task() };
    let table: u64 = field(field(task, o::TASK_FILES), o::FILES_FDT);
    let room: u32 = field(table, o::FDTABLE_MAX_FDS);
    if fd >= room {
        return 0;
    }
    let files: u64 = field(table, o::FDTABLE_FD);
    at(files + u64::from(fd) * 8)
}

/// Counts a change of the file behind a descriptor; of nobody knows which, if another thread has closed
/// it and the call has `succeeded`.
#[inline(never)]
pub(crate) fn touch(fd: u32, succeeded: bool) {
    let inode: u64 = field(behind(fd), o::FILE_INODE);
    if inode != 0 {
        count(touched_place(inode));
    } else if succeeded {
        touch_unknown();
    }
}

/// Counts a file that has just been opened, if that has changed it or can change it by this descriptor:
/// if it is open for writing, or is a pipe. Of a call that is not known the result need not be a
/// descriptor (`is_certain`).
#[inline(never)]
pub(crate) fn touch_opened(fd: u32, has_changed: bool, is_certain: bool) {
    const FMODE_WRITE: u32 = 2;
    const S_IFMT: u16 = 0o170_000;
    const S_IFIFO: u16 = 0o010_000;
    let file = behind(fd);
    let inode: u64 = field(file, o::FILE_INODE);
    if inode == 0 {
        if is_certain {
            // Closed again, by another thread.
            touch_unknown();
        }
        return;
    }
    let open: u32 = field(file, o::FILE_MODE);
    let kind: u16 = field(inode, o::INODE_MODE);
    if has_changed || open & FMODE_WRITE != 0 || kind & S_IFMT == S_IFIFO {
        count(touched_place(inode));
    }
}

/// Counts a change of a file of which nothing is known.
#[inline(never)]
pub(crate) fn touch_unknown() {
    count(TOUCHED_UNKNOWN);
}

#[inline(always)]
fn count(place: usize) {
    if let Some(count) = CHANGED.get_ptr_mut(place as u32) {
        add(count);
    }
}

/// Grows whenever a file is touched.
#[inline(always)]
pub(crate) fn changes(file: u64) -> u64 {
    let inode: u64 = field(file, o::FILE_INODE);
    let read = |place: usize| CHANGED.get(place as u32).copied().unwrap_or(0);
    read(touched_place(inode)).wrapping_add(read(TOUCHED_UNKNOWN))
}
