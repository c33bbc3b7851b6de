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

mod check;
mod command;
pub mod configuration;
mod dump;
mod error;
mod failure;
mod host;
mod log;
mod options;
mod pidfile;
mod restore;
pub mod rights;
mod scripts;
pub mod shell;
pub mod size;
mod table;

use std::path::{Path, PathBuf};

use dumper::DumpReport;
use restorer::RestoreReport;
use tracing::{error, warn};

pub use command::Command;
pub use error::Error;
pub use failure::Failure;
pub use host::Host;
use log::Log;
pub use options::{Asked, FinalState, Options, UsageError, parse};
pub use pidfile::{Pidfile, PidfileError};
use scripts::Scripts;

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
    /// All is there that checkpoint and restore cannot do without.
    Checked,
    /// The features that were asked for are there.
    HasFeatures,
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

/// Carries a request out.
///
/// # Errors
/// Why it was not done. From the moment at which there is a log, the log says so as well
/// ([`Error::is_in_the_log`]).
pub fn run(command: Command, options: &Options, host: &Host) -> Result<Done, Error> {
    // As CRIU has it: what is not root's to do is not begun, and there may be no log to say it in.
    rights::require(command.name())?;
    let directories = Directories::of(options)?;
    // Absolute names stay as they are, and `-` is no name.
    let file = options.log_file.as_ref().map(|name| match name == "-" {
        true => PathBuf::from(name),
        false => directories.work.join(name),
    });
    let (log, mut scripts) = Log::open(file.as_deref(), options.verbosity())
        .and_then(|log| {
            let scripts = Scripts::new(&options.scripts, &directories.work, &log)?;
            Ok((log, scripts))
        })
        .map_err(|source| Error::Log { path: file.unwrap_or_default(), source })?;
    log.during(|| logged(command, options, host, &directories, &mut scripts))
}

fn logged(
    command: Command,
    options: &Options,
    host: &Host,
    directories: &Directories,
    scripts: &mut Scripts,
) -> Result<Done, Error> {
    tracing::debug!("images in {}", directories.images.display());
    tracing::info!("Version: {VERSION} (stasis {})", env!("CARGO_PKG_VERSION"));
    freezer::undo_left(&host.run_dir.join(freezer::UNDO));
    // CRIU takes them without a word, and its callers give them: its own test runner a dump --pidfile.
    for option in &options.misplaced {
        warn!("option {option} does nothing for {}: leave it out", command.name());
    }
    let done = refuse(options).and_then(|()| match command {
        Command::Dump => dump::run(options, host, directories, scripts),
        Command::PreDump => dump::pre_dump(options, host, directories),
        Command::Restore => restore::run(options, host, directories, scripts),
        Command::Check => check::run(options),
    });
    done.inspect_err(log_error)
}

/// Refuses by name what is asked for and not there.
fn refuse(options: &Options) -> Result<(), Error> {
    if !options.refused.is_empty() {
        return Err(Error::Options(options.refused.clone()));
    }
    Ok(())
}

/// Logs an error, each of its lines as one that begins with `Error`.
fn log_error(error: &Error) {
    for line in error.to_string().lines() {
        error!("{line}");
    }
    if let Some(verdict) = error.verdict() {
        error!("{verdict}");
    }
}
