//! The freezer: stops process trees for others, as leases.

mod leases;
mod routes;

use std::process::ExitCode;

use clap::Parser;
use freezer::Journal;
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

/// The life of the service's program.
#[must_use]
pub fn main() -> ExitCode {
    service::exit("freezer", run(&Args::parse().settings))
}

fn run(settings: &Settings) -> Result<(), Error> {
    let service = Service { name: "freezer", privileges: PRIVILEGES };
    let prepared = service.prepare(settings.log, None)?;
    let metrics = prepared.metrics().clone();
    // Beside the socket: one freezer, one socket, one record.
    let record = settings.socket("freezer").with_extension("leases");
    prepared.run(settings, async || {
        if let Some(directory) = record.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let (journal, thawed) = Journal::open(&record)?;
        for cgroup in thawed {
            tracing::warn!("thawed {}, left frozen by a freezer before", cgroup.display());
        }
        Ok(routes::router(Leases::new(journal), &metrics)?)
    })
}
