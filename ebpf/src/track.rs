//! `tp_btf/sched_process_*`: which processes are tracked, and what is counted of each.
//!
//! The processes are in a map, with a count for each kind of thing that can change. A process that
//! a tracked one makes is put there here, in the kernel, before it first runs; no reader has to
//! keep up. What they change by system calls is counted at the end of each (`calls`).

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::maps::HashMap;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::track::{
    ASYNCHRONOUS, CREDENTIALS, FILES, MEMORY, Track, TrackedProcess, dumper_of,
};

use crate::read::load;

/// By pid. The loader may give it another size.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "TRACKED")]
static TRACKED: HashMap<i32, TrackedProcess> = HashMap::with_max_entries(1 << 14, 0);

#[unsafe(link_section = "maps")]
#[unsafe(export_name = "TRACKS")]
static TRACKS: HashMap<u64, Track> = HashMap::with_max_entries(1 << 10, 0);

/// Counts what a call of a process has changed, if the process is tracked.
#[inline(always)]
pub(crate) fn count_call(pid: i32, changes: u16) {
    if let Some(process) = TRACKED.get_ptr_mut(pid) {
        count(process, changes);
    }
}

/// Whether a process has entered itself, for a dump: it gets at files of others only to look. `start`
/// is when it began; one that began after the entry was made is another.
#[inline(always)]
pub(crate) fn is_dumper(pid: i32, start: u64) -> bool {
    let Some(process) = TRACKED.get_ptr(pid) else { return false };
    // SAFETY: as in `count`; the numbers are written before the entry is in the map.
    let (track, entered) = unsafe { ((*process).track, (*process).entered) };
    dumper_of(track) == Some(pid) && entered >= start
}

#[inline(always)]
fn count(process: *mut TrackedProcess, changes: u16) {
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
