//! System calls: their numbers, and how to make one without a C library.
//!
//! The numbers are the kernel's (`arch/x86/entry/syscalls/syscall_64.tbl`); only those that the
//! blobs and the injected calls use, or that an interrupted task may be in, stand here.

use core::arch::asm;

/// System call numbers of x86_64.
#[allow(missing_docs, reason = "each constant is the number of the system call it is named for")]
pub mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const POLL: usize = 7;
    pub const LSEEK: usize = 8;
    pub const MMAP: usize = 9;
    pub const MPROTECT: usize = 10;
    pub const MUNMAP: usize = 11;
    pub const BRK: usize = 12;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGRETURN: usize = 15;
    pub const IOCTL: usize = 16;
    pub const PREAD64: usize = 17;
    pub const MREMAP: usize = 25;
    pub const MADVISE: usize = 28;
    pub const SHMAT: usize = 30;
    pub const NANOSLEEP: usize = 35;
    pub const GETITIMER: usize = 36;
    pub const SETITIMER: usize = 38;
    pub const GETPID: usize = 39;
    pub const CLONE: usize = 56;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SEMOP: usize = 65;
    pub const FCNTL: usize = 72;
    pub const FLOCK: usize = 73;
    pub const UMASK: usize = 95;
    pub const PTRACE: usize = 101;
    pub const SETRESUID: usize = 117;
    pub const SETRESGID: usize = 119;
    pub const SETGROUPS: usize = 116;
    pub const SETFSUID: usize = 122;
    pub const UNSHARE: usize = 272;
    pub const SETNS: usize = 308;
    pub const SETFSGID: usize = 123;
    pub const CAPSET: usize = 126;
    pub const PAUSE: usize = 34;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const RT_SIGQUEUEINFO: usize = 129;
    pub const SIGALTSTACK: usize = 131;
    pub const PERSONALITY: usize = 135;
    pub const SETPRIORITY: usize = 141;
    pub const SCHED_SETSCHEDULER: usize = 144;
    pub const MLOCK: usize = 149;
    pub const PRCTL: usize = 157;
    pub const ARCH_PRCTL: usize = 158;
    pub const GETTID: usize = 186;
    pub const TKILL: usize = 200;
    pub const FUTEX: usize = 202;
    pub const SCHED_SETAFFINITY: usize = 203;
    pub const SCHED_GETAFFINITY: usize = 204;
    pub const IO_SETUP: usize = 206;
    pub const IO_GETEVENTS: usize = 208;
    pub const IO_SUBMIT: usize = 209;
    pub const SET_TID_ADDRESS: usize = 218;
    pub const RESTART_SYSCALL: usize = 219;
    pub const SEMTIMEDOP: usize = 220;
    pub const TIMER_CREATE: usize = 222;
    pub const TIMER_SETTIME: usize = 223;
    pub const TIMER_GETTIME: usize = 224;
    pub const TIMER_GETOVERRUN: usize = 225;
    pub const TIMER_DELETE: usize = 226;
    pub const CLOCK_GETTIME: usize = 228;
    pub const CLOCK_NANOSLEEP: usize = 230;
    pub const EXIT_GROUP: usize = 231;
    pub const EPOLL_WAIT: usize = 232;
    pub const TGKILL: usize = 234;
    pub const WAITID: usize = 247;
    pub const SET_ROBUST_LIST: usize = 273;
    pub const GET_ROBUST_LIST: usize = 274;
    pub const EPOLL_PWAIT: usize = 281;
    pub const FALLOCATE: usize = 285;
    pub const PREADV: usize = 295;
    pub const RT_TGSIGQUEUEINFO: usize = 297;
    pub const DUP3: usize = 292;
    pub const PRLIMIT64: usize = 302;
    pub const GETCPU: usize = 309;
    pub const SCHED_SETATTR: usize = 314;
    pub const MLOCKALL: usize = 151;
    pub const MBIND: usize = 237;
    pub const SET_MEMPOLICY: usize = 238;
    pub const IOPRIO_SET: usize = 251;
    pub const MLOCK2: usize = 325;
    pub const MSEAL: usize = 462;
    pub const PKEY_MPROTECT: usize = 329;
    pub const PKEY_ALLOC: usize = 330;
    pub const PKEY_FREE: usize = 331;
    pub const SECCOMP: usize = 317;
    pub const USERFAULTFD: usize = 323;
    pub const MEMBARRIER: usize = 324;
    pub const PREADV2: usize = 327;
    pub const RSEQ: usize = 334;
    pub const IO_URING_ENTER: usize = 426;
    pub const IO_URING_REGISTER: usize = 427;
    pub const CLONE3: usize = 435;
    pub const CLOSE_RANGE: usize = 436;
    pub const PIDFD_GETFD: usize = 438;
    pub const PROCESS_MADVISE: usize = 440;
    pub const EPOLL_PWAIT2: usize = 441;
}

