//! `/v1/checkpoints`.

use std::path::Path as FilePath;

use api::{
    After, CheckpointList, CheckpointQuery, CheckpointRequest, CheckpointSummary,
    ContainerDumpRequest, Directory, DumpRequest, Job, JobKind, Labels, Policy, Priority,
    TogetherRequest, VerifyRequest,
};
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use service::{Body, Problem};

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::callers::{Admin, Asker, Checkpoint, May};
use crate::gateway::Gateway;
use crate::job_routes::{Accepted, Asked, Begin, Manner, at_work_on, busy, once, start};
use crate::jobs::AT_WORK;
use crate::openapi::Problems;
use crate::selection;
use crate::services::{problem, with_query};
use crate::wait::Wait;
use crate::work::{Work, listed};

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

/// Starts a checkpoint of a process and all its descendants, or of a container. Takes the role `checkpoint`.
#[utoipa::path(post, path = "/v1/checkpoints", tag = "checkpoints", params(Wait, ("Idempotency-Key" = Option<String>, Header, description = "What the request is called: sent again with that name it begins nothing anew")), request_body = CheckpointRequest, responses((status = 200, description = "The job, finished while it was waited for", body = Job), (status = 202, description = "The job, at work", body = Job), Problems))]
pub(crate) async fn checkpoint(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    manner: Manner,
    Body(request): Body<CheckpointRequest>,
) -> Result<Accepted, Problem> {
    let kind = if request.dry_run { JobKind::DryRun } else { JobKind::Checkpoint };
    let asked = manner.of(kind, &request)?;
    once(&gateway, &asker, &asked, begin_meant(&gateway, &asker, &asked, request)).await
}

/// Starts a checkpoint as a request means it.
pub(crate) async fn begin_meant(
    gateway: &Gateway,
    asker: &Asker,
    asked: &Asked,
    request: CheckpointRequest,
) -> Result<Accepted, Problem> {
    // A dry run does nothing to it.
    let Some(stays) = request.leave_running.or(request.dry_run.then_some(true)) else {
        let message = "nothing says what becomes of the tree";
        return Err(Problem::field("leave_running", message).remedy(
            "send true, and it runs on, or false, and it is ended once its images are safe",
        ));
    };
    not_reserved(&request.labels, &Labels::default())?;
    let request = meant(gateway, asker, request).await?;
    begin(gateway, asker, asked, &request, stays).await
}

/// A request with the tree that its selector means.
async fn meant(
    gateway: &Gateway,
    asker: &Asker,
    mut request: CheckpointRequest,
) -> Result<CheckpointRequest, Problem> {
    let Some(select) = request.select.take() else { return Ok(request) };
    if request.pid.is_some() || request.container.is_some() || !request.pids.is_empty() {
        return Err(Problem::field("select", "both a selector and what it may select are given")
            .remedy("leave one of them out"));
    }
    selection::check(&select)?;
    if let Some(name) = select.container {
        return Ok(CheckpointRequest { container: Some(name), ..request });
    }
    match selection::trees(&gateway.services, asker, &select).await?.as_slice() {
        pids @ [_, ..] if request.together => {
            Ok(CheckpointRequest { pids: pids.to_vec(), ..request })
        }
        [] => Err(Problem::field("select", "nothing runs that it selects")
            .remedy("start it, or select something else: GET /v1/processes lists what runs")),
        [pid] => Ok(CheckpointRequest { pid: Some(*pid), ..request }),
        several => {
            let told = listed(&several[..several.len().min(20)]);
            let message = format!("it selects {} trees: {told}", several.len());
            Err(Problem::field("select", message)
                .remedy("select one of them, send together: true, and all are checkpointed in one frozen moment, or send it to POST /v1/batches, and they are checkpointed one by one"))
        }
    }
}

