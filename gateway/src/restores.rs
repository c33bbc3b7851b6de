//! `/v1/restores`.

use api::{AfterRestore, Job, JobKind, RestoreJobRequest, RestoreRequest, RestoredList};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use service::{Body, Problem};

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::callers::{Asker, May, Restore};
use crate::checkpoints::found;
use crate::gateway::Gateway;
use crate::job_routes::{Accepted, Asked, Begin, Manner, once, start};
use crate::openapi::Problems;
use crate::services::problem;
use crate::wait::Wait;
use crate::work::Work;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(restore, restores))
}

/// Starts a restore. Takes the role `restore`.
#[utoipa::path(post, path = "/v1/restores", tag = "restores", params(Wait, ("Idempotency-Key" = Option<String>, Header, description = "What the request is called: sent again with that name it begins nothing anew")), request_body = RestoreJobRequest, responses((status = 200, description = "The job, finished while it was waited for", body = Job), (status = 202, description = "The job, at work", body = Job), Problems))]
pub(crate) async fn restore(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Restore>,
    manner: Manner,
    Body(request): Body<RestoreJobRequest>,
) -> Result<Accepted, Problem> {
    let asked = manner.of(JobKind::Restore, &request)?;
    once(&gateway, &asker, &asked, begin(&gateway, &asker, &asked, &request)).await
}

/// Starts a restore of what is there and does not run.
async fn begin(
    gateway: &Gateway,
    asker: &Asker,
    asked: &Asked,
    request: &RestoreJobRequest,
) -> Result<Accepted, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let directory = &request.directory;
    let found = found(gateway, asker, directory).await?;
    // What runs already would be refused later, and could be taken for what this one makes.
    let trees = services.restores().await.map_err(|error| problem(error, asker))?.restores;
    if let Some(tree) = trees.iter().find(|tree| tree.running && tree.directory == *directory) {
        let message = format!("{directory} runs: it was restored as process {}", tree.pid);
        return Err(Problem::new(StatusCode::CONFLICT, message)
            .of("directory")
            .remedy(format!("end it before it is restored again: kill {}", tree.pid)));
    }
    let restore = RestoreRequest {
        directory: directory.clone(),
        after: AfterRestore::Resume,
        shell_job: request.shell_job,
        tcp_close: request.tcp_close,
        cgroups: request.cgroups,
        // Whoever sent it had processes in mind that others are not to make for him.
        any_origin: asker.is_unbound_admin(),
    };
    let (work, labels, priority) = (Work::Restore(restore), found.labels, request.priority);
    start(gateway, asker, asked, Begin { work, labels, priority }).await
}

/// What was restored, newest first, and how it ended.
#[utoipa::path(get, path = "/v1/restores", tag = "restores", responses((status = 200, description = "The trees", body = RestoredList), Problems))]
async fn restores(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Json<RestoredList>, Problem> {
    list(&gateway, &asker).await.map(Json)
}

/// The restored trees that somebody may see: to who is bound to labels, those whose checkpoints had them when they were restored.
pub(crate) async fn list(gateway: &Gateway, asker: &Asker) -> Result<RestoredList, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let mut list = services.restores().await.map_err(|error| problem(error, asker))?;
    list.restores.retain(|tree| tree.labels.have(asker.labels()));
    Ok(list)
}
