//! What the parasite is told and what it reports.
//!
//! The host maps one region into the task and lays it out so: the parasite's code, then
//! [`Parasite`], then [`Parasite::timer_count`] of [`TimerState`], then the parasite's stack, to
//! the end of the region. The parasite fills in the report, rings (see [`Parasite::bell`]) and
//! leaves: its last system call is the unmapping of that very region, made from an instruction of
//! the task's own, with the stack pointer at a signal frame that restores the task. It needs
//! nobody for that, so a parasite whose host has died leaves by itself.

use crate::plain::Plain;

/// Number of signals, and of slots in [`Parasite::actions`] (signal 1 first).
pub const SIGNALS: usize = 64;

/// The kernel's `struct sigaction` (not the C library's).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigAction {
    /// Handler, or `SIG_DFL` (0), `SIG_IGN` (1).
    pub handler: u64,
    /// `SA_*` flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: u64,
}

/// `struct timeval` or `struct timespec`: seconds, and micro- or nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Micro- or nanoseconds, by the call that made it.
    pub fraction: i64,
}

/// `struct itimerval` or `struct itimerspec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerValue {
    /// Period, zero for a timer that rings once.
    pub interval: Time,
    /// Time left, zero for a timer that is not armed.
    pub value: Time,
}

/// One POSIX timer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerState {
    /// In: its id.
    pub id: i32,
    /// Out: how often it rang without being noticed.
    pub overrun: i32,
    /// Out: its setting.
    pub setting: TimerValue,
}

/// `stack_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub start: u64,
    /// `SS_*` flags.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
    /// Bytes.
    pub bytes: u64,
}

/// What the parasite is told, and its report.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Parasite {
    /// In: where the region starts.
    pub region_start: u64,
    /// In: its length in bytes.
    pub region_bytes: u64,
    /// In: address of a `syscall; ret` of the task's own.
    pub syscall_return: u64,
    /// In: stack pointer from which that `ret` leads home: the address of a signal frame.
    pub return_frame: u64,
    /// In: signal that the parasite sends to itself when the report is complete. It must be one
    /// that the task ignores, by default or by choice: a tracer sees such a signal delivered, and
    /// without a tracer it is nothing. 0 for none.
    pub bell: i32,
    /// In: number of [`TimerState`]s that follow.
    pub timer_count: u32,
    /// In: 1 to make a userfaultfd and close it again, instead of all reporting: a host that stops
    /// the task in between can take it over, and without one nothing stays.
    pub uffd_handover: u32,
    /// In: the flags that the userfaultfd is made with.
    pub donated_flags: u32,
    /// Out: 0, or the error number of the first system call that failed.
    pub error: i32,
    /// Out: which: the system call's number.
    pub failed_call: i32,
    /// Out: signal actions, signal 1 first.
    pub actions: [SigAction; SIGNALS],
    /// Out: interval timers: real, virtual, profiling (microseconds).
    pub interval_timers: [TimerValue; 3],
    /// Out: alternate signal stack of this thread.
    pub alt_stack: AltStack,
    /// Out: where the kernel writes 0 and wakes a futex when this thread exits.
    pub clear_child_tid: u64,
    /// Out: end of the heap.
    pub program_break: u64,
    /// Out: `PR_GET_TIMERSLACK`, nanoseconds.
    pub timer_slack: u64,
    /// Out: signal sent to this thread when its parent dies.
    pub parent_death_signal: i32,
    /// Out: `PR_GET_DUMPABLE`.
    pub dumpable: i32,
    /// Out: `PR_GET_CHILD_SUBREAPER`.
    pub child_subreaper: i32,
    /// Out: `PR_GET_THP_DISABLE`.
    pub thp_disable: i32,
    /// Out: `PR_GET_SECUREBITS` of this thread.
    pub securebits: i32,
    /// In: 1 if the task's own code is 32-bit code, which [`Parasite::syscall_return`] is made for then.
    pub compat: u32,
    /// Out: `MEMBARRIER_CMD_GET_REGISTRATIONS` (Linux 6.3; 0 where the kernel does not tell).
    pub membarrier: u32,
    /// Out: whether the instruction that identifies the processor is a fault for this thread.
    pub identification_faults: u32,
    /// Out: components of the extended state that the process may use (Linux 5.16; 0 where the
    /// kernel does not tell).
    pub permitted: u64,
    /// Out: whether reading the processor's clock is a fault for this thread.
    pub clock_faults: u32,
    /// Out: memory protection keys that the process has taken, one bit each, without key 0 and the one
    /// that the kernel may have taken for code that may not be read.
    pub protection_keys: u32,
}

impl Parasite {
    /// Nothing told and nothing reported.
    pub const EMPTY: Self = Self {
        region_start: 0,
        region_bytes: 0,
        syscall_return: 0,
        return_frame: 0,
        bell: 0,
        timer_count: 0,
        uffd_handover: 0,
        donated_flags: 0,
        error: 0,
        failed_call: 0,
        actions: [SigAction { handler: 0, flags: 0, restorer: 0, mask: 0 }; SIGNALS],
        interval_timers: [TimerValue {
            interval: Time { seconds: 0, fraction: 0 },
            value: Time { seconds: 0, fraction: 0 },
        }; 3],
        alt_stack: AltStack { start: 0, flags: 0, pad: 0, bytes: 0 },
        clear_child_tid: 0,
        program_break: 0,
        parent_death_signal: 0,
        dumpable: 0,
        child_subreaper: 0,
        thp_disable: 0,
        securebits: 0,
        timer_slack: 0,
        compat: 0,
        membarrier: 0,
        identification_faults: 0,
        permitted: 0,
        clock_faults: 0,
        protection_keys: 0,
    };
}

// SAFETY: all fields are integers, every gap is a named field, and any bits are values.
unsafe impl Plain for Parasite {}
// SAFETY: as above.
unsafe impl Plain for TimerState {}
// SAFETY: as above.
unsafe impl Plain for AltStack {}
