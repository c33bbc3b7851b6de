//! What a dump is asked for by the command line.

use std::path::Path;

use criu::Failure;
use dumper::{AfterDump, Connections, DumpOptions, ExternalUnix};
use ids::HostPid;
use images::{Images, Signer};
use services::access::access;

use crate::args;
use crate::restore::no_keys;

/// Of a process, by what was typed for it.
pub(crate) fn asked(
    options: &args::DumpOptions,
    pid: HostPid,
    parent: Option<&Path>,
) -> Result<DumpOptions, Failure> {
    let after = match (options.leave_running, options.leave_stopped) {
        (true, _) => AfterDump::Resume,
        (_, true) => AfterDump::Stop,
        _ => AfterDump::Kill,
    };
    if options.track && after == AfterDump::Kill {
        let error = "dump with --track: the tree ends with the dump, and nothing is left to track";
        return Err(Failure::with_remedy(error, "add --leave-running, or leave --track out"));
    }
    if !Path::new(&format!("/proc/{pid}")).exists() {
        let error = format!("dump process {pid}: no such process");
        return Err(Failure::with_remedy(error, "`stasis ps` lists those there are"));
    }
    let parent = match parent {
        None => None,
        Some(parent) => {
            let access = access(None, &options.identities, options.demand).map_err(no_keys)?;
            Some(Images::open_as(parent, &access).map_err(dumper::Error::Parent)?)
        }
    };
    let signer = Signer::asked(options.signing.signing_key.as_deref())?;
    Ok(DumpOptions {
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
        search: dumper::files::Search { always: false, below: options.irmap_scan_path.clone() },
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
    })
}
