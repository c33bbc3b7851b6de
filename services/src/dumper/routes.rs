//! The dumper's paths: dumps and checkpoints, for who asks over its socket.

use std::path::PathBuf;
use std::time::Instant;

use api::{DumpRequest, DumpSummary, User};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use collector::Home;
use dumper::{DumpOptions, dump};
use images::{Destination, NewDirectory, Nowhere, WriteOptions};
use service::{
    Body, CheckpointRoot, OnBehalfOf, OperationName, Operations, Problem, Traces, Way, blocking,
};

use super::asked::{Dumper, options, place_of, whole_name};
use super::metrics::{DumpMetrics, Dumped};
use super::parents::{Parent, Parents};
use super::problems::problem;
use super::room::Room;
use super::together;
use crate::Told;
use crate::access::{KeySettings, destination};

/// The router of the dumper's own paths. `programs` is [`DumpOptions::programs`].
pub(super) fn router(
    root: CheckpointRoot,
    (programs, undo, room, keys): (Home, PathBuf, Room, KeySettings),
    (dirty_logs, parents): (PathBuf, Parents),
    operations: Operations,
    metrics: DumpMetrics,
    traces: Traces,
) -> Router {
    let dumper = Dumper {
        root,
        programs,
        undo,
        room,
        dirty_logs,
        parents,
        keys,
        metrics,
        traces,
        operations,
    };
    Router::new()
        .route("/v1/dumps", post(make))
        .route("/v1/dumps/together", post(together::make))
        .with_state(dumper)
}

/// What stays where it is while a dump is at work: the checkpoint that it leaves pages to, and the way to its own.
type Held = (Option<Parent>, Option<Way>);

/// What is dumped where; or why that cannot be.
fn prepare(
    dumper: &Dumper,
    request: &DumpRequest,
    user: Option<User>,
) -> Result<(DumpOptions, Box<dyn Destination>, Held), Problem> {
    let (options, kept) = options(dumper, request, user)?;
    let (directory, recipients) = (&request.directory, dumper.recipients()?);
    if request.dry_run {
        let (path, encrypts) = (directory.as_str().into(), recipients.is_some());
        let nowhere = Nowhere { path, encrypts };
        return Ok((options, Box::new(nowhere), (kept, None)));
    }
    let (path, way) = place_of(&dumper.root, user, directory)?;
    let directory = NewDirectory { path, options: WriteOptions::default() };
    Ok((options, destination(directory, recipients), (kept, Some(way))))
}

async fn make(
    State(dumper): State<Dumper>,
    asker: OnBehalfOf,
    operation: OperationName,
    Body(request): Body<DumpRequest>,
) -> Result<Json<DumpSummary>, Problem> {
    let (pid, dry_run) = (request.pid, request.dry_run);
    let dumped = if dry_run { Dumped::DryRun } else { Dumped::Alone };
    let directory = whole_name(asker.0, &request.directory)?;
    let asked = {
        let (dumper, request) = (dumper.clone(), request.clone());
        // A checkpoint that is being removed may hold it up.
        blocking(move || prepare(&dumper, &request, asker.0)).await
    };
    let (options, destination, held) = asked.inspect_err(|problem| {
        dumper.metrics.turned_away(dumped, problem);
        tracing::warn!("{asker}: dump process {pid}: {}", problem.detail.message);
    })?;
    let operation = dumper.operations.begin(operation, asker.0)?;
    let cancel = options.cancel.clone();
    operation.cancelled_by(move || cancel.cancel());
    let wanted = request.labels;
    let (metrics, room) = (dumper.metrics.clone(), dumper.room.clone());
    metrics.begun(dumped);
    let start = Instant::now();
    // The dump is finished and counted even when who asked hangs up: it cannot be half made.
    let work = tokio::task::spawn_blocking(move || {
        let room = match room.reserve(options.pid, asker.0) {
            Ok(room) => room,
            Err(problem) => {
                metrics.finished(dumped, Err(&problem));
                operation.end::<()>(Err(&problem));
                return Err(problem);
            }
        };
        let mut told = Told(operation.progress());
        let mut result = dump(&options, &*destination, &mut hooks::Nobody, &mut told);
        drop(room);
        if let Ok(report) = &mut result
            && !dry_run
        {
            let unlabelled = catalog::labels::unlabelled(destination.path(), Some(&wanted));
            report.warnings.extend(unlabelled);
        }
        // Of a dump that fails nothing is left; who hears that one is done finds nothing held.
        drop(held);
        let result = result.map_err(|error| problem(&error, options.pid));
        metrics.finished(dumped, result.as_ref());
        match &result {
            Ok(report) => operation.end(Ok(&DumpSummary::from(report))),
            Err(problem) => operation.end::<()>(Err(problem)),
        }
        result
    });
    match work.await {
        Ok(Ok(report)) => {
            let what = match dry_run {
                true => format!("tried a dump of process {pid}"),
                false => format!("dumped process {pid} to {directory}"),
            };
            tracing::info!(
                "{asker}: {what} in {:?}, frozen for {:?}",
                start.elapsed(),
                report.frozen
            );
            for warning in &report.warnings {
                tracing::warn!("{asker}: dump process {pid}: {warning}");
            }
            let steps = report.account.steps();
            if let Some(at) = report.frozen_at {
                dumper.traces.measured("frozen", at, report.frozen, &steps);
            }
            Ok(Json(DumpSummary::from(&report)))
        }
        Ok(Err(problem)) => {
            tracing::warn!("{asker}: dump process {pid}: {}", problem.detail.message);
            Err(problem)
        }
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Removes what dumpers that were killed left under the root: what they had written, and directories in which nothing came to be.
///
/// # Errors
/// If the root cannot be read.
pub(super) fn clear_leftovers(root: &CheckpointRoot) -> std::io::Result<()> {
    let mut directories = Vec::new();
    catalog::walk(root.as_path(), &mut |path, _| {
        for gone in images::clear(path).unwrap_or_default() {
            let (path, bytes) = (gone.path.display(), gone.bytes);
            tracing::info!("removed {path}, {bytes} bytes, which a dump that was killed had left");
        }
        directories.push(path.to_owned());
    })?;
    // Those above others come before them, and the root first.
    for unused in directories.iter().skip(1).rev() {
        if let Err(error) = service::remove_if_unused(unused) {
            tracing::warn!("{}, which nothing is in, stays: {error}", unused.display());
        }
    }
    Ok(())
}
