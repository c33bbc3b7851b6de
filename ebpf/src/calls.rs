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
    ALL, ASYNCHRONOUS, CALLS as TABLE, CREDENTIALS, Calls, FILES, FLAGS_SECOND, FLAGS_THIRD,
    INTERRUPTIBLE, MEMORY, MOUNTS, NAMES, OPENS, SHARES, TOUCHES, TOUCHES_BY_COMMAND,
};

use crate::read::load;
use crate::touch::{touch, touch_opened, touch_unknown};
use crate::track::{add, count_call, is_dumper};

/// How often anybody has changed files by their names; and how often, in a way that moves what is
/// mounted.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "NAMED")]
static NAMED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Filled in by the loader. In constant memory, so that the verifier knows the values.
#[unsafe(no_mangle)]
static CALLS: Calls = Calls::UNKNOWN;

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
    let is_compat = status & constant(&raw const CALLS.compat_status) != 0;
    let changes = changes(call, is_compat);
    if changes == 0 {
        return 0;
    }
    let is_unknown = changes & ALL == ALL;
    let is_undone = is_undone(result, changes);
    if changes & NAMES != 0 && !is_undone {
        count_named(0);
        if is_unknown || changes & MOUNTS != 0 {
            count_named(1);
        }
    }
    if changes & OPENS != 0 && result >= 0 {
        let is_shared = changes & SHARES != 0;
        if !is_shared || !is_dumper(load(task, o::TASK_TGID), load(task, o::TASK_START_TIME)) {
            let has_changed = is_shared || is_unknown || cuts_off(registers, changes);
            touch_opened(result as u32, has_changed, !is_unknown);
        }
    }
    if changes & (TOUCHES | TOUCHES_BY_COMMAND) != 0 {
        touch_settings(registers, changes, is_compat, result);
    }
    const OF_PROCESS: u16 = FILES | MEMORY | CREDENTIALS | ASYNCHRONOUS;
    if changes & OF_PROCESS != 0 && !is_undone {
        count_call(load(task, o::TASK_TGID), changes);
    }
    0
}

/// What a call may change. One that is not native may change all, whatever is known of it.
#[inline(always)]
fn changes(call: u64, is_compat: bool) -> u16 {
    let variant = u64::from(constant(&raw const CALLS.variant));
    let index = if is_compat { call } else { call & !variant };
    if index >= TABLE as u64 {
        return ALL;
    }
    let table = if is_compat { &raw const CALLS.compat } else { &raw const CALLS.native };
    // The index is below the table's length.
    let known = constant(table.cast::<u16>().wrapping_add(index as usize));
    if !is_compat && call == index {
        return known;
    }
    let touches = if known & (TOUCHES | TOUCHES_BY_COMMAND) != 0 { TOUCHES } else { 0 };
    ALL | touches | known & SHARES
}

/// A value of the constant memory, as the loader has filled it in.
#[inline(always)]
fn constant<T>(place: *const T) -> T {
    // SAFETY: all places are of numbers within `CALLS`. Volatile, because the value is not the one
    // that the compiler sees here.
    unsafe { core::ptr::read_volatile(place) }
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
fn is_undone(result: i64, changes: u16) -> bool {
    // include/linux/errno.h, include/uapi/asm-generic/errno-base.h
    const RESTARTED: core::ops::RangeInclusive<i64> = -516..=-512;
    const EPERM: i64 = -1;
    const ENOENT: i64 = -2;
    const EINTR: i64 = -4;
    const EAGAIN: i64 = -11;
    const EACCES: i64 = -13;
    const EEXIST: i64 = -17;
    const ENOTDIR: i64 = -20;
    if result >= 0 || changes & ALL == ALL {
        return false;
    }
    changes & (INTERRUPTIBLE | NAMES | OPENS) != 0 && RESTARTED.contains(&result)
        || changes & INTERRUPTIBLE != 0 && matches!(result, EINTR | EAGAIN)
        || changes & (NAMES | OPENS) != 0
            && matches!(result, ENOENT | EPERM | EACCES | EEXIST | ENOTDIR)
}

/// Whether a call that opens a file may have cut it off, for which it need not be open for writing.
#[inline(always)]
fn cuts_off(registers: u64, changes: u16) -> bool {
    const O_TRUNC: u32 = 0o1000;
    let flags = if changes & FLAGS_SECOND != 0 {
        integer(registers, o::REGISTERS_SECOND)
    } else if changes & FLAGS_THIRD != 0 {
        integer(registers, o::REGISTERS_THIRD)
    } else {
        // It has its flags where the program can change them.
        O_TRUNC
    };
    flags & O_TRUNC != 0
}

/// A call of the 32-bit kind has its arguments elsewhere.
#[inline(never)]
fn touch_settings(registers: u64, changes: u16, is_compat: bool, result: i64) {
    const F_SETPIPE_SZ: u32 = 1031;
    if is_compat {
        touch_unknown();
    } else if changes & TOUCHES != 0 || integer(registers, o::REGISTERS_SECOND) == F_SETPIPE_SZ {
        touch(integer(registers, o::REGISTERS_FIRST), result >= 0);
    }
}

/// What a register holds of an `int`: the kernel does not look at its upper half, and programs
/// leave there what they like.
#[inline(always)]
fn integer(registers: u64, index: usize) -> u32 {
    let register: u64 = load(registers, index);
    register as u32
}
