//! Why a service cannot start or run on.

use std::io;
use std::path::PathBuf;

/// Why a service cannot start or run on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of the socket cannot be made.
    #[error("make directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another instance answers on the socket.
    #[error("listen on {0}: another instance answers there")]
    Taken(PathBuf),
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    ListenTcp {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket that was handed over is no such socket.
    #[error("take over the socket {name} (LISTEN_FDS)")]
    Handed {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket that was handed over is at another place than the one that is configured.
    #[error(
        "take over the socket {name} (LISTEN_FDS): it is {there}, and the configuration says {said}: \
         have both say the same (ListenStream= of the socket unit, and --{name} or --run-dir)"
    )]
    HandedOther {
        /// Its name.
        name: &'static str,
        /// Where it is.
        there: String,
        /// Where it was to be.
        said: String,
    },
    /// A user or group to allow is not known here.
    #[error("allow {kind} {name}: no such {kind}")]
    UnknownName {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The user database cannot be asked.
    #[error("look up {name}")]
    LookUp {
        /// Name of the user or group.
        name: String,
        /// Why.
        #[source]
        source: nix::Error,
    },
    /// Privileges cannot be dropped.
    #[error("drop capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// Set-user-id programs cannot be shut out.
    #[error("shut out set-user-id programs (PR_SET_NO_NEW_PRIVS)")]
    NoNewPrivileges(#[source] nix::Error),
    /// Another user cannot be become.
    #[error("become user {name}")]
    User {
        /// Name of the user.
        name: String,
        /// Why.
        #[source]
        source: nix::Error,
    },
    /// The log filter is not understood.
    #[error("understand the log filter in STASIS_LOG")]
    Filter(#[source] tracing_subscriber::filter::FromEnvError),
    /// Logs or traces cannot be set up.
    #[error("set up logs and traces")]
    Telemetry(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The metrics cannot be registered.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// The runtime or the server failed.
    #[error("serve")]
    Serve(#[source] io::Error),
    /// The service's own part cannot start.
    #[error("start the {service}")]
    Start {
        /// Name of the service.
        service: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error and its causes in one line, each said once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
