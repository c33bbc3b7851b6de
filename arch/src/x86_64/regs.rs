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

/// `cs` of a 64-bit task in user mode.
const USER_CS_64: u64 = 0x33;

/// Bytes below the stack pointer that a leaf function may use (System V ABI for x86_64, 3.2.2).
pub const RED_ZONE: u64 = 128;

/// `orig_ax` that says "not in a system call", so that the kernel restarts nothing.
pub const NO_SYSCALL: u64 = u64::MAX;

/// Length in bytes of the instruction that makes a system call.
pub const SYSCALL_INSTRUCTION_LEN: u64 = 2;

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

    /// The registers from which the task goes on *without* the kernel's help.
    ///
    /// An interrupted system call is wound back to its instruction, with its number in the
    /// return register, as the kernel itself does when no signal handler runs. A call that the
    /// kernel would continue by `restart_syscall` (a sleep or wait with a relative time-out) is
    /// made again from its start: the kernel's note of the time already waited does not survive a
    /// signal return, and a longer wait is something programs expect, `EINTR` often is not.
    #[must_use]
    pub const fn resumed(mut self) -> Self {
        if self.interrupted_syscall() {
            self.ax = self.orig_ax;
            self.ip -= SYSCALL_INSTRUCTION_LEN;
        }
        self.orig_ax = NO_SYSCALL;
        self
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

/// The number of the system call that restarts an interrupted one.
pub const RESTART_SYSCALL: usize = nr::RESTART_SYSCALL;

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
            let regs = in_syscall(35, code).resumed();
            assert_eq!((regs.ax, regs.ip, regs.orig_ax), (35, 0x1000, NO_SYSCALL));
        }
    }

    #[test]
    fn a_finished_call_keeps_its_answer() {
        let regs = in_syscall(0, -4).resumed();
        assert_eq!((regs.ax as i64, regs.ip), (-4, 0x1002));
        let outside =
            GeneralRegs { orig_ax: NO_SYSCALL, ax: -512i64 as u64, ip: 7, ..Default::default() };
        assert_eq!(outside.resumed(), outside);
    }
}
