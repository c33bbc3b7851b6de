//! The dumper's paths for containers, which their engines checkpoint. They are root's: a user is given none.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::asked::place_of;
use super::metrics::DumpMetrics;
use super::room::{Reserved, Room};
use crate::access::{KeySettings, check_engine, no_access};
use crate::has_no_room;
use crate::trust::no_key;
use api::{
    Code, ContainerCheckpoint, ContainerDumpRequest, ContainerEngine, ContainerList, DumpSummary,
    User,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use containers::{Asked, Error, Listing, Places};
use ids::HostPid;
use images::Signer;
use serde::Serialize;
use service::{
    Body, CheckpointRoot, EngineSettings, OnBehalfOf, OperationName, Operations, Problem, blocking,
    chain,
};

/// Where engines keep their state, and stasis its own.
pub(super) fn places(engines: &EngineSettings, run_dir: &Path) -> Places {
    Places {
        runc: engines.runc_state.clone(),
        crun: engines.crun_state.clone(),
        containerd: engines.containerd_state.clone(),
        run_dir: run_dir.to_owned(),
        environment: Vec::new(),
    }
}

#[derive(Clone, Debug)]
struct Containers {
    root: CheckpointRoot,
    keys: KeySettings,
    places: Places,
    room: Room,
    operations: Operations,
    metrics: DumpMetrics,
}

/// The router of these paths.
pub(super) fn router(
    (root, keys): (CheckpointRoot, KeySettings),
    (places, room): (Places, Room),
    operations: Operations,
    metrics: DumpMetrics,
) -> Router {
    Router::new()
        .route("/v1/containers", get(list))
        .route("/v1/container-dumps", post(make))
        .route("/v1/container-dry-runs", post(make_dry))
        .with_state(Containers { root, keys, places, room, operations, metrics })
}

fn not_for(user: Option<User>) -> Result<(), Problem> {
    match user {
        None => Ok(()),
        Some(_) => {
            let message = "containers are root's, and so is what their engines are told";
            Err(Problem::new(StatusCode::FORBIDDEN, message)
                .remedy("have root send the request, or send it with the gateway's token"))
        }
    }
}

fn problem(error: &Error) -> Problem {
    let (status, field) = match error {
        Error::Refused(_) | Error::Unknown { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, Some("container"))
        }
        Error::Several { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Some("engine")),
        Error::Directory { .. } => (StatusCode::CONFLICT, Some("directory")),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    let mut problem = Problem::new(status, chain(error));
    if let Some(field) = field {
        problem = problem.of(field);
    }
    match error {
        Error::Refused(found) => return problem.refused(found),
        // The engine knows but that our `criu` failed; its log, which is told, begins so with what cannot be carried.
        Error::Failed { said, .. } if said.contains("cannot dump process") => {
            problem = problem.coded(Code::Refused);
        }
        error if has_no_room(error) => problem = problem.coded(Code::NoRoom),
        _ => {}
    }
    match error.remedy() {
        Some(remedy) => problem.remedy(remedy),
        None => problem,
    }
}

async fn list(
    State(asked): State<Containers>,
    OnBehalfOf(user): OnBehalfOf,
) -> Result<Json<ContainerList>, Problem> {
    not_for(user)?;
    Ok(Json(blocking(move || containers::list(&asked.places).told()).await))
}

async fn make(
    State(state): State<Containers>,
    asker: OnBehalfOf,
    operation: OperationName,
    Body(request): Body<ContainerDumpRequest>,
) -> Result<Json<ContainerCheckpoint>, Problem> {
    if request.dry_run {
        let message = "a dry run makes no checkpoint";
        return Err(Problem::field("dry_run", message).remedy("POST /v1/container-dry-runs"));
    }
    let frozen = |done: &ContainerCheckpoint| done.frozen_us;
    by_engine((state, asker, operation), request, checkpoint, frozen).await
}

async fn make_dry(
    State(state): State<Containers>,
    asker: OnBehalfOf,
    operation: OperationName,
    Body(request): Body<ContainerDumpRequest>,
) -> Result<Json<DumpSummary>, Problem> {
    let request = ContainerDumpRequest { dry_run: true, ..request };
    let frozen = |tried: &DumpSummary| Some(tried.frozen_us);
    by_engine((state, asker, operation), request, try_out, frozen).await
}

/// Does something by a container's engine, and counts and tells what came of it. `frozen` says for how long it stood still.
async fn by_engine<T: Serialize + Send + 'static>(
    (state, asker, operation): (Containers, OnBehalfOf, OperationName),
    request: ContainerDumpRequest,
    work: fn(&Containers, &ContainerDumpRequest) -> Result<T, Problem>,
    frozen: fn(&T) -> Option<u64>,
) -> Result<Json<T>, Problem> {
    not_for(asker.0)?;
    if CheckpointRoot::is_of_users(&request.directory) {
        let message = format!("directory {}: checkpoints of users lie there", request.directory);
        return Err(Problem::field("directory", message).remedy("name another directory"));
    }
    let operation = state.operations.begin(operation, asker.0)?;
    blocking(move || {
        let (name, dry_run) = (&request.container, request.dry_run);
        let start = Instant::now();
        state.metrics.container_begun(dry_run);
        let done = work(&state, &request);
        let counted = done.as_ref().map(frozen);
        state.metrics.container_finished(dry_run, counted, start.elapsed());
        operation.end(done.as_ref());
        let what = if dry_run { "try a checkpoint of container" } else { "checkpoint container" };
        match &done {
            Ok(_) => tracing::info!("{asker}: {what} {name:?}: it is done"),
            Err(problem) => tracing::warn!("{asker}: {what} {name:?}: {}", problem.detail.message),
        }
        done
    })
    .await
    .map(Json)
}

