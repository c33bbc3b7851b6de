//! `stasis dump PID PID …`: several trees, in one frozen moment (`--together`) or one after the other.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use api::DumpSummary;
use criu::Failure;
use dumper::{DumpOptions, DumpReport, MOST_TOGETHER, Member};
use ids::HostPid;
use images::{Destination, NewDirectory, NewGroup, Nowhere, WriteOptions};
use services::access;

use crate::args;
use crate::asked::asked;
use crate::progress::Bar;
use crate::ps::plain;
use crate::restore::no_keys;
use crate::summaries::{self, Dumped, NotDumped, Several};
use crate::voice::{Voice, fail};

/// Dumps them, each to a directory that its number names, in the one that is given.
pub(crate) fn run(options: &args::DumpOptions, voice: Voice) -> Result<ExitCode, Failure> {
    match options.together {
        true => together(options, voice),
        false => one_by_one(options, voice),
    }
}

/// Where the checkpoint of a tree would be in a directory.
fn place(directory: Option<&Path>, pid: HostPid) -> PathBuf {
    directory.map_or_else(|| "a dry run".into(), |it| it.join(pid.to_string()))
}

/// What is asked for of one of several, whose parent is the one of the same number.
fn one(options: &args::DumpOptions, pid: HostPid) -> Result<DumpOptions, Failure> {
    let parent = options.parent.as_deref().map(|it| place(Some(it), pid));
    asked(options, pid, parent.as_deref())
}

fn together(options: &args::DumpOptions, voice: Voice) -> Result<ExitCode, Failure> {
    if options.pid.len() > MOST_TOGETHER {
        let error =
            format!("dump --together: {} trees, of at most {MOST_TOGETHER}", options.pid.len());
        return Err(Failure::with_remedy(error, "name fewer, or the root of all of them"));
    }
    let asked: Vec<DumpOptions> =
        options.pid.iter().map(|pid| one(options, *pid)).collect::<Result<_, _>>()?;
    let directory = options.directory.as_deref();
    let group = directory.map(|it| NewGroup::create(it, WriteOptions::default())).transpose();
    // Of a dry run: a directory that cannot be made is refused, and nothing is left of it.
    let group = group.map_err(dumper::Error::Images)?.filter(|_| !options.dry_run);
    let id = catalog::labels::new_moment();
    let labels = options.labels.clone().unwrap_or_default();
    let labels = catalog::labels::of_moment(&id, &labels)?;
    let recipients = access::recipients(&options.recipients, options.demand).map_err(no_keys)?;
    let encrypts = recipients.is_some();
    let destination = |asked: &DumpOptions| -> Box<dyn Destination> {
        match &group {
            Some(group) => {
                let member = group.member(&asked.pid.to_string());
                access::destination(member, recipients.clone())
            }
            None => Box::new(Nowhere { path: place(directory, asked.pid), encrypts }),
        }
    };
    let destinations: Vec<_> = asked.iter().map(destination).collect();
    let mut bars: Vec<_> = asked.iter().map(|_| Bar::none()).collect();
    // One bar for all: each of them writes about as long.
    if let Some(first) = bars.first_mut() {
        *first = voice.bar();
    }
    let mut members: Vec<_> = asked
        .iter()
        .zip(&destinations)
        .zip(&mut bars)
        .map(|((options, destination), progress)| Member {
            options,
            destination: destination.as_ref(),
            progress,
        })
        .collect();
    let appear = || {
        let Some(group) = &group else { return Ok(()) };
        for asked in &asked {
            let place = group.place(&asked.pid.to_string());
            let written = catalog::labels::write(&place, &labels);
            written.map_err(|source| images::Error::Labels { path: place.clone(), source })?;
        }
        group.appear()
    };
    let done = dumper::dump_together(&mut members, &appear)?;
    drop(bars);
    let source = done.reports.first().and_then(|report| report.source);
    let several = Several {
        together: (!options.dry_run).then_some(id),
        frozen_us: Some(u64::try_from(done.frozen.as_micros()).unwrap_or(u64::MAX)),
        checkpoints: asked
            .iter()
            .zip(done.reports)
            .map(|(asked, report)| dumped(asked.pid, &place(directory, asked.pid), &report))
            .collect(),
        ..Several::default()
    };
    tell(&several, options.dry_run, voice, summaries::said_of_source(source))?;
    Ok(ExitCode::SUCCESS)
}

fn dumped(pid: HostPid, directory: &Path, report: &DumpReport) -> Dumped {
    Dumped {
        root: Some(pid.get()),
        directory: directory.display().to_string(),
        job: None,
        summary: Some(DumpSummary::from(report)),
    }
}

/// Tells how they went; `more` is for people.
pub(crate) fn tell(
    several: &Several,
    dry_run: bool,
    voice: Voice,
    more: &str,
) -> Result<(), Failure> {
    for summary in several.checkpoints.iter().flat_map(|one| &one.summary) {
        summary.warnings.iter().for_each(|warning| voice.note(&plain(warning)));
    }
    let text = || summaries::of_several(several, dry_run) + more;
    if dry_run { voice.conclude(several, text) } else { voice.sum_up(several, text) }
}

/// Each by itself: one that cannot be dumped does not keep the next from it.
fn one_by_one(options: &args::DumpOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let directory = options.directory.as_deref();
    if let Some(directory) = directory.filter(|it| !options.dry_run && !it.exists()) {
        let made = DirBuilder::new().mode(0o700).create(directory);
        made.map_err(|error| format!("make {}: {error}", directory.display()))?;
    }
    let mut several = Several::default();
    let mut source = None;
    for &pid in &options.pid {
        match dump_one(options, pid, voice) {
            Ok(report) => {
                source = source.or(report.source);
                several.checkpoints.push(dumped(pid, &place(directory, pid), &report));
            }
            Err(failure) => {
                fail(&failure);
                let error = failure.to_string();
                several.failed.push(NotDumped { root: pid.get(), error });
            }
        }
    }
    if let Some(directory) = directory.filter(|_| several.checkpoints.is_empty()) {
        // Nothing has come to it; what is not empty stays.
        drop(std::fs::remove_dir(directory));
    }
    tell(&several, options.dry_run, voice, summaries::said_of_source(source))?;
    Ok(if several.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn dump_one(
    options: &args::DumpOptions,
    pid: HostPid,
    voice: Voice,
) -> Result<DumpReport, Failure> {
    let asked = one(options, pid)?;
    let path = place(options.directory.as_deref(), pid);
    let recipients = access::recipients(&options.recipients, options.demand).map_err(no_keys)?;
    let destination: Box<dyn Destination> = match options.dry_run {
        true => Box::new(Nowhere { path: path.clone(), encrypts: recipients.is_some() }),
        false => {
            let directory = NewDirectory { path: path.clone(), options: WriteOptions::default() };
            access::destination(directory, recipients)
        }
    };
    let mut report =
        dumper::dump(&asked, destination.as_ref(), &mut hooks::Nobody, &mut voice.bar())?;
    if !options.dry_run {
        let labels = options.labels.as_ref();
        report.warnings.extend(catalog::labels::unlabelled(&path, labels));
    }
    Ok(report)
}
