//! `/v1/tracks`.

use std::sync::Arc;

use api::{TrackList, TrackRequest, TrackTarget};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use service::{Body, Problem, chain};
use stasis_collector::{Inventory, Live, Track, TrackError};

/// The paths.
pub(crate) fn router() -> Router<Arc<Live>> {
    Router::new()
        .route("/v1/tracks", get(tracks).post(begin))
        .route("/v1/tracks/{id}", get(track).delete(end))
        .route("/v1/tracks/{id}/inventory", get(inventory))
}

async fn begin(
    State(live): State<Arc<Live>>,
    Body(request): Body<TrackRequest>,
) -> Result<(StatusCode, Json<api::Track>), Problem> {
    let target = target(&request)?;
    let field = match &target {
        TrackTarget::Pid(_) => "pid",
        TrackTarget::Tree(_) => "tree",
        TrackTarget::Cgroup(_) => "cgroup",
    };
    let begun = blocking(move || live.begin_track(&target, request.files)).await?;
    let track = begun.map_err(|error| problem(&error, Some(field)))?;
    Ok((StatusCode::CREATED, Json(told(track))))
}

fn target(request: &TrackRequest) -> Result<TrackTarget, Problem> {
    let target = match (request.pid, request.tree, &request.cgroup) {
        (Some(pid), None, None) => TrackTarget::Pid(pid),
        (None, Some(root), None) => TrackTarget::Tree(root),
        (None, None, Some(name)) => TrackTarget::Cgroup(name.clone()),
        (None, None, None) => {
            return Err(Problem::field("pid", "nothing is named to be tracked")
                .remedy("send one of pid, tree and cgroup"));
        }
        (pid, ..) => {
            let field = if pid.is_some() { "pid" } else { "tree" };
            return Err(Problem::field(field, "more than one thing is named to be tracked")
                .remedy("send one of pid, tree and cgroup"));
        }
    };
    if let TrackTarget::Pid(pid) | TrackTarget::Tree(pid) = target
        && pid < 1
    {
        let field = if request.pid.is_some() { "pid" } else { "tree" };
        return Err(Problem::field(field, format!("{pid} is no process id"))
            .remedy("send the pid of a running process"));
    }
    Ok(target)
}

async fn tracks(State(live): State<Arc<Live>>) -> Result<Json<TrackList>, Problem> {
    let all = blocking(move || live.all_tracks()).await?;
    let all = match all {
        // None can be made, so there are none.
        Err(TrackError::Unsupported) => Vec::new(),
        all => all.map_err(|error| problem(&error, None))?,
    };
    Ok(Json(TrackList { tracks: all.into_iter().map(told).collect() }))
}

async fn track(
    State(live): State<Arc<Live>>,
    Path(id): Path<String>,
) -> Result<Json<api::Track>, Problem> {
    let number = number(&id)?;
    let found = blocking(move || live.track(number)).await?;
    let found = found.map_err(|error| problem(&error, None))?;
    found.map(|track| Json(told(track))).ok_or_else(|| no_track(&id))
}

async fn inventory(
    State(live): State<Arc<Live>>,
    Path(id): Path<String>,
) -> Result<Json<Inventory>, Problem> {
    let number = number(&id)?;
    let taken = blocking(move || live.track_inventory(number)).await?;
    let taken = taken.map_err(|error| problem(&error, None))?;
    let found = taken.map_err(|error| {
        let message = format!("take the inventory of track {id}: {}", chain(&error));
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })?;
    found.map(Json).ok_or_else(|| no_track(&id))
}

async fn end(State(live): State<Arc<Live>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let number = number(&id)?;
    let ended = blocking(move || live.end_track(number)).await?;
    match ended.map_err(|error| problem(&error, None))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_track(&id)),
    }
}

/// A path with a text that is no number names no track.
fn number(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| no_track(id))
}

fn no_track(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no track {id}"))
        .of("id")
        .remedy("GET /v1/tracks lists those there are; a track ends with its last process")
}

fn problem(error: &TrackError, field: Option<&str>) -> Problem {
    let (status, remedy) = match error {
        TrackError::Unsupported => (
            StatusCode::NOT_IMPLEMENTED,
            "the collector's log says why; dumps work without, and read everything anew",
        ),
        TrackError::Nobody { .. } | TrackError::Process { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "name what runs: GET /v1/processes lists it")
        }
        TrackError::Cgroup { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "name it as /proc/PID/cgroup does: /box/one")
        }
        TrackError::Taken { .. } => (StatusCode::CONFLICT, "use that track, or delete it first"),
        TrackError::Full => (
            StatusCode::INSUFFICIENT_STORAGE,
            "delete a track, or start the collector with a larger --tracked-processes",
        ),
        TrackError::Bpf(_) => (StatusCode::INTERNAL_SERVER_ERROR, "see the collector's log"),
    };
    let problem = Problem::new(status, chain(error)).remedy(remedy);
    match field.filter(|_| status.is_client_error()) {
        Some(field) => problem.of(field),
        None => problem,
    }
}

fn told(track: Track) -> api::Track {
    let processes = track.processes.into_iter().map(|(pid, process)| api::TrackedProcess {
        pid,
        comm: std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .map(|name| name.trim_end().to_owned())
            .unwrap_or_default(),
        threads: process.threads,
        files: process.files,
        memory: process.memory,
        credentials: process.credentials,
    });
    api::Track {
        id: track.id,
        target: track.target,
        files: track.calls,
        created_ms: track.created_ms,
        stale: track.lost > 0,
        lost: track.lost,
        tree: track.tree,
        processes: processes.collect(),
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => Ok(answer),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
