//! The restorer's paths: restores, for who asks over its socket. Each restore is a fresh worker
//! process: a restore must be alone in its process, and a service is not.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{
    CgroupsMode, Code, Directory, ErrorDetail, Labels, RestoreRequest, RestoreSummary,
    RestoredList, User,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use ids::HostPid;
use images::{Access, Images, Quiet};
use nix::unistd::{SysconfVar, sysconf};
use prometheus::{Histogram, IntCounterVec, IntGauge};
use serde::{Deserialize, Serialize};
use service::metrics::{Failures, Metrics, definitions as are};
use service::{
    Body, CheckpointRoot, DemandSettings, IdentitySettings, OnBehalfOf, OperationName, Operations,
    Problem, Worker, WorkerError, chain, holds_checkpoint, worker_answer,
};

use super::reaper::Reaper;
use crate::access::{AccessError, access, code};
use crate::has_no_room;
use crate::trust::REMEDY;
use restorer::{
    AfterRestore, Connections, Error, Parent, Record, RestoreOptions, Trust, Validation, layout,
    restore,
};

/// By what checkpoints are read, and whose are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keys {
    pub(super) trust: Option<PathBuf>,
    pub(super) identities: IdentitySettings,
    pub(super) demand: bool,
}

impl Keys {
    fn access(&self) -> Result<Access, AccessError> {
        let demand = DemandSettings { demand_encryption: self.demand };
        access(self.trust.as_deref(), &self.identities, demand)
    }
}

/// What a worker is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    images_dir: PathBuf,
    after: api::AfterRestore,
    shell_job: bool,
    tcp_close: bool,
    cgroups: CgroupsMode,
    on_behalf_of: Option<User>,
    records: PathBuf,
    labels: Labels,
    keys: Keys,
    /// The process number of the service.
    service: u32,
}

#[derive(Clone, Debug)]
struct Restorer {
    records: PathBuf,
    root: CheckpointRoot,
    keys: Keys,
    reaper: Reaper,
    worker: Worker,
    metrics: RestoreMetrics,
    operations: Operations,
}

#[derive(Clone, Debug)]
struct RestoreMetrics {
    restores: IntCounterVec,
    failures: Failures,
    running: IntGauge,
    seconds: Histogram,
    memory: Histogram,
}

impl RestoreMetrics {
    fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        Ok(Self {
            restores: metrics.counters_of(&are::RESTORES, &["done", "failed"])?,
            failures: Failures::register(metrics, &are::RESTORE_FAILURES, &[])?,
            running: metrics.gauge(&are::RESTORES_RUNNING)?,
            seconds: metrics.histogram(&are::RESTORE_SECONDS)?,
            memory: metrics.histogram(&are::RESTORE_MEMORY_BYTES)?,
        })
    }

    /// A restore that was asked for, and was not begun.
    fn turned_away(&self, problem: &Problem) {
        self.restores.with_label_values(&["failed"]).inc();
        self.failures.count(&[], problem.detail.code);
    }

    fn finished(&self, result: Result<&RestoreSummary, &Problem>) {
        self.running.dec();
        match result {
            Ok(summary) => {
                self.restores.with_label_values(&["done"]).inc();
                self.seconds.observe(Duration::from_micros(summary.total_us).as_secs_f64());
                self.memory.observe(bytes(summary.pages_restored));
            }
            Err(problem) => self.turned_away(problem),
        }
    }
}

/// So many pages, in bytes.
#[allow(clippy::cast_precision_loss, reason = "sizes beyond 2^53 are not told to the byte")]
fn bytes(pages: u64) -> f64 {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or_default();
    pages as f64 * page as f64
}

