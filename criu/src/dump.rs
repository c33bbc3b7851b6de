//! `criu dump` and `criu pre-dump`.

use std::path::Path;
use std::time::Duration;

use dumper::{AfterDump, CgroupProperties, Connections, DumpOptions, DumpReport, ExternalUnix};
use hooks::{Hooks, Point};
use images::page_server::PagesElsewhere;
use images::{Destination, Images, NewDirectory, Nowhere, Quiet, WriteOptions, names};
use tracing::{info, warn};

use crate::cgroup_properties::{self, PropertiesError};
use crate::options::{FinalState, Options};
use crate::page_server::{self, EarlyLink};
use crate::{Directories, Done, Error, Failure, Host};
use crate::{cpuinfo, dedup};

/// CRIU's default of `--ghost-limit`.
const GHOST_LIMIT: u64 = 1 << 20;

/// CRIU's default of `--timeout`.
const STOP_WITHIN: Duration = Duration::from_secs(10);

fn asked(
    options: &Options,
    host: &Host,
    directories: &Directories,
    failed: fn(Failure) -> Error,
) -> Result<DumpOptions, Error> {
    let pid = options.tree.ok_or(Error::Usage("pid not specified"))?;
    if !options.external_mounts.devices_have_numbers() {
        return Err(Error::Usage(
            "--external dev[MAJOR/MINOR]:NAME: the numbers of the device are wrong",
        ));
    }
    let parent = options.previous.as_ref().map(|previous| directories.images.join(previous));
    let parent = parent.as_deref().map(Images::open).transpose();
    let parent = parent.map_err(|error| failed(dumper::Error::Parent(error).into()))?;
    Ok(DumpOptions {
        after: match options.final_state {
            FinalState::Default => AfterDump::Kill,
            FinalState::Running => AfterDump::Resume,
            FinalState::Stopped => AfterDump::Stop,
        },
        shell_job: options.shell_job,
        gives_masters: options.gives_masters,
        external_unix: ExternalUnix {
            datagrams: options.external_datagrams,
            sockets: options.external_sockets.clone(),
            // As CRIU's: `--inherit-fd` is an option of its restore.
            is_handed: true,
        },
        external_files: options.external_files.clone(),
        // As CRIU's, which says nothing of them: engines hand over their own to a restore.
        external_pipes: true,
        client: options.client,
        root: options.root.clone(),
        mounts: dumper::MountOptions {
            other_kinds: options.file_systems.clone(),
            skipped: options.skipped_mounts.clone(),
            ..options.external_mounts.of_dump()
        },
        connections: match (options.tcp_established, options.tcp_close) {
            (_, true) => Connections::Closed,
            (true, false) => Connections::All,
            (false, false) => Connections::Refused,
        },
        skip_in_flight: options.skip_in_flight,
        external_networks: options.networks.external.clone(),
        external_pids: options.external_pids.clone(),
        allow_uprobes: options.allow_uprobes,
        empty_networks: options.networks.empty,
        network_lock: options.network_lock,
        lock_inside: true,
        stopped_is_away: true,
        lock_namespace: options.network_lock.is_some(),
        undo: host.run_dir.join(freezer::UNDO),
        ghost_limit: options.ghost_limit.unwrap_or(GHOST_LIMIT),
        link_remap: options.link_remap,
        search: dumper::files::Search {
            always: options.force_irmap,
            below: options.irmap_scan_paths.clone(),
        },
        file_locks: options.file_locks,
        cgroups: options.cgroups,
        cgroup_roots: options.cgroup_roots.clone(),
        cgroup_controllers: options.cgroup_controllers.clone(),
        cgroup_properties: properties(options, directories)
            .map_err(|error| failed(error.into()))?,
        cgroup_yard: options.cgroup_yard.as_ref().map(|yard| directories.work.join(yard)),
        freeze_cgroup: options.freeze_cgroup.clone(),
        stop_within: options.timeout.unwrap_or(STOP_WITHIN),
        programs: host.programs.clone(),
        contents: !options.sizes_only,
        evasive_devices: options.evasive_devices,
        processor: cpuinfo::of_dump(options).map_err(failed)?,
        keep_dirty_log: options.track_mem,
        parent,
        dirty_logs: host.run_dir.join("tracks"),
        ..DumpOptions::new(pid)
    })
}

/// The settings of control groups that are described beside those that are known.
fn properties(
    options: &Options,
    directories: &Directories,
) -> Result<CgroupProperties, PropertiesError> {
    let mut properties = CgroupProperties::default();
    if let Some(text) = &options.cgroup_props {
        cgroup_properties::read(text, &mut properties)?;
    }
    if let Some(file) = &options.cgroup_props_file {
        cgroup_properties::read_file(&directories.work.join(file), &mut properties)?;
    }
    Ok(properties)
}

