//! `stasis dump --container` and `stasis ps --containers`.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use api::{ContainerList, ContainerSummary};
use containers::{Asked, Error, Places};
use criu::{Failure, Host};
use images::Signer;
use service::EngineSettings;
use services::access::check_engine;

use crate::args::{DumpOptions, ProgramPlaces, PsOptions};
use crate::ps::{plain, reasons};
use crate::restore::no_keys;
use crate::show::explain;
use crate::summaries::{self, Tried};
use crate::voice::Voice;

/// The container's checkpoint, made by its engine.
pub(crate) fn dump(name: &str, options: &DumpOptions, voice: Voice) -> Result<ExitCode, Failure> {
    check_engine(&options.recipients, options.demand).map_err(no_keys)?;
    let places = places(&options.engines, options.run_dir.clone(), &options.programs);
    // A daemon is in another directory.
    let directory = options.directory.as_deref().map(std::path::absolute).transpose()?;
    if options.dry_run {
        return dry_run(name, options, directory, &places, voice);
    }
    if options.labels.is_some() && directory.is_none() {
        let error = "dump --container with --labels: an engine that keeps the images keeps no labels with them";
        return Err(Failure::with_remedy(error, "name a directory with -D, or leave --labels out"));
    }
    let asked = asked(options, directory.clone());
    let signer = Signer::asked(options.signing.signing_key.as_deref())?;
    let listing = containers::list(&places);
    let container = listing.find(name, options.engine).map_err(failure)?;
    let mut done = containers::checkpoint(container, &asked, &places).map_err(failure)?;
    if let Some(signer) = &signer {
        let signed = directory.as_deref().map(|it| images::sign(it, signer));
        match signed {
            Some(signed) => signed.map_err(explain)?,
            None => {
                done.warnings
                    .push("it is not signed: the engine keeps the images itself".to_owned());
            }
        }
    }
    let unlabelled =
        directory.and_then(|it| catalog::labels::unlabelled(&it, options.labels.as_ref()));
    done.warnings.extend(unlabelled);
    done.warnings.iter().for_each(|warning| voice.note(warning));
    voice.conclude(&done, || summaries::of_container(&done, stdout().is_terminal()))?;
    Ok(ExitCode::SUCCESS)
}

/// Finds out what its checkpoint would be.
fn dry_run(
    name: &str,
    options: &DumpOptions,
    directory: Option<PathBuf>,
    places: &Places,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    let listing = containers::list(places);
    let container = listing.find(name, options.engine).map_err(failure)?;
    let summary =
        containers::try_out(container, &asked(options, directory), places).map_err(failure)?;
    for warning in &summary.warnings {
        voice.note(warning);
    }
    let root = container.summary().pid;
    let tried = Tried { root, job: None, summary };
    voice.conclude(&tried, || summaries::of_dry_run(&tried.summary))?;
    Ok(ExitCode::SUCCESS)
}

fn asked(options: &DumpOptions, directory: Option<PathBuf>) -> Asked {
    Asked {
        directory,
        leave_running: options.leave_running,
        tcp_established: options.tcp_established,
        ext_unix_sk: options.ext_unix_sk,
        shell_job: options.shell_job,
    }
}

fn places(engines: &EngineSettings, run_dir: PathBuf, programs: &ProgramPlaces) -> Places {
    Places {
        runc: engines.runc_state.clone(),
        crun: engines.crun_state.clone(),
        containerd: engines.containerd_state.clone(),
        run_dir,
        environment: programs.environment(),
    }
}

fn failure(error: Error) -> Failure {
    match error.remedy() {
        Some(remedy) => Failure::with_remedy(error, remedy),
        None => error.into(),
    }
}

/// Which containers there are.
pub(crate) fn list(options: &PsOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let places = places(&options.engines, Host::of_the_environment().run_dir, &options.programs);
    let list = containers::list(&places).told();
    tell(&list, voice)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells which there are, and who does not say.
pub(crate) fn tell(list: &ContainerList, voice: Voice) -> Result<(), Failure> {
    for silent in &list.silent {
        voice.note(&plain(silent));
    }
    voice.print(list, || text(list))
}

fn text(list: &ContainerList) -> String {
    let mut text =
        format!("{:>8}  {:<10}  {:<8}  {:<4}  CONTAINER\n", "PID", "ENGINE", "STATE", "DUMP");
    for one in &list.containers {
        let pid = one.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let dump = if one.checkpointable { "yes" } else { "no" };
        let (engine, state) = (one.engine.name(), one.state.to_string());
        text += &format!("{pid:>8}  {engine:<10}  {state:<8}  {dump:<4}  {}\n", called(one));
        text += &reasons(&one.refusals);
    }
    text
}

/// Its name, and where that is another one the beginning of its id.
fn called(one: &ContainerSummary) -> String {
    let mut text = plain(&one.name);
    if one.name != one.id {
        let short: String = one.id.chars().take(12).collect();
        text += &format!(" ({short})");
    }
    if let Some(namespace) = &one.namespace {
        text += &format!(" in {}", plain(namespace));
    }
    text
}

#[cfg(test)]
mod tests {
    use api::{ContainerEngine, ContainerState};

    use super::*;

    #[test]
    fn containers_are_listed_with_what_speaks_against_them() {
        let one = |engine, name: &str, id: &str, pid| ContainerSummary {
            engine,
            name: name.into(),
            id: id.into(),
            namespace: None,
            pid,
            state: ContainerState::Running,
            checkpointable: true,
            refusals: Vec::new(),
        };
        let mut paused =
            one(ContainerEngine::Podman, "w\u{1b}[2Jeb", "061eefec5d533e22", Some(28414));
        paused.state = ContainerState::Paused;
        paused.checkpointable = false;
        paused.refusals =
            vec![support::containers::called(support::containers::PAUSED, 28414, "podman", "web")];
        let list = ContainerList {
            containers: vec![paused, one(ContainerEngine::Runc, "x1", "x1", None)],
            silent: Vec::new(),
        };
        let shown = text(&list);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "     PID  ENGINE      STATE     DUMP  CONTAINER");
        assert_eq!(lines[1], "   28414  podman      paused    no    w [2Jeb (061eefec5d53)");
        assert_eq!(
            lines[2].trim(),
            "process 28414, container web of podman: it is paused, and its engine checkpoints only what runs; \
             unpause it by its engine before the dump"
        );
        assert_eq!(lines[3], "          runc        running   yes   x1");
    }
}
