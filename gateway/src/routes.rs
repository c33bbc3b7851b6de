//! The paths.

use api::{ContainerList, GatewayHealth, HealthState, ProcessList, ProcessQuery};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use service::Problem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::callers::{Asker, Scraper};
use crate::gateway::Gateway;
use crate::health::how_well;
use crate::openapi::{self, Problems};
use crate::services::{problem, with_query};

/// All paths, and what is said of them. The doors before them (`doors.rs`) say who asks.
fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::with_openapi(openapi::document())
        .merge(crate::checkpoints::router())
        .merge(crate::batches::router())
        .merge(crate::contents::router())
        .merge(crate::archives::router())
        .merge(crate::restores::router())
        .merge(crate::job_routes::router())
        .merge(crate::events::router())
        .routes(routes!(processes))
        .routes(routes!(containers))
        .merge(crate::nodes::router())
        .merge(crate::tracks::router())
        .merge(crate::token_routes::router())
        .merge(crate::policy_routes::router())
        .routes(routes!(healthz))
        .routes(routes!(metrics))
}

/// The description of the API for programs (OpenAPI 3.1), as it is served.
#[must_use]
pub fn openapi() -> String {
    openapi::text(&routes().into_openapi())
}

/// The gateway's router.
pub fn router(gateway: Gateway) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = openapi::text(&document);
    let served =
        get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) });
    router.route("/openapi.json", served).merge(crate::page::router()).with_state(gateway)
}

/// What runs on the machine, what of it can be checkpointed, and what speaks against it.
#[utoipa::path(get, path = "/v1/processes", tag = "machine", params(ProcessQuery), responses((status = 200, description = "A page of them", body = ProcessList), Problems))]
async fn processes(
    State(gateway): State<Gateway>,
    asker: Asker,
    RawQuery(query): RawQuery,
) -> Result<Json<ProcessList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let listed = services.dumper().get(&with_query("/v1/processes", query)).await;
    listed.map(Json).map_err(|error| problem(error, &asker))
}

/// The containers of Docker, containerd, Podman, crun and runc, and what speaks against a checkpoint of each.
#[utoipa::path(get, path = "/v1/containers", tag = "machine", responses((status = 200, description = "The containers", body = ContainerList), Problems))]
async fn containers(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Json<ContainerList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    services.containers().await.map(Json).map_err(|error| problem(error, &asker))
}

/// Whether the services answer. Open to all.
#[utoipa::path(get, path = "/healthz", tag = "machine", security(()), responses((status = 200, description = "All services are well", body = GatewayHealth), (status = 503, description = "Some are not", body = GatewayHealth), Problems))]
async fn healthz(State(gateway): State<Gateway>) -> (StatusCode, Json<GatewayHealth>) {
    let health = how_well(&gateway.services, &gateway.metrics).await;
    let code = match health.status {
        HealthState::Ok => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(health))
}

/// The metrics of the gateway and of the services that answer, as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "machine", responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"), Problems))]
async fn metrics(State(gateway): State<Gateway>, _: Scraper) -> Result<Response, Problem> {
    gateway.metrics.page(gateway.services.all()).await
}
