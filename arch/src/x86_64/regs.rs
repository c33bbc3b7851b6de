//! General registers of a traced task, as `PTRACE_GETREGSET` with `NT_PRSTATUS` reports them
//! (the kernel's `struct user_regs_struct`).

use super::syscall::nr;

/// The general registers, segment registers and the FS and GS bases.
///
/// The layout is the kernel's `struct user_regs_struct`: 27 words, in this order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the register it is named for")]
pub struct GeneralRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    /// The number of the interrupted system call, or -1 (as two's complement) outside one.
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// Whose code a thread runs: a value of the thread, for one process may run both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// The processor's own, 64-bit.
    Native,
    /// That of its 32-bit predecessor, which the kernel has calls and structures of its own for.
    Compat,
}

/// The kernel's internal "restart me" codes (`include/linux/errno.h`); a tracer sees them in the
/// return register of an interrupted system call, programs never do.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
/// What a program sees of a call that was broken off.
const EINTR: i64 = -4;

/// `cs` of a 64-bit task in user mode.
const USER_CS_64: u64 = 0x33;

/// Bytes below the stack pointer that a leaf function may use (System V ABI for x86_64, 3.2.2).
pub const RED_ZONE: u64 = 128;

/// `orig_ax` that says "not in a system call", so that the kernel restarts nothing.
pub const NO_SYSCALL: u64 = u64::MAX;

/// Length in bytes of the instruction that makes a system call.
pub const SYSCALL_INSTRUCTION_LEN: u64 = 2;

/// The signal handler that runs in a thread before it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handler {
    /// None does.
    #[default]
    None,
    /// One that breaks off the call that the thread is in.
    BreaksOff,
    /// One that has asked for calls to be restarted (`SA_RESTART`).
    Restarts,
}

impl GeneralRegs {
    /// Number of bytes of the register set.
    pub const BYTES: usize = size_of::<Self>();

    /// Whose code the task runs: 32-bit code runs in another code segment.
    #[must_use]
    pub const fn abi(&self) -> Abi {
        if self.cs == USER_CS_64 { Abi::Native } else { Abi::Compat }
    }

    /// Whether the task was stopped inside a system call.
    #[must_use]
    pub const fn in_syscall(&self) -> bool {
        (self.orig_ax as i64) >= 0
    }

    /// Whether the task was stopped inside a system call that the kernel would restart.
    #[must_use]
    pub const fn interrupted_syscall(&self) -> bool {
        self.in_syscall()
            && matches!(
                self.ax as i64,
                ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK
            )
    }

    /// The registers from which the task goes on *without* the kernel's help, when `handler` runs
    /// first.
    ///
    /// An interrupted system call is wound back to its instruction, with its number in the
    /// return register, or says `EINTR`, as the kernel itself has it (`handle_signal` and
    /// `arch_do_signal_or_restart` in arch/x86/kernel/signal.c). A call that the kernel would
    /// continue by `restart_syscall` (a sleep or wait with a relative time-out) is made again from
    /// its start: the kernel's note of the time already waited does not survive a signal return,
    /// and a longer wait is something programs expect, `EINTR` often is not. Of one that has been
    /// continued already only [`GeneralRegs::begun_as`] tells which it was; else it says `EINTR`.
    #[must_use]
    pub const fn resumed(mut self, handler: Handler) -> Self {
        if self.interrupted_syscall() {
            let again = match (self.ax as i64, handler) {
                _ if self.orig_ax as usize == nr::RESTART_SYSCALL => false,
                (ERESTARTNOINTR, _) | (_, Handler::None) | (ERESTARTSYS, Handler::Restarts) => true,
                _ => false,
            };
            if again {
                self.ax = self.orig_ax;
                self.ip -= SYSCALL_INSTRUCTION_LEN;
            } else {
                self.ax = EINTR as u64;
            }
        }
        self.orig_ax = NO_SYSCALL;
        self
    }

    /// Whether the task is in a wait that the kernel has continued once or more, so that the number
    /// of the call it began with is lost.
    #[must_use]
    pub const fn in_continued_call(&self) -> bool {
        self.interrupted_syscall() && self.orig_ax as usize == nr::RESTART_SYSCALL
    }

    /// These registers with the number of the call that a continued wait began with, by the name of
    /// the kernel's function that continues it (`task_struct.restart_block.fn`). The arguments are
    /// still those of the call.
    #[must_use]
    pub fn begun_as(mut self, function: &str) -> Self {
        /// The clocks that this function waits by have small numbers; where the other call has its
        /// pointer, there is never memory.
        const CLOCKS: u64 = 16;
        let call = match function {
            "hrtimer_nanosleep_restart" if self.di >= CLOCKS => nr::NANOSLEEP,
            "hrtimer_nanosleep_restart"
            | "posix_cpu_nsleep_restart"
            | "alarm_timer_nsleep_restart" => nr::CLOCK_NANOSLEEP,
            "do_restart_poll" => nr::POLL,
            "futex_wait_restart" => nr::FUTEX,
            _ => return self,
        };
        if self.in_continued_call() {
            self.orig_ax = call as u64;
        }
        self
    }

