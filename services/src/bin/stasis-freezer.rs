//! `stasis-freezer`: stops trees for others, as leases.

fn main() -> std::process::ExitCode {
    stasis_services::freezer::main()
}
