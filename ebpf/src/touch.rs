//! `tp_btf/sys_exit`: which sockets and pipes a program has just changed the settings of.
//!
//! A mark tells a thing from what it was, but not that it has been something else meanwhile: a
//! socket whose option was set and set back has the mark of before. Whoever reads it between two
//! looks at its mark needs to know. So each call that changes settings stamps the inode it was
//! made on with the time of its end, and the stamp is a part of the mark. A stamp that is dropped,
//! for want of room, is a change like any other.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_ktime_get_ns};
use aya_ebpf::maps::LruHashMap;
use stasis_ebpf_common::offsets as o;

use crate::read::{at, field, load};

/// By the address of the inode, the time of the last call.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "STAMPS")]
static STAMPS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1 << 14, 0);

// Of x86-64; this program is not loaded on other processors.
const CONNECT: u64 = 42;
const LISTEN: u64 = 50;
const SETSOCKOPT: u64 = 54;
const FCNTL: u64 = 72;
const F_SETPIPE_SZ: u64 = 1031;

#[unsafe(link_section = "tp_btf/sys_exit")]
#[unsafe(no_mangle)]
extern "C" fn sys_exit(context: *mut u64) -> i32 {
    // SAFETY: the kernel passes the tracepoint's arguments, of which the first is the registers.
    let registers = unsafe { *context };
    let call: u64 = load(registers, o::REGISTERS_CALL);
    let changes = match call {
        CONNECT | LISTEN | SETSOCKOPT => true,
        FCNTL => load::<u64>(registers, o::REGISTERS_SECOND) == F_SETPIPE_SZ,
        _ => false,
    };
    if changes {
        touch(load(registers, o::REGISTERS_FIRST));
    }
    0
}

#[inline(never)]
fn touch(fd: u64) {
    // SAFETY: the helper takes nothing and gives the address of the task that runs.
    let task = unsafe { bpf_get_current_task() };
    let table: u64 = field(field(task, o::TASK_FILES), o::FILES_FDT);
    let room: u32 = field(table, o::FDTABLE_MAX_FDS);
    if fd >= u64::from(room) {
        return;
    }
    let files: u64 = field(table, o::FDTABLE_FD);
    let inode: u64 = field(at(files + fd * 8), o::FILE_INODE);
    if inode != 0 {
        // SAFETY: the helper takes nothing.
        let now = unsafe { bpf_ktime_get_ns() };
        // With no room the kernel drops the oldest.
        STAMPS.insert(&inode, &now, 0).ok();
    }
}

/// When a file's settings were last changed, 0 if that is not known.
#[inline(always)]
pub(crate) fn stamp(file: u64) -> u64 {
    let inode: u64 = field(file, o::FILE_INODE);
    // SAFETY: the number that it refers to is copied at once; one of another inode, put there
    // meanwhile, is another stamp, which is all that matters.
    unsafe { STAMPS.get(inode) }.copied().unwrap_or(0)
}
