//! `stasis-restorer`: restores process trees for others.

fn main() -> std::process::ExitCode {
    stasis_services::restorer::main()
}
