//! `/v1/tracks`: passed on to the collector.

use api::{Track, TrackList, TrackRequest};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use service::{Body, Problem};

use crate::callers::Asker;
use crate::gateway::Gateway;
use crate::services::problem;

/// The paths.
pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route("/v1/tracks", get(tracks).post(begin))
        .route("/v1/tracks/{id}", get(track).delete(end))
        .route("/v1/tracks/{id}/inventory", get(inventory))
}

/// A number that can stand in a path.
fn number(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| {
        Problem::new(StatusCode::NOT_FOUND, format!("no track {id}"))
            .of("id")
            .remedy("GET /v1/tracks lists those there are")
    })
}

async fn begin(
    State(gateway): State<Gateway>,
    asker: Asker,
    Body(request): Body<TrackRequest>,
) -> Result<(StatusCode, Json<Track>), Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let track = services.collector().post::<Track>("/v1/tracks", &request).await;
    let track = track.map_err(|error| problem(error, asker))?;
    tracing::info!("{asker}: track {} of {:?}", track.id, track.target);
    Ok((StatusCode::CREATED, Json(track)))
}

async fn tracks(State(gateway): State<Gateway>, asker: Asker) -> Result<Json<TrackList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let tracks = services.collector().get("/v1/tracks").await;
    tracks.map(Json).map_err(|error| problem(error, asker))
}

async fn track(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<Track>, Problem> {
    let path = format!("/v1/tracks/{}", number(&id)?);
    let services = gateway.services.on_behalf_of(asker.user);
    services.collector().get(&path).await.map(Json).map_err(|error| problem(error, asker))
}

async fn inventory(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, Problem> {
    let path = format!("/v1/tracks/{}/inventory", number(&id)?);
    let services = gateway.services.on_behalf_of(asker.user);
    services.collector().get(&path).await.map(Json).map_err(|error| problem(error, asker))
}

async fn end(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let path = format!("/v1/tracks/{}", number(&id)?);
    let services = gateway.services.on_behalf_of(asker.user);
    services.collector().delete(&path).await.map_err(|error| problem(error, asker))?;
    tracing::info!("{asker}: end of track {id}");
    Ok(StatusCode::NO_CONTENT)
}
