//! How a request is carried out, wherever it comes from.

use std::path::PathBuf;

use hooks::{Both, Hooks};
use tracing::{error, info, warn};

use crate::command::Command;
use crate::log::Log;
use crate::options::Options;
use crate::scripts::Scripts;
use crate::{
    Directories, Done, Error, Host, VERSION, check, cpuinfo, dedup, dump, page_server, restore,
    rights, service, statistics,
};

/// Carries a request out.
///
/// # Errors
/// Why it was not done. From the moment at which there is a log, the log says so as well
/// ([`Error::is_in_the_log`]).
pub fn run(command: Command, options: &Options, host: &Host) -> Result<Done, Error> {
    run_told(command, options, host, &mut hooks::Nobody)
}

/// The same, with somebody who hangs on the points before the action scripts do.
pub(crate) fn run_told(
    command: Command,
    options: &Options,
    host: &Host,
    told: &mut dyn Hooks,
) -> Result<Done, Error> {
    // As CRIU has it: what is not root's to do is not begun, and there may be no log to say it in.
    rights::require_of_criu(command.name(), options.unprivileged)?;
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
    let mut told = Both(told, &mut scripts);
    log.during(|| logged(command, options, host, &directories, &mut told))
}

fn logged(
    command: Command,
    options: &Options,
    host: &Host,
    directories: &Directories,
    hooks: &mut dyn Hooks,
) -> Result<Done, Error> {
    tracing::debug!("images in {}", directories.images.display());
    info!("Version: {VERSION} (stasis {})", env!("CARGO_PKG_VERSION"));
    freezer::undo_left(&host.run_dir.join(freezer::UNDO));
    // CRIU takes them without a word, and its callers give them: its own test runner a dump --pidfile.
    for option in &options.misplaced {
        warn!("option {option} does nothing for {}: leave it out", command.name());
    }
    let done = refuse(command, options, host).and_then(|()| match command {
        Command::Dump => dump::run(options, host, directories, hooks),
        Command::PreDump => dump::pre_dump(options, host, directories),
        Command::Restore => restore::run(options, host, directories, hooks),
        Command::Check => check::run(options),
        Command::Dedup => dedup::run(directories),
        Command::PageServer => page_server::run(options, directories, hooks),
        Command::Service => service::run(options, directories, hooks),
        Command::CpuinfoDump => cpuinfo::dump(directories),
        Command::CpuinfoCheck => cpuinfo::check(options, directories),
    });
    if let Some(text) = done.as_ref().ok().and_then(|done| shown(options, directories, done)) {
        text.lines().for_each(|line| info!("{line}"));
    }
    done.inspect_err(log_error)
}

/// The statistics, where they are to be shown.
pub(crate) fn shown(options: &Options, directories: &Directories, done: &Done) -> Option<String> {
    if !options.shows_statistics {
        return None;
    }
    statistics::text(directories, done)?.inspect_err(|failure| warn!("{failure}")).ok()
}

/// Refuses by name what is asked for and not there.
fn refuse(command: Command, options: &Options, host: &Host) -> Result<(), Error> {
    if host.dry_run.is_some() && matches!(command, Command::PreDump | Command::Restore) {
        return Err(Error::Usage("a dry run (STASIS_DRY_RUN) is of a dump alone"));
    }
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
