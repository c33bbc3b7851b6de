//! The paths.

use std::path::Path as FilePath;
use std::time::Duration;

use api::{
    After, AfterRestore, CheckpointList, CheckpointRequest, CheckpointSummary,
    ContainerDumpRequest, ContainerList, Directory, DumpRequest, ErrorDetail, GatewayHealth,
    HealthState, Job, JobKind, JobList, ProcessList, RestoreJobRequest, RestoreRequest,
    RestoredList,
};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use service::{Body, ClientError, Problem};
use tracing::Instrument;

use crate::GatewayMetrics;
use crate::callers::{Asker, Scraper};
use crate::gateway::Gateway;
use crate::jobs::{NoJob, Outcome, Target};
use crate::services::{health, problem};

const LONGEST_WAIT_MS: u64 = 60_000;

/// The gateway's router; the doors before it (`doors.rs`) say who asks.
pub fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/checkpoints", post(checkpoint).get(checkpoints))
        .route("/v1/checkpoints/{*directory}", get(one_checkpoint))
        .route("/v1/restores", post(restore).get(restores))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/processes", get(processes))
        .route("/v1/containers", get(containers))
        .merge(crate::tracks::router())
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(gateway)
}

type Accepted = (StatusCode, [(HeaderName, String); 1], Json<Job>);

/// What is to be done.
struct Task {
    asker: Asker,
    kind: JobKind,
    target: Target,
    directory: Directory,
}

/// Notes a job and sets it to work.
fn start(
    gateway: &Gateway,
    task: Task,
    work: impl Future<Output = Outcome> + Send + 'static,
) -> Result<Accepted, Problem> {
    let Task { asker, kind, target, directory } = task;
    let what = match &target {
        Target::Process(pid) => format!("checkpoint of process {pid} to {directory}"),
        Target::Container(name) => format!("checkpoint of container {name:?} to {directory}"),
        Target::Images => format!("restore of {directory}"),
    };
    let job = gateway.jobs.begin(kind, target, directory.clone(), asker);
    let job = job.map_err(|none| match none {
        NoJob::Busy(other) => {
            let message = format!("job {other} is at work on directory {directory}");
            Problem::new(StatusCode::CONFLICT, message)
                .of("directory")
                .remedy("wait until it is finished, or name another directory")
        }
        NoJob::TooMany => {
            let message = format!("{asker} has as many jobs at work as one user may have");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
                .remedy("wait until one is finished: GET /v1/jobs/ID?wait_ms=60000")
        }
    })?;
    tracing::info!("{asker}: job {}, {what}", job.id);
    gateway.metrics.begun(kind);
    let (gateway, id) = (gateway.clone(), job.id.clone());
    // A task of its own: the job goes on when who asked for it hangs up.
    let task = async move {
        let outcome = work.await;
        match &outcome {
            Outcome::Failed(error) => {
                tracing::warn!("{asker}: job {id}, {what}, failed: {}", error.message);
            }
            _ => tracing::info!("{asker}: job {id}, {what}, is done"),
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
    asker: Asker,
    Body(request): Body<CheckpointRequest>,
) -> Result<Accepted, Problem> {
    let Some(stays) = request.leave_running else {
        let message = "nothing says what becomes of the tree";
        return Err(Problem::field("leave_running", message).remedy(
            "send true, and it runs on, or false, and it is ended once its images are safe",
        ));
    };
    match (request.pid, &request.container) {
        (Some(pid), None) => checkpoint_of_process(gateway, asker, request, pid, stays).await,
        (None, Some(name)) => {
            let name = name.clone();
            checkpoint_of_container(gateway, asker, request, name, stays).await
        }
        (Some(_), Some(_)) => {
            let message = "both a process and a container are named";
            Err(Problem::field("container", message).remedy("leave one of them out"))
        }
        (None, None) => {
            let message = "neither a process nor a container is named";
            Err(Problem::field("pid", message)
                .remedy("send the pid of a running process, or the name of a container"))
        }
    }
}

async fn checkpoint_of_process(
    gateway: Gateway,
    asker: Asker,
    request: CheckpointRequest,
    pid: i32,
    stays: bool,
) -> Result<Accepted, Problem> {
    if request.engine.is_some() {
        let message = "an engine is named, and no container";
        return Err(Problem::field("engine", message).remedy("leave it out"));
    }
    check_pid(pid)?;
    let services = gateway.services.on_behalf_of(asker.user);
    let directory = free(&gateway, asker, request.directory, &pid.to_string()).await?;
    let asked = DumpRequest {
        pid,
        directory: directory.clone(),
        after: if stays { After::Resume } else { After::Kill },
        shell_job: request.shell_job,
        tcp_established: request.tcp_established,
        tcp_close: request.tcp_close,
        skip_in_flight: request.skip_in_flight,
        link_remap: request.link_remap,
        max_freeze_ms: request.max_freeze_ms,
        timeout_ms: request.timeout_ms,
    };
    let target = Target::Process(pid);
    let task = Task { asker, kind: JobKind::Checkpoint, target, directory };
    let failures = gateway.metrics.clone();
    start(&gateway, task, async move {
        match services.dump(&asked).await {
            Ok(summary) => Outcome::Dumped(summary),
            Err(error) => Outcome::Failed(failed(error, &failures)),
        }
    })
}

async fn checkpoint_of_container(
    gateway: Gateway,
    asker: Asker,
    request: CheckpointRequest,
    name: String,
    stays: bool,
) -> Result<Accepted, Problem> {
    // What no engine's own command has.
    for (field, wanted) in [
        ("tcp_close", request.tcp_close),
        ("skip_in_flight", request.skip_in_flight),
        ("link_remap", request.link_remap),
        ("max_freeze_ms", request.max_freeze_ms.is_some()),
        ("timeout_ms", request.timeout_ms.is_some()),
    ] {
        if wanted {
            let message = "engines of containers checkpoint without anything like it";
            return Err(Problem::field(field, message).remedy("leave it out"));
        }
    }
    let services = gateway.services.on_behalf_of(asker.user);
    let directory_wanted = request.directory.is_some();
    let directory = free(&gateway, asker, request.directory, "container").await?;
    let asked = ContainerDumpRequest {
        container: name.clone(),
        engine: request.engine,
        directory: directory.clone(),
        directory_wanted,
        leave_running: stays,
        shell_job: request.shell_job,
        tcp_established: request.tcp_established,
    };
    let task =
        Task { asker, kind: JobKind::Checkpoint, target: Target::Container(name), directory };
    let failures = gateway.metrics.clone();
    start(&gateway, task, async move {
        match services.checkpoint_container(&asked).await {
            Ok(summary) => Outcome::Checkpointed(summary),
            Err(error) => Outcome::Failed(failed(error, &failures)),
        }
    })
}

/// The directory that is asked for, if it is free, or one that is made up.
async fn free(
    gateway: &Gateway,
    asker: Asker,
    wanted: Option<Directory>,
    of: &str,
) -> Result<Directory, Problem> {
    let Some(directory) = wanted else { return made_up(of) };
    let found = gateway.services.on_behalf_of(asker.user).checkpoint(&directory).await;
    if found.map_err(|error| problem(error, asker))?.is_some() {
        let message = format!("directory {directory} holds a checkpoint already");
        return Err(Problem::new(StatusCode::CONFLICT, message)
            .of("directory")
            .remedy("name another directory, or leave it out"));
    }
    Ok(directory)
}

/// Why a job failed; counted if it was for who asked.
fn failed(error: ClientError, metrics: &GatewayMetrics) -> ErrorDetail {
    if matches!(error, ClientError::Refused { status: StatusCode::FORBIDDEN, .. }) {
        metrics.refused("right");
    }
    error.into_detail()
}

/// A directory name for who named none.
fn made_up(of: &str) -> Result<Directory, Problem> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{of}-{}", &id[..12]).parse().map_err(|error: api::DirectoryError| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("make up a name: {error}"))
    })
}

