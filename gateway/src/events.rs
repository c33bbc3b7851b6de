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

/// So often it is asked who listens, and what he may see, by now.
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
    /// Who listens, and what he may see, by now.
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
                    // A token may have been taken back, a session have ended, rights be others.
                    if let Some(known) = &self.known {
                        self.asker = known.now().await?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::{JobKind, Labels, Priority, Role};
    use service::metrics::Metrics;
    use tokio::sync::Notify;

    use super::*;
    use crate::callers::Rights;
    use crate::jobs::{Jobs, NewJob, Target};
    use crate::state::State;

    fn asker(labels: &str) -> Asker {
        let labels = labels.parse().unwrap_or_default();
        let rights = Rights { roles: vec![Role::View], labels, ..Rights::default() };
        Asker::new("one", Arc::new(rights))
    }

    fn begin(jobs: &Jobs, team: &str) -> Job {
        let new = NewJob {
            id: team.to_owned(),
            asker: Asker::new("root", Arc::new(Rights::all())),
            priority: Priority::Normal,
            queued: false,
            work: String::new(),
            kind: JobKind::Checkpoint,
            target: Target::Images,
            directory: team.parse().unwrap(),
            leave_running: None,
            labels: format!("team={team}").parse::<Labels>().unwrap(),
            key: None,
        };
        jobs.begin(new).unwrap()
    }

    /// One who listens, whom `by_now` is asked for.
    fn listener(jobs: &Jobs, by_now: Option<Asker>, asked: &Arc<Notify>) -> Listener {
        let asked = asked.clone();
        let known = StillKnown::by(move || {
            asked.notify_one();
            std::future::ready(by_now.clone())
        });
        let end = |kind| signal(kind).unwrap();
        Listener {
            changes: jobs.changes(),
            asker: asker(""),
            job: None,
            ends: [end(SignalKind::terminate()), end(SignalKind::interrupt())],
            metrics: GatewayMetrics::new(Metrics::new("gateway").unwrap()).unwrap(),
            known: Some(known),
            looked_at: interval(LOOKED_AT),
        }
    }

    #[tokio::test]
    async fn who_may_see_less_by_now_is_told_less() {
        let jobs = Jobs::of(State::forgotten().unwrap());
        let asked = Arc::new(Notify::new());
        let mut narrowed = listener(&jobs, Some(asker("team=web")), &asked);
        let told = tokio::spawn(async move { narrowed.next().await });
        asked.notified().await;
        begin(&jobs, "db");
        begin(&jobs, "web");
        let event = format!("{:?}", told.await.unwrap().unwrap());
        assert!(event.contains("web") && !event.contains("db"), "{event}");

        let mut gone = listener(&jobs, None, &asked);
        assert!(gone.next().await.is_none());
        let without_roles = Asker::new("one", Arc::new(Rights::default()));
        let mut gone = listener(&jobs, Some(without_roles), &asked);
        assert!(gone.next().await.is_none());
    }
}