/// A request for each of the trees that one names, or selects, by their roots.
pub(crate) async fn one_by_one(
    gateway: &Gateway,
    asker: &Asker,
    request: CheckpointRequest,
) -> Result<Vec<(i32, CheckpointRequest)>, Problem> {
    if request.together {
        let message = "those of a batch stand still one by one";
        return Err(Problem::field("together", message)
            .remedy("leave it out, or send the request to POST /v1/checkpoints"));
    }
    // It is chosen among the same trees.
    let request = meant(gateway, asker, CheckpointRequest { together: true, ..request }).await?;
    let of = |pid| {
        let below = |of_all: &Option<Directory>, field: &str| {
            let place = of_all.as_ref().map(|of_all| within_that(of_all, pid));
            place.transpose().map_err(|problem| problem.of(field))
        };
        let one = CheckpointRequest {
            pid: Some(pid),
            pids: Vec::new(),
            together: false,
            directory: below(&request.directory, "directory")?,
            parent: below(&request.parent, "parent")?,
            ..request.clone()
        };
        Ok((pid, one))
    };
    several(&request)?.into_iter().map(of).collect()
}

/// Refuses labels that policies alone give, but for those that a checkpoint has.
pub(crate) fn not_reserved(wanted: &Labels, there: &Labels) -> Result<(), Problem> {
    let is_there = |pair: (&str, &str)| there.iter().any(|other| other == pair);
    match wanted.iter().find(|pair| pair.0.starts_with(Policy::RESERVED) && !is_there(*pair)) {
        None => Ok(()),
        Some((key, _)) => {
            let message = format!("label {key} is given by policies alone");
            Err(Problem::field("labels", message)
                .remedy(format!("name it without {} first", Policy::RESERVED)))
        }
    }
}

/// Starts a checkpoint that somebody may ask for. `stays`: the tree is to run on.
pub(crate) async fn begin(
    gateway: &Gateway,
    asker: &Asker,
    asked: &Asked,
    request: &CheckpointRequest,
    stays: bool,
) -> Result<Accepted, Problem> {
    let labels = bound(asker, &request.labels)?;
    let wanted = Wanted { asker, asked, request, stays, labels };
    if request.together {
        return checkpoint_together(gateway, wanted).await;
    }
    if !request.pids.is_empty() {
        let message = "several processes are named, and not that they are checkpointed together";
        return Err(Problem::field("pids", message).remedy(
            "send together: true, or the request to POST /v1/batches: there is a job for each then",
        ));
    }
    match (request.pid, &request.container) {
        (Some(pid), None) => checkpoint_of_process(gateway, wanted, pid).await,
        (None, Some(name)) => checkpoint_of_container(gateway, wanted, name).await,
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

/// A checkpoint that somebody asks for.
struct Wanted<'a> {
    asker: &'a Asker,
    asked: &'a Asked,
    request: &'a CheckpointRequest,
    /// Whether the tree is to run on.
    stays: bool,
    labels: Labels,
}

impl Wanted<'_> {
    /// What the dumper is asked for, of one process.
    fn dump_of(&self, pid: i32, directory: Directory, parent: Option<Directory>) -> DumpRequest {
        let request = self.request;
        DumpRequest {
            pid,
            identity: service::process_identity(pid),
            directory,
            after: if self.stays { After::Resume } else { After::Kill },
            dry_run: request.dry_run,
            shell_job: request.shell_job,
            tcp_established: request.tcp_established,
            tcp_close: request.tcp_close,
            skip_in_flight: request.skip_in_flight,
            link_remap: request.link_remap,
            parent,
            track: request.track,
            max_freeze_ms: request.max_freeze_ms,
            timeout_ms: request.timeout_ms,
            labels: self.labels.clone(),
        }
    }
}

/// Refuses what a dry run has nothing to do with.
fn check_dry_run(request: &CheckpointRequest) -> Result<(), Problem> {
    if request.dry_run && (request.parent.is_some() || request.track) {
        let field = if request.track { "track" } else { "parent" };
        let message = "a dry run tracks nothing, and what is tracked is for the checkpoint itself";
        return Err(Problem::field(field, message).remedy("leave it out"));
    }
    Ok(())
}

