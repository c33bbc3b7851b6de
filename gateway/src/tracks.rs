//! `/v1/tracks`, passed on to the collector, and `/v1/dirty-logs`, passed on to the dumper.

use api::{Track, TrackList, TrackRequest};
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
    id.parse().map_err(|_| {
        Problem::new(StatusCode::NOT_FOUND, format!("no track {id}"))
            .of("id")
            .remedy("GET /v1/tracks lists those there are")
    })
}

/// Begins a track: the kernel counts what its processes change. Takes the role `checkpoint`.
#[utoipa::path(post, path = "/v1/tracks", tag = "tracks", request_body = TrackRequest, responses((status = 201, description = "The track", body = Track), Problems))]
async fn begin(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    Body(request): Body<TrackRequest>,
) -> Result<(StatusCode, Extension<Object>, Json<Track>), Problem> {
    asker.bound_by_no_labels("tracks")?;
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
    asker.bound_by_no_labels("tracks")?;
    let services = gateway.services.on_behalf_of(asker.user);
    let tracks = services.collector().get("/v1/tracks").await;
    tracks.map(Json).map_err(|error| problem(error, &asker))
}

/// A track.
#[utoipa::path(get, path = "/v1/tracks/{id}", tag = "tracks", params(("id" = u64, Path, description = "The track")), responses((status = 200, description = "The track", body = Track), Problems))]
async fn track(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<Track>, Problem> {
    let path = format!("/v1/tracks/{}", number(&id)?);
    asker.bound_by_no_labels("tracks")?;
    let services = gateway.services.on_behalf_of(asker.user);
    services.collector().get(&path).await.map(Json).map_err(|error| problem(error, &asker))
}

/// All that is known from outside of the processes of a track.
#[utoipa::path(get, path = "/v1/tracks/{id}/inventory", tag = "tracks", params(("id" = u64, Path, description = "The track")), responses((status = 200, description = "The inventory", body = serde_json::Value), Problems))]
async fn inventory(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, Problem> {
    let path = format!("/v1/tracks/{}/inventory", number(&id)?);
    asker.bound_by_no_labels("tracks")?;
    let services = gateway.services.on_behalf_of(asker.user);
    services.collector().get(&path).await.map(Json).map_err(|error| problem(error, &asker))
}

/// Ends a track. Takes the role `checkpoint`.
#[utoipa::path(delete, path = "/v1/tracks/{id}", tag = "tracks", params(("id" = u64, Path, description = "The track")), responses((status = 204, description = "It has ended"), Problems))]
async fn end(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let path = format!("/v1/tracks/{}", number(&id)?);
    asker.bound_by_no_labels("tracks")?;
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