/// CRIU's callers dump into directories of their own making, and again into the same. Where pages go to a page server, it is
/// connected to now, while nothing has been stopped.
fn destination(
    options: &Options,
    directories: &Directories,
    parent: Option<&Images>,
) -> Result<Box<dyn Destination>, Failure> {
    let client = page_server::client(options, parent)?;
    let write = WriteOptions {
        overwrite: true,
        in_place: true,
        pages_elsewhere: client.is_some(),
        ..WriteOptions::default()
    };
    let here = NewDirectory { path: directories.images.clone(), options: write };
    Ok(match client {
        Some(client) => Box::new(PagesElsewhere::new(here, client)),
        None => Box::new(here),
    })
}

/// Does it, with everything in its place before.
fn with_destination(
    options: &Options,
    directories: &Directories,
    parent: Option<&Images>,
    failed: fn(Failure) -> Error,
    dump: impl FnOnce(&dyn Destination) -> Result<DumpReport, dumper::Error>,
) -> Result<Result<DumpReport, dumper::Error>, Error> {
    let link = EarlyLink::make(&directories.images, options);
    let link = link.map_err(|error| failed(error.into()))?;
    let destination = destination(options, directories, parent).map_err(failed)?;
    let report = dump(&*destination);
    // In this order: when the connection ends, a server finds all in its place.
    drop(link);
    drop(destination);
    Ok(report)
}

pub(crate) fn run(
    options: &Options,
    host: &Host,
    directories: &Directories,
    hooks: &mut dyn Hooks,
) -> Result<Done, Error> {
    let asked = asked(options, host, directories, Error::Dump)?;
    if let Some(file) = &host.dry_run {
        return dry_run(asked, file);
    }
    let parent = asked.parent.as_ref();
    let dump = |to: &dyn Destination| dumper::dump(&asked, to, hooks, &mut Quiet);
    let report = with_destination(options, directories, parent, Error::Dump, dump)?;
    let refused =
        matches!(&report, Err(dumper::Error::Hook(hook)) if hook.point == Point::PostDump);
    let error = if refused { Error::PostDump } else { Error::Dump };
    let report = finished(report, directories).map_err(error)?;
    dedup::after_dump(options, directories);
    info!("frozen for {} us: {}", report.frozen.as_micros(), report.account);
    info!("inventory from {:?}", report.source);
    info!("Dumping finished successfully");
    Ok(Done::Dumped(Box::new(report)))
}

/// Finds out what a dump would be.
fn dry_run(asked: DumpOptions, file: &Path) -> Result<Done, Error> {
    if asked.after != AfterDump::Resume {
        return Err(Error::Usage("a dry run (STASIS_DRY_RUN) is of a tree that runs on"));
    }
    let asked = DumpOptions { dry_run: true, keep_dirty_log: false, ..asked };
    let nowhere = Nowhere { path: "a dry run".into(), encrypts: false };
    let report = dumper::dump(&asked, &nowhere, &mut hooks::Nobody, &mut Quiet);
    let report = report.map_err(|error| Error::Dump(error.into()))?;
    let told = serde_json::to_vec(&api::DumpSummary::from(&report)).map_err(std::io::Error::from);
    told.and_then(|told| std::fs::write(file, told)).map_err(|error| {
        Error::Dump(Failure::from(format!("tell of a dry run in {}: {error}", file.display())))
    })?;
    Ok(Done::Dumped(Box::new(report)))
}

pub(crate) fn pre_dump(
    options: &Options,
    host: &Host,
    directories: &Directories,
) -> Result<Done, Error> {
    let asked = asked(options, host, directories, Error::PreDump)?;
    if options.final_state == FinalState::Default {
        info!("Enforcing tasks run after pre-dump.");
    }
    let parent = asked.parent.as_ref();
    let dump = |to: &dyn Destination| dumper::pre_dump(&asked, to, &mut Quiet);
    let report = with_destination(options, directories, parent, Error::PreDump, dump)?;
    let report = finished(report, directories).map_err(Error::PreDump)?;
    dedup::after_dump(options, directories);
    info!("Pre-dumping finished successfully: {} pages", report.pages_written);
    Ok(Done::PreDumped(Box::new(report)))
}

fn finished(
    report: Result<DumpReport, dumper::Error>,
    directories: &Directories,
) -> Result<DumpReport, Failure> {
    let report = report?;
    for warning in &report.warnings {
        warn!("{warning}");
    }
    directories.take_stats(names::stats_dump().name())?;
    Ok(report)
}
