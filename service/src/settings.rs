//! What every service can be told on its command line.

use std::path::PathBuf;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What every binary can be told about its log. The filter is in `STASIS_LOG`.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct LogSettings {
    /// How log lines are written (the filter is in STASIS_LOG, `info` without it)
    #[arg(long, value_enum, default_value_t, env = "STASIS_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// Whose signatures are demanded.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TrustSettings {
    /// Public keys of ed25519 (PEM): a file, or a directory of files that end in .pem. A checkpoint, and those that it has left pages
    /// to, must be signed by one of them; without this no signature is looked at
    #[arg(long, value_name = "PATH", env = "STASIS_TRUSTED_KEYS")]
    pub trusted_keys: Option<PathBuf>,
}

/// Who signs checkpoints.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SigningSettings {
    /// Private key of ed25519 (PKCS#8, PEM) that signs each checkpoint when it is safe; its owner alone may be able to read it
    #[arg(long, value_name = "FILE", env = "STASIS_SIGNING_KEY")]
    pub signing_key: Option<PathBuf>,
}

/// Where engines of containers keep their state.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineSettings {
    /// State directory of runc (its --root)
    #[arg(long, value_name = "DIR", default_value = "/run/runc", env = "STASIS_RUNC_STATE")]
    pub runc_state: PathBuf,
    /// State directory of crun (its --root)
    #[arg(long, value_name = "DIR", default_value = "/run/crun", env = "STASIS_CRUN_STATE")]
    pub crun_state: PathBuf,
    /// Directory in which containerd has runc keep its state, one for each namespace
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/containerd/runc",
        env = "STASIS_CONTAINERD_STATE"
    )]
    pub containerd_state: PathBuf,
}

/// What every service on a Unix socket can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Directory of the services' sockets
    #[arg(long, value_name = "DIR", default_value = "/run/stasis", env = "STASIS_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Socket of this service [default: RUN_DIR/NAME.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// User who may ask, beside root and the service's own user; may be given several times
    #[arg(long, value_name = "NAME", env = "STASIS_ALLOW_USER", value_delimiter = ',')]
    pub allow_user: Vec<String>,
    /// Group whose members (by their primary group) may ask; may be given several times
    #[arg(long, value_name = "NAME", env = "STASIS_ALLOW_GROUP", value_delimiter = ',')]
    pub allow_group: Vec<String>,
    /// The log.
    #[command(flatten)]
    pub log: LogSettings,
}

impl Settings {
    /// The socket of a service.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join(format!("{name}.sock")))
    }
}
