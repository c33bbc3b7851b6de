//! `stasis dump`.

use std::path::Path;
use std::process::ExitCode;

use api::DumpSummary;
use dumper::{AfterDump, Connections, DumpOptions, ExternalUnix};
use images::{Destination, Images, NewDirectory, Nowhere, Signer, WriteOptions};

use crate::args;
use crate::summaries::{self, Dumped, Tried};
use crate::voice::Voice;
use criu::Failure;
use ids::HostPid;
use serde_json::json;

pub(crate) fn run(options: args::DumpOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let after = match (options.leave_running, options.leave_stopped) {
        (true, _) => AfterDump::Resume,
        (_, true) => AfterDump::Stop,
        _ => AfterDump::Kill,
    };
    let Some(pid) = options.pid else { return Err("dump: no process is named".into()) };
    let directory =
        options.directory.map(|path| NewDirectory { path, options: WriteOptions::default() });
    let parent = options.parent.as_deref().map(Images::open).transpose();
    let parent = parent.map_err(dumper::Error::Parent)?;
    let signer = Signer::asked(options.signing.signing_key.as_deref())?;
    let asked = DumpOptions {
        after,
        dry_run: options.dry_run,
        shell_job: options.shell_job,
        external_unix: ExternalUnix {
            datagrams: options.ext_unix_sk,
            sockets: options.external.iter().filter_map(args::socket).collect(),
            is_handed: false,
        },
        external_pids: options.external.iter().filter_map(args::pids).collect(),
        mounts: args::mounts(&options.external).of_dump(),
        ghost_limit: options.ghost_limit,
        link_remap: options.link_remap,
        search: dumper::files::Search { always: false, below: options.irmap_scan_path },
        connections: match (options.tcp_established, options.tcp_close) {
            (_, true) => Connections::Closed,
            (true, false) => Connections::All,
            (false, false) => Connections::Inside,
        },
        skip_in_flight: options.skip_in_flight,
        network_lock: options.network_lock.map(args::NetworkLock::asked),
        undo: options.run_dir.join(freezer::UNDO),
        signer: signer.filter(|_| !options.dry_run),
        max_freeze: options.max_freeze.map(Into::into),
        timeout: options.timeout.map(Into::into),
        cross_check: options.cross_check,
        programs: options.programs.home(),
        keep_dirty_log: options.track,
        parent,
        dirty_logs: options.run_dir.join("tracks"),
        ..DumpOptions::new(pid)
    };
    if options.track && after == AfterDump::Kill {
        let error = "dump with --track: the tree ends with the dump, and nothing is left to track";
        return Err(Failure::with_remedy(error, "add --leave-running, or leave --track out"));
    }
    if !Path::new(&format!("/proc/{pid}")).exists() {
        let error = format!("dump process {pid}: no such process");
        return Err(Failure::with_remedy(error, "`stasis ps` lists those there are"));
    }
    if options.dry_run {
        return dry_run(&asked, directory.as_ref(), voice);
    }
    let Some(destination) = directory else { return Err("dump: no directory is named".into()) };
    let mut report = dumper::dump(&asked, &destination, &mut hooks::Nobody, &mut voice.bar())?;
    let labels = options.labels.as_ref();
    report.warnings.extend(catalog::labels::unlabelled(&destination.path, labels));
    for warning in &report.warnings {
        voice.note(warning);
    }
    let summary = DumpSummary::from(&report);
    let dumped = Dumped {
        root: Some(pid.get()),
        directory: destination.path.display().to_string(),
        job: None,
        summary: Some(summary.clone()),
    };
    voice.sum_up(&dumped, || summaries::of_dump(&summary) + said_of_source(report.source))?;
    Ok(ExitCode::SUCCESS)
}

/// Finds out what a dump would be.
fn dry_run(
    asked: &DumpOptions,
    directory: Option<&NewDirectory>,
    voice: Voice,
) -> Result<ExitCode, Failure> {
    // One that cannot be made, or holds a checkpoint, is refused as it would be; nothing is left of it.
    drop(directory.map(Destination::begin).transpose().map_err(dumper::Error::Images)?);
    let nowhere = Nowhere { path: "a dry run".into() };
    let report = dumper::dump(asked, &nowhere, &mut hooks::Nobody, &mut voice.bar())?;
    for warning in &report.warnings {
        voice.note(warning);
    }
    let tried =
        Tried { root: Some(asked.pid.get()), job: None, summary: DumpSummary::from(&report) };
    voice.conclude(&tried, || {
        summaries::of_dry_run(&tried.summary) + said_of_source(report.source)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What is said where an inventory takes longer than it could.
fn said_of_source(source: Option<collector::Source>) -> &'static str {
    match source {
        Some(collector::Source::Proc) => {
            "the inventory came from /proc; where eBPF programs can be loaded it comes from them, and the tree stands still for a shorter \
             time (`stasis check` says what is missing)\n"
        }
        _ => "",
    }
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
