//! The paths.

use api::{ContainerList, GatewayHealth, HealthState, ProcessList};
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use service::Problem;

use crate::callers::{Asker, Scraper};
use crate::gateway::Gateway;
use crate::services::{health, problem, with_query};

/// The gateway's router; the doors before it (`doors.rs`) say who asks.
pub fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/processes", get(processes))
        .route("/v1/containers", get(containers))
        .merge(crate::checkpoints::router())
        .merge(crate::restores::router())
        .merge(crate::job_routes::router())
        .merge(crate::tracks::router())
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(gateway)
}

async fn processes(
    State(gateway): State<Gateway>,
    asker: Asker,
    RawQuery(query): RawQuery,
) -> Result<Json<ProcessList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let listed = services.dumper().get(&with_query("/v1/processes", query)).await;
    listed.map(Json).map_err(|error| problem(error, asker))
}

async fn containers(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Json<ContainerList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    services.containers().await.map(Json).map_err(|error| problem(error, asker))
}

async fn healthz(State(gateway): State<Gateway>) -> (StatusCode, Json<GatewayHealth>) {
    let clients = gateway.services.all();
    let [a, b, c, d] = clients.map(health);
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let mut status = HealthState::Ok;
    let mut services = std::collections::BTreeMap::new();
    for (client, health) in clients.into_iter().zip([a, b, c, d]) {
        if health.status != HealthState::Ok {
            status = HealthState::Degraded;
        }
        gateway.metrics.seen(client.service(), health.status);
        services.insert(client.service().to_owned(), health);
    }
    let code = match status {
        HealthState::Ok => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    (code, Json(GatewayHealth { status, version, services }))
}

async fn metrics(State(gateway): State<Gateway>, _: Scraper) -> Result<Response, Problem> {
    gateway.metrics.page(gateway.services.all()).await
}
