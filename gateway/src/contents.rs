//! What is in checkpoints, and what differs between two: `/v1/contents`, `/v1/comparisons`.

use api::{CheckpointContents, Comparison, ComparisonQuery};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use service::Problem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::callers::Asker;
use crate::checkpoints::{find, found};
use crate::gateway::Gateway;
use crate::openapi::Problems;
use crate::services::problem;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(comparison)).routes(routes!(contents))
}

/// What differs between two checkpoints: tasks, memory, files.
#[utoipa::path(get, path = "/v1/comparisons", tag = "checkpoints", params(ComparisonQuery), responses((status = 200, description = "What differs", body = Comparison), Problems))]
async fn comparison(
    State(gateway): State<Gateway>,
    asker: Asker,
    query: Result<Query<ComparisonQuery>, QueryRejection>,
) -> Result<Json<Comparison>, Problem> {
    let Query(asked) = query.map_err(|rejection| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text())
            .remedy("send before and after, each the directory of a checkpoint")
    })?;
    compare(&gateway, &asker, &asked).await.map(Json)
}

/// Compares two checkpoints, if somebody may see both.
pub(crate) async fn compare(
    gateway: &Gateway,
    asker: &Asker,
    ComparisonQuery { before, after }: &ComparisonQuery,
) -> Result<Comparison, Problem> {
    for (field, directory) in [("before", before), ("after", after)] {
        found(gateway, asker, directory).await.map_err(|problem| problem.of(field))?;
    }
    let services = gateway.services.on_behalf_of(asker.user);
    // The characters that a directory may have need no escape in a query.
    let path = format!("/v1/comparisons?before={before}&after={after}");
    services.dumper().look(&path).await.map_err(|error| problem(error, asker))
}

/// What is in a checkpoint: processes, memory, files, images, times.
#[utoipa::path(get, path = "/v1/contents/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), responses((status = 200, description = "What is in it", body = CheckpointContents), Problems))]
async fn contents(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Json<CheckpointContents>, Problem> {
    inside(&gateway, &asker, &name).await.map(Json)
}

/// What is in a checkpoint, if somebody may see it.
pub(crate) async fn inside(
    gateway: &Gateway,
    asker: &Asker,
    name: &str,
) -> Result<CheckpointContents, Problem> {
    let directory = find(gateway, asker, name).await?.directory;
    let services = gateway.services.on_behalf_of(asker.user);
    let told = services.dumper().look(&format!("/v1/contents/{directory}")).await;
    told.map_err(|error| problem(error, asker))
}
