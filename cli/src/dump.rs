//! `stasis dump`.

use std::path::Path;
use std::process::ExitCode;

use api::DumpSummary;
use dumper::{AfterDump, Connections, DumpOptions, ExternalUnix};
use images::{Images, NewDirectory, Signer, WriteOptions};

use crate::args;
use crate::summaries::{self, Dumped};
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
    let (Some(pid), Some(directory)) = (options.pid, options.directory) else {
        return Err("dump: no process or no directory is named".into());
    };
    let parent = options.parent.as_deref().map(Images::open).transpose();
    let parent = parent.map_err(dumper::Error::Parent)?;
    let signer = Signer::asked(options.signing.signing_key.as_deref())?;
    let asked = DumpOptions {
        after,
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
        signer,
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
    let destination = NewDirectory { path: directory, options: WriteOptions::default() };
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
        summary: Some(summary),
        warnings: report.warnings,
    };
    voice.sum_up(&dumped, || {
        let mut text = summaries::of_dump(&summary);
        if report.source == Some(collector::Source::Proc) {
            text += "the inventory came from /proc; where eBPF programs can be loaded it comes from them, and \
                     the tree stands still for a shorter time (`stasis check` says what is missing)\n";
        }
        text
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
