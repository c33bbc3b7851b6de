//! `/v1/tracks`. On behalf of a user a track is begun, shown and ended if he may trace all of its
//! processes.

use std::sync::Arc;

use super::live::{self, Live};
use api::{Code, TrackList, TrackRequest, TrackTarget, User};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use collector::{Inventory, Track, TrackError};
use ids::HostPid;
use kernel::rights::{self, Right};
use service::{Body, OnBehalfOf, Problem, blocking, chain};

/// The paths.
pub(crate) fn router() -> Router<Arc<Live>> {
    Router::new()
        .route("/v1/tracks", get(tracks).post(begin))
        .route("/v1/tracks/{id}", get(track).delete(end))
        .route("/v1/tracks/{id}/inventory", get(inventory))
}

async fn begin(
    State(live): State<Arc<Live>>,
    asker: OnBehalfOf,
    Body(request): Body<TrackRequest>,
) -> Result<(StatusCode, Json<api::Track>), Problem> {
    let target = target(&request)?;
    let field = match &target {
        TrackTarget::Pid(_) => "pid",
        TrackTarget::Tree(_) => "tree",
        TrackTarget::Cgroup(_) => "cgroup",
    };
    may_begin(asker.0, &target, request.files).await.inspect_err(|problem| {
        tracing::warn!("{asker}: track {target:?}: {}", problem.detail.message);
    })?;
    let live_too = live.clone();
    let begun = blocking(move || live.begin_track(&target, request.files)).await;
    let track = begun.map_err(|error| problem(&error, Some(field)))?;
    // A program that gives rights may have been executed meanwhile.
    if !is_his(asker.0, &track).await? {
        let id = track.id;
        let ended = blocking(move || live_too.end_track(id)).await;
        ended.map_err(|error| problem(&error, None))?;
        return Err(not_his(field));
    }
    tracing::info!("{asker}: began track {} of {:?}", track.id, track.target);
    Ok((StatusCode::CREATED, Json(told(track))))
}

/// Whether a user may have this tracked at all, and processes that are his.
async fn may_begin(user: Option<User>, target: &TrackTarget, files: bool) -> Result<(), Problem> {
    if user.is_none() {
        return Ok(());
    }
    if files {
        let message = "counting system calls makes every call of the machine slower: it is not \
                       done on behalf of a user";
        return Err(Problem::new(StatusCode::FORBIDDEN, message).of("files").remedy(
            "leave it out, or have root send the request (or send it with the gateway's token)",
        ));
    }
    let (field, pids) = match target {
        TrackTarget::Pid(pid) => ("pid", HostPid::new(*pid).into_iter().collect()),
        // One that has gone is not his, either.
        TrackTarget::Tree(root) => {
            let tree = HostPid::new(*root).and_then(|root| collector::tree(root).ok());
            ("tree", tree.unwrap_or_default())
        }
        TrackTarget::Cgroup(_) => return Err(not_his("cgroup")),
    };
    if pids.is_empty() || !may_trace(user, pids).await? { Err(not_his(field)) } else { Ok(()) }
}

fn not_his(field: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "a user may only have processes tracked that he may trace")
        .of(field)
        .remedy("name a process of your own, none of whose tree has other rights, or have root send the request (or send it with the gateway's token)")
}

async fn is_his(user: Option<User>, track: &Track) -> Result<bool, Problem> {
    may_trace(user, track.processes.keys().copied().collect()).await
}

/// Whether who asks may trace all of these.
async fn may_trace(user: Option<User>, pids: Vec<HostPid>) -> Result<bool, Problem> {
    let Some(User { uid, gid }) = user else { return Ok(true) };
    let asked = blocking(move || {
        let held = rights::held(rights::User { uid, gid }, Right::Attach, &pids);
        held.map(|held| pids.iter().all(|pid| held.contains(pid)))
    });
    asked.await.map_err(|error| {
        let message = format!("ask what uid {uid} may trace: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
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

async fn tracks(
    State(live): State<Arc<Live>>,
    OnBehalfOf(user): OnBehalfOf,
) -> Result<Json<TrackList>, Problem> {
    let all = blocking(move || live.all_tracks()).await;
    let all = match all {
        // None can be made, so there are none.
        Err(TrackError::Unsupported) => Vec::new(),
        all => all.map_err(|error| problem(&error, None))?,
    };
    let mut tracks = Vec::new();
    for track in all {
        if is_his(user, &track).await? {
            tracks.push(told(track));
        }
    }
    Ok(Json(TrackList { tracks }))
}

/// The track of an id; to a user there are none but his.
async fn find(live: &Arc<Live>, user: Option<User>, id: &str) -> Result<Track, Problem> {
    let (live, number) = (live.clone(), number(id)?);
    let found = blocking(move || live.track(number)).await;
    match found.map_err(|error| problem(&error, None))? {
        Some(track) if is_his(user, &track).await? => Ok(track),
        _ => Err(no_track(id)),
    }
}

async fn track(
    State(live): State<Arc<Live>>,
    OnBehalfOf(user): OnBehalfOf,
    Path(id): Path<String>,
) -> Result<Json<api::Track>, Problem> {
    find(&live, user, &id).await.map(|track| Json(told(track)))
}

async fn inventory(
    State(live): State<Arc<Live>>,
    OnBehalfOf(user): OnBehalfOf,
    Path(id): Path<String>,
) -> Result<Json<Inventory>, Problem> {
    let number = find(&live, user, &id).await?.id;
    let taken = blocking(move || live.track_inventory(number)).await;
    let taken = taken.map_err(|error| problem(&error, None))?;
    let found = taken.map_err(|error| untaken(&format!("the inventory of track {id}"), &error))?;
    let inventory = found.ok_or_else(|| no_track(&id))?;
    // It tells of those that were there when it was taken.
    match may_trace(user, inventory.processes.keys().copied().collect()).await? {
        true => Ok(Json(inventory)),
        false => Err(no_track(&id)),
    }
}

async fn end(
    State(live): State<Arc<Live>>,
    asker: OnBehalfOf,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let number = match asker.0 {
        Some(_) => find(&live, asker.0, &id).await?.id,
        None => number(&id)?,
    };
    let ended = blocking(move || live.end_track(number)).await;
    match ended.map_err(|error| problem(&error, None))? {
        true => {
            tracing::info!("{asker}: ended track {id}");
            Ok(StatusCode::NO_CONTENT)
        }
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
        pid: pid.get(),
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

/// That an inventory could not be taken.
pub(crate) fn untaken(what: &str, error: &collector::Error) -> Problem {
    let code = live::code(error);
    let status = match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, format!("take {what}: {}", chain(error))).coded(code)
}
