//! `stasis dump`.

use std::path::Path;
use std::process::ExitCode;

use api::DumpSummary;
use dumper::DumpOptions;
use images::{Destination, NewDirectory, Nowhere, WriteOptions};

use crate::args;
use crate::asked::asked;
use crate::restore::no_keys;
use crate::summaries::{self, Dumped, Tried};
use crate::voice::Voice;
use criu::Failure;
use ids::HostPid;
use serde_json::json;
use services::access;

/// `stasis dump PID`.
pub(crate) fn run(options: &args::DumpOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let (Some(&pid), directory) = (options.pid.first(), &options.directory) else {
        return Err("dump: no process is named".into());
    };
    let directory =
        directory.clone().map(|path| NewDirectory { path, options: WriteOptions::default() });
    let asked = asked(options, pid, options.parent.as_deref())?;
    let recipients = access::recipients(&options.recipients, options.demand).map_err(no_keys)?;
    if options.dry_run {
        return dry_run(&asked, directory.as_ref(), recipients.is_some(), voice);
    }
    let Some(directory) = directory else { return Err("dump: no directory is named".into()) };
    let destination = access::destination(directory, recipients);
    let mut report = dumper::dump(&asked, &*destination, &mut hooks::Nobody, &mut voice.bar())?;
    let labels = options.labels.as_ref();
    report.warnings.extend(catalog::labels::unlabelled(destination.path(), labels));
    for warning in &report.warnings {
        voice.note(warning);
    }
    let summary = DumpSummary::from(&report);
    let dumped = Dumped {
        root: Some(pid.get()),
        directory: destination.path().display().to_string(),
        job: None,
        summary: Some(summary.clone()),
    };
    voice.sum_up(&dumped, || {
        summaries::of_dump(&summary) + summaries::said_of_source(report.source)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Finds out what a dump would be.
fn dry_run(
    asked: &DumpOptions,
    directory: Option<&NewDirectory>,
    encrypts: bool,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    // One that cannot be made, or holds a checkpoint, is refused as it would be; nothing is left of it.
    drop(directory.map(Destination::begin).transpose().map_err(dumper::Error::Images)?);
    let nowhere = Nowhere { path: "a dry run".into(), encrypts };
    let report = dumper::dump(asked, &nowhere, &mut hooks::Nobody, &mut voice.bar())?;
    for warning in &report.warnings {
        voice.note(warning);
    }
    let tried =
        Tried { root: Some(asked.pid.get()), job: None, summary: DumpSummary::from(&report) };
    voice.conclude(&tried, || {
        summaries::of_dry_run(&tried.summary) + summaries::said_of_source(report.source)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `stasis untrack PID`.
pub(crate) fn end_dirty_log(
    pid: HostPid,
    run_dir: &Path,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    let asked = DumpOptions { dirty_logs: run_dir.join("tracks"), ..DumpOptions::new(pid) };
    if dumper::end_dirty_log(&asked)? {
        return tell_untracked(pid, voice);
    }
    let error = format!("untrack process {pid}: its changes are not being tracked");
    Err(Failure::with_remedy(error, "nothing has to be done"))
}

/// Says that the memory of a process is tracked no longer.
pub(crate) fn tell_untracked(pid: HostPid, voice: Voice) -> Result<ExitCode, Failure> {
    voice.sum_up(&json!({"untracked": {"pid": pid.get()}}), || {
        format!("the memory of process {pid} is tracked no longer\n")
    })?;
    Ok(ExitCode::SUCCESS)
}
