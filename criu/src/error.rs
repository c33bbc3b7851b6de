//! Why a request was not carried out.

use std::io;
use std::path::PathBuf;

use crate::failure::Failure;
use crate::rights::NoRights;

/// Why statistics could not be put in their place.
#[derive(Debug, thiserror::Error)]
#[error("move statistics to {to}")]
pub(crate) struct StatsError {
    pub(crate) to: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

/// A descriptor that is to be inherited is not there.
#[derive(Debug, thiserror::Error)]
#[error("use descriptor {number} in place of a file of the tree (--inherit-fd)")]
pub(crate) struct InheritError {
    pub(crate) number: std::os::fd::RawFd,
    #[source]
    pub(crate) source: io::Error,
}

/// Why there is no connection to a page server, or no page server.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct PageServerError {
    pub(crate) what: String,
    #[source]
    pub(crate) source: io::Error,
}

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ServiceError {
    pub(crate) what: String,
    #[source]
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why a request was not carried out. Its text is whole: causes and remedies are part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It takes root.
    #[error(transparent)]
    Rights(#[from] NoRights),
    /// A directory to work in is not there.
    #[error("{what} {}: {source}", path.display())]
    Directory {
        /// What failed, in CRIU's words.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log cannot be written.
    #[error("Can't create log file {}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Options that CRIU has and stasis has not.
    #[error("{}", unsupported(.0))]
    Options(Vec<String>),
    /// An option that is missing, or that another one needs.
    #[error("{0}")]
    Usage(&'static str),
    /// The dump failed; the tree runs on.
    #[error("{0}")]
    Dump(Failure),
    /// The images are whole, but a script at post-dump refused; the tree runs on.
    #[error("{0}")]
    PostDump(Failure),
    /// The pre-dump failed; the tree runs on.
    #[error("{0}")]
    PreDump(Failure),
    /// The restore failed; nothing of it is left.
    #[error("{0}")]
    Restore(Failure),
    /// Pages could not be given back; those that were are noted.
    #[error("{0}")]
    Dedup(Failure),
    /// No pages were taken; nothing of them is left.
    #[error("{0}")]
    PageServer(Failure),
    /// The processor could not be described, or is not as described.
    #[error("{0}")]
    Processor(Failure),
    /// A worker has no client.
    #[error("Can't get socket options: {0}")]
    Connection(#[source] io::Error),
    /// There is no service.
    #[error(transparent)]
    Service(ServiceError),
    /// What checkpoint and restore cannot do without and is not there, one a line.
    #[error("{}", .0.join("\n"))]
    Kernel(Vec<String>),
    /// What some programs cannot be dumped or restored without and is not there, one a line.
    #[error("{}", .0.join("\n"))]
    Extras(Vec<String>),
    /// Features that were asked for and are not there, one a line.
    #[error("{}", .0.join("\n"))]
    Features(Vec<String>),
}

fn unsupported(options: &[String]) -> String {
    let line = |option: &String| {
        let remedy = instead(option);
        format!("option {option} is not supported by this version of stasis: {remedy}")
    };
    options.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What to do without an option, as it was written.
fn instead(option: &str) -> &'static str {
    let begins = |name: &str| option.len() > 4 && name.starts_with(option);
    match option {
        _ if option == "-L" || begins("--libdir") => {
            "it loads no plugins of CRIU, which are shared objects made for its own insides. Leave it out; what a \
             plugin carries of files, sockets and mounts name with --external, and hand to the restore with \
             --inherit-fd; what one carries of devices takes CRIU"
        }
        _ if begins("--log-pid") => "leave it out, all processes have one log",
        _ if begins("--close") => "leave it out, and have the shell close the descriptor (7>&-)",
        _ => "leave it out, or use CRIU",
    }
}

impl Error {
    /// Whether the log has it; if not, there is none.
    #[must_use]
    pub const fn is_in_the_log(&self) -> bool {
        !matches!(
            self,
            Self::Rights(_) | Self::Directory { .. } | Self::Log { .. } | Self::Connection(_)
        )
    }

    /// The exit status that CRIU has for it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::PostDump(_) => 255,
            _ => 1,
        }
    }

    /// CRIU's last word of it, which callers look for.
    pub(crate) const fn verdict(&self) -> Option<&'static str> {
        match self {
            Self::Dump(_) | Self::PostDump(_) => Some("Dumping FAILED."),
            Self::PreDump(_) => Some("Pre-dumping FAILED."),
            Self::Restore(_) => Some("Restoring FAILED."),
            Self::Kernel(_) => Some("Does not look good."),
            Self::Extras(_) => Some("Looks good but some kernel features are missing."),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_without_an_option_is_said() {
        for (option, remedy) in [
            ("-L", "--inherit-fd"),
            ("--lib", "--external"),
            ("--log-pid", "one log"),
            ("--close", "the shell"),
            ("--tls", "or use CRIU"),
        ] {
            let said = Error::Options(vec![option.to_owned()]).to_string();
            assert!(said.starts_with(&format!("option {option} is not")), "{said}");
            assert!(said.contains(remedy), "{said}");
        }
    }
}