/// The several trees that a request names.
fn several(request: &CheckpointRequest) -> Result<Vec<i32>, Problem> {
    for (field, wanted) in
        [("container", request.container.is_some()), ("engine", request.engine.is_some())]
    {
        if wanted {
            let message = "engines checkpoint one container at a time";
            return Err(Problem::field(field, message)
                .remedy("name processes, or the one container alone, in POST /v1/checkpoints"));
        }
    }
    let pids: Vec<i32> = request.pid.into_iter().chain(request.pids.iter().copied()).collect();
    if pids.is_empty() || pids.len() > TogetherRequest::MOST {
        let message = format!("{} trees are named, of 1 to {}", pids.len(), TogetherRequest::MOST);
        return Err(Problem::field("pids", message).remedy("send pids or select, of fewer trees"));
    }
    for (index, pid) in pids.iter().enumerate() {
        if pids[..index].contains(pid) {
            return Err(Problem::field("pids", format!("process {pid} is named twice"))
                .remedy("name it once"));
        }
    }
    Ok(pids)
}

/// The place of one of several below the directory of all.
fn within_that(of_all: &Directory, pid: i32) -> Result<Directory, Problem> {
    format!("{of_all}/{pid}").parse().map_err(|error: api::DirectoryError| {
        Problem::field("directory", error.to_string()).remedy("name a shorter one")
    })
}

async fn checkpoint_together(gateway: &Gateway, wanted: Wanted<'_>) -> Result<Accepted, Problem> {
    let Wanted { asker, request, .. } = wanted;
    let pids = several(request)?;
    if asker.user.is_some() && pids.len() as u64 > AT_WORK {
        let message = format!("{} trees, and a user may have {AT_WORK} at work", pids.len());
        return Err(Problem::field("pids", message).remedy(
            "name fewer, or have root send the request (or send it with the gateway's token)",
        ));
    }
    for pid in &pids {
        check_pid(*pid).map_err(|problem| problem.of("pids"))?;
    }
    check_dry_run(request)?;
    let directory = free(gateway, asker, request.directory.as_ref(), "together").await?;
    let mut dumps = Vec::with_capacity(pids.len());
    for pid in pids {
        let parent = request.parent.as_ref().map(|of_all| within_that(of_all, pid)).transpose();
        let parent = parent.map_err(|problem| problem.of("parent"))?;
        if let Some(parent) = &parent {
            seen(gateway, asker, parent).await.map_err(|problem| problem.of("parent"))?;
        }
        dumps.push(wanted.dump_of(pid, within_that(&directory, pid)?, parent));
    }
    let Wanted { asked, labels, .. } = wanted;
    let work = Work::Together(TogetherRequest { directory, dumps });
    start(gateway, asker, asked, Begin { work, labels, priority: request.priority }).await
}

/// The labels that somebody wants for a checkpoint, and those that he is bound to.
fn bound(asker: &Asker, wanted: &Labels) -> Result<Labels, Problem> {
    wanted.and(asker.labels()).ok_or_else(|| {
        let bound = asker.labels().iter().map(|(key, value)| format!("{key}={value}"));
        let message = format!("{asker} is bound to {}", bound.collect::<Vec<_>>().join(","));
        Problem::field("labels", message).remedy("leave those out, or send them as they are")
    })
}

async fn checkpoint_of_process(
    gateway: &Gateway,
    wanted: Wanted<'_>,
    pid: i32,
) -> Result<Accepted, Problem> {
    let Wanted { asker, request, .. } = wanted;
    if request.engine.is_some() {
        let message = "an engine is named, and no container";
        return Err(Problem::field("engine", message).remedy("leave it out"));
    }
    check_pid(pid)?;
    check_dry_run(request)?;
    if let Some(parent) = &request.parent {
        seen(gateway, asker, parent).await.map_err(|problem| problem.of("parent"))?;
    }
    let directory = free(gateway, asker, request.directory.as_ref(), &pid.to_string()).await?;
    let parent = request.parent.clone();
    let dump = wanted.dump_of(pid, directory, parent);
    let Wanted { asked, labels, .. } = wanted;
    let (work, priority) = (Work::Dump(dump), request.priority);
    start(gateway, asker, asked, Begin { work, labels, priority }).await
}

