//! What a command line says of a gateway.

use std::path::PathBuf;

/// Where help lists these.
const HEADING: &str = "By a gateway";

/// Where the gateway is, and how it is spoken to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct GatewayOptions {
    /// Have a gateway do it, with its services and on its machine: http://HOST:PORT, https://HOST:PORT or unix:/PATH. Checkpoints are
    /// named below its checkpoint root
    #[arg(long, value_name = "URL", global = true, help_heading = HEADING, env = "STASIS_GATEWAY")]
    pub(crate) gateway: Option<String>,
    /// File with the gateway's token, which TCP takes
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING, env = "STASIS_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the certificates of the authorities that may vouch for a gateway, in place of those that this machine knows
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    pub(crate) ca_file: Option<PathBuf>,
    /// File with a certificate of ours, by which the gateway knows who asks
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    pub(crate) cert_file: Option<PathBuf>,
    /// File with the key of that
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    pub(crate) key_file: Option<PathBuf>,
    /// Do not wait for the end of what was begun: print the id of the gateway's job
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) no_wait: bool,
}
