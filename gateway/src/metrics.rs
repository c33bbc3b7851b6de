//! The gateway's own metrics; those of the services join them on the same page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{Code, HealthState, Job, JobKind};
use axum::http::StatusCode;
use axum::response::Response;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use service::metrics::{Failures, Metrics, definitions as are, merge, page};
use service::{Client, Problem, blocking};

use crate::jobs::Outcome;
use crate::policy_metrics::PolicyMetrics;

/// The gateway's own metrics.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    common: Metrics,
    jobs: IntCounterVec,
    failures: Failures,
    seconds: HistogramVec,
    running: IntGaugeVec,
    queued: IntGauge,
    oldest: IntGaugeVec,
    found_again: IntCounter,
    events_lost: IntCounter,
    up: IntGaugeVec,
    refused: IntCounterVec,
    /// Of policies.
    pub(crate) policies: PolicyMetrics,
    /// The jobs at work: what they are, and since when.
    at_work: Arc<Mutex<BTreeMap<String, (JobKind, u64)>>>,
}

impl GatewayMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn new(common: Metrics) -> Result<Self, prometheus::Error> {
        let kinds = JobKind::ALL.map(JobKind::name);
        let reasons = ["host", "origin", "rate", "token", "user", "right"];
        let metrics = Self {
            jobs: common.counters(&are::JOBS)?,
            failures: Failures::register(&common, &are::JOB_FAILURES, &kinds)?,
            seconds: common.histograms_of(&are::JOB_SECONDS, &kinds)?,
            running: common.gauges_of(&are::JOBS_RUNNING, &kinds)?,
            queued: common.gauge(&are::JOBS_QUEUED)?,
            oldest: common.gauges(&are::JOBS_OLDEST)?,
            found_again: common.counter(&are::JOBS_FOUND_AGAIN)?,
            events_lost: common.counter(&are::EVENTS_LOST)?,
            up: common.gauges(&are::SERVICE_UP)?,
            refused: common.counters_of(&are::GATEWAY_REFUSED, &reasons)?,
            policies: PolicyMetrics::register(&common)?,
            at_work: Arc::default(),
            common,
        };
        for kind in kinds {
            for outcome in ["done", "failed", "cancelled"] {
                metrics.jobs.with_label_values(&[kind, outcome]).reset();
            }
        }
        Ok(metrics)
    }

    /// `reason`: `host` or `origin`, which are not ours; `rate`, more than one may ask for; `token`, wrong or none; `user`, to whom the
    /// socket is closed; `right`, which who asked has not.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// So many jobs wait for their turn.
    pub(crate) fn queued(&self, count: usize) {
        self.queued.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A job is at work.
    pub(crate) fn begun(&self, job: &Job) {
        self.running.with_label_values(&[job.kind.name()]).inc();
        self.note(job.kind, |at_work| {
            at_work.insert(job.id.clone(), (job.kind, job.created_ms));
        });
        if job.found_again {
            self.found_again.inc();
        }
    }

    /// It is over.
    pub(crate) fn finished(&self, job: &Job, outcome: &Outcome) {
        let kind = job.kind.name();
        self.running.with_label_values(&[kind]).dec();
        self.note(job.kind, |at_work| {
            at_work.remove(&job.id);
        });
        let name = match outcome {
            Outcome::Failed(error) if error.code == Code::Cancelled => "cancelled",
            Outcome::Failed(error) => {
                self.failures.count(&[kind], error.code);
                "failed"
            }
            _ => "done",
        };
        self.jobs.with_label_values(&[kind, name]).inc();
        let begun = UNIX_EPOCH + Duration::from_millis(job.created_ms);
        // If the clock was set back meanwhile, nobody knows.
        let took = SystemTime::now().duration_since(begun).unwrap_or_default();
        self.seconds.with_label_values(&[kind]).observe(took.as_secs_f64());
    }

    /// Changes what is at work, and tells since when the oldest of a kind is.
    fn note(&self, kind: JobKind, change: impl FnOnce(&mut BTreeMap<String, (JobKind, u64)>)) {
        // Each change is one insertion or removal.
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut at_work);
        let same = at_work.values().filter(|(other, _)| *other == kind);
        match same.map(|(_, created_ms)| *created_ms).min() {
            Some(created_ms) => {
                let seconds = i64::try_from(created_ms / 1000).unwrap_or(i64::MAX);
                self.oldest.with_label_values(&[kind.name()]).set(seconds);
            }
            // There may have been none before.
            None => drop(self.oldest.remove_label_values(&[kind.name()])),
        }
    }

    /// A listener was not told of so many changes.
    pub(crate) fn events_lost(&self, count: u64) {
        self.events_lost.inc_by(count);
    }

    pub(crate) fn seen(&self, service: &str, state: HealthState) {
        let up = i64::from(state != HealthState::Down);
        self.up.with_label_values(&[service]).set(up);
    }

    /// The page: our own metrics and those of the services that answer.
    pub(crate) async fn page(&self, services: [&Client; 4]) -> Result<Response, Problem> {
        let [a, b, c, d] = services.map(|client| self.of_service(client));
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        let common = self.common.clone();
        let own = blocking(move || common.text()).await.map_err(|error| {
            let message = format!("encode the metrics: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        let texts = [Some(own), a, b, c, d];
        Ok(page(merge(texts.iter().flatten().map(String::as_str))))
    }

    async fn of_service(&self, client: &Client) -> Option<String> {
        let answer = client.text("/metrics").await;
        let state = if answer.is_ok() { HealthState::Ok } else { HealthState::Down };
        self.seen(client.service(), state);
        answer.inspect_err(|error| tracing::debug!("scrape: {}", service::chain(error))).ok()
    }
}