    /// These registers with a call that says `EINTR` only because a tracer has stopped the task
    /// turned into one that the kernel makes again when no handler runs; `None` if there is no such
    /// call. For a task that stands in the kernel's signal path, stopped by its tracer and not by a
    /// signal.
    ///
    /// These calls look for signals themselves and take a stop for one (signal(7)). Those with a
    /// time limit are left as they are: made again they would wait for all of it, and one that is
    /// stopped more often than that would never end. So are those of 32-bit code, in which the numbers
    /// mean other calls.
    #[must_use]
    pub const fn unbroken(&self) -> Option<Self> {
        if !matches!(self.abi(), Abi::Native)
            || !self.in_syscall()
            || self.ax as i64 != EINTR
            || !self.is_made_again()
        {
            return None;
        }
        Some(Self { ax: ERESTARTNOHAND as u64, ..*self })
    }

    /// Whether the call is one of those, and can be made again.
    const fn is_made_again(&self) -> bool {
        const FALLOC_FL_KEEP_SIZE: u64 = 1;
        const IORING_ENTER_EXT_ARG: u64 = 1 << 3;
        match self.orig_ax as usize {
            nr::EPOLL_WAIT | nr::EPOLL_PWAIT => (self.r10 as i32) < 0,
            nr::EPOLL_PWAIT2 | nr::SEMTIMEDOP => self.r10 == 0,
            nr::RT_SIGTIMEDWAIT => self.dx == 0,
            nr::IO_GETEVENTS => self.r8 == 0,
            nr::SEMOP => true,
            // One that has submitted anything says how much. A time limit would be in memory.
            nr::IO_URING_ENTER => self.r10 & IORING_ENTER_EXT_ARG == 0,
            // In memory files it stops for any signal, with all undone.
            nr::FALLOCATE => self.si as u32 as u64 & !FALLOC_FL_KEEP_SIZE == 0,
            _ => false,
        }
    }

    /// These registers, changed to make system call `number` at the instruction `ip`, with the
    /// stack pointer at `sp`.
    #[must_use]
    pub const fn calling(mut self, number: usize, args: [u64; 6], ip: u64, sp: u64) -> Self {
        self.ax = number as u64;
        self.orig_ax = NO_SYSCALL;
        [self.di, self.si, self.dx, self.r10, self.r8, self.r9] = args;
        self.ip = ip;
        self.sp = sp;
        self
    }

    /// Where the task goes on.
    #[must_use]
    pub const fn instruction(&self) -> u64 {
        self.ip
    }

    /// Has the task go on elsewhere.
    pub const fn go_on_at(&mut self, instruction: u64) {
        self.ip = instruction;
    }

    /// The stack pointer.
    #[must_use]
    pub const fn stack(&self) -> u64 {
        self.sp
    }

    /// The number of the system call that the task was stopped in; `None` outside one.
    #[must_use]
    pub const fn call(&self) -> Option<usize> {
        if self.in_syscall() { Some(self.orig_ax as usize) } else { None }
    }

    /// The first argument of that call.
    #[must_use]
    pub const fn argument(&self) -> u64 {
        self.di
    }

    /// The return register.
    #[must_use]
    pub const fn return_value(&self) -> i64 {
        self.ax as i64
    }
}

/// The kernel's functions that continue a wait, of which [`GeneralRegs::begun_as`] knows.
pub const CONTINUING: [&str; 5] = [
    "hrtimer_nanosleep_restart",
    "posix_cpu_nsleep_restart",
    "alarm_timer_nsleep_restart",
    "do_restart_poll",
    "futex_wait_restart",
];

