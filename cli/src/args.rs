//! The command line of `stasis`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Checkpoint running process trees and restore them.
#[derive(Debug, Parser)]
#[command(name = "stasis", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what this kernel can do; the exit code is 0 when all that is required is there
    Check(CheckOptions),
    /// Say what is in a checkpoint: processes, memory, files, sizes, times
    Show(ShowOptions),
    /// Behave as CRIU does: `stasis criu dump …`, `stasis criu restore …`, `stasis criu check`
    #[command(disable_help_flag = true)]
    Criu {
        /// CRIU's command and options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckOptions {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowOptions {
    /// Directory that holds the checkpoint
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
