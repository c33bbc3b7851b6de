//! Registers of a thread on x86_64.

use prost::Message;

/// [`UserX86RegsEntry::mode`]: a 64-bit task.
pub const REGS_MODE_NATIVE: u32 = 1;
/// [`UserX86RegsEntry::mode`]: a 32-bit task.
pub const REGS_MODE_COMPAT: u32 = 2;

/// Registers of a thread on x86_64.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ThreadInfoX86 {
    /// Where the kernel clears the thread's number when it ends.
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    /// General registers.
    #[prost(message, required, tag = "2")]
    pub gpregs: UserX86RegsEntry,
    /// Floating point and vector registers.
    #[prost(message, required, tag = "3")]
    pub fpregs: UserX86FpregsEntry,
    /// Segments 12 to 14 of the GDT.
    #[prost(message, repeated, tag = "4")]
    pub tls: Vec<UserDescT>,
    /// Ours: in a leader's, the components of the extended state that the process has asked to use
    /// (`ARCH_REQ_XCOMP_PERM`), as a mask.
    #[prost(uint64, optional, tag = "1000")]
    pub permitted_components: Option<u64>,
    /// Ours: the instruction CPUID is a fault (`ARCH_SET_CPUID`).
    #[prost(bool, optional, tag = "1001")]
    pub cpuid_faults: Option<bool>,
    /// Ours: reading the time-stamp counter is a fault (`PR_SET_TSC`).
    #[prost(bool, optional, tag = "1002")]
    pub tsc_faults: Option<bool>,
}

/// General registers, as `PTRACE_GETREGS` gives them. A system call that was interrupted is
/// already rewound or replaced here: the restorer does not look at it again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UserX86RegsEntry {
    /// `r15`.
    #[prost(uint64, required, tag = "1")]
    pub r15: u64,
    /// `r14`.
    #[prost(uint64, required, tag = "2")]
    pub r14: u64,
    /// `r13`.
    #[prost(uint64, required, tag = "3")]
    pub r13: u64,
    /// `r12`.
    #[prost(uint64, required, tag = "4")]
    pub r12: u64,
    /// `rbp`.
    #[prost(uint64, required, tag = "5")]
    pub bp: u64,
    /// `bx`.
    #[prost(uint64, required, tag = "6")]
    pub bx: u64,
    /// `r11`.
    #[prost(uint64, required, tag = "7")]
    pub r11: u64,
    /// `r10`.
    #[prost(uint64, required, tag = "8")]
    pub r10: u64,
    /// `r9`.
    #[prost(uint64, required, tag = "9")]
    pub r9: u64,
    /// `r8`.
    #[prost(uint64, required, tag = "10")]
    pub r8: u64,
    /// `ax`.
    #[prost(uint64, required, tag = "11")]
    pub ax: u64,
    /// `cx`.
    #[prost(uint64, required, tag = "12")]
    pub cx: u64,
    /// `dx`.
    #[prost(uint64, required, tag = "13")]
    pub dx: u64,
    /// `si`.
    #[prost(uint64, required, tag = "14")]
    pub si: u64,
    /// `di`.
    #[prost(uint64, required, tag = "15")]
    pub di: u64,
    /// Number of the system call the thread was in; -1 if none.
    #[prost(uint64, required, tag = "16")]
    pub orig_ax: u64,
    /// Instruction pointer.
    #[prost(uint64, required, tag = "17")]
    pub ip: u64,
    /// `cs`.
    #[prost(uint64, required, tag = "18")]
    pub cs: u64,
    /// Flags register.
    #[prost(uint64, required, tag = "19")]
    pub flags: u64,
    /// Stack pointer.
    #[prost(uint64, required, tag = "20")]
    pub sp: u64,
    /// `ss`.
    #[prost(uint64, required, tag = "21")]
    pub ss: u64,
    /// Base of `fs`, the thread pointer.
    #[prost(uint64, required, tag = "22")]
    pub fs_base: u64,
    /// Base of `gs`.
    #[prost(uint64, required, tag = "23")]
    pub gs_base: u64,
    /// `ds`.
    #[prost(uint64, required, tag = "24")]
    pub ds: u64,
    /// `es`.
    #[prost(uint64, required, tag = "25")]
    pub es: u64,
    /// `fs`.
    #[prost(uint64, required, tag = "26")]
    pub fs: u64,
    /// `gs`.
    #[prost(uint64, required, tag = "27")]
    pub gs: u64,
    /// `REGS_MODE_*`.
    #[prost(uint32, optional, tag = "28", default = "1")]
    pub mode: Option<u32>,
}

