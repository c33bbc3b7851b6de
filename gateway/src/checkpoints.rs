//! `/v1/checkpoints`.

use std::path::Path as FilePath;

use api::{
    After, CheckpointList, CheckpointQuery, CheckpointRequest, CheckpointSummary,
    ContainerDumpRequest, Directory, DumpRequest, Job, JobKind, Labels, VerifyRequest,
};
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use service::{Body, Problem};

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::callers::Asker;
use crate::gateway::Gateway;
use crate::job_routes::{Accepted, Manner, busy, lost, sent_before, start};
use crate::openapi::Problems;
use crate::services::{problem, with_query};
use crate::wait::Wait;
use crate::work::Work;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(checkpoint, checkpoints))
        .routes(routes!(one_checkpoint, remove))
        .routes(routes!(label))
        .routes(routes!(verify))
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

/// Starts a checkpoint of a process and all its descendants, or of a container.
#[utoipa::path(post, path = "/v1/checkpoints", tag = "checkpoints", params(Wait, ("Idempotency-Key" = Option<String>, Header, description = "What the request is called: sent again with that name it begins nothing anew")), request_body = CheckpointRequest, responses((status = 200, description = "The job, finished while it was waited for", body = Job), (status = 202, description = "The job, at work", body = Job), Problems))]
pub(crate) async fn checkpoint(
    State(gateway): State<Gateway>,
    asker: Asker,
    manner: Manner,
    Body(request): Body<CheckpointRequest>,
) -> Result<Accepted, Problem> {
    if let Some(job) = sent_before(&gateway, asker, &manner, JobKind::Checkpoint, &request).await? {
        return Ok(job);
    }
    let Some(stays) = request.leave_running else {
        let message = "nothing says what becomes of the tree";
        return Err(Problem::field("leave_running", message).remedy(
            "send true, and it runs on, or false, and it is ended once its images are safe",
        ));
    };
    match (request.pid, &request.container) {
        (Some(pid), None) => {
            checkpoint_of_process(&gateway, (asker, manner), &request, pid, stays).await
        }
        (None, Some(name)) => {
            checkpoint_of_container(&gateway, (asker, manner), &request, name, stays).await
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
    gateway: &Gateway,
    (asker, manner): (Asker, Manner),
    request: &CheckpointRequest,
    pid: i32,
    stays: bool,
) -> Result<Accepted, Problem> {
    if request.engine.is_some() {
        let message = "an engine is named, and no container";
        return Err(Problem::field("engine", message).remedy("leave it out"));
    }
    check_pid(pid)?;
    let directory = free(gateway, asker, request.directory.as_ref(), &pid.to_string()).await?;
    let asked = DumpRequest {
        pid,
        directory,
        after: if stays { After::Resume } else { After::Kill },
        shell_job: request.shell_job,
        tcp_established: request.tcp_established,
        tcp_close: request.tcp_close,
        skip_in_flight: request.skip_in_flight,
        link_remap: request.link_remap,
        max_freeze_ms: request.max_freeze_ms,
        timeout_ms: request.timeout_ms,
        labels: request.labels.clone(),
    };
    start(gateway, asker, manner, request, Work::Dump(asked)).await
}

async fn checkpoint_of_container(
    gateway: &Gateway,
    (asker, manner): (Asker, Manner),
    request: &CheckpointRequest,
    name: &str,
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
    let directory_wanted = request.directory.is_some();
    let directory = free(gateway, asker, request.directory.as_ref(), "container").await?;
    let asked = ContainerDumpRequest {
        container: name.to_owned(),
        engine: request.engine,
        directory,
        directory_wanted,
        leave_running: stays,
        shell_job: request.shell_job,
        tcp_established: request.tcp_established,
        labels: request.labels.clone(),
    };
    start(gateway, asker, manner, request, Work::Container(asked)).await
}

/// The directory that is asked for, if it is free, or one that is made up.
async fn free(
    gateway: &Gateway,
    asker: Asker,
    wanted: Option<&Directory>,
    of: &str,
) -> Result<Directory, Problem> {
    let Some(directory) = wanted else { return made_up(of) };
    let found = gateway.services.on_behalf_of(asker.user).checkpoint(directory).await;
    if found.map_err(|error| problem(error, asker))?.is_some() {
        let message = format!("directory {directory} holds a checkpoint already");
        return Err(Problem::new(StatusCode::CONFLICT, message)
            .of("directory")
            .remedy("name another directory, or leave it out"));
    }
    Ok(directory.clone())
}

/// A directory name for who named none.
fn made_up(of: &str) -> Result<Directory, Problem> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{of}-{}", &id[..12]).parse().map_err(|error: api::DirectoryError| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("make up a name: {error}"))
    })
}

