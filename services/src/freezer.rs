//! The freezer: stops process trees for others, as leases.

mod leases;
mod routes;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use configuration::Program;
use leases::Leases;
use service::{Capability, Error, Privileges, Service, Settings};

/// Stops process trees for others, as leases
#[derive(Debug, Parser)]
#[command(name = "stasis-freezer", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
}

/// Tracing others' tasks, and writing cgroups that were given to other users.
const PRIVILEGES: Privileges =
    Privileges::Only(&[Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_OVERRIDE]);

/// The program, for the configuration file.
#[must_use]
pub fn program() -> Program {
    Program::service("freezer", Args::command())
}

/// The life of the service's program.
#[must_use]
pub fn main() -> ExitCode {
    service::exit("freezer", run(&service::arguments::<Args>(&program()).settings))
}

fn run(settings: &Settings) -> Result<(), Error> {
    let service = Service { name: "freezer", privileges: PRIVILEGES };
    let prepared = service.prepare(settings.log, None)?;
    let metrics = prepared.metrics().clone();
    let undo = super::undo_left(settings);
    prepared.run(settings, async || Ok(routes::router(Leases::new(undo), &metrics)?))
}
