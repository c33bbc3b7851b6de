//! `criu restore`.

use std::path::Path;
use std::time::Duration;

use images::messages::{RestoreStatsEntry, StatsEntry};
use images::{Quiet, names};
use nix::errno::Errno;
use nix::sys::wait::wait;
use restorer::{AfterRestore, Parent, RestoreOptions, RestoreReport, Trust, Validation};
use tracing::{error, info, warn};

use crate::failure::Failure;
use crate::pidfile::Pidfile;

use super::options::{FinalState, Options};
use super::{Place, log_error};

pub(super) fn run(options: &Options, place: &Place) -> bool {
    if options.tree.is_some() {
        warn!("Using -t with criu restore is obsoleted");
    }
    if options.sibling && !options.detach {
        error!("--restore-sibling only makes sense with --restore-detached");
        return false;
    }
    if let Err(failure) = restore(options, place) {
        log_error(&failure);
        error!("Restoring FAILED.");
        return false;
    }
    info!("Restore finished successfully. Tasks resumed.");
    if !options.detach {
        wait_for_all();
    }
    true
}

fn restore(options: &Options, place: &Place) -> Result<(), Failure> {
    let pidfile = options.pidfile.as_deref().map(|file| Pidfile::reserve(&place.work.join(file)));
    let pidfile = pidfile.transpose()?;
    let stopped = options.final_state == FinalState::Stopped;
    let run_dir = std::env::var_os("STASIS_RUN_DIR").unwrap_or_else(|| "/run/stasis".into());
    let asked = RestoreOptions {
        images_dir: place.images.clone(),
        after: if stopped { AfterRestore::Stop } else { AfterRestore::Resume },
        shell_job: options.shell_job,
        root: options.root.clone(),
        parent: match (options.sibling, options.detach) {
            (true, _) => Parent::CallersParent,
            (_, true) => Parent::WhoRemains,
            _ => Parent::Caller,
        },
        records: Some(Path::new(&run_dir).join("restores")),
        cgroups: options.cgroups,
        cgroup_roots: options.cgroup_roots.clone(),
        trust: Trust::Files,
        validation: if options.sizes_only { Validation::Size } else { Validation::Contents },
        on_behalf_of: None,
    };
    let report = restorer::restore(&asked, &mut Quiet)?;
    if let Some(pidfile) = pidfile {
        pidfile.write(report.pid)?;
    }
    // The tree runs: what it is told of cannot fail it any more.
    if let Err(failure) = write_stats(place, &report) {
        warn!("{failure}");
    }
    Ok(())
}

fn write_stats(place: &Place, report: &RestoreReport) -> Result<(), Failure> {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let restore = RestoreStatsEntry {
        restore_time: micros(report.total),
        pages_restored: Some(report.pages_restored),
        ..RestoreStatsEntry::default()
    };
    let entry = StatsEntry { dump: None, restore: Some(restore) };
    let image = names::stats_restore();
    let bytes = images::encode(&image, [&entry]);
    std::fs::write(place.work.join(image.name()), bytes)?;
    Ok(())
}

/// Waits, as CRIU does, until every child has ended, whatever their exit statuses.
fn wait_for_all() {
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