async fn restore(
    State(gateway): State<Gateway>,
    asker: Asker,
    Body(request): Body<RestoreJobRequest>,
) -> Result<Accepted, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let directory = request.directory;
    let found = services.checkpoint(&directory).await;
    if found.map_err(|error| problem(error, asker))?.is_none() {
        return Err(no_checkpoint(&directory).of("directory"));
    }
    let asked = RestoreRequest {
        directory: directory.clone(),
        after: AfterRestore::Resume,
        shell_job: request.shell_job,
        tcp_close: request.tcp_close,
        cgroups: request.cgroups,
    };
    let task = Task { asker, kind: JobKind::Restore, target: Target::Images, directory };
    let failures = gateway.metrics.clone();
    start(&gateway, task, async move {
        match services.restore(&asked).await {
            Ok(summary) => Outcome::Restored(summary),
            Err(error) => Outcome::Failed(failed(error, &failures)),
        }
    })
}

fn no_checkpoint(directory: &Directory) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no checkpoint {directory}"))
        .remedy("GET /v1/checkpoints lists those there are")
}

async fn restores(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Json<RestoredList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    services.restores().await.map(Json).map_err(|error| problem(error, asker))
}

async fn checkpoints(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Json<CheckpointList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    services.checkpoints().await.map(Json).map_err(|error| problem(error, asker))
}

async fn one_checkpoint(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Json<CheckpointSummary>, Problem> {
    let directory: Directory = name.parse().map_err(|error: api::DirectoryError| {
        Problem::field("directory", error.to_string()).remedy(Directory::REMEDY)
    })?;
    let services = gateway.services.on_behalf_of(asker.user);
    let found = services.checkpoint(&directory).await.map_err(|error| problem(error, asker))?;
    found.map(Json).ok_or_else(|| no_checkpoint(&directory))
}

async fn jobs(State(gateway): State<Gateway>, asker: Asker) -> Json<JobList> {
    Json(JobList { jobs: gateway.jobs.list(asker) })
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
    asker: Asker,
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
    let found = gateway.jobs.wait(&id, asker, Duration::from_millis(wait_ms)).await;
    found.map(Json).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("no job {id}"))
            .remedy("GET /v1/jobs lists those there are")
    })
}

async fn processes(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Json<ProcessList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    services.processes().await.map(Json).map_err(|error| problem(error, asker))
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
