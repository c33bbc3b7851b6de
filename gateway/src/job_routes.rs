//! `/v1/jobs`, and how jobs are begun.

use std::sync::Arc;
use std::time::Duration;

use api::{
    Code, Directory, ErrorDetail, Job, JobKind, JobList, JobQuery, JobState, Labels, Priority,
    Role, User,
};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};
use axum::{Extension, Json};
use service::{Page, Problem};
use tracing::Instrument;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Object;
use crate::callers::Asker;
use crate::gateway::Gateway;
use crate::jobs::{FoundAgain, Key, NewJob, NoJob, Outcome};
use crate::openapi::Problems;
use crate::queue::Place;
use crate::services::problem;
use crate::state::StateError;
use crate::wait::Wait;
use crate::work::{Work, cancel, described, perform, progress, settle};

/// In between it is tried again to note what came of a job.
const TRIED_AGAIN: Duration = Duration::from_secs(5);

/// The longest name of a request.
const LONGEST_KEY: usize = 200;

/// So often it is asked how far a job is.
const FOLLOWED: Duration = Duration::from_millis(500);

const KEY: &str = "idempotency-key";

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(jobs)).routes(routes!(job)).routes(routes!(cancel_job))
}

/// A job that was begun, or is done.
pub(crate) type Accepted = (StatusCode, [(HeaderName, String); 1], Extension<Object>, Json<Job>);

/// How a job is asked for: for how long the answer is held back, and what the request is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    wait: Duration,
    key: Option<String>,
}

impl FromRequestParts<Gateway> for Manner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let query = Query::<Wait>::from_request_parts(parts, gateway).await;
        let wait = Wait::asked(query)?;
        let mut keys = parts.headers.get_all(KEY).iter();
        let key = match (keys.next(), keys.next()) {
            (None, _) => None,
            (Some(key), None) => {
                let good = |key: &&str| !key.is_empty() && key.len() <= LONGEST_KEY;
                Some(key.to_str().ok().filter(good).ok_or_else(bad_key)?.to_owned())
            }
            (Some(_), Some(_)) => return Err(bad_key()),
        };
        Ok(Self { wait, key })
    }
}

fn bad_key() -> Problem {
    let message = "the header Idempotency-Key is no name of a request";
    Problem::new(StatusCode::BAD_REQUEST, message)
        .remedy(format!("send it once, with 1 to {LONGEST_KEY} letters that ASCII has"))
}

/// A request for a job: for how long the answer is held back, and by what the request is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    wait: Duration,
    key: Option<Key>,
}

impl Manner {
    /// How one of several trees is asked for, of which each has a job of its own.
    pub(crate) fn of_one(&self, pid: i32) -> Self {
        let key = self.key.as_ref().map(|key| format!("{key}/{pid}"));
        Self { wait: Duration::ZERO, key }
    }

    /// For how long the answer is held back.
    pub(crate) const fn patience(&self) -> Duration {
        self.wait
    }

    /// How this request is asked for, which is compared as it was sent with what else is sent by the same name.
    pub(crate) fn of(
        self,
        kind: JobKind,
        request: &impl serde::Serialize,
    ) -> Result<Asked, Problem> {
        let Self { wait, key } = self;
        let request = serde_json::to_string(&(kind, request)).map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("note the request: {error}"))
        })?;
        Ok(Asked { wait, key: key.map(|name| Key { name, request }) })
    }
}

/// Begins a job, once for all requests of a name: to another the answer is that job, as it is now.
pub(crate) async fn once(
    gateway: &Gateway,
    asker: &Asker,
    asked: &Asked,
    begin: impl Future<Output = Result<Accepted, Problem>>,
) -> Result<Accepted, Problem> {
    if let Some(before) = sent_before(gateway, asker, asked).await? {
        return Ok(before);
    }
    match begin.await {
        Ok(begun) => Ok(begun),
        // The same may have been sent at the same time: what speaks against this one may have come of that.
        Err(problem) => sent_before(gateway, asker, asked).await?.ok_or(problem),
    }
}

