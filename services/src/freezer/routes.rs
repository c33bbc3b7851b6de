//! The freezer's paths.

use std::time::Duration;

use api::{Lease, LeaseList, LeaseRequest, RenewRequest};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use ids::HostPid;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};
use service::metrics::{Failures, Metrics, definitions as are};
use service::{Body, Peer, Problem};

use crate::has_no_room;

use super::leases::{Ended, Leases, as_asked};
use freezer::{Error, Method, Target};

const LONGEST_TTL_MS: u64 = 600_000;

#[derive(Clone, Debug)]
struct Freezer {
    leases: Leases,
    held: IntGaugeVec,
    granted: IntCounterVec,
    failures: Failures,
    ended: IntCounterVec,
    stops: HistogramVec,
}

/// The router of the freezer's own paths, with its metrics registered.
///
/// # Errors
/// If the metrics are registered already.
pub(super) fn router(leases: Leases, metrics: &Metrics) -> Result<Router, prometheus::Error> {
    let methods = [Method::CgroupV2, Method::CgroupV1, Method::Ptrace].map(name);
    let freezer = Freezer {
        leases,
        held: metrics.gauges_of(&are::LEASES, &methods)?,
        granted: metrics.counters_of(&are::LEASES_GRANTED, &["granted", "failed"])?,
        failures: Failures::register(metrics, &are::LEASE_FAILURES, &[])?,
        ended: metrics.counters_of(&are::LEASE_ENDS, &Ended::ALL.map(Ended::name))?,
        stops: metrics.histograms_of(&are::FREEZE_SECONDS, &methods)?,
    };
    Ok(Router::new()
        .route("/v1/leases", post(grant).get(list))
        .route("/v1/leases/{id}", get(one).delete(release))
        .route("/v1/leases/{id}/renew", post(renew))
        .with_state(freezer))
}

fn ttl(ttl_ms: u64) -> Result<Duration, Problem> {
    if (1..=LONGEST_TTL_MS).contains(&ttl_ms) {
        return Ok(Duration::from_millis(ttl_ms));
    }
    Err(Problem::field("ttl_ms", format!("ttl_ms is {ttl_ms}"))
        .remedy(format!("send 1 to {LONGEST_TTL_MS}, and renew the lease before it ends")))
}

fn target(request: &LeaseRequest) -> Result<Target, Problem> {
    match (request.pid, &request.cgroup) {
        (Some(pid), None) => HostPid::new(pid).map(Target::Tree).ok_or_else(|| {
            Problem::field("pid", format!("pid is {pid}"))
                .remedy("send the pid of a running process")
        }),
        (None, Some(name)) => Ok(Target::Cgroup(name.clone())),
        _ => Err(Problem::field("pid", "exactly one of pid and cgroup is needed")
            .remedy("send one of the two")),
    }
}

fn failed(error: &Error) -> Problem {
    let status = match error {
        error if error.is_gone() => StatusCode::NOT_FOUND,
        error if has_no_room(error) => StatusCode::INSUFFICIENT_STORAGE,
        // What we need ourselves, and no matter of what is named.
        Error::Thread { .. } | Error::Lost(_) | Error::Undo { .. } | Error::Locked { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let problem = Problem::new(status, service::chain(error));
    match error.remedy() {
        Some(remedy) => problem.remedy(remedy),
        None => problem,
    }
}

fn no_such_lease(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no lease {id}"))
        .remedy("it may have ended: its time was over, or the connection it was asked on closed")
}

const fn name(method: Method) -> &'static str {
    match method {
        Method::Auto => "auto",
        Method::CgroupV2 => "cgroup_v2",
        Method::CgroupV1 => "cgroup_v1",
        Method::Ptrace => "ptrace",
    }
}

async fn grant(
    State(freezer): State<Freezer>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(request): Body<LeaseRequest>,
) -> Result<(StatusCode, Json<Lease>), Problem> {
    let target = target(&request)?;
    let ttl = ttl(request.ttl_ms)?;
    let (held, ended) = (freezer.held.clone(), freezer.ended.clone());
    let after = move |method, why: Ended| {
        held.with_label_values(&[name(method)]).dec();
        ended.with_label_values(&[why.name()]).inc();
    };
    let granted =
        freezer.leases.grant(target, as_asked(request.method), ttl, peer.connection, after).await;
    let outcome = if granted.is_ok() { "granted" } else { "failed" };
    freezer.granted.with_label_values(&[outcome]).inc();
    let lease = granted.map_err(|error| {
        let problem = failed(&error);
        freezer.failures.count(&[], problem.detail.code);
        problem
    })?;
    let method = name(as_asked(lease.method));
    freezer.held.with_label_values(&[method]).inc();
    freezer
        .stops
        .with_label_values(&[method])
        .observe(Duration::from_micros(lease.stop_us).as_secs_f64());
    tracing::info!("lease {} for pid {:?}: {} processes", lease.id, peer.pid, lease.processes);
    Ok((StatusCode::CREATED, Json(lease)))
}

async fn list(State(freezer): State<Freezer>) -> Json<LeaseList> {
    Json(LeaseList { leases: freezer.leases.list() })
}

async fn one(
    State(freezer): State<Freezer>,
    Path(id): Path<String>,
) -> Result<Json<Lease>, Problem> {
    let lease = freezer.leases.list().into_iter().find(|lease| lease.id == id);
    lease.map(Json).ok_or_else(|| no_such_lease(&id))
}

async fn renew(
    State(freezer): State<Freezer>,
    Path(id): Path<String>,
    Body(request): Body<RenewRequest>,
) -> Result<Json<Lease>, Problem> {
    let ttl = ttl(request.ttl_ms)?;
    freezer.leases.renew(&id, ttl).map(Json).ok_or_else(|| no_such_lease(&id))
}

async fn release(
    State(freezer): State<Freezer>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    match freezer.leases.release(&id).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_such_lease(&id)),
    }
}
