//! `stasis-gateway`: REST for the world, without privileges.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use service::{BoundSocket, Error, LogSettings, Privileges, Service, Tls, TlsSettings};
use stasis_gateway::{
    Access, Audit, AuditSettings, DoorSettings, Gateway, GatewayMetrics, Holds, Hosts, Identities,
    Issued, LimitSettings, Limits, Services, State, TokenSettings, Tokens, check_listen, doors,
    prepare_directory,
};
use tokio::signal::unix::{SignalKind, signal};

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
    #[command(flatten)]
    tls: TlsSettings,
    /// File that says what users and clients' certificates may do (docs/security.md); without it, a user may do what he could do
    /// himself, and a certificate nothing
    #[arg(long, value_name = "FILE", env = "STASIS_ACCESS_FILE")]
    access_file: Option<PathBuf>,
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
    /// So many jobs are at work at once; the others wait for their turn, the more urgent for less long
    #[arg(long, value_name = "N", default_value = "16", env = "STASIS_JOBS_AT_ONCE")]
    jobs_at_once: NonZeroUsize,
    #[command(flatten)]
    audit: AuditSettings,
    #[command(flatten)]
    limits: LimitSettings,
    #[command(flatten)]
    log: LogSettings,
}

fn main() -> ExitCode {
    service::exit("gateway", run(&service::arguments::<Args>()))
}

fn run(args: &Args) -> Result<(), Error> {
    let start = |source| Error::Start { service: "gateway", source };
    check_listen(args.listen, args.tls.tls_cert.is_some()).map_err(|error| start(error.into()))?;
    // While we may still do what the user that we become may not.
    let tokens = Tokens::open(&args.tokens).map_err(|error| start(error.into()))?;
    let audit = args.audit.directory(&args.state_dir);
    for (directory, holds) in [(&args.state_dir, Holds::State), (&audit, Holds::Audit)] {
        prepare_directory(directory, holds, args.user.as_deref())
            .map_err(|error| start(error.into()))?;
    }
    let path = args.socket.clone().unwrap_or_else(|| args.run_dir.join("gateway.sock"));
    let socket = BoundSocket::bind(&path)?;
    let service = Service { name: "gateway", privileges: Privileges::Only(&[]) };
    let prepared = service.prepare(args.log, args.user.as_deref())?;
    let common = prepared.metrics().clone();
    let metrics = GatewayMetrics::new(common.clone())?;
    let hosts = Hosts::with(&args.allow_host);
    let tls = Tls::of(&args.tls).map_err(|error| start(error.into()))?;
    let access = Access::open(args.access_file.as_deref()).map_err(|error| start(error.into()))?;
    let at_once = args.jobs_at_once.get();
    let limits = Limits::of(args.limits);
    let settings = DoorSettings { hosts, users: !args.no_users, tls, limits: limits.clone() };
    prepared.run_doors(args.listen, socket, async || {
        let services = Services::in_directory(&args.run_dir)?;
        let state = State::open(&args.state_dir)?;
        let issued = Issued::of(state.clone())?;
        tokio::spawn(access.clone().keep_up(signal(SignalKind::hangup())?));
        let identities = Identities { tokens, issued, access };
        tokio::spawn(limits.keep_small());
        let audit = Audit::in_directory(&audit, args.audit.audit_days)?;
        let gateway = Gateway::new(services, state, metrics, identities, audit, at_once)?;
        gateway.find_again()?;
        tokio::spawn(gateway.clone().keep_at_work());
        Ok(doors(gateway, settings, common))
    })
}
