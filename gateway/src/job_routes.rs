//! `/v1/jobs`, and how jobs are begun.

use std::sync::Arc;
use std::time::Duration;

use api::{Directory, ErrorDetail, Job, JobKind, JobList, JobQuery, JobState, Labels};
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
use crate::jobs::{Key, NewJob, NoJob, Outcome};
use crate::openapi::Problems;
use crate::state::StateError;
use crate::wait::Wait;
use crate::work::{Work, described, perform, settle};

/// In between it is tried again to note what came of a job.
const TRIED_AGAIN: Duration = Duration::from_secs(5);

/// The longest name of a request.
const LONGEST_KEY: usize = 200;

const KEY: &str = "idempotency-key";

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(jobs)).routes(routes!(job))
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

/// By what a request is known, if it was given a name.
fn key(
    manner: &Manner,
    kind: JobKind,
    request: &impl serde::Serialize,
) -> Result<Option<Key>, Problem> {
    let Some(name) = manner.key.clone() else { return Ok(None) };
    let request = serde_json::to_string(&(kind, request)).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("note the request: {error}"))
    })?;
    Ok(Some(Key { name, request }))
}

/// The answer to a request that was sent before by the same name: its job, as it is now.
pub(crate) async fn sent_before(
    gateway: &Gateway,
    asker: &Asker,
    manner: &Manner,
    kind: JobKind,
    request: &impl serde::Serialize,
) -> Result<Option<Accepted>, Problem> {
    let Some(key) = key(manner, kind, request)? else { return Ok(None) };
    match gateway.jobs.sent_before(asker, &key) {
        Ok(()) => Ok(None),
        Err(NoJob::Again(job)) => answer(gateway, asker, manner.wait, *job).await.map(Some),
        Err(none) => Err(no_job(none, asker, None)),
    }
}

/// Notes a job and sets it to work; `request` is what was asked, as it is compared with what else is sent by the same name. The labels
/// are those of the checkpoint.
pub(crate) async fn start(
    gateway: &Gateway,
    asker: &Asker,
    manner: Manner,
    request: &impl serde::Serialize,
    (work, labels): (Work, Labels),
) -> Result<Accepted, Problem> {
    let key = key(&manner, work.kind(), request)?;
    let (target, directory) = (work.target(), work.directory().clone());
    let leave_running = work.leave_running();
    let asked = asker.clone();
    let new =
        NewJob { asker: asked, kind: work.kind(), target, directory, leave_running, labels, key };
    let job = match gateway.jobs.begin(new) {
        Ok(job) => job,
        Err(NoJob::Again(job)) => return answer(gateway, asker, manner.wait, *job).await,
        Err(none) => return Err(no_job(none, asker, Some(&work))),
    };
    tracing::info!("{asker}: job {}, {}", job.id, described(&job));
    gateway.metrics.begun(&job);
    let services = gateway.services.on_behalf_of(asker.user);
    let (at_work, metrics) = (job.clone(), gateway.metrics.clone());
    run(gateway, job.clone(), async move { perform(&services, &metrics, &at_work, &work).await });
    answer(gateway, asker, manner.wait, job).await
}

impl Gateway {
    /// Finds out what became of the jobs that were at work when the gateway ended. It is called once, in the runtime.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn find_again(&self) -> Result<(), StateError> {
        for (job, user) in self.jobs.found_again()? {
            tracing::info!("{}: job {}, {}, is found again", job.asked_by, job.id, described(&job));
            self.metrics.begun(&job);
            let services = self.services.on_behalf_of(user);
            let at_work = job.clone();
            run(self, job, async move { settle(&services, &at_work).await });
        }
        Ok(())
    }
}

/// A task of its own: the job goes on when who asked for it hangs up.
fn run(gateway: &Gateway, job: Job, work: impl Future<Output = Outcome> + Send + 'static) {
    let gateway = gateway.clone();
    let task = async move {
        let outcome = tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| {
            let message = format!("the gateway failed at it: {error}");
            Outcome::Failed(ErrorDetail { message, ..ErrorDetail::default() })
        });
        let (id, asker, what) = (&job.id, &job.asked_by, described(&job));
        match &outcome {
            Outcome::Failed(error) => {
                tracing::warn!("{asker}: job {id}, {what}, failed: {}", error.message);
            }
            _ => tracing::info!("{asker}: job {id}, {what}, is done"),
        }
        gateway.metrics.finished(&job, &outcome);
        // A disk that is full has room again some day.
        let ended = loop {
            match gateway.jobs.finish(id, outcome.clone()) {
                Ok(ended) => break ended,
                Err(error) => {
                    tracing::error!("note the end of job {id}: {error}; it is tried again");
                }
            }
            tokio::time::sleep(TRIED_AGAIN).await;
        };
        if let Some(job) = ended {
            gateway.audit.ended(&job);
        }
    };
    tokio::spawn(task.in_current_span());
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
        JobState::Running => StatusCode::ACCEPTED,
        JobState::Done | JobState::Failed => StatusCode::OK,
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
            let pid = match work {
                Some(Work::Dump(request)) => request.pid.to_string(),
                _ => String::new(),
            };
            let message = format!("job {other} is at work on process {pid}");
            Problem::new(StatusCode::CONFLICT, message)
                .of("pid")
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
pub(crate) fn list(gateway: &Gateway, asker: &Asker, asked: &JobQuery) -> Result<JobList, Problem> {
    let page = Page::asked(asked.limit, asked.cursor.as_deref())?;
    gateway.jobs.list(asker, asked, page).map_err(lost)
}

/// A job, as it is now.
pub(crate) fn find(gateway: &Gateway, asker: &Asker, id: &str) -> Result<Job, Problem> {
    gateway.jobs.get(id, asker).map_err(lost)?.ok_or_else(|| no_such_job(id))
}

/// The jobs that who asks may see, newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(JobQuery), responses((status = 200, description = "A page of them", body = JobList), Problems))]
async fn jobs(
    State(gateway): State<Gateway>,
    asker: Asker,
    query: Result<Query<JobQuery>, QueryRejection>,
) -> Result<Json<JobList>, Problem> {
    list(&gateway, &asker, &asked(query)?).map(Json)
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
