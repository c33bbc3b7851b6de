//! `criu dump`.

use std::path::Path;
use std::time::Duration;

use collector::Home;
use dumper::{AfterDump, DumpOptions};
use images::{Quiet, names};
use tracing::{error, info};

use super::options::{FinalState, Options};
use super::{Place, log_error};

/// CRIU's default of `--timeout`.
const STOP_WITHIN: Duration = Duration::from_secs(10);

fn asked(options: &Options, place: &Place) -> Option<DumpOptions> {
    let Some(pid) = options.tree else {
        error!("pid not specified");
        return None;
    };
    let folder = |name| std::env::var_os(name).map(Into::into);
    let run_dir = std::env::var_os("STASIS_RUN_DIR").unwrap_or_else(|| "/run/stasis".into());
    Some(DumpOptions {
        after: match options.final_state {
            FinalState::Default => AfterDump::Kill,
            FinalState::Running => AfterDump::Resume,
            FinalState::Stopped => AfterDump::Stop,
        },
        shell_job: options.shell_job,
        root: options.root.clone(),
        ghost_limit: options.ghost_limit.unwrap_or(dumper::files::PlanContext::GHOST_LIMIT),
        cgroups: options.cgroups,
        cgroup_roots: options.cgroup_roots.clone(),
        // CRIU's callers dump into directories of their own making, and again into the same.
        overwrite: true,
        in_place: true,
        stop_within: options.timeout.unwrap_or(STOP_WITHIN),
        programs: Home::at(folder("STASIS_BPF_DIR"), folder("STASIS_CACHE_DIR")),
        contents: !options.sizes_only,
        track: options.track_mem,
        parent: options.previous.as_ref().map(|previous| place.images.join(previous)),
        tracks: Path::new(&run_dir).join("tracks"),
        ..DumpOptions::new(pid, place.images.clone())
    })
}

pub(super) fn run(options: &Options, place: &Place) -> bool {
    let Some(asked) = asked(options, place) else { return false };
    let dumped = dumper::dump(&asked, &mut Quiet);
    let placed = dumped.map_err(Into::into).and_then(|report| {
        place.take_stats(names::stats_dump().name())?;
        Ok(report)
    });
    match placed {
        Ok(report) => {
            info!("frozen for {} us: {}", report.frozen.as_micros(), report.account);
            info!("inventory from {:?}", report.source);
            info!("Dumping finished successfully");
            true
        }
        Err(failure) => {
            log_error(&failure);
            error!("Dumping FAILED.");
            false
        }
    }
}

pub(super) fn pre_dump(options: &Options, place: &Place) -> bool {
    let Some(asked) = asked(options, place) else { return false };
    if options.final_state == FinalState::Default {
        info!("Enforcing tasks run after pre-dump.");
    }
    let dumped = dumper::pre_dump(&asked, &mut Quiet);
    let placed = dumped.map_err(Into::into).and_then(|report| {
        place.take_stats(names::stats_dump().name())?;
        Ok(report)
    });
    match placed {
        Ok(report) => {
            info!("Pre-dumping finished successfully: {} pages", report.pages_written);
            true
        }
        Err(failure) => {
            log_error(&failure);
            error!("Pre-dumping FAILED.");
            false
        }
    }
}
