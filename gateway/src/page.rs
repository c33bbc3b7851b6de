//! The page: what operators see in a browser. It is rendered here, and asks for nothing from elsewhere; what it does goes through the
//! handlers of the API.

mod actions;
mod assets;
mod contents;
mod log_in;
mod policies;
mod trees;
mod units;
mod views;

use api::{CheckpointList, CheckpointSummary, ContainerList, Job, JobList, JobQuery, ProcessList};
use axum::Router;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use maud::Markup;
use serde::Deserialize;
use service::Problem;

use crate::callers::Asker;
use crate::gateway::Gateway;
use crate::job_routes;
use crate::services::{problem, with_query};

/// Where one logs in.
pub(crate) const LOG_IN: &str = "/login";
/// Below it are styles and scripts, which say nothing of anybody.
pub(crate) const ASSETS: &str = "/assets/";

/// Nothing is loaded but from here, nothing is run that is not a file of ours, and nobody shows the page inside of his own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The paths.
pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route("/", get(processes))
        .route("/containers", get(containers))
        .route("/checkpoints", get(checkpoints))
        .route("/checkpoints/{*directory}", get(checkpoint))
        .route("/contents/{*directory}", get(contents::contents))
        .route("/comparisons", get(contents::comparison))
        .route("/restores", get(trees::restored))
        .route("/tracks", get(trees::tracked))
        .route("/jobs", get(jobs))
        .route("/jobs/{id}", get(job))
        .route("/policies", get(policies::list))
        .route("/policies/{name}", get(policies::one))
        .route("/new", get(new))
        .route("/do/checkpoint", post(actions::checkpoint))
        .route("/do/restore", post(actions::restore))
        .route("/do/verify", post(actions::verify))
        .route("/do/cancel", post(actions::cancel))
        .route("/do/remove", post(actions::remove))
        .route("/do/track", post(trees::begin))
        .route("/do/track/end", post(trees::stop))
        .route("/do/policy/set", post(policies::set))
        .route("/do/policy/run", post(policies::run))
        .route("/do/policy/pause", post(policies::pause))
        .route("/do/policy/remove", post(policies::remove))
        .route(LOG_IN, get(log_in::form).post(log_in::log_in))
        .route("/logout", post(log_in::log_out))
        .route("/assets/{name}", get(assets::asset))
        .layer(middleware::from_fn(guarded))
}

/// What each answer says of what a browser may do with it.
async fn guarded(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Without it a browser says `Origin: null` of our own forms.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A problem as a page.
#[derive(Debug)]
pub(crate) struct Failed(Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0.status, views::failed(&self.0.detail)).into_response()
    }
}

async fn processes(
    State(gateway): State<Gateway>,
    asker: Asker,
    RawQuery(query): RawQuery,
) -> Result<Markup, Failed> {
    let services = gateway.services.on_behalf_of(asker.user);
    // Empty fields of the form say nothing.
    let is_said = |pair: &&str| pair.split_once('=').is_some_and(|(_, value)| !value.is_empty());
    let said: Vec<&str> = query.as_deref().unwrap_or_default().split('&').filter(is_said).collect();
    let said = said.join("&");
    let wanted = ["programs=true", &said].join("&");
    let list: ProcessList = services
        .dumper()
        .get(&with_query("/v1/processes", Some(wanted)))
        .await
        .map_err(|error| problem(error, &asker))?;
    let frozen =
        job_routes::list(&gateway, &asker, JobQuery { limit: Some(60), ..JobQuery::default() })
            .await?;
    // Without a collector there are none.
    let tracks = crate::tracks::list(&gateway, &asker).await.unwrap_or_default();
    Ok(views::processes(&asker, &list, &said, (&frozen.jobs, &tracks)))
}

async fn containers(State(gateway): State<Gateway>, asker: Asker) -> Result<Markup, Failed> {
    let services = gateway.services.on_behalf_of(asker.user);
    let list: ContainerList =
        services.containers().await.map_err(|error| problem(error, &asker))?;
    Ok(views::containers(&asker, &list))
}

async fn checkpoints(
    State(gateway): State<Gateway>,
    asker: Asker,
    RawQuery(query): RawQuery,
) -> Result<Markup, Failed> {
    let list: CheckpointList = crate::checkpoints::list(&gateway, &asker, query.clone()).await?;
    Ok(views::checkpoints(&asker, &list, query.as_deref().unwrap_or_default()))
}

async fn checkpoint(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Markup, Failed> {
    let found: CheckpointSummary = crate::checkpoints::find(&gateway, &asker, &name).await?;
    let query = JobQuery { directory: Some(found.directory.clone()), ..JobQuery::default() };
    let jobs = job_routes::list(&gateway, &asker, query).await?;
    let others = contents::others(&gateway, &asker, &found).await?;
    Ok(views::checkpoint(&asker, &found, &jobs.jobs, &contents::part(&found, &others)))
}

async fn jobs(
    State(gateway): State<Gateway>,
    asker: Asker,
    RawQuery(said): RawQuery,
    query: Result<Query<JobQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Markup, Failed> {
    let list: JobList = job_routes::list(&gateway, &asker, job_routes::asked(query)?).await?;
    Ok(views::jobs(&asker, &list, said.as_deref().unwrap_or_default()))
}

async fn job(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Markup, Failed> {
    let job: Job = job_routes::find(&gateway, &asker, &id).await?;
    Ok(views::job(&asker, &job))
}

/// Of what a checkpoint is to be made.
#[derive(Debug, Default, Deserialize)]
struct New {
    pid: Option<i32>,
    container: Option<String>,
}

async fn new(asker: Asker, Query(of): Query<New>) -> Markup {
    views::new(&asker, of.pid, of.container.as_deref())
}