/// The answer to a request that was sent before by the same name.
async fn sent_before(
    gateway: &Gateway,
    asker: &Asker,
    asked: &Asked,
) -> Result<Option<Accepted>, Problem> {
    let Some(key) = &asked.key else { return Ok(None) };
    let (by, key) = (asker.clone(), key.clone());
    match gateway.jobs.ask(move |jobs| jobs.sent_before(&by, &key)).await {
        Ok(()) => Ok(None),
        Err(NoJob::Again(job)) => again(gateway, asker, asked.wait, *job).await.map(Some),
        Err(none) => Err(no_job(none, asker, None)),
    }
}

/// The answer to a request that was sent before: of a job that who asks may see. He may have another right to his name by now.
async fn again(
    gateway: &Gateway,
    asker: &Asker,
    wait: Duration,
    job: Job,
) -> Result<Accepted, Problem> {
    match known(gateway, asker, &job.id).await? {
        Some(job) => answer(gateway, asker, wait, job).await,
        None => Err(no_job(NoJob::OtherRequest, asker, None)),
    }
}

/// Notes a job and sets it to work. The labels are those of the checkpoint.
pub(crate) async fn start(
    gateway: &Gateway,
    asker: &Asker,
    asked: &Asked,
    Begin { work, labels, priority }: Begin,
) -> Result<Accepted, Problem> {
    let id = uuid::Uuid::new_v4().to_string();
    let of_user = asker.user.is_some();
    let place = gateway.queue.join(&id, priority, of_user);
    let new = NewJob {
        id: id.clone(),
        asker: asker.clone(),
        priority,
        queued: matches!(place, Place::Later(_)),
        work: serde_json::to_string(&work).unwrap_or_default(),
        kind: work.kind(),
        target: work.target(),
        directory: work.directory().clone(),
        leave_running: work.leave_running(),
        labels,
        key: asked.key.clone(),
    };
    let job = match gateway.jobs.ask(move |jobs| jobs.begin(new)).await {
        Ok(job) => job,
        Err(none) => {
            // Another one has the turn while this answer is held back.
            drop(place);
            gateway.queue.leave(&id);
            return match none {
                NoJob::Again(job) => again(gateway, asker, asked.wait, *job).await,
                none => Err(no_job(none, asker, Some(&work))),
            };
        }
    };
    tracing::info!("{asker}: job {}, {}", job.id, described(&job));
    let services = gateway.services.on_behalf_of(asker.user);
    let (at_work, metrics) = (job.clone(), gateway.metrics.clone());
    let does = async move { perform(&services, &metrics, &at_work, &work).await };
    run(gateway, (job.clone(), asker.user), place, does);
    answer(gateway, asker, asked.wait, job).await
}

/// What a new job does.
#[derive(Clone, Debug)]
pub(crate) struct Begin {
    pub(crate) work: Work,
    /// Those of the checkpoint.
    pub(crate) labels: Labels,
    pub(crate) priority: Priority,
}

impl Gateway {
    /// Finds out what became of the jobs that were at work when the gateway ended, and begins those that waited. It is called once, in
    /// the runtime.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn find_again(&self) -> Result<(), StateError> {
        for FoundAgain { job, user, work } in self.jobs.found_again()? {
            tracing::info!("{}: job {}, {}, is found again", job.asked_by, job.id, described(&job));
            let services = self.services.on_behalf_of(user);
            let at_work = job.clone();
            let work = work.and_then(|work| serde_json::from_str::<Work>(&work).ok());
            match work {
                // It was cancelled, and the gateway ended before that was noted.
                _ if job.state == JobState::Queued && job.cancelled_by.is_some() => {
                    let never = async { Outcome::Failed(cancelled_in_time()) };
                    run(self, (job, user), Place::Now(self.queue.at_work(user.is_some())), never);
                }
                Some(work) if job.state == JobState::Queued => {
                    let place = self.queue.join(&job.id, job.priority, user.is_some());
                    let metrics = self.metrics.clone();
                    let does = async move { perform(&services, &metrics, &at_work, &work).await };
                    run(self, (job, user), place, does);
                }
                _ => {
                    let place = Place::Now(self.queue.at_work(user.is_some()));
                    // Whether its service had heard of that is not known.
                    let unwanted = job.cancelled_by.is_some();
                    let does = async move {
                        if unwanted && let Err(error) = cancel(&services, &at_work).await {
                            let error = service::chain(&error);
                            tracing::warn!("cancel job {}: {error}", at_work.id);
                        }
                        settle(&services, &at_work).await
                    };
                    run(self, (job, user), place, does);
                }
            }
        }
        Ok(())
    }
}

