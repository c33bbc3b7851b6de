//! `tp_btf/sched_process_*` and `tp_btf/sys_exit`: what tracked processes do that changes them.
//!
//! The processes are in a map, with a count for each kind of thing that can change. A process that
//! a tracked one makes is put there here, in the kernel, before it first runs; no reader has to
//! keep up.
//!
//! System calls are counted as they end. A call changes things before that, so a reader may find a
//! change that is not counted yet, while the task runs; it then reads counts *before* the things
//! themselves, and finds another count the next time. A task that stands still for a tracer has
//! ended its last call: the tracepoint is passed before any signal, stop or return to user space is
//! looked at (`syscall_exit_work` before `exit_to_user_mode_loop`). The stops inside a call are those
//! at a fork or clone, which change nothing of the caller's but what the fork tracepoint, passed
//! already, has counted; and the one at an exec, which is likewise counted before it.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_ns};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::track::{
    ALL, ASYNCHRONOUS, CALLS, CREDENTIALS, FILES, MEMORY, NAMES, OPEN_SECOND, OPEN_THIRD, TABLE,
    Track, TrackedProcess,
};

use crate::read::load;

/// By pid. The loader may give it another size.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "TRACKED")]
static TRACKED: HashMap<i32, TrackedProcess> = HashMap::with_max_entries(1 << 14, 0);

#[unsafe(link_section = "maps")]
#[unsafe(export_name = "TRACKS")]
static TRACKS: HashMap<u64, Track> = HashMap::with_max_entries(1 << 10, 0);

/// How often anybody has changed, or has got to change, files by their names.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "NAMED")]
static NAMED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// A constant of the object, not of the code: an array that the code can index.
static CHANGES: [u8; CALLS] = TABLE;

/// Set in a thread's status while it makes a call of the 32-bit kind, with numbers of its own
/// (arch/x86/include/asm/thread_info.h).
pub(crate) const TS_COMPAT: u32 = 2;

const O_ACCMODE: u64 = 3;
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;

#[unsafe(link_section = "tp_btf/sys_exit")]
#[unsafe(no_mangle)]
extern "C" fn track_call(context: *mut u64) -> i32 {
    // SAFETY: the kernel passes the tracepoint's arguments, of which the first is the registers.
    let registers = unsafe { *context };
    // SAFETY: the helper takes nothing and gives the task that runs.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let call: u64 = load(registers, o::REGISTERS_CALL);
    let status: u32 = load(task, o::TASK_STATUS);
    let changes = if call >= CALLS as u64 || status & TS_COMPAT != 0 {
        ALL
    } else {
        // SAFETY: the index is below the table's length; volatile, so that it stays a table.
        unsafe { core::ptr::read_volatile(CHANGES.as_ptr().add(call as usize)) }
    };
    if changes == 0 {
        return 0;
    }
    if is_by_name(registers, changes)
        && let Some(count) = NAMED.get_ptr_mut(0)
    {
        add(count);
    }
    let pid: i32 = load(task, o::TASK_TGID);
    if let Some(process) = TRACKED.get_ptr_mut(pid) {
        count(process, changes);
    }
    0
}

/// Whether a process is tracked.
#[inline(always)]
pub(crate) fn is_tracked(pid: i32) -> bool {
    TRACKED.get_ptr(pid).is_some()
}

/// Whether a call may change what others see of named files.
#[inline(always)]
fn is_by_name(registers: u64, changes: u8) -> bool {
    let flags: u64 = if changes & OPEN_SECOND != 0 {
        load(registers, o::REGISTERS_SECOND)
    } else if changes & OPEN_THIRD != 0 {
        load(registers, o::REGISTERS_THIRD)
    } else {
        return changes & NAMES != 0;
    };
    flags & (O_ACCMODE | O_CREAT | O_TRUNC) != 0
}