pub(crate) fn no_checkpoint(directory: &Directory) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no checkpoint {directory}"))
        .remedy("GET /v1/checkpoints lists those there are")
}

/// The complete checkpoints under the checkpoint root, by directory.
#[utoipa::path(get, path = "/v1/checkpoints", tag = "checkpoints", params(CheckpointQuery), responses((status = 200, description = "A page of them", body = CheckpointList), Problems))]
async fn checkpoints(
    State(gateway): State<Gateway>,
    asker: Asker,
    RawQuery(query): RawQuery,
) -> Result<Json<CheckpointList>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let path = with_query("/v1/checkpoints", query);
    services.dumper().get(&path).await.map(Json).map_err(|error| problem(error, asker))
}

fn named(name: &str) -> Result<Directory, Problem> {
    name.parse().map_err(|error: api::DirectoryError| {
        Problem::field("directory", error.to_string()).remedy(Directory::REMEDY)
    })
}

/// Removes a checkpoint.
#[utoipa::path(delete, path = "/v1/checkpoints/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), responses((status = 204, description = "It is gone"), Problems))]
pub(crate) async fn remove(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let directory = named(&name)?;
    if let Some(other) = gateway.jobs.at_work_on(asker, &directory).map_err(lost)? {
        return Err(busy(&other, &directory));
    }
    let services = gateway.services.on_behalf_of(asker.user);
    let removed = services.dumper().delete(&format!("/v1/checkpoints/{directory}")).await;
    removed.map_err(|error| problem(error, asker))?;
    tracing::info!("{asker}: removed checkpoint {directory}");
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a checkpoint these labels, in place of those it had.
#[utoipa::path(put, path = "/v1/labels/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), request_body = Labels, responses((status = 200, description = "The checkpoint", body = CheckpointSummary), Problems))]
async fn label(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
    Body(labels): Body<Labels>,
) -> Result<Json<CheckpointSummary>, Problem> {
    let directory = named(&name)?;
    let services = gateway.services.on_behalf_of(asker.user);
    let told = services.dumper().put(&format!("/v1/labels/{directory}"), &labels).await;
    told.map(Json).map_err(|error| problem(error, asker))
}

/// Reads all of a checkpoint and compares it with what was written.
#[utoipa::path(post, path = "/v1/verifications", tag = "checkpoints", params(Wait, ("Idempotency-Key" = Option<String>, Header, description = "What the request is called: sent again with that name it begins nothing anew")), request_body = VerifyRequest, responses((status = 200, description = "The job, finished while it was waited for", body = Job), (status = 202, description = "The job, at work", body = Job), Problems))]
pub(crate) async fn verify(
    State(gateway): State<Gateway>,
    asker: Asker,
    manner: Manner,
    Body(request): Body<VerifyRequest>,
) -> Result<Accepted, Problem> {
    if let Some(job) = sent_before(&gateway, asker, &manner, JobKind::Verify, &request).await? {
        return Ok(job);
    }
    let found = gateway.services.on_behalf_of(asker.user).checkpoint(&request.directory).await;
    if found.map_err(|error| problem(error, asker))?.is_none() {
        return Err(no_checkpoint(&request.directory).of("directory"));
    }
    start(&gateway, asker, manner, &request, Work::Verify(request.clone())).await
}

/// One checkpoint.
#[utoipa::path(get, path = "/v1/checkpoints/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), responses((status = 200, description = "The checkpoint", body = CheckpointSummary), Problems))]
async fn one_checkpoint(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Json<CheckpointSummary>, Problem> {
    find(&gateway, asker, &name).await.map(Json)
}

/// A checkpoint by its name.
pub(crate) async fn find(
    gateway: &Gateway,
    asker: Asker,
    name: &str,
) -> Result<CheckpointSummary, Problem> {
    let directory = named(name)?;
    let services = gateway.services.on_behalf_of(asker.user);
    let found = services.checkpoint(&directory).await.map_err(|error| problem(error, asker))?;
    found.ok_or_else(|| no_checkpoint(&directory))
}
