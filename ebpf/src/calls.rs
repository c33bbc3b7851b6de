//! `tp_btf/sys_exit`: what a system call that has just ended may have changed.
//!
//! Three things are counted, for as long as somebody wants them to be: by *process*, what tracked
//! processes change themselves; by *file*, what a mark does not show or what anybody may change that
//! others have open (`touch`); and for *all files with names*, what is changed by its name.
//!
//! A call changes things before it ends, so a reader may find a change that is not counted yet,
//! while the task runs; it then reads counts *before* the things themselves, and finds another count
//! the next time. A task that stands still for a tracer has ended its last call: the tracepoint is
//! passed before any signal, stop or return to user space is looked at (`syscall_exit_work` before
//! `exit_to_user_mode_loop`). The stops inside a call are those at a fork or clone, which change
//! nothing of the caller's but what the fork tracepoint, passed already, has counted; and the one at
//! an exec, which is likewise counted before it.
//!
//! A call that is interrupted by that very stop, and will be made again, has changed nothing; nor has
//! one that says that it found nothing to do. Other failures are counted.
//!
//! Not seen are changes by a ring (io_uring), and those of a descriptor that another thread makes
//! another file's before the call ends.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use aya_ebpf::maps::PerCpuArray;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::track::{
    ALL, ASYNCHRONOUS, CALLS, CREDENTIALS, FILES, INTERRUPTIBLE, MEMORY, NAMES, OPENS, TABLE,
    TOUCHES,
};

use crate::read::load;
use crate::touch::{touch, touch_opened, touch_unknown};
use crate::track::{add, count_call, is_dumper};

/// How often anybody has changed files by their names; and how often, in a way that moves what is
/// mounted.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "NAMED")]
static NAMED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// A constant of the object, not of the code: an array that the code can index.
static CHANGES: [u8; CALLS] = TABLE;

/// Set in a thread's status while it makes a call of the 32-bit kind, with numbers of its own
/// (arch/x86/include/asm/thread_info.h).
const TS_COMPAT: u32 = 2;

/// Set in the numbers of calls with 32-bit pointers and 64-bit registers.
const X32: u32 = 0x4000_0000;
const OPEN: u32 = 2;
const CONNECT: u32 = 42;
const LISTEN: u32 = 50;
const SETSOCKOPT: u32 = 54;
const FCNTL: u32 = 72;
/// Of the calls that change something by its name, those that move what is mounted.
const MOUNTS: [u32; 10] = [155, 165, 166, 428, 429, 430, 431, 432, 433, 442];
const OPENAT: u32 = 257;
const OPEN_BY_HANDLE_AT: u32 = 304;
const PIDFD_GETFD: u32 = 438;
const X32_SETSOCKOPT: u32 = 541;
const F_SETPIPE_SZ: u32 = 1031;

// Of 32-bit calls, which have their arguments elsewhere.
const COMPAT_FCNTL: u32 = 55;
const COMPAT_SOCKETCALL: u32 = 102;
const COMPAT_FCNTL64: u32 = 221;
const COMPAT_CONNECT: u32 = 362;
const COMPAT_LISTEN: u32 = 363;
const COMPAT_SETSOCKOPT: u32 = 366;

