//! `criu`: the face of CRIU as a program of its own.

/// The C library's own allocator asks the kernel for every few pages that a thread other than the
/// first allocates, while a target stands still.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    stasis_criu::shell::main(std::env::args_os().skip(1).collect())
}
