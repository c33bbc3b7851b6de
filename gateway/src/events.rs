//! `/v1/events`: what becomes of jobs, as it happens (server-sent events).

use std::convert::Infallible;
use std::time::Duration;

use api::{EventQuery, Job};
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::Stream;
use futures_util::stream::unfold;
use service::Problem;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, interval};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::GatewayMetrics;
use crate::callers::{Asker, StillKnown};
use crate::gateway::Gateway;
use crate::jobs::Change;
use crate::openapi::Problems;

/// In between something is sent, so that who listens knows that nothing is lost.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// So often it is asked whether who listens may still.
const LOOKED_AT: Duration = Duration::from_secs(5);

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(events))
}

/// One who listens.
struct Listener {
    changes: Receiver<Change>,
    asker: Asker,
    job: Option<String>,
    ends: [Signal; 2],
    metrics: GatewayMetrics,
    /// Whether who listens may still.
    known: Option<StillKnown>,
    looked_at: Interval,
}

fn wants(asker: &Asker, job: Option<&String>, change: &Change) -> bool {
    asker.user.is_none_or(|user| change.user == Some(user.uid))
        && change.job.labels.have(asker.labels())
        && job.is_none_or(|job| change.job.id == *job)
}

impl Listener {
    /// The next that is told; `None` when the gateway ends.
    async fn next(&mut self) -> Option<Event> {
        let [terminate, interrupt] = &mut self.ends;
        loop {
            let change = tokio::select! {
                change = self.changes.recv() => change,
                _ = self.looked_at.tick() => {
                    // A token may have been taken back, a session have ended.
                    if self.known.as_ref().is_some_and(|known| !known.is()) {
                        return None;
                    }
                    continue;
                }
                _ = terminate.recv() => return None,
                _ = interrupt.recv() => return None,
            };
            match change {
                Ok(change) if wants(&self.asker, self.job.as_ref(), &change) => {
                    // Who cannot be told as it is, is told that there is something.
                    let told = Event::default().event("job").json_data(&*change.job);
                    return Some(told.unwrap_or_else(|_| Event::default().event("lost")));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => {
                    self.metrics.events_lost(count);
                    return Some(Event::default().event("lost").data("ask for the list"));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// What becomes of jobs: an event `job`, with the job, when one begins and when it ends; `lost` where some could not be told.
#[utoipa::path(get, path = "/v1/events", tag = "jobs", params(EventQuery), responses((status = 200, description = "Events, until who listens hangs up", body = Job, content_type = "text/event-stream"), Problems))]
async fn events(
    State(gateway): State<Gateway>,
    asker: Asker,
    known: Option<Extension<StillKnown>>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Query(EventQuery { job }) = query.map_err(|rejection| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text()).remedy("send job")
    })?;
    // A listener that stays must not keep the gateway from its end.
    let end = |kind| {
        signal(kind).map_err(|error| {
            let message = format!("listen for the end: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    };
    let ends = [end(SignalKind::terminate())?, end(SignalKind::interrupt())?];
    let (changes, metrics) = (gateway.jobs.changes(), gateway.metrics);
    let (known, looked_at) = (known.map(|Extension(known)| known), interval(LOOKED_AT));
    let listener = Listener { changes, asker, job, ends, metrics, known, looked_at };
    let told = unfold(listener, async |mut listener| {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    Ok(Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