/// The number by which 32-bit code makes one of the calls that are made in tasks from outside.
///
/// Their arguments are the same ones, but for the offset of `mmap`, which counts pages. `sigaltstack` has another
/// structure ([`super::compat::alt_stack`]).
#[must_use]
pub const fn compat_number(native: usize) -> Option<u32> {
    Some(match native {
        nr::MMAP => 192,
        nr::MUNMAP => 91,
        nr::PRCTL => 172,
        nr::RT_SIGRETURN => 173,
        nr::SIGALTSTACK => 186,
        nr::ARCH_PRCTL => 384,
        nr::IO_URING_ENTER => 426,
        _ => return None,
    })
}

/// The kernel's answer to a system call: the value, or the positive error number.
pub type Answer = Result<usize, i32>;

/// Splits a raw return value (`-4095..=-1` means an error) into value and error number.
#[inline(always)]
pub const fn answer(raw: isize) -> Answer {
    if raw < 0 && raw >= -4095 { Err(-raw as i32) } else { Ok(raw as usize) }
}

/// Makes a system call with up to six arguments.
///
/// # Safety
/// The call must be sound for the calling program: pointers valid for what the call does with
/// them, and no memory unmapped or descriptor closed that safe code still uses.
#[inline(always)]
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> Answer {
    let raw: isize;
    // SAFETY: the `syscall` instruction clobbers only rax, rcx and r11, all declared; what the
    // call itself does is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => raw,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer(raw)
}

/// Makes `clone3` start a thread of this process: it begins in `entry` with `argument`, on the
/// stack that the arguments of the call name.
///
/// # Safety
/// `clone_args` points to a `struct clone_args` of `bytes` bytes that asks for a new stack (whose
/// end is a multiple of 16) in memory that stays the thread's own, and `entry` is sound to run
/// beside the caller.
#[inline(always)]
pub unsafe fn clone_thread(
    clone_args: usize,
    bytes: usize,
    entry: unsafe extern "C" fn(usize) -> !,
    argument: usize,
) -> Answer {
    let raw: isize;
    // SAFETY: in the parent this is a plain system call. The child starts with the same registers
    // on its own empty stack: it takes nothing from the parent's frame and never comes back.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") nr::CLONE3 as isize => raw,
            in("rdi") clone_args,
            in("rsi") bytes,
            in("r12") argument,
            in("r13") entry as usize,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer(raw)
}

/// Goes to `entry` with `argument` in the first argument register, on the stack that ends at
/// `stack`, and never comes back.
///
/// # Safety
/// There is code at `entry` that expects this, and nothing of the caller is needed any more.
pub unsafe fn leave(entry: usize, stack: usize, argument: usize) -> ! {
    // SAFETY: the caller promises that the code can take over; nothing returns here.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "jmp {entry}",
            stack = in(reg) stack,
            entry = in(reg) entry,
            in("rdi") argument,
            options(noreturn),
        )
    }
}