#[unsafe(link_section = "tp_btf/sys_exit")]
#[unsafe(no_mangle)]
extern "C" fn sys_exit(context: *mut [u64; 2]) -> i32 {
    // SAFETY: the kernel passes the tracepoint's arguments: the registers and the result.
    let (registers, result) = unsafe { ((*context)[0], (*context)[1].cast_signed()) };
    // SAFETY: the helper takes nothing and gives the task that runs.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let call: u64 = load(registers, o::REGISTERS_CALL);
    // What a signal handler's return leaves in place of its number; and a tracer, or a filter, that
    // lets no call be made.
    if call == u64::MAX {
        return 0;
    }
    let status: u32 = load(task, o::TASK_STATUS);
    let is_compat = status & TS_COMPAT != 0;
    let changes = if call >= CALLS as u64 || is_compat {
        ALL
    } else {
        // SAFETY: the index is below the table's length; volatile, so that it stays a table.
        unsafe { core::ptr::read_volatile(CHANGES.as_ptr().add(call as usize)) }
    };
    if changes == 0 {
        return 0;
    }
    let is_undone = is_undone(result, changes);
    let call = call as u32;
    if changes & NAMES != 0 && !is_undone {
        count_named(0);
        if changes == ALL || MOUNTS.contains(&call) {
            count_named(1);
        }
    }
    if changes & OPENS != 0 && result >= 0 {
        let is_shared = call & !X32 == PIDFD_GETFD;
        if !is_shared || !is_dumper(load(task, o::TASK_TGID), load(task, o::TASK_START_TIME)) {
            let has_changed = is_shared || changes == ALL || cuts_off(registers, call);
            touch_opened(result as u32, has_changed, changes != ALL);
        }
    }
    if changes & TOUCHES != 0 || call == FCNTL {
        touch_settings(registers, call, result);
    } else if changes == ALL {
        touch_otherwise(registers, call, is_compat, result);
    }
    const OF_PROCESS: u8 = FILES | MEMORY | CREDENTIALS | ASYNCHRONOUS;
    if changes & OF_PROCESS != 0 && !is_undone {
        count_call(load(task, o::TASK_TGID), changes);
    }
    0
}

#[inline(always)]
fn count_named(which: u32) {
    if let Some(count) = NAMED.get_ptr_mut(which) {
        add(count);
    }
}

/// Whether a call says that it has not done anything: it was interrupted and is to be made again, it
/// would have had to wait, or there was nothing of that name, or no right to it.
#[inline(always)]
fn is_undone(result: i64, changes: u8) -> bool {
    // include/linux/errno.h, include/uapi/asm-generic/errno-base.h
    const RESTARTED: core::ops::RangeInclusive<i64> = -516..=-512;
    const EPERM: i64 = -1;
    const ENOENT: i64 = -2;
    const EINTR: i64 = -4;
    const EAGAIN: i64 = -11;
    const EACCES: i64 = -13;
    const EEXIST: i64 = -17;
    const ENOTDIR: i64 = -20;
    if result >= 0 || changes == ALL {
        return false;
    }
    changes & (INTERRUPTIBLE | NAMES | OPENS) != 0 && RESTARTED.contains(&result)
        || changes & INTERRUPTIBLE != 0 && matches!(result, EINTR | EAGAIN)
        || changes & (NAMES | OPENS) != 0
            && matches!(result, ENOENT | EPERM | EACCES | EEXIST | ENOTDIR)
}

/// Whether a call that opens a file may have cut it off, for which it need not be open for writing.
#[inline(always)]
fn cuts_off(registers: u64, call: u32) -> bool {
    const O_TRUNC: u32 = 0o1000;
    let flags = match call {
        OPEN => integer(registers, o::REGISTERS_SECOND),
        OPENAT | OPEN_BY_HANDLE_AT => integer(registers, o::REGISTERS_THIRD),
        // It has its flags where the program can change them.
        _ => O_TRUNC,
    };
    flags & O_TRUNC != 0
}

/// A call of the usual kind.
#[inline(always)]
fn touch_settings(registers: u64, call: u32, result: i64) {
    if call != FCNTL || integer(registers, o::REGISTERS_SECOND) == F_SETPIPE_SZ {
        touch(integer(registers, o::REGISTERS_FIRST), result >= 0);
    }
}

/// A call that is not in the table.
#[inline(never)]
fn touch_otherwise(registers: u64, call: u32, is_compat: bool, result: i64) {
    match call & !X32 {
        COMPAT_FCNTL | COMPAT_SOCKETCALL | COMPAT_FCNTL64 | COMPAT_CONNECT | COMPAT_LISTEN
        | COMPAT_SETSOCKOPT
            if is_compat =>
        {
            touch_unknown();
        }
        CONNECT | LISTEN | SETSOCKOPT | X32_SETSOCKOPT | FCNTL if !is_compat => {
            touch(integer(registers, o::REGISTERS_FIRST), result >= 0);
        }
        _ => {}
    }
}

/// What a register holds of an `int`: the kernel does not look at its upper half, and programs
/// leave there what they like.
#[inline(always)]
fn integer(registers: u64, index: usize) -> u32 {
    let register: u64 = load(registers, index);
    register as u32
}
