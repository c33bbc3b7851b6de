//! The gateway's own metrics; those of the services join them on the same page.

use api::{HealthState, JobKind};
use axum::http::StatusCode;
use axum::response::Response;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use service::metrics::{Metrics, merge, page};
use service::{Client, Problem};

/// The gateway's own metrics.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    common: Metrics,
    jobs: IntCounterVec,
    running: IntGaugeVec,
    up: IntGaugeVec,
    refused: IntCounterVec,
}

impl GatewayMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn new(common: Metrics) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            jobs: common.add(IntCounterVec::new(
                Opts::new("stasis_jobs_total", "Jobs finished, by kind and outcome."),
                &["kind", "outcome"],
            )?)?,
            running: common.add(IntGaugeVec::new(
                Opts::new("stasis_jobs_running", "Jobs at work, by kind."),
                &["kind"],
            )?)?,
            up: common.add(IntGaugeVec::new(
                Opts::new("stasis_service_up", "Whether a service answered the last scrape."),
                &["service"],
            )?)?,
            refused: common.add(IntCounterVec::new(
                Opts::new("stasis_gateway_refused_total", "Requests refused for who sent them."),
                &["reason"],
            )?)?,
            common,
        };
        for reason in ["host", "origin", "rate", "token", "user", "right"] {
            metrics.refused.with_label_values(&[reason]).reset();
        }
        // A counter that is not there yet cannot be told from one that was lost.
        for kind in JobKind::ALL {
            metrics.running.with_label_values(&[kind.name()]).set(0);
            for outcome in ["done", "failed"] {
                metrics.jobs.with_label_values(&[kind.name(), outcome]).reset();
            }
        }
        Ok(metrics)
    }

    /// `reason`: `host` or `origin`, which are not ours; `rate`, more than one may ask for; `token`, wrong or none; `user`, to whom the
    /// socket is closed; `right`, which who asked has not.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn begun(&self, kind: JobKind) {
        self.running.with_label_values(&[kind.name()]).inc();
    }

    pub(crate) fn finished(&self, kind: JobKind, done: bool) {
        self.running.with_label_values(&[kind.name()]).dec();
        let outcome = if done { "done" } else { "failed" };
        self.jobs.with_label_values(&[kind.name(), outcome]).inc();
    }

    pub(crate) fn seen(&self, service: &str, state: HealthState) {
        let up = i64::from(state != HealthState::Down);
        self.up.with_label_values(&[service]).set(up);
    }

    /// The page: our own metrics and those of the services that answer.
    pub(crate) async fn page(&self, services: [&Client; 4]) -> Result<Response, Problem> {
        let [a, b, c, d] = services.map(|client| self.of_service(client));
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        let own = self.common.text().map_err(|error| {
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
