//! The vDSO: what a restored program may have kept addresses of.

/// The functions that the x86_64 vDSO exports under their versioned names; a program restored
/// onto a kernel whose vDSO lays them out otherwise needs each of them redirected.
pub const SYMBOLS: [&str; 6] = [
    "__vdso_clock_gettime",
    "__vdso_getcpu",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_clock_getres",
    "__vdso_getrandom",
];

/// The call that maps the vDSO at an address, asked in a process that has one: with its own number,
/// the arguments, and the error of a kernel that can (there is one already).
pub const ASK_MAP: (usize, [u64; 2], i32) =
    (super::syscall::nr::ARCH_PRCTL, [ARCH_MAP_VDSO_64, 0x1000], EEXIST);

const ARCH_MAP_VDSO_64: u64 = 0x2003;
const EEXIST: i32 = 17;