/// The router of the restorer's own paths, with its metrics registered. `records` is where it is
/// noted down what was restored.
///
/// # Errors
/// If the metrics are registered already, or our own binary cannot be found for workers.
pub(super) fn router(
    (root, keys): (CheckpointRoot, Keys),
    reaper: Reaper,
    records: PathBuf,
    metrics: &Metrics,
) -> Result<Router, Box<dyn std::error::Error + Send + Sync>> {
    let worker = Worker::of_this_program()?;
    let metrics = RestoreMetrics::register(metrics)?;
    // What a restorer before this one restored is known still.
    for record in Record::all(&records) {
        if let Some(directory) = root.name(&record.images) {
            reaper.inherit(directory, record);
        }
    }
    let operations = Operations::default();
    let asked = operations.router();
    let restorer = Restorer { records, root, keys, reaper, worker, metrics, operations };
    let own = Router::new().route("/v1/restores", post(make).get(list)).with_state(restorer);
    Ok(own.merge(asked))
}

async fn list(
    State(restorer): State<Restorer>,
    OnBehalfOf(user): OnBehalfOf,
) -> Json<RestoredList> {
    let own = |mut tree: api::RestoredTree| {
        tree.directory = CheckpointRoot::own_name(user, &tree.directory)?;
        Some(tree)
    };
    Json(RestoredList { restores: restorer.reaper.trees().into_iter().filter_map(own).collect() })
}

/// What a worker is to restore, and the whole name of it; or why that cannot be.
fn work_for(
    restorer: &Restorer,
    request: RestoreRequest,
    user: Option<User>,
) -> Result<(Work, Directory), Problem> {
    let directory = request.directory;
    if user.is_some() && request.shell_job {
        let message = "a shell's job cannot be restored on behalf of a user: it would join the \
                       session and the terminal of the restorer";
        return Err(Problem::new(StatusCode::FORBIDDEN, message).of("shell_job").remedy(
            "leave it out, or have root send the request (or send it with the gateway's token)",
        ));
    }
    // Groups are made, set and entered by the restorer's own rights.
    let by_own_rights =
        matches!(request.cgroups, CgroupsMode::Ignore | CgroupsMode::Props | CgroupsMode::Full);
    if user.is_some() && by_own_rights {
        let message = "on behalf of a user the tree goes back into its own control groups, and those \
                       that are there stay as they are set";
        return Err(Problem::new(StatusCode::FORBIDDEN, message)
            .of("cgroups")
            .remedy("use soft, none or strict, or have root send the request (or send it with the gateway's token)"));
    }
    let wrong =
        |error: String| Problem::field("directory", format!("use directory {directory}: {error}"));
    let whole =
        CheckpointRoot::whole_name(user, &directory).map_err(|error| wrong(error.to_string()))?;
    let images_dir =
        restorer.root.of(user).path(&directory).map_err(|error| wrong(error.to_string()))?;
    if !holds_checkpoint(&images_dir) {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("no checkpoint {directory}"))
            .of("directory")
            .remedy("the dumper's GET /v1/checkpoints lists those there are"));
    }
    let was_uploaded = || images_dir.join(images::names::UPLOADED).symlink_metadata().is_ok();
    if !request.any_origin && restorer.keys.trust.is_none() && was_uploaded() {
        let message = format!(
            "{directory} came as an archive, and no keys are trusted here by which it could be signed"
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, message)
            .coded(Code::Untrusted)
            .of("directory")
            .remedy("have an admin restore it who is bound to nothing, or have the restorer trust keys (--trusted-keys)"));
    }
    let labels = catalog::labels::read(&images_dir);
    let work = Work {
        images_dir,
        after: request.after,
        shell_job: request.shell_job,
        tcp_close: request.tcp_close,
        cgroups: request.cgroups,
        on_behalf_of: user,
        records: restorer.records.clone(),
        labels,
        keys: restorer.keys.clone(),
        service: std::process::id(),
    };
    Ok((work, whole))
}

