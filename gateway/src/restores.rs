//! `/v1/restores`.

use api::{AfterRestore, JobKind, RestoreJobRequest, RestoreRequest, RestoredList};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use service::{Body, Problem};

use crate::callers::Asker;
use crate::checkpoints::no_checkpoint;
use crate::gateway::Gateway;
use crate::job_routes::{Accepted, Manner, sent_before, start};
use crate::services::problem;
use crate::work::Work;

/// The paths.
pub(crate) fn router() -> Router<Gateway> {
    Router::new().route("/v1/restores", post(restore).get(restores))
}

async fn restore(
    State(gateway): State<Gateway>,
    asker: Asker,
    manner: Manner,
    Body(request): Body<RestoreJobRequest>,
) -> Result<Accepted, Problem> {
    if let Some(job) = sent_before(&gateway, asker, &manner, JobKind::Restore, &request).await? {
        return Ok(job);
    }
    let services = gateway.services.on_behalf_of(asker.user);
    let directory = &request.directory;
    let found = services.checkpoint(directory).await;
    if found.map_err(|error| problem(error, asker))?.is_none() {
        return Err(no_checkpoint(directory).of("directory"));
    }
    let asked = RestoreRequest {
        directory: directory.clone(),
        after: AfterRestore::Resume,
        shell_job: request.shell_job,
        tcp_close: request.tcp_close,
        cgroups: request.cgroups,
    };
    start(&gateway, asker, manner, &request, Work::Restore(asked)).await
}

async fn restores(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Json<RestoredList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    services.restores().await.map(Json).map_err(|error| problem(error, asker))
}