/// A task of its own: the job goes on when who asked for it hangs up.
fn run(
    gateway: &Gateway,
    (job, user): (Job, Option<User>),
    place: Place,
    work: impl Future<Output = Outcome> + Send + 'static,
) {
    let gateway = gateway.clone();
    gateway.metrics.queued(gateway.queue.waiting());
    let task = async move {
        let turn = match place {
            Place::Now(turn) => Some(turn),
            Place::Later(comes) => comes.await.ok(),
        };
        gateway.metrics.queued(gateway.queue.waiting());
        let outcome = match &turn {
            Some(_) => at_work(&gateway, &job, user, work).await,
            None => Outcome::Failed(cancelled_in_time()),
        };
        end(&gateway, &job, &outcome, turn.is_some()).await;
    };
    tokio::spawn(task.in_current_span());
}

/// What is told of a job that was cancelled before its turn.
fn cancelled_in_time() -> ErrorDetail {
    ErrorDetail {
        code: Code::Cancelled,
        message: "it was cancelled before its turn".to_owned(),
        ..ErrorDetail::default()
    }
}

/// Has a job done whose turn it is, and tells meanwhile how far it is.
async fn at_work(
    gateway: &Gateway,
    job: &Job,
    user: Option<User>,
    work: impl Future<Output = Outcome> + Send + 'static,
) -> Outcome {
    let mut told = job.clone();
    if job.state == JobState::Queued {
        let id = job.id.clone();
        match gateway.jobs.ask(move |jobs| jobs.started(&id)).await {
            Ok(Some(started)) => told = started,
            Ok(None) => {}
            // It is told as one that waits until it is over.
            Err(error) => tracing::error!("note that job {} has begun: {error}", job.id),
        }
    }
    gateway.metrics.begun(&told);
    let follow = {
        let services = gateway.services.on_behalf_of(user);
        let jobs = gateway.jobs.clone();
        async move {
            loop {
                tokio::time::sleep(FOLLOWED).await;
                if let Some(progress) = progress(&services, &told).await {
                    let (job, user) = (told.clone(), user.map(|user| user.uid));
                    jobs.ask(move |jobs| jobs.is_so_far(&job, user, progress)).await;
                }
            }
        }
    };
    let work = tokio::spawn(work.in_current_span());
    let done = tokio::select! {
        done = work => done,
        () = follow => unreachable!("it goes on for ever"),
    };
    done.unwrap_or_else(|error| {
        let message = format!("the gateway failed at it: {error}");
        Outcome::Failed(ErrorDetail { message, ..ErrorDetail::default() })
    })
}

/// Notes what came of a job. `begun`: its turn had come.
async fn end(gateway: &Gateway, job: &Job, outcome: &Outcome, begun: bool) {
    let (id, asker, what) = (&job.id, &job.asked_by, described(job));
    match outcome {
        Outcome::Failed(error) => {
            tracing::warn!("{asker}: job {id}, {what}, failed: {}", error.message);
        }
        _ => tracing::info!("{asker}: job {id}, {what}, is done"),
    }
    if begun {
        gateway.metrics.finished(job, outcome);
    }
    // A disk that is full has room again some day.
    let ended = loop {
        let (of, came) = (id.clone(), outcome.clone());
        match gateway.jobs.ask(move |jobs| jobs.finish(&of, came)).await {
            Ok(ended) => break ended,
            Err(error) => tracing::error!("note the end of job {id}: {error}; it is tried again"),
        }
        tokio::time::sleep(TRIED_AGAIN).await;
    };
    if let Some(job) = ended {
        gateway.audit.ended(&job);
    }
}