#[inline(always)]
fn count(process: *mut TrackedProcess, changes: u8) {
    // SAFETY: a value in a map stays mapped while a program runs; of an entry removed meanwhile the
    // kernel may reuse it for another process, whose count then grows for nothing.
    unsafe {
        if changes & FILES != 0 {
            add(&raw mut (*process).files);
        }
        if changes & MEMORY != 0 {
            add(&raw mut (*process).memory);
        }
        if changes & CREDENTIALS != 0 {
            add(&raw mut (*process).credentials);
        }
        if changes & ASYNCHRONOUS != 0 {
            add(&raw mut (*process).asynchronous);
        }
    }
}

/// Threads of one process count on several processors at once.
#[inline(always)]
pub(crate) fn add(count: *mut u64) {
    // Not by `AtomicU64`: the compiler offers no such additions for this target, which has them.
    // SAFETY: a number in a map's value, aligned as all of them are, and only ever added to.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) count, in(reg) 1_u64) };
}

/// The new task is on no processor yet.
#[unsafe(link_section = "tp_btf/sched_process_fork")]
#[unsafe(no_mangle)]
extern "C" fn track_fork(context: *mut [*mut c_void; 2]) -> i32 {
    // SAFETY: the kernel passes the tracepoint's arguments: the maker and the made.
    let (maker, made) = unsafe { ((*context)[0] as u64, (*context)[1] as u64) };
    let (pid, new): (i32, i32) = (load(maker, o::TASK_TGID), load(made, o::TASK_TGID));
    let Some(process) = TRACKED.get_ptr_mut(pid) else { return 0 };
    // SAFETY: as in `count`.
    let track = unsafe {
        if pid == new {
            add(&raw mut (*process).threads);
            return 0;
        }
        // The child holds its files, and may change them.
        add(&raw mut (*process).files);
        (*process).track
    };
    // SAFETY: the helper takes nothing.
    let entered = unsafe { bpf_ktime_get_ns() };
    let child = TrackedProcess { track, entered, ..TrackedProcess::default() };
    let is_lost = TRACKED.insert(new, child, 0).is_err();
    if let Some(track) = TRACKS.get_ptr_mut(track) {
        // SAFETY: as in `count`.
        unsafe {
            add(&raw mut (*track).tree);
            if is_lost {
                add(&raw mut (*track).lost);
            }
        }
    }
    0
}

#[unsafe(link_section = "tp_btf/sched_process_exec")]
#[unsafe(no_mangle)]
extern "C" fn track_exec(context: *mut *mut c_void) -> i32 {
    // SAFETY: the kernel passes the tracepoint's arguments, of which the first is the task.
    let task = unsafe { *context } as u64;
    let pid: i32 = load(task, o::TASK_TGID);
    if let Some(process) = TRACKED.get_ptr_mut(pid) {
        count(process, FILES | MEMORY | CREDENTIALS);
        // SAFETY: as in `count`.
        unsafe { add(&raw mut (*process).threads) };
    }
    0
}

#[unsafe(link_section = "tp_btf/sched_process_exit")]
#[unsafe(no_mangle)]
extern "C" fn track_exit(context: *mut *mut c_void) -> i32 {
    // SAFETY: the kernel passes the tracepoint's arguments, of which the first is the task.
    let task = unsafe { *context } as u64;
    let pid: i32 = load(task, o::TASK_TGID);
    let Some(process) = TRACKED.get_ptr_mut(pid) else { return 0 };
    // SAFETY: as in `count`.
    let track = unsafe {
        add(&raw mut (*process).threads);
        (*process).track
    };
    // Threads count themselves out before they come here: the last of them, whichever ends last,
    // finds nobody left.
    let signal: u64 = load(task, o::TASK_SIGNAL);
    let left: i32 = load(signal, o::SIGNAL_LIVE);
    if left != 0 {
        return 0;
    }
    TRACKED.remove(pid).ok();
    if let Some(track) = TRACKS.get_ptr_mut(track) {
        // SAFETY: as in `count`.
        unsafe { add(&raw mut (*track).tree) };
    }
    0
}
