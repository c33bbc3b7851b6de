//! `stasis` for people, and the `criu` face for programs that call CRIU.
//!
//! Everything happens in this one process, which has one thread until an engine makes more: a
//! restore forks, and must find no locks held by threads that the child does not have.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool speaks on its standard streams"
)]

mod args;
mod check;
mod containers;
mod diff;
mod dump;
mod list;
mod output;
mod programs;
mod progress;
mod ps;
mod restore;
mod show;
mod track;
mod verify;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command, UntrackOptions};
use criu::shell::{main as criu_main, require};
use criu::{Failure, Host};

/// The C library's own allocator asks the kernel for every few pages that a thread other than the
/// first allocates, while a target stands still.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new("criu")) {
        return criu_main(arguments.collect());
    }
    run(Args::parse()).unwrap_or_else(|failure| {
        eprintln!("stasis: {failure}");
        ExitCode::FAILURE
    })
}

fn run(args: Args) -> Result<ExitCode, Failure> {
    if let Command::Criu { arguments } = args.command {
        return Ok(criu_main(arguments));
    }
    log_to_stderr();
    freezer::undo_left(&run_dir(&args.command).join(freezer::UNDO));
    match args.command {
        Command::Dump(options) => {
            require("dump")?;
            match options.container.clone() {
                Some(name) => containers::dump(&name, &options),
                None => dump::run(options),
            }
        }
        Command::Untrack(UntrackOptions { pid: Some(pid), run_dir, .. }) => {
            require("untrack")?;
            dump::end_dirty_log(pid, &run_dir)
        }
        Command::Untrack(UntrackOptions { id, run_dir, .. }) => {
            track::end(&run_dir, id.unwrap_or_default())
        }
        Command::HoldUffds { file, holding } => {
            dumper::keep(&file, &holding)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Restore(options) => {
            require("restore")?;
            restore::run(&options)
        }
        Command::Unlock(options) => {
            require("unlock")?;
            restore::unlock(&options.directory)
        }
        Command::Ps(options) => {
            require("ps")?;
            match options.containers {
                true => containers::list(&options),
                false => ps::run(&options),
            }
        }
        Command::Programs(options) => {
            require("programs")?;
            programs::run(&options)
        }
        Command::Check(options) => check::run(&options),
        Command::Track(options) => track::track(&options),
        Command::Tracks(options) => track::tracks(&options),
        Command::Show(options) => show::run(&options),
        Command::List(options) => list::run(&options),
        Command::Diff(options) => diff::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Rm(options) => verify::remove(&options),
        Command::Criu { .. } => unreachable!("the criu face has its own log"),
    }
}

/// The directory of what is known at run time.
fn run_dir(command: &Command) -> PathBuf {
    match command {
        Command::Dump(options) => options.run_dir.clone(),
        Command::Untrack(options) => options.run_dir.clone(),
        Command::Restore(options) => options.run_dir.clone(),
        _ => Host::of_the_environment().run_dir,
    }
}

/// Warnings, and whatever else `STASIS_LOG` asks for.
fn log_to_stderr() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    match EnvFilter::try_from_env("STASIS_LOG") {
        Ok(filter) => log.with_env_filter(filter).init(),
        Err(_) => log.without_time().with_target(false).with_env_filter("warn").init(),
    }
}