/// What a tracer writes, in this order, into `struct user` (`PTRACE_POKEUSER`: an offset and a value), for a thread
/// to stop before it executes the instruction at an address, or to stop nowhere.
pub const fn breakpoint(at: Option<u64>) -> [(usize, u64); 2] {
    /// The kernel's `struct user` has them at this offset.
    const DEBUG_REGISTERS: usize = 848;
    const ADDRESS: usize = DEBUG_REGISTERS;
    const CONTROL: usize = DEBUG_REGISTERS + 7 * size_of::<u64>();
    const ENABLE_FIRST: u64 = 1;
    match at {
        Some(address) => [(ADDRESS, address), (CONTROL, ENABLE_FIRST)],
        None => [(CONTROL, 0), (ADDRESS, 0)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_syscall(number: u64, answer: i64) -> GeneralRegs {
        GeneralRegs {
            orig_ax: number,
            ax: answer as u64,
            ip: 0x1002,
            cs: 0x33,
            ..Default::default()
        }
    }

    #[test]
    fn an_interrupted_call_is_wound_back() {
        for code in [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK] {
            let regs = in_syscall(35, code).resumed(Handler::None);
            assert_eq!((regs.ax, regs.ip, regs.orig_ax), (35, 0x1000, NO_SYSCALL));
        }
    }

    #[test]
    fn a_handler_breaks_off_what_the_kernel_lets_it() {
        let broken = [ERESTARTSYS, ERESTARTNOHAND, ERESTART_RESTARTBLOCK];
        let broken_by_all = [ERESTARTNOHAND, ERESTART_RESTARTBLOCK];
        for (handler, broken) in
            [(Handler::BreaksOff, &broken[..]), (Handler::Restarts, &broken_by_all[..])]
        {
            for code in [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK] {
                let regs = in_syscall(34, code).resumed(handler);
                let expected = if broken.contains(&code) { (-4, 0x1002) } else { (34, 0x1000) };
                assert_eq!((regs.ax as i64, regs.ip), expected, "{code} {handler:?}");
                assert_eq!(regs.orig_ax, NO_SYSCALL);
            }
        }
    }

    #[test]
    fn a_finished_call_keeps_its_answer() {
        for handler in [Handler::None, Handler::BreaksOff, Handler::Restarts] {
            let regs = in_syscall(0, -4).resumed(handler);
            assert_eq!((regs.ax as i64, regs.ip), (-4, 0x1002));
            let outside = GeneralRegs {
                orig_ax: NO_SYSCALL,
                ax: -512i64 as u64,
                ip: 7,
                ..Default::default()
            };
            assert_eq!(outside.resumed(handler), outside);
        }
    }

    #[test]
    fn a_continued_wait_is_made_again_as_what_it_was() {
        let continued = in_syscall(219, ERESTART_RESTARTBLOCK);
        let sleep = GeneralRegs { di: 0x7000_0000, ..continued };
        for (regs, function, call) in [
            (sleep, "hrtimer_nanosleep_restart", 35),
            (continued, "hrtimer_nanosleep_restart", 230),
            (continued, "posix_cpu_nsleep_restart", 230),
            (sleep, "do_restart_poll", 7),
            (sleep, "futex_wait_restart", 202),
        ] {
            let regs = regs.begun_as(function).resumed(Handler::None);
            assert_eq!((regs.ax, regs.ip), (call, 0x1000), "{function}");
        }
        // There is nothing to continue after a restore.
        for regs in [continued, continued.begun_as("do_no_restart_syscall")] {
            let regs = regs.resumed(Handler::None);
            assert_eq!((regs.ax as i64, regs.ip), (-4, 0x1002));
        }
        let other = in_syscall(1, ERESTARTSYS);
        assert_eq!(other.begun_as("do_restart_poll"), other);
    }

    #[test]
    fn a_stop_does_not_break_off_a_wait_without_a_limit() {
        let limited = GeneralRegs { r10: 100, dx: 100, r8: 100, si: 2, ..in_syscall(0, -4) };
        let endless = GeneralRegs { r10: u64::MAX, dx: 0, r8: 0, si: 1, ..limited };
        let none = GeneralRegs { r10: 0, ..endless };
        let call = |number, regs: GeneralRegs| GeneralRegs { orig_ax: number, ..regs };
        for (number, regs) in [
            (232, endless),
            (281, endless),
            (441, none),
            (128, endless),
            (65, limited),
            (220, none),
            (208, endless),
            (285, endless),
            (426, none),
        ] {
            let unbroken = call(number, regs).unbroken().unwrap();
            assert_eq!(unbroken, GeneralRegs { ax: -514i64 as u64, ..call(number, regs) });
            assert_eq!(unbroken.unbroken(), None);
            // What has an answer keeps it.
            assert_eq!(GeneralRegs { ax: 0, ..call(number, regs) }.unbroken(), None);
        }
        let limited = GeneralRegs { r10: 104, ..limited };
        for number in [232, 281, 441, 128, 220, 208, 285, 426, 0] {
            assert_eq!(call(number, limited).unbroken(), None, "{number}");
        }
        // A finished call's EINTR is the program's.
        assert_eq!(call(NO_SYSCALL, endless).unbroken(), None);
        // 32-bit code means getpgrp by the number of semop.
        let compat = GeneralRegs { cs: 0x23, ..call(65, endless) };
        assert_eq!(compat.unbroken(), None);
    }
}
