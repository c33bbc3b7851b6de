//! `/v1/tracks`, passed on to the collector, and `/v1/dirty-logs`, passed on to the dumper.

use std::collections::BTreeSet;

use api::{Track, TrackList, TrackRequest, TrackTarget};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use service::{Body, Problem};

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Object;
use crate::callers::{Asker, Checkpoint, May};
use crate::gateway::Gateway;
use crate::openapi::Problems;
use crate::restores;
use crate::services::problem;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(tracks, begin))
        .routes(routes!(track, end))
        .routes(routes!(inventory))
        .routes(routes!(end_log))
}

/// A number that can stand in a path.
fn number(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| no_track(id))
}

fn no_track(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no track {id}"))
        .of("id")
        .remedy("GET /v1/tracks lists those there are")
}

/// Begins a track: the kernel counts what its processes change. Takes the role `checkpoint`.
#[utoipa::path(post, path = "/v1/tracks", tag = "tracks", request_body = TrackRequest, responses((status = 201, description = "The track", body = Track), Problems))]
pub(crate) async fn begin(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    Body(request): Body<TrackRequest>,
) -> Result<(StatusCode, Extension<Object>, Json<Track>), Problem> {
    if let Some(roots) = roots(&gateway, &asker).await?
        && !request.tree.or(request.pid).is_some_and(|pid| roots.contains(&pid))
    {
        asker.bound_by_no_labels("processes that no checkpoint of yours was restored to")?;
    }
    let services = gateway.services.on_behalf_of(asker.user);
    let track = services.collector().post::<Track>("/v1/tracks", &request).await;
    let track = track.map_err(|error| problem(error, &asker))?;
    tracing::info!("{asker}: track {} of {:?}", track.id, track.target);
    let object = Extension(Object::Named(format!("track {} of {:?}", track.id, track.target)));
    Ok((StatusCode::CREATED, object, Json(track)))
}

/// The tracks that there are.
#[utoipa::path(get, path = "/v1/tracks", tag = "tracks", responses((status = 200, description = "The tracks", body = TrackList), Problems))]
async fn tracks(State(gateway): State<Gateway>, asker: Asker) -> Result<Json<TrackList>, Problem> {
    list(&gateway, &asker).await.map(Json)
}

/// The tracks that somebody may see: to who is bound to labels, those of trees that were restored from checkpoints that have them.
pub(crate) async fn list(gateway: &Gateway, asker: &Asker) -> Result<TrackList, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let listed = services.collector().get("/v1/tracks").await;
    let mut list: TrackList = listed.map_err(|error| problem(error, asker))?;
    if let Some(roots) = roots(gateway, asker).await? {
        list.tracks.retain(|track| is_of(&track.target, &roots));
    }
    Ok(list)
}

/// The roots of the restored trees that somebody may see who is bound to labels; `None`: he is bound to none.
async fn roots(gateway: &Gateway, asker: &Asker) -> Result<Option<BTreeSet<i32>>, Problem> {
    if asker.labels().is_empty() {
        return Ok(None);
    }
    let trees = restores::list(gateway, asker).await?.restores;
    Ok(Some(trees.iter().filter(|tree| tree.running).map(|tree| tree.pid).collect()))
}

/// Refuses a track that somebody who is bound to labels may not see.
async fn seen(gateway: &Gateway, asker: &Asker, id: u64) -> Result<(), Problem> {
    match asker.labels().is_empty() {
        true => Ok(()),
        false => find(gateway, asker, id).await.map(drop),
    }
}

fn is_of(target: &TrackTarget, roots: &BTreeSet<i32>) -> bool {
    match target {
        TrackTarget::Pid(pid) | TrackTarget::Tree(pid) => roots.contains(pid),
        TrackTarget::Cgroup(_) => false,
    }
}

/// A track that somebody may see.
async fn find(gateway: &Gateway, asker: &Asker, id: u64) -> Result<Track, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let found = services.collector().get(&format!("/v1/tracks/{id}")).await;
    let track: Track = found.map_err(|error| problem(error, asker))?;
    match roots(gateway, asker).await? {
        Some(roots) if !is_of(&track.target, &roots) => Err(no_track(&id.to_string())),
        _ => Ok(track),
    }
}

/// A track.
#[utoipa::path(get, path = "/v1/tracks/{id}", tag = "tracks", params(("id" = u64, Path, description = "The track")), responses((status = 200, description = "The track", body = Track), Problems))]
async fn track(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<Track>, Problem> {
    find(&gateway, &asker, number(&id)?).await.map(Json)
}

/// All that is known from outside of the processes of a track.
#[utoipa::path(get, path = "/v1/tracks/{id}/inventory", tag = "tracks", params(("id" = u64, Path, description = "The track")), responses((status = 200, description = "The inventory", body = serde_json::Value), Problems))]
async fn inventory(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, Problem> {
    let id = number(&id)?;
    seen(&gateway, &asker, id).await?;
    let path = format!("/v1/tracks/{id}/inventory");
    let services = gateway.services.on_behalf_of(asker.user);
    services.collector().get(&path).await.map(Json).map_err(|error| problem(error, &asker))
}

/// Ends a track. Takes the role `checkpoint`.
#[utoipa::path(delete, path = "/v1/tracks/{id}", tag = "tracks", params(("id" = u64, Path, description = "The track")), responses((status = 204, description = "It has ended"), Problems))]
pub(crate) async fn end(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = number(&id)?;
    seen(&gateway, &asker, id).await?;
    let path = format!("/v1/tracks/{id}");
    let services = gateway.services.on_behalf_of(asker.user);
    services.collector().delete(&path).await.map_err(|error| problem(error, &asker))?;
    tracing::info!("{asker}: end of track {id}");
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the logging of what a process and those below it change, which a checkpoint with `track` began. Takes the role `checkpoint`.
#[utoipa::path(delete, path = "/v1/dirty-logs/{pid}", tag = "tracks", params(("pid" = i32, Path, description = "The process at the root of the tree")), responses((status = 204, description = "It has ended"), Problems))]
async fn end_log(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    Path(pid): Path<String>,
) -> Result<StatusCode, Problem> {
    let is_pid = |number: &i32| *number > 0;
    let pid: i32 = pid.parse().ok().filter(is_pid).ok_or_else(|| {
        Problem::field("pid", format!("{pid} is no process"))
            .remedy("send the pid of a running process")
    })?;
    asker.bound_by_no_labels("logs of changed memory")?;
    let services = gateway.services.on_behalf_of(asker.user);
    let ended = services.dumper().delete(&format!("/v1/dirty-logs/{pid}")).await;
    ended.map_err(|error| problem(error, &asker))?;
    tracing::info!("{asker}: the memory of process {pid} is logged no longer");
    Ok(StatusCode::NO_CONTENT)
}
