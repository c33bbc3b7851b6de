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
mod asked;
mod check;
mod config;
mod containers;
mod diff;
mod dump;
mod gateway_options;
mod list;
mod programs;
mod progress;
mod ps;
mod remote;
mod restore;
mod several;
mod show;
mod summaries;
mod track;
mod verify;
mod voice;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};

use crate::args::{Args, Command, UntrackOptions};
use crate::voice::Voice;
use criu::shell::{main as criu_main, require};
use criu::{Failure, Host};

/// The C library's own allocator asks the kernel for every few pages that a thread other than the
/// first allocates, while a target stands still.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    if Path::new(&name).file_name() == Some(OsStr::new("criu")) {
        return criu_main(arguments);
    }
    // What follows are CRIU's options, of which some have the names of ours.
    if let Some((first, rest)) = arguments.split_first()
        && first == "criu"
    {
        return criu_main(rest.to_vec());
    }
    let program = config::program();
    if let Some(ended) = service::asked_for_manuals(program.command(), &arguments) {
        return ended;
    }
    let matches = program.matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    run(args, &matches).unwrap_or_else(|failure| {
        voice::fail(&failure);
        ExitCode::FAILURE
    })
}

fn run(args: Args, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let voice = args.voice;
    refuse_for_others(&args.command, voice)?;
    // A gateway is not asked for it, which is said if one was to be.
    if let Command::Config { command } = &args.command
        && !remote::is_named(matches)
    {
        return config::run(command, &configuration::Program::place(matches), voice);
    }
    voice.log_to_stderr();
    // What an environment says is not for what we start ourselves.
    let is_ours = matches!(args.command, Command::HoldUffds { .. });
    let gateway = if is_ours { None } else { remote::place(&args.gateway, matches)? };
    match gateway {
        Some(place) => remote::run((&args.command, &args.gateway), place, matches, voice),
        None => run_here(args, voice),
    }
}

/// Does it in this process, or by the services of this machine.
fn run_here(args: Args, voice: Voice) -> Result<ExitCode, Failure> {
    freezer::undo_left(&run_dir(&args.command).join(freezer::UNDO));
    match args.command {
        Command::Dump(options) => {
            require("dump")?;
            match options.container.clone() {
                Some(name) => containers::dump(&name, &options, voice),
                None if options.together || options.pid.len() > 1 => several::run(&options, voice),
                None => dump::run(&options, voice),
            }
        }
        Command::Untrack(UntrackOptions { pid: Some(pid), run_dir, .. }) => {
            require("untrack")?;
            dump::end_dirty_log(pid, &run_dir, voice)
        }
        Command::Untrack(UntrackOptions { id, run_dir, .. }) => {
            track::end(&run_dir, id.unwrap_or_default(), voice)
        }
        Command::HoldUffds { file, holding } => {
            dumper::keep(&file, &holding)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Restore(options) => {
            require("restore")?;
            restore::run(&options, voice)
        }
        Command::Unlock(options) => {
            require("unlock")?;
            restore::unlock(&options, voice)
        }
        Command::Ps(options) => {
            require("ps")?;
            match options.containers {
                true => containers::list(&options, voice),
                false => ps::run(&options, voice),
            }
        }
        Command::Programs(options) => {
            require("programs")?;
            programs::run(&options, voice)
        }
        Command::Check(options) => check::run(&options, voice),
        Command::Track(options) => track::track(&options, voice),
        Command::Tracks(options) => track::tracks(&options, voice),
        Command::Show(options) => show::run(&options, voice),
        Command::List(options) => list::run(&options, voice),
        Command::Diff(options) => diff::run(&options, voice),
        Command::Verify(options) => verify::run(&options, voice),
        Command::Sign(options) => verify::sign(&options, voice),
        Command::Rm(options) => verify::remove(&options, voice),
        Command::Jobs(_) => Err(Failure::with_remedy(
            "jobs: a gateway has them, and none is named",
            "name it with --gateway, or STASIS_GATEWAY (unix:/run/stasis/gateway.sock)",
        )),
        Command::Download(_) | Command::Upload(_) => Err(Failure::with_remedy(
            "download, upload: they are a gateway's to do, and none is named",
            "name it with --gateway, or STASIS_GATEWAY (unix:/run/stasis/gateway.sock); here, copy the directory",
        )),
        Command::Config { .. } | Command::Criu { .. } => {
            let error = "criu: something stands before it";
            Err(Failure::with_remedy(error, "have it first: stasis criu …"))
        }
    }
}

/// Refuses what says how to speak before a command that speaks as another does.
fn refuse_for_others(command: &Command, voice: Voice) -> Result<(), Failure> {
    let name = match command {
        Command::Criu { .. } => "criu",
        Command::HoldUffds { .. } => "hold-uffds",
        _ => return Ok(()),
    };
    let given =
        [("--json", voice.json), ("--quiet", voice.quiet), ("--verbose", voice.verbose > 0)];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Failure::with_remedy(
            format!("{name} with {option}: it has options of its own (`stasis {name} --help`)"),
            format!("leave {option} out"),
        )),
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
