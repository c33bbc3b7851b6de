//! The paths.

use std::path::Path as FilePath;
use std::time::Duration;

use api::{
    After, AfterRestore, CheckpointList, CheckpointRequest, CheckpointSummary, Directory,
    DumpRequest, GatewayHealth, HealthState, Job, JobKind, JobList, ProcessList, RestoreJobRequest,
    RestoreRequest, RestoredList,
};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use service::{Body, Problem};
use tracing::Instrument;

use crate::jobs::Outcome;
use crate::services::{health, problem};
use crate::{GatewayMetrics, Jobs, Services};

const LONGEST_WAIT_MS: u64 = 60_000;

/// What the paths work with.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The services.
    pub services: Services,
    /// The jobs.
    pub jobs: Jobs,
    /// The metrics.
    pub metrics: GatewayMetrics,
}

/// The gateway's router.
pub fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/checkpoints", post(checkpoint).get(checkpoints))
        .route("/v1/checkpoints/{*directory}", get(one_checkpoint))
        .route("/v1/restores", post(restore).get(restores))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/processes", get(processes))
        .merge(crate::tracks::router())
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(gateway)
}

type Accepted = (StatusCode, [(HeaderName, String); 1], Json<Job>);

/// Notes a job and sets it to work.
fn start(
    gateway: &Gateway,
    kind: JobKind,
    pid: Option<i32>,
    directory: &Directory,
    work: impl Future<Output = Outcome> + Send + 'static,
) -> Result<Accepted, Problem> {
    let job = gateway.jobs.begin(kind, pid, directory.clone()).map_err(|other| {
        let message = format!("job {other} is at work on directory {directory}");
        Problem::new(StatusCode::CONFLICT, message)
            .of("directory")
            .remedy("wait until it is finished, or name another directory")
    })?;
    gateway.metrics.begun(kind);
    let (gateway, id) = (gateway.clone(), job.id.clone());
    // A task of its own: the job goes on when who asked for it hangs up.
    let task = async move {
        let outcome = work.await;
        match &outcome {
            Outcome::Failed(error) => tracing::warn!("job {id} failed: {}", error.message),
            Outcome::Dumped(_) | Outcome::Restored(_) => tracing::info!("job {id} is done"),
        }
        gateway.metrics.finished(kind, !matches!(outcome, Outcome::Failed(_)));
        gateway.jobs.finish(&id, outcome);
    };
    tokio::spawn(task.in_current_span());
    let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    Ok((StatusCode::ACCEPTED, location, Json(job)))
}

/// Refuses a pid that cannot be one, or that nobody has.
fn check_pid(pid: i32) -> Result<(), Problem> {
    let wrong =
        |message| Err(Problem::field("pid", message).remedy("send the pid of a running process"));
    if pid < 1 {
        return wrong(format!("pid is {pid}, a process id is 1 or more"));
    }
    // Where /proc hides the processes of others it hides process 1, and the dumper will tell.
    let shown = |pid: i32| FilePath::new(&format!("/proc/{pid}")).exists();
    if shown(1) && !shown(pid) {
        return wrong(format!("no process {pid}"));
    }
    Ok(())
}

async fn checkpoint(
    State(gateway): State<Gateway>,
    Body(request): Body<CheckpointRequest>,
) -> Result<Accepted, Problem> {
    check_pid(request.pid)?;
    let directory = match request.directory {
        Some(directory) => {
            if gateway.services.checkpoint(&directory).await.map_err(problem)?.is_some() {
                let message = format!("directory {directory} holds a checkpoint already");
                return Err(Problem::new(StatusCode::CONFLICT, message)
                    .of("directory")
                    .remedy("name another directory, or leave it out"));
            }
            directory
        }
        None => made_up(request.pid)?,
    };
    let asked = DumpRequest {
        pid: request.pid,
        directory: directory.clone(),
        after: if request.leave_running { After::Resume } else { After::Kill },
        shell_job: request.shell_job,
        max_freeze_ms: request.max_freeze_ms,
        timeout_ms: request.timeout_ms,
    };
    let services = gateway.services.clone();
    start(&gateway, JobKind::Checkpoint, Some(request.pid), &directory, async move {
        match services.dump(&asked).await {
            Ok(summary) => Outcome::Dumped(summary),
            Err(error) => Outcome::Failed(error.into_detail()),
        }
    })
}

/// A directory name for who named none.
fn made_up(pid: i32) -> Result<Directory, Problem> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{pid}-{}", &id[..12]).parse().map_err(|error: api::DirectoryError| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("make up a name: {error}"))
    })
}

async fn restore(
    State(gateway): State<Gateway>,
    Body(request): Body<RestoreJobRequest>,
) -> Result<Accepted, Problem> {
    let directory = request.directory;
    if gateway.services.checkpoint(&directory).await.map_err(problem)?.is_none() {
        return Err(no_checkpoint(&directory).of("directory"));
    }
    let asked = RestoreRequest {
        directory: directory.clone(),
        after: AfterRestore::Resume,
        shell_job: request.shell_job,
        cgroups: None,
    };
    let services = gateway.services.clone();
    start(&gateway, JobKind::Restore, None, &directory, async move {
        match services.restore(&asked).await {
            Ok(summary) => Outcome::Restored(summary),
            Err(error) => Outcome::Failed(error.into_detail()),
        }
    })
}

fn no_checkpoint(directory: &Directory) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no checkpoint {directory}"))
        .remedy("GET /v1/checkpoints lists those there are")
}

async fn restores(State(gateway): State<Gateway>) -> Result<Json<RestoredList>, Problem> {
    gateway.services.restores().await.map(Json).map_err(problem)
}

async fn checkpoints(State(gateway): State<Gateway>) -> Result<Json<CheckpointList>, Problem> {
    gateway.services.checkpoints().await.map(Json).map_err(problem)
}

async fn one_checkpoint(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
) -> Result<Json<CheckpointSummary>, Problem> {
    let directory: Directory = name.parse().map_err(|error: api::DirectoryError| {
        Problem::field("directory", error.to_string()).remedy(Directory::REMEDY)
    })?;
    let found = gateway.services.checkpoint(&directory).await.map_err(problem)?;
    found.map(Json).ok_or_else(|| no_checkpoint(&directory))
}

async fn jobs(State(gateway): State<Gateway>) -> Json<JobList> {
    Json(JobList { jobs: gateway.jobs.list() })
}

/// The query of a job's path.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

async fn job(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<Job>, Problem> {
    let wrong = |message| {
        Problem::field("wait_ms", message)
            .remedy(format!("send milliseconds, 0 to {LONGEST_WAIT_MS}, and no other parameter"))
    };
    let Query(Wait { wait_ms }) = wait.map_err(|rejection| wrong(rejection.body_text()))?;
    if wait_ms > LONGEST_WAIT_MS {
        return Err(wrong(format!("wait_ms is {wait_ms}")));
    }
    let found = gateway.jobs.wait(&id, Duration::from_millis(wait_ms)).await;
    found.map(Json).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("no job {id}"))
            .remedy("GET /v1/jobs lists those there are")
    })
}

async fn processes(State(gateway): State<Gateway>) -> Result<Json<ProcessList>, Problem> {
    gateway.services.processes().await.map(Json).map_err(problem)
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

async fn metrics(State(gateway): State<Gateway>) -> Result<Response, Problem> {
    gateway.metrics.page(gateway.services.all()).await
}
