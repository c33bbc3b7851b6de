//! `/v1/batches`: a checkpoint of each of several trees, one by one.

use api::{Batch, CheckpointRequest, Job, JobKind, RefusedTree};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use service::{Body, Problem};
use tokio::time::Instant;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Object;
use crate::callers::{Asker, Checkpoint, May};
use crate::checkpoints;
use crate::gateway::Gateway;
use crate::job_routes::{Manner, lost, once};
use crate::openapi::Problems;
use crate::wait::Wait;
use crate::work::listed;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(begin_each))
}

/// Starts a checkpoint of each tree that is named or selected, with a job for each: they stand still one by one, as their turn comes, and
/// what speaks against one is none of the others' business. Takes the role `checkpoint`.
#[utoipa::path(post, path = "/v1/batches", tag = "checkpoints", params(Wait, ("Idempotency-Key" = Option<String>, Header, description = "What the request is called: sent again with that name it begins nothing anew of the trees for which it has begun a job")), request_body = CheckpointRequest, responses((status = 200, description = "The jobs, all finished while they were waited for", body = Batch), (status = 202, description = "The jobs, some at work", body = Batch), Problems))]
async fn begin_each(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    manner: Manner,
    Body(request): Body<CheckpointRequest>,
) -> Result<(StatusCode, Extension<Object>, Json<Batch>), Problem> {
    let kind = if request.dry_run { JobKind::DryRun } else { JobKind::Checkpoint };
    let each = checkpoints::one_by_one(&gateway, &asker, request).await?;
    let about = each.iter().map(|(pid, _)| *pid).collect::<Vec<_>>();
    let about = Object::Named(format!("checkpoints of processes {}", listed(&about)));
    let (mut jobs, mut refused, mut first) = (Vec::new(), Vec::new(), None);
    for (pid, request) in each {
        let asked = manner.of_one(pid).of(kind, &request)?;
        let begin = checkpoints::begin_meant(&gateway, &asker, &asked, request);
        match once(&gateway, &asker, &asked, begin).await {
            Ok((_, _, _, Json(job))) => jobs.push(job),
            Err(problem) => {
                refused.push(RefusedTree { pid, error: problem.detail.clone() });
                first.get_or_insert(problem);
            }
        }
    }
    if let Some(problem) = first.filter(|_| jobs.is_empty()) {
        return Err(problem);
    }
    let end = Instant::now() + manner.patience();
    for job in &mut jobs {
        follow(&gateway, &asker, job, end).await?;
    }
    let are_over = jobs.iter().all(|job| job.state.is_over());
    let status = if are_over { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Extension(about), Json(Batch { jobs, refused })))
}

/// Waits for a job's end, if there is time, and tells it as it is then.
async fn follow(
    gateway: &Gateway,
    asker: &Asker,
    job: &mut Job,
    end: Instant,
) -> Result<(), Problem> {
    let time = end.saturating_duration_since(Instant::now());
    if time.is_zero() || job.state.is_over() {
        return Ok(());
    }
    if let Some(now) = gateway.jobs.wait(&job.id, asker, time).await.map_err(lost)? {
        *job = now;
    }
    Ok(())
}
