//! `/v1/policies`. For who may do everything alone: a policy does what it does on nobody else's behalf.

use api::{Labels, Policy, PolicyList, PolicySpec};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::{Extension, Json};
use service::{Body, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Object;
use crate::callers::Owner;
use crate::checkpoints::not_reserved;
use crate::gateway::Gateway;
use crate::job_routes::lost;
use crate::openapi::Problems;
use crate::policies::{Expected, Limits, NotSet, Schedule};
use crate::policy_work as work;
use crate::selection;

/// The longest name.
const LONGEST_NAME: usize = 40;

/// A policy with its version.
type Told = (StatusCode, [(HeaderName, String); 1], Extension<Object>, Json<Policy>);

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(policies))
        .routes(routes!(policy, set, remove))
        .routes(routes!(run))
}

fn told(status: StatusCode, policy: Policy) -> Told {
    let tag = [(header::ETAG, format!("\"{}\"", policy.tag()))];
    let object = Extension(Object::Named(format!("policy {}", policy.name)));
    (status, tag, object, Json(policy))
}

pub(crate) fn no_policy(name: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no policy {name}"))
        .remedy("GET /v1/policies lists those there are")
}

/// Which version a request means to change.
fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let said = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let version = |text: &str| Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    let found = match (said(header::IF_MATCH), said(header::IF_NONE_MATCH)) {
        (None, None) => Some(Expected::Any),
        (Some("*"), None) => Some(Expected::Some),
        (None, Some("*")) => Some(Expected::None),
        (Some(tag), None) => version(tag).map(Expected::Version),
        (_, Some(_)) => None,
    };
    found.ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, "If-Match or If-None-Match names no version").remedy(
            "send If-Match with the ETag that a GET gave, or If-None-Match: * for a new policy",
        )
    })
}

fn not_set(none: NotSet, name: &str) -> Problem {
    match none {
        NotSet::Other(Some(version)) => {
            let message = format!("policy {name} is another by now, of version {version}");
            Problem::new(StatusCode::PRECONDITION_FAILED, message)
                .remedy("GET it, and change that one")
        }
        NotSet::Other(None) => {
            Problem::new(StatusCode::PRECONDITION_FAILED, format!("there is no policy {name}"))
                .remedy("leave If-Match out, and it is made")
        }
        NotSet::TooMany => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "there are as many policies as may be")
                .remedy("remove some: DELETE /v1/policies/NAME")
        }
        NotSet::Lost(error) => lost(error),
    }
}

/// Refuses what a policy cannot do.
fn check(name: &str, spec: &PolicySpec) -> Result<(), Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('.');
    if !fits || !name.bytes().all(good) {
        return Err(Problem::field("name", "that is no name of a policy").remedy(format!(
            "name it with 1 to {LONGEST_NAME} letters, digits, '.', '_' and '-', and no dot first"
        )));
    }
    selection::check(&spec.select)?;
    if spec.together && spec.select.container.is_some() {
        return Err(Problem::field("together", "engines checkpoint one container at a time")
            .remedy("leave it out, or select processes"));
    }
    Schedule::of(spec)?;
    Limits::of(&spec.keep)?;
    not_reserved(&spec.labels, &Labels::default())
}

/// The policies, by name.
#[utoipa::path(get, path = "/v1/policies", tag = "policies", responses((status = 200, description = "The policies", body = PolicyList), Problems))]
async fn policies(State(gateway): State<Gateway>, _: Owner) -> Json<PolicyList> {
    Json(PolicyList { policies: gateway.policies.list() })
}

/// A policy, and how it fares.
#[utoipa::path(get, path = "/v1/policies/{name}", tag = "policies", params(("name" = String, Path, description = "What it is called")), responses((status = 200, description = "The policy", body = Policy), Problems))]
async fn policy(
    State(gateway): State<Gateway>,
    _: Owner,
    Path(name): Path<String>,
) -> Result<Told, Problem> {
    let found = gateway.policies.get(&name).ok_or_else(|| no_policy(&name))?;
    Ok(told(StatusCode::OK, found))
}

/// Makes a policy, or changes what it does.
#[utoipa::path(put, path = "/v1/policies/{name}", tag = "policies", params(("name" = String, Path, description = "What it is called"), ("If-Match" = Option<String>, Header, description = "The ETag of the version that is changed"), ("If-None-Match" = Option<String>, Header, description = "`*`: there is none of that name yet")), request_body = PolicySpec, responses((status = 200, description = "The policy, changed", body = Policy), (status = 201, description = "The policy, new", body = Policy), Problems))]
pub(crate) async fn set(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(spec): Body<PolicySpec>,
) -> Result<Told, Problem> {
    check(&name, &spec)?;
    let (expected, called) = (expected(&headers)?, name.clone());
    let set = gateway.policies.ask(move |policies| policies.set(&called, spec, &expected)).await;
    let policy = set.map_err(|none| not_set(none, &name))?;
    gateway.metrics.policies.know(&policy);
    tracing::info!("{asker}: policy {name} is of version {}", policy.version);
    let status = if policy.version == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok(told(status, policy))
}

/// Removes a policy. Its checkpoints stay.
#[utoipa::path(delete, path = "/v1/policies/{name}", tag = "policies", params(("name" = String, Path, description = "What it is called"), ("If-Match" = Option<String>, Header, description = "The ETag of the version that is removed")), responses((status = 204, description = "It is gone"), Problems))]
pub(crate) async fn remove(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (expected, called) = (expected(&headers)?, name.clone());
    let policies = &gateway.policies;
    let removed = policies.ask(move |policies| policies.remove(&called, &expected)).await;
    if !removed.map_err(|none| not_set(none, &name))? {
        return Err(no_policy(&name));
    }
    gateway.metrics.policies.forget(&name);
    tracing::info!("{asker}: removed policy {name}");
    Ok(StatusCode::NO_CONTENT)
}

/// Has a policy at work now, paused or not. Its next time is as if this were one.
#[utoipa::path(post, path = "/v1/policies/{name}/run", tag = "policies", params(("name" = String, Path, description = "What it is called")), responses((status = 202, description = "The policy, at work", body = Policy), Problems))]
pub(crate) async fn run(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Path(name): Path<String>,
) -> Result<Told, Problem> {
    if gateway.policies.get(&name).is_none() {
        return Err(no_policy(&name));
    }
    if !work::begin(&gateway, &name).await {
        return Err(Problem::new(StatusCode::CONFLICT, format!("policy {name} is at work"))
            .remedy("wait until its last run has finished_ms: GET /v1/policies/NAME"));
    }
    tracing::info!("{asker}: policy {name} is at work");
    let policy = gateway.policies.get(&name).ok_or_else(|| no_policy(&name))?;
    Ok(told(StatusCode::ACCEPTED, policy))
}
