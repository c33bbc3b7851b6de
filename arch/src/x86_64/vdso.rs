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
