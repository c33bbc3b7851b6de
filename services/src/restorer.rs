//! The restorer: restores process trees for others, from under one checkpoint root.

mod reaper;
mod routes;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use configuration::Program;
use service::{
    CheckpointRoot, CheckpointSettings, DemandSettings, Error, IdentitySettings, Privileges,
    Service, Settings, TrustSettings,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::access::access;
use reaper::Reaper;

/// Restores process trees for others, from under one checkpoint root
#[derive(Debug, Parser)]
#[command(name = "stasis-restorer", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    checkpoints: CheckpointSettings,
    #[command(flatten)]
    trust: TrustSettings,
    #[command(flatten)]
    identities: IdentitySettings,
    #[command(flatten)]
    demand: DemandSettings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do one restore: the request on standard input, the answer on standard output
    #[command(hide = true)]
    Worker {
        /// Below which address new mappings of the tree go
        #[arg(long)]
        mapping_base: Option<u64>,
    },
}

/// The program, for the configuration file.
#[must_use]
pub fn program() -> Program {
    Program::service("restorer", Args::command())
}

/// The life of the service's program, and of its workers.
#[must_use]
pub fn main() -> ExitCode {
    let args: Args = service::arguments(&program());
    match args.command {
        Some(Command::Worker { mapping_base }) => match routes::work(mapping_base) {
            Ok(()) => ExitCode::SUCCESS,
            // The service sees that there is no answer, and says so.
            Err(_) => ExitCode::FAILURE,
        },
        None => service::exit("restorer", run(&args)),
    }
}

fn run(args: &Args) -> Result<(), Error> {
    // A restored tree gets the capabilities it had, whichever they were, so none can go.
    let service = Service { name: "restorer", privileges: Privileges::All };
    let prepared = service.prepare(args.settings.log, None)?;
    let metrics = prepared.metrics().clone();
    super::undo_left(&args.settings);
    prepared.run(&args.settings, async || {
        let trusted = args.trust.trusted_keys.as_deref();
        let access = access(trusted, &args.identities, args.demand)?;
        if let Some(keys) = access.keys {
            let ids: Vec<_> = keys.ids().map(ToString::to_string).collect();
            tracing::info!("checkpoints must be signed by one of the keys {}", ids.join(", "));
        }
        let root = CheckpointRoot::open(&args.checkpoints)?;
        let reaper = Reaper::start(&metrics)?;
        let mut children = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                reaping.reap();
            }
        });
        let records = args.settings.run_dir.join("restores");
        let keys = routes::Keys {
            trust: args.trust.trusted_keys.clone(),
            identities: args.identities.clone(),
            demand: args.demand.demand_encryption,
        };
        routes::router((root, keys), reaper, records, &metrics)
    })
}