async fn checkpoint_of_container(
    gateway: &Gateway,
    wanted: Wanted<'_>,
    name: &str,
) -> Result<Accepted, Problem> {
    let Wanted { asker, asked, request, stays, labels } = wanted;
    // What no engine's own command has.
    for (field, wanted) in [
        ("tcp_close", request.tcp_close),
        ("skip_in_flight", request.skip_in_flight),
        ("link_remap", request.link_remap),
        ("parent", request.parent.is_some()),
        ("track", request.track),
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
    let dump = ContainerDumpRequest {
        container: name.to_owned(),
        engine: request.engine,
        directory,
        directory_wanted,
        leave_running: stays,
        dry_run: request.dry_run,
        shell_job: request.shell_job,
        tcp_established: request.tcp_established,
        labels: labels.clone(),
    };
    let (work, priority) = (Work::Container(dump), request.priority);
    start(gateway, asker, asked, Begin { work, labels, priority }).await
}

/// The directory that is asked for, if it is free, or one that is made up.
async fn free(
    gateway: &Gateway,
    asker: &Asker,
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
    list(&gateway, &asker, query).await.map(Json)
}

/// A page of the checkpoints that somebody may see.
pub(crate) async fn list(
    gateway: &Gateway,
    asker: &Asker,
    query: Option<String>,
) -> Result<CheckpointList, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let query =
        if asker.labels().is_empty() { query } else { Some(within(asker, query.as_deref())?) };
    let path = with_query("/v1/checkpoints", query);
    let listed = services.dumper().get(&path).await;
    let mut list: CheckpointList = listed.map_err(|error| problem(error, asker))?;
    if !asker.labels().is_empty() {
        // What is not there yet has no labels.
        list.unfinished.clear();
    }
    Ok(list)
}

/// A query that asks for what has the labels, too, that somebody is bound to.
fn within(asker: &Asker, query: Option<&str>) -> Result<String, Problem> {
    let unreadable = |message: String| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message)
            .remedy("send limit, cursor, below, pid, comm or labels")
    };
    let mut asked: CheckpointQuery = serde_urlencoded::from_str(query.unwrap_or_default())
        .map_err(|error| unreadable(error.to_string()))?;
    let own = asked.labels.as_deref().map(str::parse::<Labels>).transpose();
    let own = own.map_err(|error| unreadable(error.to_string()))?.unwrap_or_default();
    let labels = bound(asker, &own)?;
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    asked.labels = Some(pairs.collect::<Vec<_>>().join(","));
    serde_urlencoded::to_string(asked).map_err(|error| unreadable(error.to_string()))
}

pub(crate) fn named(name: &str) -> Result<Directory, Problem> {
    name.parse().map_err(|error: api::DirectoryError| {
        Problem::field("directory", error.to_string()).remedy(Directory::REMEDY)
    })
}

