//! The `criu` face: what programs that call CRIU meet. Commands, options, defaults, exit codes
//! and the log are CRIU's; the work is done by the same engines as `stasis` uses.

mod check;
mod dump;
mod log;
mod options;
mod restore;
mod table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::failure::Failure;
use crate::rights;

use options::{Asked, Command, Options};
use tracing::{error, warn};

/// The version of CRIU whose images and behaviour these are.
const VERSION: &str = "4.2";

const USAGE: &str = "
Usage:
  criu dump -t PID [<options>]
  criu pre-dump -t PID [<options>]
  criu restore [<options>]
  criu check [--feature FEAT]

Options:
  -t|--tree PID         root of the process tree to dump
  -D|--images-dir DIR   directory for image files [default: .]
  -W|--work-dir DIR     directory for the log, pidfile and stats [default: the images directory]
  -o|--log-file FILE    log file, - for standard output [default: standard error]
  -v[NUM]|-v[v...]      verbosity: 1 errors, 2 warnings (default), 3 information, 4 all
  -R|--leave-running    leave tasks running after the dump
  -s|--leave-stopped    leave tasks stopped after the dump or restore
     --track-mem        go on tracking memory changes after the dump
     --prev-images-dir DIR
                        images of an earlier dump or pre-dump, relative to the images directory
  -j|--shell-job        dump and restore jobs of a shell
  -d|--restore-detached detach after the restore
  -S|--restore-sibling  restore the root as a sibling (needs -d)
     --pidfile FILE     write the pid of the restored root to FILE, which must not exist
  -r|--root PATH        root file system
     --manage-cgroups[=MODE]
                        ignore, none, props, soft (default), full or strict; a dump with ignore
                        says where tasks are, not what their control groups are
     --cgroup-root [CONTROLLER:]/PATH
                        dump: the control group to describe, with all below it; restore: the one
                        that takes the place of the highest one that the tree was in
     --ghost-limit SIZE largest deleted file that is carried [default: 64M]
     --feature FEAT     only check a particular feature
  -h|--help             show this text
  -V|--version          show version

CRIU's other options are known, and refused by name.
";

/// Runs as `criu` with these arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let (command, options) = match options::parse(arguments) {
        Ok(Asked::Version) => {
            println!("Version: {VERSION}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Help) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Run(command, options)) => (command, options),
        Err(error) => {
            eprintln!("criu: {error}\n{USAGE}\nTry -h|--help for more info");
            return ExitCode::FAILURE;
        }
    };
    match run(command, &options) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Why statistics could not be put in their place.
#[derive(Debug, thiserror::Error)]
#[error("move statistics to {to}")]
struct StatsError {
    to: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The directories that a command works in.
struct Place {
    images: PathBuf,
    work: PathBuf,
}

impl Place {
    /// Both must be there before anything else: the log goes into the one or the other.
    fn of(options: &Options) -> Result<Self, String> {
        let images = options.images_dir.as_deref().unwrap_or(Path::new("."));
        let images = images
            .canonicalize()
            .map_err(|error| format!("Couldn't open image dir {}: {error}", images.display()))?;
        let work = options.work_dir.as_deref().unwrap_or(&images);
        let work = work
            .canonicalize()
            .map_err(|error| format!("Can't change directory to {}: {error}", work.display()))?;
        Ok(Self { images, work })
    }

    /// Statistics are written among the images; CRIU's callers look in the work directory.
    fn take_stats(&self, name: &str) -> Result<(), StatsError> {
        if self.images == self.work {
            return Ok(());
        }
        let (from, to) = (self.images.join(name), self.work.join(name));
        // A rename would not do between file systems.
        std::fs::copy(&from, &to)
            .and_then(|_| std::fs::remove_file(&from))
            .map_err(|source| StatsError { to, source })
    }
}

fn run(command: Command, options: &Options) -> bool {
    let name = command.name();
    // As CRIU has it: what is not root's to do is not begun, and there may be no log to say it in.
    if let Err(failure) = rights::require(name) {
        for line in failure.to_string().lines() {
            eprintln!("Error (criu): {line}");
        }
        return false;
    }
    let started = Place::of(options).and_then(|place| {
        // Absolute names stay as they are, and `-` is no name.
        let file = options.log_file.as_ref().map(|name| match name == "-" {
            true => PathBuf::from(name),
            false => place.work.join(name),
        });
        log::start(file.as_deref(), options.verbosity()).map(|()| place).map_err(|error| {
            format!("Can't create log file {}: {error}", file.unwrap_or_default().display())
        })
    });
    let place = match started {
        Ok(place) => place,
        Err(message) => {
            eprintln!("Error (criu): {message}");
            return false;
        }
    };
    tracing::debug!("images in {}", place.images.display());
    tracing::info!("Version: {VERSION} (stasis {})", env!("CARGO_PKG_VERSION"));
    // CRIU takes them without a word, and its callers give them: its own test runner a dump --pidfile.
    for option in &options.misplaced {
        warn!("option {option} does nothing for {}: leave it out", command.name());
    }
    if refuse(options) {
        return false;
    }
    match command {
        Command::Dump => dump::run(options, &place),
        Command::PreDump => dump::pre_dump(options, &place),
        Command::Restore => restore::run(options, &place),
        Command::Check => check::run(options),
    }
}

/// Names what is asked for and not there; true when there is such a thing.
fn refuse(options: &Options) -> bool {
    for option in &options.refused {
        error!(
            "option {option} is not supported by this version of stasis: leave it out, or use CRIU"
        );
    }
    let configured = configuration();
    if let (Some(file), false) = (&configured, options.no_default_config) {
        error!(
            "configuration file {} is not supported by this version of stasis: \
             give its options on the command line and add --no-default-config",
            file.display()
        );
        return true;
    }
    !options.refused.is_empty()
}

/// Logs an error, each of its lines as one that begins with `Error`.
fn log_error(failure: &Failure) {
    for line in failure.to_string().lines() {
        error!("{line}");
    }
}

/// The first file that CRIU would read options from unasked.
fn configuration() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".criu/default.conf"));
    let named = std::env::var_os("CRIU_CONFIG_FILE").map(PathBuf::from);
    let system = PathBuf::from("/etc/criu/default.conf");
    [Some(system), home, named].into_iter().flatten().find(|file| file.exists())
}
