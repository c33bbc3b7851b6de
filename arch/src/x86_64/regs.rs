//! General registers of a traced task, as `PTRACE_GETREGS` reports them (the kernel's `struct user_regs_struct`). The
//! register set `NT_PRSTATUS` would have another layout while a task is in 32-bit code.

use super::syscall::{compat_number, nr};

/// The request by which a tracer gets them (`PTRACE_GETREGS`).
pub const GET: u32 = 12;
/// The request by which a tracer sets them (`PTRACE_SETREGS`).
pub const SET: u32 = 13;

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

/// `cs` in 64-bit code of user mode.
const USER_CS_64: u64 = 0x33;
/// `cs` in 32-bit code of user mode.
const USER_CS_32: u64 = 0x23;
/// `ss` in both.
const USER_SS: u64 = 0x2b;

/// Bytes below the stack pointer that a leaf function may use (System V ABI for x86_64, 3.2.2).
pub const RED_ZONE: u64 = 128;

/// `orig_ax` that says "not in a system call", so that the kernel restarts nothing.
pub const NO_SYSCALL: u64 = u64::MAX;

/// The instruction that makes a system call.
pub const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// Length in bytes of the instruction that makes a system call.
pub const SYSCALL_INSTRUCTION_LEN: u64 = 2;

const FALLOC_FL_KEEP_SIZE: u64 = 1;
const IORING_ENTER_EXT_ARG: u64 = 1 << 3;

