//! The face of CRIU: what programs that call CRIU meet. Commands, options, defaults, exit codes
//! and the log are CRIU's; the work is done by the same engines as `stasis` uses.
//!
//! A [`Command`] and its [`Options`] are a request, wherever they come from; [`run`] carries it out
//! and returns what was done, or why not. It prints nothing, ends nothing and leaves nothing behind in
//! the process: one after the other serves as many requests as there are. (A restore forks, and
//! makes its process part of what it makes: its session, its keyring. A program that goes on gives
//! each restore a process of its own.)
//!
//! [`shell`] is what makes a command line of that: arguments, environment, standard streams, exit codes.

mod capabilities;
mod carrying_out;
mod cgroup_properties;
mod check;
mod command;
pub mod configuration;
mod cpuinfo;
mod dedup;
mod dump;
mod error;
mod external;
mod failure;
mod host;
mod joining;
mod log;
mod networks;
mod options;
mod page_server;
mod pidfile;
mod program;
mod reading;
mod restore;
pub mod rights;
mod rpc;
mod scripts;
mod service;
pub mod shell;
pub mod size;
mod statistics;
mod table;

use std::path::{Path, PathBuf};

use dumper::DumpReport;
use restorer::RestoreReport;

pub use capabilities::Capabilities;
pub use carrying_out::run;
pub use command::Command;
pub use error::Error;
pub use external::{External, ExternalMounts};
pub use failure::Failure;
pub use host::Host;
pub use options::{FinalState, Options, UsageError};
pub use pidfile::{Pidfile, PidfileError};
pub use reading::{Asked, Reading, parse};

/// The version of CRIU whose images and behaviour these are.
pub const VERSION: &str = "4.2";

/// What became of a request.
#[derive(Debug)]
pub enum Done {
    /// A tree was dumped.
    Dumped(Box<DumpReport>),
    /// Memory was dumped; the tree runs on.
    PreDumped(Box<DumpReport>),
    /// A tree was restored.
    Restored(RestoreReport),
    /// Pages that a child has newer copies of were given back.
    Deduplicated,
    /// The pages of a dump were taken.
    Served,
    /// All is there that checkpoint and restore cannot do without.
    Checked,
    /// The features that were asked for are there.
    HasFeatures,
    /// The processor is described.
    DescribedProcessor,
    /// The processor does for what was described.
    ProcessorDoes,
}

/// The directories that a command works in.
#[derive(Debug)]
struct Directories {
    images: PathBuf,
    work: PathBuf,
}

impl Directories {
    /// Both must be there before anything else: the log goes into the one or the other.
    fn of(options: &Options) -> Result<Self, Error> {
        let there = |what, path: &Path| {
            path.canonicalize().map_err(|source| Error::Directory {
                what,
                path: path.to_owned(),
                source,
            })
        };
        let images = options.images_dir.as_deref().unwrap_or(Path::new("."));
        let images = there("Couldn't open image dir", images)?;
        let work = options.work_dir.as_deref().unwrap_or(&images);
        let work = there("Can't change directory to", work)?;
        Ok(Self { images, work })
    }

    /// Statistics are written among the images; CRIU's callers look in the work directory.
    fn take_stats(&self, name: &str) -> Result<(), Failure> {
        if self.images == self.work {
            return Ok(());
        }
        let (from, to) = (self.images.join(name), self.work.join(name));
        // A rename would not do between file systems.
        std::fs::copy(&from, &to)
            .and_then(|_| std::fs::remove_file(&from))
            .map_err(|source| error::StatsError { to, source })?;
        Ok(())
    }
}
