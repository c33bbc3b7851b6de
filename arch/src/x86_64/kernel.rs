//! Where the kernel keeps what is this processor's: paths into its structures, for its own type
//! information to be asked by.

/// What filters of system calls see as the architecture of a call of 64 bits (`AUDIT_ARCH_X86_64`, linux/audit.h).
pub const AUDIT_ARCH: u32 = 0xc000_003e;

/// The key, in `/proc/PID/status`, of the features that a thread has switched on.
pub const STATUS_FEATURES: &[u8] = b"x86_Thread_features";
/// The key of those that are locked.
pub const STATUS_FEATURES_LOCKED: &[u8] = b"x86_Thread_features_locked";

/// A shadow stack among these features.
pub const SHADOW_STACK: &str = "shstk";
/// How a program of the C library comes to do without one.
pub const WITHOUT_SHADOW_STACK: &str =
    "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off";

/// The path (structure, then members) of what goes by a name that all processors share; `None` for
/// what this one's kernel does not have.
#[must_use]
pub fn path(name: &str) -> Option<&'static str> {
    let (_, path) = PATHS.iter().find(|(known, _)| *known == name)?;
    Some(path)
}

const PATHS: [(&str, &str); 15] = [
    ("call", "pt_regs.orig_ax"),
    ("first_argument", "pt_regs.di"),
    ("second_argument", "pt_regs.si"),
    ("third_argument", "pt_regs.dx"),
    ("status", "task_struct.thread_info.status"),
    ("shadow_stack", "task_struct.thread.features"),
    ("extended_state", "task_struct.thread.fpu"),
    ("extended_area", "fpu.fpstate"),
    ("permitted_components", "fpu.perm.__state_perm"),
    ("frame_bytes", "fpstate.user_size"),
    ("port_map", "task_struct.thread.io_bitmap"),
    ("port_level", "task_struct.thread.iopl_emul"),
    ("local_descriptors", "mm_struct.context.ldt"),
    ("segments", "task_struct.thread.tls_array"),
    ("space_flags", "mm_struct.context.flags"),
];