async fn answer(
    gateway: &Gateway,
    asker: &Asker,
    wait: Duration,
    begun: Job,
) -> Result<Accepted, Problem> {
    let job = match wait.is_zero() {
        true => begun,
        false => gateway.jobs.wait(&begun.id, asker, wait).await.map_err(lost)?.unwrap_or(begun),
    };
    let status = match job.state {
        JobState::Queued | JobState::Running => StatusCode::ACCEPTED,
        JobState::Done | JobState::Failed | JobState::Cancelled => StatusCode::OK,
    };
    let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    let object = Extension(Object::Job(Arc::new(job.clone())));
    Ok((status, location, object, Json(job)))
}

fn no_job(none: NoJob, asker: &Asker, work: Option<&Work>) -> Problem {
    match none {
        NoJob::Again(_) | NoJob::OtherRequest => {
            let message = "another request was sent with this Idempotency-Key";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message)
                .remedy("name each request otherwise, and send the same again only as it was")
        }
        NoJob::Busy(other) => {
            let message = format!("job {other} is at work on the same directory");
            work.map(Work::directory).map_or_else(
                || Problem::new(StatusCode::CONFLICT, message),
                |directory| busy(&other, directory),
            )
        }
        NoJob::SameProcess(other) => {
            let (field, what) = match work {
                Some(Work::Dump(request)) => ("pid", format!("process {}", request.pid)),
                _ => ("pids", "one of the processes".to_owned()),
            };
            let message = format!("job {other} is at work on {what}");
            Problem::new(StatusCode::CONFLICT, message)
                .of(field)
                .remedy(format!("wait until it is finished: GET /v1/jobs/{other}?wait=60s"))
        }
        NoJob::TooMany => {
            let message = format!("{asker} has as many jobs at work as one user may have");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
                .remedy("wait until one is finished: GET /v1/jobs/ID?wait=60s")
        }
        NoJob::Lost(error) => lost(error),
    }
}

/// Another job is at work on a directory.
pub(crate) fn busy(other: &str, directory: &Directory) -> Problem {
    let message = format!("job {other} is at work on directory {directory}");
    Problem::new(StatusCode::CONFLICT, message)
        .of("directory")
        .remedy("wait until it is finished, or name another directory")
}

/// The database does not answer as it should.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(crate) fn lost(error: rusqlite::Error) -> Problem {
    let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    let (status, remedy) = match full {
        true => (StatusCode::INSUFFICIENT_STORAGE, "make room where --state-dir is"),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "see the log of the gateway"),
    };
    tracing::error!("the gateway's database: {error}");
    Problem::new(status, format!("use the gateway's database: {error}")).remedy(remedy)
}

fn no_such_job(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no job {id}"))
        .remedy("GET /v1/jobs lists those there are")
}

/// What a query asks for.
pub(crate) fn asked(query: Result<Query<JobQuery>, QueryRejection>) -> Result<JobQuery, Problem> {
    query.map(|Query(asked)| asked).map_err(|rejection| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text())
            .remedy("send limit, cursor, state, kind or directory")
    })
}

/// A page of the jobs that who asks may see.
pub(crate) async fn list(
    gateway: &Gateway,
    asker: &Asker,
    asked: JobQuery,
) -> Result<JobList, Problem> {
    let page = Page::asked(asked.limit, asked.cursor.as_deref())?;
    let asker = asker.clone();
    gateway.jobs.ask(move |jobs| jobs.list(&asker, &asked, page)).await.map_err(lost)
}

/// A job, as it is now.
pub(crate) async fn find(gateway: &Gateway, asker: &Asker, id: &str) -> Result<Job, Problem> {
    known(gateway, asker, id).await?.ok_or_else(|| no_such_job(id))
}

