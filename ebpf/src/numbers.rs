//! Numbers of tasks as who reads them has them: in the pid namespace of the process that reads an iterator, which the
//! kernel calls the programs in. So programs that are loaded once serve readers in all pid namespaces.

use aya_ebpf::helpers::generated::bpf_get_current_task;
use stasis_ebpf_common::offsets as o;

use crate::read::{at, field, offset};

/// What a `struct pid` is called there; 0 for none, and for one that is not seen from there.
#[inline(never)]
pub(crate) fn of(pid: u64) -> i32 {
    // SAFETY: it takes nothing, and gives an address.
    let reader: u64 = field(unsafe { bpf_get_current_task() }, o::TASK_THREAD_PID);
    let level: u32 = field(reader, o::PID_LEVEL);
    let depth: u32 = field(pid, o::PID_LEVEL);
    if pid == 0 || level > depth {
        return 0;
    }
    let place =
        u64::from(offset(o::PID_NUMBERS)) + u64::from(level) * u64::from(offset(o::UPID_BYTES));
    let namespace = |pid: u64| -> u64 { at(pid + place + u64::from(offset(o::UPID_NS))) };
    if namespace(pid) != namespace(reader) {
        return 0;
    }
    at(pid + place + u64::from(offset(o::UPID_NR)))
}

// Places in `signal_struct.pids` (`enum pid_type`).
const PROCESS: u64 = 1;
const GROUP: u64 = 2;
const SESSION: u64 = 3;

/// The number of the process that a `signal_struct` is of.
#[inline(always)]
pub(crate) fn of_process(signal: u64) -> i32 {
    of_kind(signal, PROCESS)
}

/// That of its group.
#[inline(always)]
pub(crate) fn of_group(signal: u64) -> i32 {
    of_kind(signal, GROUP)
}

/// That of its session.
#[inline(always)]
pub(crate) fn of_session(signal: u64) -> i32 {
    of_kind(signal, SESSION)
}

#[inline(always)]
fn of_kind(signal: u64, kind: u64) -> i32 {
    if signal == 0 {
        return 0;
    }
    of(at(signal + u64::from(offset(o::SIGNAL_PIDS)) + kind * 8))
}

/// The innermost pid namespace in which the task has a number.
#[inline(always)]
pub(crate) fn namespace(task: u64) -> u64 {
    let pid: u64 = field(task, o::TASK_THREAD_PID);
    if pid == 0 {
        return 0;
    }
    let level: u32 = field(pid, o::PID_LEVEL);
    let entry = u64::from(level) * u64::from(offset(o::UPID_BYTES));
    at(pid + u64::from(offset(o::PID_NUMBERS)) + entry + u64::from(offset(o::UPID_NS)))
}