/// The FXSAVE area, and beside it the state that XSAVE adds.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UserX86FpregsEntry {
    /// Control word.
    #[prost(uint32, required, tag = "1")]
    pub cwd: u32,
    /// Status word.
    #[prost(uint32, required, tag = "2")]
    pub swd: u32,
    /// Tag word, abridged.
    #[prost(uint32, required, tag = "3")]
    pub twd: u32,
    /// Last opcode.
    #[prost(uint32, required, tag = "4")]
    pub fop: u32,
    /// Last instruction's address.
    #[prost(uint64, required, tag = "5")]
    pub rip: u64,
    /// Last operand's address.
    #[prost(uint64, required, tag = "6")]
    pub rdp: u64,
    /// SSE control and status.
    #[prost(uint32, required, tag = "7")]
    pub mxcsr: u32,
    /// Bits of it that the processor has.
    #[prost(uint32, required, tag = "8")]
    pub mxcsr_mask: u32,
    /// 32 words: eight registers of 16 bytes.
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    pub st_space: Vec<u32>,
    /// 64 words: sixteen registers of 16 bytes.
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    pub xmm_space: Vec<u32>,
    /// Not used: 24 words of zeros.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub padding: Vec<u32>,
    /// What XSAVE adds.
    #[prost(message, optional, tag = "13")]
    pub xsave: Option<UserX86XsaveEntry>,
}

/// The extended state, one list per component. A component is written whole when the processor
/// saves it (zeros if it is in its initial state), and is an empty list where the processor has
/// none.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UserX86XsaveEntry {
    /// Components that are not in their initial state.
    #[prost(uint64, required, tag = "1")]
    pub xstate_bv: u64,
    /// 64 words: upper halves of `ymm0` to `ymm15`.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub ymmh_space: Vec<u32>,
    /// 8 double words: MPX bounds.
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub bndreg_state: Vec<u64>,
    /// 8 double words: MPX control.
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    pub bndcsr_state: Vec<u64>,
    /// 8 double words: `k0` to `k7`.
    #[prost(uint64, repeated, packed = "false", tag = "5")]
    pub opmask_reg: Vec<u64>,
    /// 64 double words: upper halves of `zmm0` to `zmm15`.
    #[prost(uint64, repeated, packed = "false", tag = "6")]
    pub zmm_upper: Vec<u64>,
    /// 128 double words: `zmm16` to `zmm31`.
    #[prost(uint64, repeated, packed = "false", tag = "7")]
    pub hi16_zmm: Vec<u64>,
    /// 2 words: protection key rights, and padding.
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub pkru: Vec<u32>,
    /// Shadow stack state.
    #[prost(message, optional, tag = "9")]
    pub cet: Option<UserX86CetEntry>,
    /// Ours: AMX tiles, if they are in use. Their bits are not set in `xstate_bv`.
    #[prost(message, optional, tag = "1000")]
    pub tiles: Option<UserX86TilesEntry>,
}

/// AMX tiles. What is left out is in its initial state.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UserX86TilesEntry {
    /// 64 bytes: their configuration.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub config: Option<Vec<u8>>,
    /// 8,192 bytes: their contents.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub data: Option<Vec<u8>>,
}

/// Shadow stack state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UserX86CetEntry {
    /// Control.
    #[prost(uint64, required, tag = "1")]
    pub cet: u64,
    /// Shadow stack pointer.
    #[prost(uint64, required, tag = "2")]
    pub ssp: u64,
}

/// A segment of the thread's TLS area in the GDT (32-bit tasks), as `get_thread_area` gives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UserDescT {
    /// Which entry.
    #[prost(uint32, required, tag = "1")]
    pub entry_number: u32,
    /// Base.
    #[prost(uint32, required, tag = "2")]
    pub base_addr: u32,
    /// Limit.
    #[prost(uint32, required, tag = "3")]
    pub limit: u32,
    /// It is a 32-bit segment.
    #[prost(bool, required, tag = "4")]
    pub seg_32bit: bool,
    /// High bit of the kind of contents.
    #[prost(bool, required, tag = "5")]
    pub contents_h: bool,
    /// Low bit of the kind of contents.
    #[prost(bool, required, tag = "6")]
    pub contents_l: bool,
    /// It cannot be written.
    #[prost(bool, required, tag = "7", default = "true")]
    pub read_exec_only: bool,
    /// The limit counts pages.
    #[prost(bool, required, tag = "8")]
    pub limit_in_pages: bool,
    /// There is none.
    #[prost(bool, required, tag = "9", default = "true")]
    pub seg_not_present: bool,
    /// Bit for the system's use.
    #[prost(bool, required, tag = "10")]
    pub usable: bool,
}
