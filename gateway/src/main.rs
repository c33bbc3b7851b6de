//! `stasis-gateway`: REST for the world, without privileges.

use std::process::ExitCode;

use service::{Error, Handed, Privileges, Service, Tls};
use stasis_gateway::{
    Access, Args, Audit, DoorSettings, Gateway, GatewayMetrics, Holds, Hosts, Identities, Issued,
    Limits, Services, State, Tokens, check_listen, doors, prepare_directory, program,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    service::exit("gateway", run(&service::arguments(&program())))
}

fn run(args: &Args) -> Result<(), Error> {
    let start = |source| Error::Start { service: "gateway", source };
    check_listen(args.listen, args.tls.tls_cert.is_some()).map_err(|error| start(error.into()))?;
    let mut handed = Handed::from_environment();
    // While we may still do what the user that we become may not.
    let tokens = Tokens::open(&args.tokens).map_err(|error| start(error.into()))?;
    let audit = args.audit.directory(&args.state_dir);
    for (directory, holds) in [(&args.state_dir, Holds::State), (&audit, Holds::Audit)] {
        prepare_directory(directory, holds, args.user.as_deref())
            .map_err(|error| start(error.into()))?;
    }
    let path = args.socket.clone().unwrap_or_else(|| args.run_dir.join("gateway.sock"));
    let (socket, tcp) = (handed.unix(&path)?, handed.tcp(args.listen)?);
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
    prepared.run_doors(tcp, socket, async || {
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