/// A job, if who asks may see one of that id.
async fn known(gateway: &Gateway, asker: &Asker, id: &str) -> Result<Option<Job>, Problem> {
    let (asker, id) = (asker.clone(), id.to_owned());
    gateway.jobs.ask(move |jobs| jobs.get(&id, &asker)).await.map_err(lost)
}

/// Notes who has asked for a job to be cancelled; `None`: it is not to be, after all.
async fn cancelling(
    gateway: &Gateway,
    id: &str,
    by: Option<&Asker>,
) -> Result<Option<Job>, Problem> {
    let (id, by) = (id.to_owned(), by.cloned());
    gateway.jobs.ask(move |jobs| jobs.cancelling(&id, by.as_ref())).await.map_err(lost)
}

/// The id of a job that is at work on a directory, or on one above or below it.
pub(crate) async fn at_work_on(
    gateway: &Gateway,
    asker: &Asker,
    directory: &Directory,
) -> Result<Option<String>, Problem> {
    let (asker, directory) = (asker.clone(), directory.clone());
    gateway.jobs.ask(move |jobs| jobs.at_work_on(&asker, &directory)).await.map_err(lost)
}

/// The jobs that who asks may see, newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(JobQuery), responses((status = 200, description = "A page of them", body = JobList), Problems))]
async fn jobs(
    State(gateway): State<Gateway>,
    asker: Asker,
    query: Result<Query<JobQuery>, QueryRejection>,
) -> Result<Json<JobList>, Problem> {
    list(&gateway, &asker, asked(query)?).await.map(Json)
}

/// A job.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job"), Wait), responses((status = 200, description = "The job", body = Job), Problems))]
async fn job(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<Job>, Problem> {
    let found = gateway.jobs.wait(&id, &asker, Wait::asked(wait)?).await.map_err(lost)?;
    found.map(Json).ok_or_else(|| no_such_job(&id))
}

/// Cancels a job: a tree that was to be checkpointed runs on, of one that was to be restored nothing is left, and there are no images. What
/// is done already stays done. Takes the role that the job took.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path, description = "The job"), Wait), responses((status = 200, description = "The job, which is over", body = Job), (status = 202, description = "The job, which is about to end", body = Job), Problems))]
pub(crate) async fn cancel_job(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
    manner: Manner,
) -> Result<Accepted, Problem> {
    let job = find(&gateway, &asker, &id).await?;
    let takes = match job.kind {
        JobKind::Checkpoint | JobKind::DryRun | JobKind::Verify => Role::Checkpoint,
        JobKind::Restore => Role::Restore,
    };
    if !asker.has(takes) {
        let message = format!("{asker} has not the role {}, which the job took", takes.name());
        return Err(Problem::new(StatusCode::FORBIDDEN, message)
            .remedy("ask with a token that has it, or have root grant it (docs/security.md)"));
    }
    if job.state.is_over() {
        return answer(&gateway, &asker, Duration::ZERO, job).await;
    }
    let Some(job) = cancelling(&gateway, &id, Some(&asker)).await? else {
        let job = find(&gateway, &asker, &id).await?;
        return answer(&gateway, &asker, Duration::ZERO, job).await;
    };
    tracing::info!("{asker}: cancel job {id}, {}", described(&job));
    if !gateway.queue.leave(&id) {
        if job.container.is_some() {
            cancelling(&gateway, &id, None).await?;
            let message = "the container's engine is at work, which cannot be told to stop";
            return Err(Problem::new(StatusCode::CONFLICT, message)
                .remedy(format!("wait until it is finished: GET /v1/jobs/{id}?wait=60s")));
        }
        let services = gateway.services.on_behalf_of(asker.user);
        if let Err(error) = cancel(&services, &job).await {
            cancelling(&gateway, &id, None).await?;
            return Err(problem(error, &asker));
        }
    }
    answer(&gateway, &asker, manner.wait, job).await
}
