//! What can be wrong with the file.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error(
        "read the configuration file {}: it is no regular file; name one with --config",
        .0.display()
    )]
    NoFile(PathBuf),
    /// It is larger than any configuration.
    #[error(
        "read the configuration file {}: it is larger than {most} bytes, so it is no configuration",
        path.display()
    )]
    Large {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        most: u64,
    },
    /// Others than root could have root's programs do what they like.
    #[error(
        "configuration file {path} can be written by others than root (owner {uid}, mode {mode:04o}): \
         look whether it says what it should, then: chown root {path}; chmod go-w {path}",
        path = path.display()
    )]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// It was read, and says what cannot be.
    #[error("{}", lines(path, faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of the file.
        faults: Vec<Fault>,
    },
}

/// Something that is wrong with a line of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl Fault {
    pub(crate) fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// A line for each fault, as compilers write them.
fn lines(path: &std::path::Path, faults: &[Fault]) -> String {
    let line = |fault: &Fault| format!("{}:{fault}", path.display());
    faults.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}
