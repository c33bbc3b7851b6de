//! `stasis-gateway`: REST for the world, without privileges.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use service::{Error, LogSettings, Privileges, Service};
use stasis_gateway::{Gateway, GatewayMetrics, Jobs, Services, router};

/// Checkpoints and restores for who asks over HTTP, by way of the services
#[derive(Debug, Parser)]
#[command(name = "stasis-gateway", version)]
struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7437", env = "STASIS_LISTEN")]
    listen: SocketAddr,
    /// Directory of the services' sockets
    #[arg(long, value_name = "DIR", default_value = "/run/stasis", env = "STASIS_RUN_DIR")]
    run_dir: PathBuf,
    /// User to become when started as root; the services must be told to allow it
    #[arg(long, value_name = "NAME", env = "STASIS_GATEWAY_USER")]
    user: Option<String>,
    #[command(flatten)]
    log: LogSettings,
}

fn main() -> ExitCode {
    service::exit("gateway", run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    let service = Service { name: "gateway", privileges: Privileges::Only(&[]) };
    let prepared = service.prepare(args.log, args.user.as_deref())?;
    let metrics = GatewayMetrics::new(prepared.metrics().clone())?;
    prepared.run_tcp(args.listen, async || {
        let services = Services::in_directory(&args.run_dir)?;
        Ok(router(Gateway { services, jobs: Jobs::default(), metrics }))
    })
}
