//! The command line of the gateway.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use configuration::Program;
use service::{LogSettings, TlsSettings};

use crate::{AuditSettings, LimitSettings, TokenSettings};

/// Checkpoints and restores for who asks over HTTP, by way of the services
#[derive(Debug, Parser)]
#[command(name = "stasis-gateway", version)]
pub struct Args {
    /// TCP address to listen on; one beyond loopback takes --tls-cert
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7437", env = "STASIS_LISTEN")]
    pub listen: SocketAddr,
    /// Unix socket to listen on, where users are known without a token [default:
    /// RUN_DIR/gateway.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer root and the gateway's own user alone on the Unix socket
    #[arg(long, env = "STASIS_NO_USERS", value_parser = clap::builder::BoolishValueParser::new())]
    pub no_users: bool,
    /// The tokens.
    #[command(flatten)]
    pub tokens: TokenSettings,
    /// How TLS is spoken.
    #[command(flatten)]
    pub tls: TlsSettings,
    /// File that says what users and clients' certificates may do (docs/security.md); without it, a user may do what he could do
    /// himself, and a certificate nothing
    #[arg(long, value_name = "FILE", env = "STASIS_ACCESS_FILE")]
    pub access_file: Option<PathBuf>,
    /// Directory of the gateway's own for what it remembers
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/stasis/gateway",
        env = "STASIS_STATE_DIR"
    )]
    pub state_dir: PathBuf,
    /// Name by which the gateway may be called, beside those of loopback: of a proxy before it; may
    /// be given several times
    #[arg(long, value_name = "NAME", env = "STASIS_ALLOW_HOST", value_delimiter = ',')]
    pub allow_host: Vec<String>,
    /// Directory of the services' sockets
    #[arg(long, value_name = "DIR", default_value = "/run/stasis", env = "STASIS_RUN_DIR")]
    pub run_dir: PathBuf,
    /// User to become when started as root; the services must be told to allow it
    #[arg(long, value_name = "NAME", env = "STASIS_GATEWAY_USER")]
    pub user: Option<String>,
    /// So many jobs are at work at once; the others wait for their turn, the more urgent for less long
    #[arg(long, value_name = "N", default_value = "16", env = "STASIS_JOBS_AT_ONCE")]
    pub jobs_at_once: NonZeroUsize,
    /// The audit.
    #[command(flatten)]
    pub audit: AuditSettings,
    /// The limits.
    #[command(flatten)]
    pub limits: LimitSettings,
    /// The log.
    #[command(flatten)]
    pub log: LogSettings,
}

/// The program, for the configuration file.
#[must_use]
pub fn program() -> Program {
    Program::service("gateway", Args::command())
}
