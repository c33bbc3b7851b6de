//! What is in checkpoints: `/v1/comparisons`.

use api::{Comparison, ComparisonQuery};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use service::Problem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::callers::Asker;
use crate::checkpoints::found;
use crate::gateway::Gateway;
use crate::openapi::Problems;
use crate::services::problem;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(comparison))
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
