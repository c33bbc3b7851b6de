//! `stasis-collector`: loads the eBPF programs for itself and for others, and says what runs.

fn main() -> std::process::ExitCode {
    stasis_services::collector::main()
}
