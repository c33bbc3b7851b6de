//! `tp_btf/sys_exit`: which sockets and pipes a program has just changed the settings of.
//!
//! A mark tells a thing from what it was, but not that it has been something else meanwhile: a
//! socket whose option was set and set back has the mark of before. Whoever reads it between two
//! looks at its mark needs to know. So each call that changes settings is counted at its end for
//! the inode that it was made on, and the count is a part of the mark. Inodes share the counts,
//! which only ever grow: none is lost, and a change of another's is a look for nothing.
//!
//! Not seen are changes by a ring (io_uring), and those of a descriptor that another thread makes
//! another file's before the call ends.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_get_current_task_btf};
use aya_ebpf::maps::Array;
use stasis_ebpf_common::offsets as o;

use crate::read::{at, field, load};
use crate::track::{TS_COMPAT, add};

const COUNTS_BITS: u32 = 16;

/// By a hash of the inode's address; behind them, that of calls on nobody knows what.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "CHANGED")]
static CHANGED: Array<u64> = Array::with_max_entries((1 << COUNTS_BITS) + 1, 0);
const UNKNOWN: u32 = 1 << COUNTS_BITS;

// Of x86-64; this program is not loaded on other processors.
const CONNECT: u32 = 42;
const LISTEN: u32 = 50;
const SETSOCKOPT: u32 = 54;
const FCNTL: u32 = 72;
const F_SETPIPE_SZ: u32 = 1031;

/// Set in the numbers of calls with 32-bit pointers and 64-bit registers.
const X32: u32 = 0x4000_0000;
const X32_SETSOCKOPT: u32 = 541;

// Of 32-bit calls, which have their arguments elsewhere.
const COMPAT_FCNTL: u32 = 55;
const COMPAT_SOCKETCALL: u32 = 102;
const COMPAT_FCNTL64: u32 = 221;
const COMPAT_CONNECT: u32 = 362;
const COMPAT_LISTEN: u32 = 363;
const COMPAT_SETSOCKOPT: u32 = 366;

#[unsafe(link_section = "tp_btf/sys_exit")]
#[unsafe(no_mangle)]
extern "C" fn sys_exit(context: *mut u64) -> i32 {
    // SAFETY: the kernel passes the tracepoint's arguments, of which the first is the registers.
    let registers = unsafe { *context };
    match integer(registers, o::REGISTERS_CALL) & !X32 {
        CONNECT | LISTEN | SETSOCKOPT | X32_SETSOCKOPT => {
            touch(integer(registers, o::REGISTERS_FIRST));
        }
        FCNTL if integer(registers, o::REGISTERS_SECOND) == F_SETPIPE_SZ => {
            touch(integer(registers, o::REGISTERS_FIRST));
        }
        COMPAT_FCNTL | COMPAT_SOCKETCALL | COMPAT_FCNTL64 | COMPAT_CONNECT | COMPAT_LISTEN
        | COMPAT_SETSOCKOPT => touch_unknown(),
        _ => {}
    }
    0
}

/// What a register holds of an `int`: the kernel does not look at its upper half, and programs
/// leave there what they like.
#[inline(always)]
fn integer(registers: u64, index: usize) -> u32 {
    let register: u64 = load(registers, index);
    register as u32
}

#[inline(never)]
fn touch(fd: u32) {
    // SAFETY: the helper takes nothing and gives the address of the task that runs.
    let task = unsafe { bpf_get_current_task() };
    let table: u64 = field(field(task, o::TASK_FILES), o::FILES_FDT);
    let room: u32 = field(table, o::FDTABLE_MAX_FDS);
    if fd >= room {
        return;
    }
    let files: u64 = field(table, o::FDTABLE_FD);
    let inode: u64 = field(at(files + u64::from(fd) * 8), o::FILE_INODE);
    if inode != 0 {
        count(place(inode));
    }
}

/// A 32-bit call; one of another number if the task makes 64-bit calls.
#[inline(never)]
fn touch_unknown() {
    // SAFETY: the helper takes nothing and gives the task that runs.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let status: u32 = load(task, o::TASK_STATUS);
    if status & TS_COMPAT != 0 {
        count(UNKNOWN);
    }
}

#[inline(always)]
fn count(place: u32) {
    if let Some(count) = CHANGED.get_ptr_mut(place) {
        add(count);
    }
}

#[inline(always)]
fn place(inode: u64) -> u32 {
    (inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - COUNTS_BITS)) as u32
}

/// Grows whenever a file's settings are changed.
#[inline(always)]
pub(crate) fn changes(file: u64) -> u64 {
    let inode: u64 = field(file, o::FILE_INODE);
    let read = |place| CHANGED.get(place).copied().unwrap_or(0);
    read(place(inode)).wrapping_add(read(UNKNOWN))
}