async fn make(
    State(restorer): State<Restorer>,
    asker: OnBehalfOf,
    operation: OperationName,
    Body(request): Body<RestoreRequest>,
) -> Result<Json<RestoreSummary>, Problem> {
    let name = request.directory.clone();
    let (work, directory) = work_for(&restorer, request, asker.0).inspect_err(|problem| {
        restorer.metrics.turned_away(problem);
        tracing::warn!("{asker}: restore {name}: {}", problem.detail.message);
    })?;
    let operation = restorer.operations.begin(operation, asker.0)?;
    let cancelling = Cancelling::new(restorer.reaper.clone());
    let (cancel, ended) = (cancelling.clone(), cancelling.clone());
    operation.cancelled_by(move || cancel.cancel());
    let start = Instant::now();
    restorer.metrics.running.inc();
    let name = directory.clone();
    let task = tokio::task::spawn_blocking(move || {
        let spawn = |mut command: Command| {
            let images = Images::open_locked(&work.images_dir, &Access::default()).ok();
            // Where its memory was laid out is in what is encrypted.
            let images = match images.as_ref().is_some_and(Images::is_locked) {
                true => work
                    .keys
                    .access()
                    .ok()
                    .and_then(|access| Images::open_as(&work.images_dir, &access).ok()),
                false => images,
            };
            if let Some(base) = images.as_ref().and_then(layout::mapping_base) {
                command.args(["--mapping-base", &base.to_string()]);
            }
            let (worker, pipes) = restorer.reaper.spawn(command)?;
            cancelling.begun(worker);
            Ok(pipes)
        };
        let result = match restorer.worker.ask::<_, RestoreSummary>(&work, spawn) {
            Err(WorkerError::Strange(error)) => noted(&work).ok_or(WorkerError::Strange(error)),
            result => result,
        };
        if let Ok(summary) = &result
            && let Some(pid) = HostPid::new(summary.pid)
        {
            restorer.reaper.adopt(name.clone(), work.labels.clone(), pid);
        }
        let result = result.map_err(|error| {
            tracing::warn!("{asker}: restore {name}: {}", chain(&error));
            if matches!(error, WorkerError::Failed(_)) {
                return problem(error);
            }
            // What a killed worker had made that outlives it would be in the way of the next.
            freezer::undo_left(&work.records.with_file_name(freezer::UNDO));
            if !ended.is_cancelled() {
                return problem(error);
            }
            let message = "the restore was cancelled: nobody of the tree is there";
            Problem::new(StatusCode::CONFLICT, message).coded(Code::Cancelled)
        });
        restorer.metrics.finished(result.as_ref());
        operation.end(result.as_ref());
        result
    });
    match task.await {
        Ok(Ok(summary)) => {
            let (took, pid) = (start.elapsed(), summary.pid);
            tracing::info!("{asker}: restored {directory} as process {pid} in {took:?}");
            Ok(Json(summary))
        }
        Ok(Err(problem)) => Err(problem),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Ends the worker of a restore that nobody wants any more. A clone ends the same.
#[derive(Clone, Debug)]
struct Cancelling {
    reaper: Reaper,
    state: Arc<Mutex<(bool, Option<HostPid>)>>,
}

impl Cancelling {
    fn new(reaper: Reaper) -> Self {
        Self { reaper, state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, (bool, Option<HostPid>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self) {
        let mut state = self.lock();
        state.0 = true;
        if let Some(worker) = state.1 {
            self.reaper.end_worker(worker);
        }
    }

    fn begun(&self, worker: HostPid) {
        let mut state = self.lock();
        state.1 = Some(worker);
        if state.0 {
            self.reaper.end_worker(worker);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.lock().0
    }
}

/// What a worker did that was ended before it could tell: the end of its answer comes when all that
/// belongs to it is gone.
fn noted(work: &Work) -> Option<RestoreSummary> {
    let images = work.images_dir.canonicalize().ok()?;
    let records = Record::all(&work.records);
    records.into_iter().find(|record| record.images == images).map(|record| record.summary)
}

fn problem(error: WorkerError) -> Problem {
    match error {
        WorkerError::Failed(detail) => Problem { status: StatusCode::UNPROCESSABLE_ENTITY, detail },
        error => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
    }
}

/// The life of a worker: one restore, asked for on standard input.
///
/// # Errors
/// If the request cannot be read or the answer not written; that a restore failed is an answer.
pub(super) fn work(mapping_base: Option<u64>) -> Result<(), WorkerError> {
    if let Some(base) = mapping_base {
        layout::take_base(base).map_err(|error| WorkerError::Talk(std::io::Error::other(error)))?;
    }
    // What the service no longer knows of is not to go on.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|errno| WorkerError::Talk(errno.into()))?;
    worker_answer(|work: Work| {
        // It may have ended before the kernel was asked to tell.
        if nix::unistd::getppid().as_raw().cast_unsigned() != work.service {
            let gone = "the service that asked for it has ended".to_owned();
            return Err(detail(&Error::Told(gone)));
        }
        let options = RestoreOptions {
            after: match work.after {
                api::AfterRestore::Resume => AfterRestore::Resume,
                api::AfterRestore::Stop => AfterRestore::Stop,
            },
            shell_job: work.shell_job,
            external_unix: false,
            mounts: restorer::MountOptions::default(),
            root: None,
            // The service's child, not ours: we are about to end, which a root with a
            // parent-death signal would feel.
            until_told: false,
            parent: Parent::CallersParent,
            undo: work.records.with_file_name(freezer::UNDO),
            records: Some(work.records),
            labels: work.labels,
            cgroups: work.cgroups,
            cgroup_roots: Vec::new(),
            cgroup_yard: None,
            // Whoever may ask a service for a restore may not tell it what to believe.
            trust: Trust::Files,
            validation: Validation::Contents,
            any_permissions: false,
            file_locks: true,
            allow_uprobes: false,
            connections: match work.tcp_close {
                true => Connections::Closed,
                false => Connections::Restored,
            },
            inherited: Vec::new(),
            networks: Default::default(),
            joined: Default::default(),
            on_behalf_of: work.on_behalf_of.map(|user| (user.uid, user.gid)),
        };
        let access = work.keys.access().map_err(|error| ErrorDetail {
            message: chain(&error),
            remedy: Some(error.remedy().unwrap_or(REMEDY).to_owned()),
            ..ErrorDetail::default()
        })?;
        let images = Images::open_as(&work.images_dir, &access).map_err(Error::from);
        let report = images
            .and_then(|images| restore(&options, &images, &mut hooks::Nobody, &mut Quiet))
            .map_err(|error| detail(&error))?;
        Ok(RestoreSummary::from(&report))
    })
}

fn detail(error: &Error) -> ErrorDetail {
    let detail = ErrorDetail { message: chain(error), ..ErrorDetail::default() };
    match error {
        Error::Refused(found) => detail.refused(found),
        // Images that are as they were written, and are not understood, are our fault.
        Error::Images(
            images::Error::Changed { .. }
            | images::Error::Missing { .. }
            | images::Error::Truncated { .. }
            | images::Error::Magic { .. },
        ) => ErrorDetail { code: Code::Damaged, ..detail },
        Error::Images(error) if code(error).is_some() => {
            ErrorDetail { code: code(error).unwrap_or_default(), ..detail }
        }
        error if has_no_room(error) => ErrorDetail { code: Code::NoRoom, ..detail },
        _ => detail,
    }
}

#[cfg(test)]
mod tests {
    use api::Fault;

    use super::*;

    #[test]
    fn it_is_known_whose_fault_an_error_is() {
        let code = |error: &Error| detail(error).code;
        let (name, what) = ("core-7.img".to_owned(), "its contents".to_owned());
        assert_eq!(code(&Error::Images(images::Error::Changed { name, what })), Code::Damaged);
        let kernel = |number| {
            let source = std::io::Error::from_raw_os_error(number);
            code(&Error::Kernel { operation: "write a ghost".to_owned(), source })
        };
        assert_eq!(kernel(nix::libc::ENOSPC), Code::NoRoom);
        assert_eq!(kernel(nix::libc::EINVAL).fault(), Fault::Product);
    }
}
