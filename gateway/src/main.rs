//! `stasis-gateway`: REST for the world, without privileges.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use service::{BoundSocket, Error, LogSettings, Privileges, Service};
use stasis_gateway::{
    DoorSettings, Gateway, GatewayMetrics, Hosts, Jobs, Services, Sessions, State, TokenSettings,
    Tokens, check_listen, doors, prepare_directory,
};

/// Checkpoints and restores for who asks over HTTP, by way of the services
#[derive(Debug, Parser)]
#[command(name = "stasis-gateway", version)]
struct Args {
    /// Address of loopback to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7437", env = "STASIS_LISTEN")]
    listen: SocketAddr,
    /// Unix socket to listen on, where users are known without a token [default:
    /// RUN_DIR/gateway.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Answer root and the gateway's own user alone on the Unix socket
    #[arg(long, env = "STASIS_NO_USERS", value_parser = clap::builder::BoolishValueParser::new())]
    no_users: bool,
    #[command(flatten)]
    tokens: TokenSettings,
    /// Directory of the gateway's own for what it remembers
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/stasis/gateway",
        env = "STASIS_STATE_DIR"
    )]
    state_dir: PathBuf,
    /// Name by which the gateway may be called, beside those of loopback: of a proxy before it; may
    /// be given several times
    #[arg(long, value_name = "NAME", env = "STASIS_ALLOW_HOST", value_delimiter = ',')]
    allow_host: Vec<String>,
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
    let start = |source| Error::Start { service: "gateway", source };
    check_listen(args.listen).map_err(|error| start(error.into()))?;
    // While we may still do what the user that we become may not.
    let tokens = Tokens::open(&args.tokens).map_err(|error| start(error.into()))?;
    prepare_directory(&args.state_dir, args.user.as_deref())
        .map_err(|error| start(error.into()))?;
    let path = args.socket.clone().unwrap_or_else(|| args.run_dir.join("gateway.sock"));
    let socket = BoundSocket::bind(&path)?;
    let service = Service { name: "gateway", privileges: Privileges::Only(&[]) };
    let prepared = service.prepare(args.log, args.user.as_deref())?;
    let common = prepared.metrics().clone();
    let metrics = GatewayMetrics::new(common.clone())?;
    let hosts = Hosts::with(&args.allow_host);
    let settings = DoorSettings { tokens, hosts, users: !args.no_users };
    prepared.run_doors(args.listen, socket, async || {
        let services = Services::in_directory(&args.run_dir)?;
        let jobs = Jobs::of(State::open(&args.state_dir)?);
        let sessions = Sessions::of(settings.tokens.clone());
        let gateway = Gateway { services, jobs, metrics, sessions };
        gateway.find_again()?;
        Ok(doors(gateway, settings, common))
    })
}