/// Removes a checkpoint. Takes the role `admin`.
#[utoipa::path(delete, path = "/v1/checkpoints/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), responses((status = 204, description = "It is gone"), Problems))]
pub(crate) async fn remove(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Admin>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let directory = named(&name)?;
    seen(&gateway, &asker, &directory).await?;
    take_away(&gateway, &asker, &directory).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a checkpoint that nobody is at work on.
pub(crate) async fn take_away(
    gateway: &Gateway,
    asker: &Asker,
    directory: &Directory,
) -> Result<(), Problem> {
    if let Some(other) = at_work_on(gateway, asker, directory).await? {
        return Err(busy(&other, directory));
    }
    let services = gateway.services.on_behalf_of(asker.user);
    let removed = services.dumper().delete(&format!("/v1/checkpoints/{directory}")).await;
    removed.map_err(|error| problem(error, asker))?;
    tracing::info!("{asker}: removed checkpoint {directory}");
    Ok(())
}

/// Gives a checkpoint these labels, in place of those it had. Takes the role `checkpoint`.
#[utoipa::path(put, path = "/v1/labels/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), request_body = Labels, responses((status = 200, description = "The checkpoint", body = CheckpointSummary), Problems))]
async fn label(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    Path(name): Path<String>,
    Body(labels): Body<Labels>,
) -> Result<Json<CheckpointSummary>, Problem> {
    let directory = named(&name)?;
    let labels = bound(&asker, &labels)?;
    let there = find(&gateway, &asker, &name).await?.labels;
    not_reserved(&labels, &there)?;
    let services = gateway.services.on_behalf_of(asker.user);
    let told = services.dumper().put(&format!("/v1/labels/{directory}"), &labels).await;
    told.map(Json).map_err(|error| problem(error, &asker))
}

/// Reads all of a checkpoint and compares it with what was written. Takes the role `checkpoint`.
#[utoipa::path(post, path = "/v1/verifications", tag = "checkpoints", params(Wait, ("Idempotency-Key" = Option<String>, Header, description = "What the request is called: sent again with that name it begins nothing anew")), request_body = VerifyRequest, responses((status = 200, description = "The job, finished while it was waited for", body = Job), (status = 202, description = "The job, at work", body = Job), Problems))]
pub(crate) async fn verify(
    State(gateway): State<Gateway>,
    May { asker, .. }: May<Checkpoint>,
    manner: Manner,
    Body(request): Body<VerifyRequest>,
) -> Result<Accepted, Problem> {
    let asked = manner.of(JobKind::Verify, &request)?;
    let begin = async {
        let labels = found(&gateway, &asker, &request.directory).await?.labels;
        let begin = Begin { work: Work::Verify(request), labels, priority: Priority::Normal };
        start(&gateway, &asker, &asked, begin).await
    };
    once(&gateway, &asker, &asked, begin).await
}

/// One checkpoint.
#[utoipa::path(get, path = "/v1/checkpoints/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), responses((status = 200, description = "The checkpoint", body = CheckpointSummary), Problems))]
async fn one_checkpoint(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Json<CheckpointSummary>, Problem> {
    find(&gateway, &asker, &name).await.map(Json)
}

/// A checkpoint by its name.
pub(crate) async fn find(
    gateway: &Gateway,
    asker: &Asker,
    name: &str,
) -> Result<CheckpointSummary, Problem> {
    let directory = named(name)?;
    looked_up(gateway, asker, &directory).await?.ok_or_else(|| no_checkpoint(&directory))
}

/// A checkpoint that a request's field names.
pub(crate) async fn found(
    gateway: &Gateway,
    asker: &Asker,
    directory: &Directory,
) -> Result<CheckpointSummary, Problem> {
    let found = looked_up(gateway, asker, directory).await?;
    found.ok_or_else(|| no_checkpoint(directory).of("directory"))
}

/// A checkpoint, if there is one that somebody may see.
pub(crate) async fn looked_up(
    gateway: &Gateway,
    asker: &Asker,
    directory: &Directory,
) -> Result<Option<CheckpointSummary>, Problem> {
    let services = gateway.services.on_behalf_of(asker.user);
    let found = services.checkpoint(directory).await.map_err(|error| problem(error, asker))?;
    Ok(found.filter(|found| found.labels.have(asker.labels())))
}

/// Refuses a checkpoint that somebody who is bound to labels may not see.
async fn seen(gateway: &Gateway, asker: &Asker, directory: &Directory) -> Result<(), Problem> {
    match asker.labels().is_empty() {
        true => Ok(()),
        false => find(gateway, asker, directory.as_str()).await.map(drop),
    }
}
