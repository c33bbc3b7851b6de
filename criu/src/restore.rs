//! `criu restore`.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use hooks::Hooks;
use images::messages::{RestoreStatsEntry, StatsEntry};
use images::{Images, Quiet, names};
use kernel::descriptors::duplicate_number;
use restorer::{
    AfterRestore, Connections, Inherited, Parent, RestoreOptions, RestoreReport, Trust, Validation,
};
use tracing::{info, warn};

use crate::error::InheritError;
use crate::options::{FinalState, Options};
use crate::pidfile::{Pidfile, WithPidfile};
use crate::{Directories, Done, Error, Failure, Host};
use crate::{cpuinfo, dedup};

pub(crate) fn run(
    options: &Options,
    host: &Host,
    directories: &Directories,
    hooks: &mut dyn Hooks,
) -> Result<Done, Error> {
    if options.tree.is_some() {
        warn!("Using -t with criu restore is obsoleted");
    }
    if options.sibling && !options.detach {
        return Err(Error::Usage("--restore-sibling only makes sense with --restore-detached"));
    }
    let mut report = restore(options, host, directories, hooks).map_err(Error::Restore)?;
    if options.auto_dedup {
        // There is no way back once the images are used up.
        if let Some(untold) = report.untold.take() {
            untold.told_for_good();
        }
        dedup::after_restore(options, directories);
    }
    info!("Restore finished successfully. Tasks resumed.");
    Ok(Done::Restored(report))
}

fn restore(
    options: &Options,
    host: &Host,
    directories: &Directories,
    hooks: &mut dyn Hooks,
) -> Result<RestoreReport, Failure> {
    let pidfile =
        options.pidfile.as_deref().map(|file| Pidfile::reserve(&directories.work.join(file)));
    let mut pidfile = pidfile.transpose()?;
    let stopped = options.final_state == FinalState::Stopped;
    cpuinfo::check_before(options, directories)?;
    let joined = options.joining.join()?;
    let asked = RestoreOptions {
        after: if stopped { AfterRestore::Stop } else { AfterRestore::Resume },
        shell_job: options.shell_job,
        external_unix: options.external_datagrams,
        root: options.root.clone(),
        mounts: restorer::MountOptions {
            skipped: options.skipped_mounts.clone(),
            ..options.external_mounts.of_restore()
        },
        until_told: options.sibling,
        parent: match (options.sibling, options.detach) {
            (true, _) => Parent::CallersParent,
            // Who is executed in our place is the parent.
            (_, true) if options.exec.is_empty() => Parent::WhoRemains,
            _ => Parent::Caller,
        },
        records: Some(host.run_dir.join("restores")),
        labels: Default::default(),
        undo: host.run_dir.join(freezer::UNDO),
        cgroups: options.cgroups,
        cgroup_roots: options.cgroup_roots.clone(),
        cgroup_yard: options.cgroup_yard.as_ref().map(|yard| directories.work.join(yard)),
        trust: Trust::Files,
        connections: match (options.tcp_established, options.tcp_close) {
            (_, true) => Connections::Closed,
            (true, false) => Connections::Restored,
            (false, false) => Connections::Refused,
        },
        any_permissions: options.any_permissions,
        validation: if options.sizes_only { Validation::Size } else { Validation::Contents },
        file_locks: options.file_locks,
        allow_uprobes: options.allow_uprobes,
        inherited: inherited(&options.inherited)?,
        networks: restorer::Given {
            inherited: Default::default(),
            empty: options.networks.empty,
            joined: joined.network.map(Arc::new),
            time: joined.time.map(Arc::new),
            devices: options.networks.devices.clone(),
            weak_settings: options.networks.weak_settings,
        },
        joined: joined.others,
        on_behalf_of: None,
    };
    let images = Images::open(&directories.images).map_err(restorer::Error::from)?;
    let mut hooks = WithPidfile { hooks, pidfile: pidfile.as_mut() };
    let report = restorer::restore(&asked, &images, &mut hooks, &mut Quiet)?;
    if let Some(pidfile) = pidfile {
        pidfile.keep();
    }
    // The tree runs: what it is told of cannot fail it any more.
    if let Err(failure) = write_stats(directories, &report) {
        warn!("{failure}");
    }
    Ok(report)
}

/// What this process has under these numbers.
fn inherited(asked: &[(RawFd, Vec<u8>)]) -> Result<Vec<Inherited>, Failure> {
    let open = |(number, key): &(RawFd, Vec<u8>)| {
        let failed = |source| InheritError { number: *number, source };
        let file = duplicate_number(*number).map_err(failed)?;
        let file = file.ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EBADF)))?;
        Ok(Inherited { key: key.clone(), file: Arc::new(file) })
    };
    asked.iter().map(open).collect()
}

fn write_stats(directories: &Directories, report: &RestoreReport) -> Result<(), Failure> {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let restore = RestoreStatsEntry {
        forking_time: micros(report.births),
        restore_time: micros(report.total),
        pages_restored: Some(report.pages_restored),
        ..RestoreStatsEntry::default()
    };
    let entry = StatsEntry { dump: None, restore: Some(restore) };
    let image = names::stats_restore();
    let bytes = images::encode(&image, [&entry]);
    std::fs::write(directories.work.join(image.name()), bytes)?;
    Ok(())
}