/// Numbers of calls that 32-bit code may be in (`arch/x86/entry/syscalls/syscall_32.tbl`).
mod compat_nr {
    pub(super) const RESTART_SYSCALL: u64 = 0;
    pub(super) const MUNMAP: u64 = 91;
    pub(super) const IPC: u64 = 117;
    pub(super) const IPC_SEMOP: u64 = 1;
    pub(super) const IPC_SEMTIMEDOP: u64 = 4;
    pub(super) const NANOSLEEP: u64 = 162;
    pub(super) const POLL: u64 = 168;
    pub(super) const RT_SIGTIMEDWAIT: u64 = 177;
    pub(super) const FUTEX: u64 = 240;
    pub(super) const IO_GETEVENTS: u64 = 247;
    pub(super) const EPOLL_WAIT: u64 = 256;
    pub(super) const CLOCK_NANOSLEEP: u64 = 267;
    pub(super) const EPOLL_PWAIT: u64 = 319;
    pub(super) const FALLOCATE: u64 = 324;
    pub(super) const SEMTIMEDOP_TIME64: u64 = 420;
    pub(super) const RT_SIGTIMEDWAIT_TIME64: u64 = 421;
    pub(super) const IO_URING_ENTER: u64 = 426;
    pub(super) const EPOLL_PWAIT2: u64 = 441;
}

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
    /// None, and the thread stays where it is in the kernel's signal path, where its tracer reads its registers: what the
    /// kernel will make of a call is not made of it yet.
    Traced,
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

    /// Whether all that is not of 32 bits is as 32-bit code has it.
    #[must_use]
    pub const fn is_plain_compat(&self) -> bool {
        self.cs == USER_CS_32 && self.ss == USER_SS
    }

    /// The answer of a system call, or the kernel's word of one that it would restart.
    const fn answer(&self) -> i64 {
        match self.abi() {
            Abi::Native => self.ax as i64,
            Abi::Compat => self.ax as i32 as i64,
        }
    }

    /// The number of the call that continues a wait.
    const fn restart_syscall(&self) -> u64 {
        match self.abi() {
            Abi::Native => nr::RESTART_SYSCALL as u64,
            Abi::Compat => compat_nr::RESTART_SYSCALL,
        }
    }

    /// Whether the task was stopped inside a system call that the kernel would restart.
    #[must_use]
    pub const fn interrupted_syscall(&self) -> bool {
        self.in_syscall()
            && matches!(
                self.answer(),
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
        if matches!(handler, Handler::Traced) {
            // The kernel's note of the time already waited is lost here, too.
            if self.interrupted_syscall() && self.answer() == ERESTART_RESTARTBLOCK {
                self.ax = ERESTARTNOHAND as u64;
            }
            return self;
        }
        if self.interrupted_syscall() {
            let again = match (self.answer(), handler) {
                _ if self.orig_ax == self.restart_syscall() => false,
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
        self.interrupted_syscall() && self.orig_ax == self.restart_syscall()
    }

    /// These registers with the number of the call that a continued wait began with, by the name of
    /// the kernel's function that continues it (`task_struct.restart_block.fn`). The arguments are
    /// still those of the call. (Of 32-bit code several calls with times of other widths are continued alike. C libraries make the one
    /// with 32 bits unless the time needs more.)
    #[must_use]
    pub fn begun_as(mut self, function: &str) -> Self {
        /// The clocks that this function waits by have small numbers; where the other call has its
        /// pointer, there is never memory.
        const CLOCKS: u64 = 16;
        let (native, compat) = match function {
            "hrtimer_nanosleep_restart" if self.argument() >= CLOCKS => {
                (nr::NANOSLEEP, compat_nr::NANOSLEEP)
            }
            "hrtimer_nanosleep_restart"
            | "posix_cpu_nsleep_restart"
            | "alarm_timer_nsleep_restart" => (nr::CLOCK_NANOSLEEP, compat_nr::CLOCK_NANOSLEEP),
            "do_restart_poll" => (nr::POLL, compat_nr::POLL),
            "futex_wait_restart" => (nr::FUTEX, compat_nr::FUTEX),
            _ => return self,
        };
        if self.in_continued_call() {
            self.orig_ax = match self.abi() {
                Abi::Native => native as u64,
                Abi::Compat => compat,
            };
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
    /// stopped more often than that would never end.
    #[must_use]
    pub const fn unbroken(&self) -> Option<Self> {
        let is_made_again = match self.abi() {
            Abi::Native => self.is_made_again(),
            Abi::Compat => self.is_made_again_by_compat(),
        };
        if !self.in_syscall() || self.answer() != EINTR || !is_made_again {
            return None;
        }
        Some(Self { ax: ERESTARTNOHAND as u64, ..*self })
    }

    /// The same as [`Self::is_made_again`] for 32-bit code, which has other numbers, and its arguments elsewhere.
    const fn is_made_again_by_compat(&self) -> bool {
        match self.orig_ax {
            compat_nr::EPOLL_WAIT | compat_nr::EPOLL_PWAIT => (self.si as i32) < 0,
            compat_nr::EPOLL_PWAIT2 | compat_nr::SEMTIMEDOP_TIME64 => self.si == 0,
            compat_nr::RT_SIGTIMEDWAIT | compat_nr::RT_SIGTIMEDWAIT_TIME64 => self.dx == 0,
            compat_nr::IO_GETEVENTS => self.di == 0,
            // One call for all of System V: which of them is its first argument.
            compat_nr::IPC => match self.bx & 0xffff {
                compat_nr::IPC_SEMOP => true,
                compat_nr::IPC_SEMTIMEDOP => self.bp == 0,
                _ => false,
            },
            compat_nr::IO_URING_ENTER => self.si & IORING_ENTER_EXT_ARG == 0,
            compat_nr::FALLOCATE => self.cx as u32 as u64 & !FALLOC_FL_KEEP_SIZE == 0,
            _ => false,
        }
    }

    /// Whether the call is one of those, and can be made again.
    const fn is_made_again(&self) -> bool {
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
        // 64-bit code may run in any task.
        self.cs = USER_CS_64;
        self.ss = USER_SS;
        self
    }

    /// The same at an instruction of `door`'s kind ([`super::sigframe::codes`]): in a 32-bit task there is none other, and the call is of the
    /// 32-bit kind, made by 64-bit code. Without such a call ([`compat_number`]) it is one that no kernel has.
    #[must_use]
    pub const fn calling_by(
        self,
        door: Abi,
        number: usize,
        args: [u64; 6],
        ip: u64,
        sp: u64,
    ) -> Self {
        const NO_CALL: u32 = u32::MAX;
        let mut regs = self.calling(number, args, ip, sp);
        if matches!(door, Abi::Compat) {
            regs.ax = match compat_number(number) {
                Some(number) => number as u64,
                None => NO_CALL as u64,
            };
            [regs.bx, regs.cx, regs.dx, regs.si, regs.di, regs.bp] = args;
        }
        regs
    }

    /// Whether the task is in the call that takes away the memory at `start`, made at an instruction of `door`'s kind.
    #[must_use]
    pub const fn unmaps(&self, door: Abi, start: u64) -> bool {
        match door {
            Abi::Native => self.orig_ax == nr::MUNMAP as u64 && self.di == start,
            Abi::Compat => self.orig_ax == compat_nr::MUNMAP && self.bx == start,
        }
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

    /// The number of the system call that the task was stopped in, of the kind that it makes; `None` outside one.
    #[must_use]
    pub const fn call(&self) -> Option<usize> {
        if self.in_syscall() { Some(self.orig_ax as usize) } else { None }
    }

    /// The first argument of a call.
    const fn argument(&self) -> u64 {
        match self.abi() {
            Abi::Native => self.di,
            Abi::Compat => self.bx,
        }
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
    fn a_tracer_sees_a_call_as_the_kernel_has_it() {
        let seen = |answer| in_syscall(35, answer).resumed(Handler::Traced);
        let call = seen(ERESTARTSYS);
        assert_eq!((call.ax as i64, call.ip, call.orig_ax), (ERESTARTSYS, 0x1002, 35));
        assert_eq!(seen(ERESTART_RESTARTBLOCK).ax as i64, ERESTARTNOHAND);
        assert_eq!(seen(7).ax, 7);
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
    }

    /// 32-bit code in a call.
    fn in_compat(number: u64, answer: i64) -> GeneralRegs {
        GeneralRegs { cs: 0x23, ss: 0x2b, ..in_syscall(number, answer) }
    }

    #[test]
    fn calls_of_32_bit_code_have_their_own_numbers() {
        // getpgrp has the number of semop.
        assert_eq!(in_compat(65, EINTR).unbroken(), None);
        let endless = GeneralRegs { si: u32::MAX.into(), ..in_compat(256, EINTR) };
        assert_eq!(endless.unbroken().unwrap().ax as i64, ERESTARTNOHAND);
        assert_eq!(GeneralRegs { si: 100, ..endless }.unbroken(), None);
        let semop = GeneralRegs { bx: 1, ..in_compat(117, EINTR) };
        assert!(semop.unbroken().is_some());
        assert_eq!(GeneralRegs { bx: 11, ..semop }.unbroken(), None);
        // Whether or not the answer was widened.
        for answer in [ERESTARTSYS, i64::from(ERESTARTSYS as u32)] {
            let regs = in_compat(3, answer).resumed(Handler::None);
            assert_eq!((regs.ax, regs.ip, regs.cs), (3, 0x1000, 0x23));
        }
        // Number 0 continues a wait, and reads in 64-bit code.
        let continued = GeneralRegs { bx: 0x7000_0000, ..in_compat(0, ERESTART_RESTARTBLOCK) };
        assert!(continued.in_continued_call() && !in_syscall(0, ERESTARTSYS).in_continued_call());
        assert_eq!(continued.resumed(Handler::None).ax as i64, EINTR);
        let sleep = continued.begun_as("hrtimer_nanosleep_restart").resumed(Handler::None);
        assert_eq!((sleep.ax, sleep.ip), (162, 0x1000));
        let by_clock = GeneralRegs { bx: 1, ..continued };
        assert_eq!(by_clock.begun_as("hrtimer_nanosleep_restart").orig_ax, 267);
        assert_eq!(continued.begun_as("futex_wait_restart").orig_ax, 240);
    }

    #[test]
    fn calls_are_made_in_32_bit_tasks_by_64_bit_code() {
        let args = [0x2000_0000, 4096, 7, 0x22, u64::MAX, 0];
        let regs = in_compat(3, 0).calling_by(Abi::Compat, nr::MMAP, args, 0x1000, 0x8000);
        assert_eq!((regs.ax, regs.bx, regs.cx, regs.di), (192, 0x2000_0000, 4096, u64::MAX));
        assert_eq!((regs.cs, regs.ss, regs.orig_ax), (0x33, 0x2b, NO_SYSCALL));
        let native = in_syscall(0, 0).calling_by(Abi::Native, nr::MMAP, args, 0x1000, 0x8000);
        assert_eq!((native.ax, native.di, native.bx), (9, 0x2000_0000, 0));
        let leaving = GeneralRegs { orig_ax: 91, bx: 0x2000_0000, ..regs };
        assert!(leaving.unmaps(Abi::Compat, 0x2000_0000));
        assert!(!leaving.unmaps(Abi::Native, 0x2000_0000));
    }
}
