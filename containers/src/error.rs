//! Why there is no list, or no checkpoint.

use std::io;
use std::path::PathBuf;

use api::Unsupported;

/// Why there is no list of containers, or no checkpoint of one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No engine has a container of this name.
    #[error("no container {name:?}{silent}")]
    Unknown {
        /// The name.
        name: String,
        /// Which engines did not answer.
        silent: String,
    },
    /// Several containers are called so.
    #[error("several containers are called {name:?}: {found}")]
    Several {
        /// The name.
        name: String,
        /// Which they are.
        found: String,
    },
    /// It cannot be checkpointed by its engine.
    #[error("{}", api::said(.0))]
    Refused(Vec<Unsupported>),
    /// A directory of an engine's state could be anybody's.
    #[error(
        "{path}: others than root can change it, and what it says of containers cannot be believed"
    )]
    Untrusted {
        /// The directory.
        path: PathBuf,
    },
    /// The images' directory is there already.
    #[error("make directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why it cannot be made.
        #[source]
        source: io::Error,
    },
    /// Something of ours cannot be read or made.
    #[error("{operation} {path}")]
    Place {
        /// What was tried.
        operation: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// None of our programs that can take CRIU's place is found.
    #[error("find the program `stasis` beside {path}")]
    NoCriu {
        /// The program that looks for it.
        path: PathBuf,
    },
    /// A command cannot be run.
    #[error("run {command}")]
    Run {
        /// Its name.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command does not end.
    #[error("{command} has not ended after {seconds} s")]
    Late {
        /// Its words.
        command: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A command has failed.
    #[error("{command} failed{said}")]
    Failed {
        /// Its words.
        command: String,
        /// What it said.
        said: String,
    },
    /// What an engine says cannot be understood.
    #[error("read what {command} says")]
    Strange {
        /// Its words.
        command: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// What helps.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unknown { .. } => Some("`stasis ps --containers` lists those there are"),
            Self::Several { .. } => Some(
                "say whose it is with --engine, or name it by its id (`stasis ps --containers --json`)",
            ),
            Self::Untrusted { .. } => {
                Some("have it, and all directories above it, belong to root alone")
            }
            Self::Directory { .. } => Some("name a directory that is not there yet"),
            Self::NoCriu { .. } => Some("install stasis where that program is"),
            _ => None,
        }
    }
}