/// Finds out what a checkpoint would be.
fn try_out(state: &Containers, request: &ContainerDumpRequest) -> Result<DumpSummary, Problem> {
    let listing = may_be_asked(state)?;
    let container =
        listing.find(&request.container, request.engine).map_err(|error| problem(&error))?;
    let place = request.directory_wanted.then(|| place_of(&state.root, None, &request.directory));
    let (directory, _way) = place.transpose()?.unzip();
    let tried = containers::try_out(container, &asked(request, directory), &state.places);
    tried.map_err(|error| problem(&error))
}

/// The containers, if engines may make checkpoints here.
fn may_be_asked(state: &Containers) -> Result<Listing, Problem> {
    let keys = &state.keys;
    check_engine(&keys.recipients, keys.demand).map_err(|error| {
        Problem { status: StatusCode::UNPROCESSABLE_ENTITY, ..no_access(&error) }
            .coded(Code::Unsupported)
    })?;
    Ok(containers::list(&state.places))
}

fn asked(request: &ContainerDumpRequest, directory: Option<PathBuf>) -> Asked {
    Asked {
        directory,
        leave_running: request.leave_running,
        tcp_established: request.tcp_established,
        ext_unix_sk: false,
        shell_job: request.shell_job,
    }
}

fn checkpoint(
    state: &Containers,
    request: &ContainerDumpRequest,
) -> Result<ContainerCheckpoint, Problem> {
    let listing = may_be_asked(state)?;
    let container =
        listing.find(&request.container, request.engine).map_err(|error| problem(&error))?;
    // These keep their checkpoints themselves, where they are given no place.
    let keeps = [ContainerEngine::Podman, ContainerEngine::Docker];
    let keeps = keeps.contains(&container.summary().engine) && !request.directory_wanted;
    // What an engine keeps itself takes nothing of the room under the root.
    let (directory, _held) = match keeps {
        true => None,
        false => {
            let (directory, way) = place_of(&state.root, None, &request.directory)?;
            Some((directory, (way, room(state, container.summary().pid)?)))
        }
    }
    .unzip();
    let asked = asked(request, directory);
    if !request.labels.is_empty() && asked.directory.is_none() {
        let message = "the engine keeps the images itself, and no labels with them";
        return Err(Problem::field("labels", message).remedy("leave them out"));
    }
    let signer =
        Signer::asked(state.keys.signing.signing_key.as_deref()).map_err(|error| no_key(&error))?;
    let done = containers::checkpoint(container, &asked, &state.places);
    let mut done = done.map_err(|error| problem(&error))?;
    // The engine has ended it by now: an unsigned checkpoint is better than none.
    done.warnings.extend(unsigned(signer.as_deref(), asked.directory.as_deref()));
    let unlabelled = |it: &PathBuf| catalog::labels::unlabelled(it, Some(&request.labels));
    done.warnings.extend(asked.directory.as_ref().and_then(unlabelled));
    for warning in &done.warnings {
        tracing::warn!("checkpoint of {:?}: {warning}", request.container);
    }
    Ok(done)
}

/// Signs a checkpoint, if that is asked for; why it is not signed.
fn unsigned(signer: Option<&Signer>, directory: Option<&Path>) -> Option<String> {
    let signer = signer?;
    match directory.map(|directory| images::sign(directory, signer)) {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(format!("it is not signed: {}", chain(&error))),
        None => Some("it is not signed: the engine keeps the images itself".to_owned()),
    }
}

/// Refuses a container for whose images there is no room, before its engine hears of it. One without a process has nothing to
/// write, and its engine says why it is not checkpointed.
fn room(state: &Containers, first: Option<i32>) -> Result<Option<Reserved>, Problem> {
    let first = first.and_then(HostPid::new);
    first.map(|first| state.room.reserve(first, None)).transpose()
}
