//! Metrics, as Prometheus reads them. Each service has one registry of its own, passed to who
//! counts; none is global.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::Problem;

/// The metrics that every service has, and the registry that its own join.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    service: &'static str,
    requests: IntCounterVec,
    durations: HistogramVec,
    refused: IntCounterVec,
}

impl Metrics {
    /// A registry with the common metrics.
    pub fn new(service: &'static str) -> Result<Self, prometheus::Error> {
        Self::join(service, Registry::new())
    }

    /// As [`new`](Self::new), in a registry that may have metrics already.
    pub fn join(service: &'static str, registry: Registry) -> Result<Self, prometheus::Error> {
        let registry = Arc::new(registry);
        let requests = IntCounterVec::new(
            Opts::new("stasis_requests_total", "Requests answered."),
            &["service", "path", "method", "status"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new("stasis_request_seconds", "Time until a request was answered.")
                .buckets(seconds_buckets()),
            &["service", "path"],
        )?;
        let refused = IntCounterVec::new(
            Opts::new("stasis_peers_refused_total", "Requests of peers that may not ask."),
            &["service"],
        )?;
        let build = IntGaugeVec::new(
            Opts::new("stasis_build_info", "1, with the version of the service."),
            &["service", "version"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[service, env!("CARGO_PKG_VERSION")]).set(1);
        refused.with_label_values(&[service]).reset();
        Ok(Self { registry, service, requests, durations, refused })
    }

    /// The registry, for metrics of the service's own.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Registers a metric and hands it back.
    pub fn add<M>(&self, metric: M) -> Result<M, prometheus::Error>
    where
        M: prometheus::core::Collector + Clone + 'static,
    {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// All metrics as text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    pub(crate) fn refused_peer(&self) {
        self.refused.with_label_values(&[self.service]).inc();
    }

    /// Counts and times a request; a layer for a router.
    pub async fn count(State(metrics): State<Self>, request: Request, next: Next) -> Response {
        let start = Instant::now();
        // The path as routed: one with ids in it would make a time series an id.
        let path = request
            .extensions()
            .get::<MatchedPath>()
            .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
        // Whoever sends one of his own making makes no time series.
        let method = match *request.method() {
            Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::PATCH
            | Method::OPTIONS => request.method().to_string(),
            _ => "other".to_owned(),
        };
        let response = next.run(request).await;
        let status = response.status();
        metrics
            .requests
            .with_label_values(&[metrics.service, &path, &method, status.as_str()])
            .inc();
        metrics
            .durations
            .with_label_values(&[metrics.service, &path])
            .observe(start.elapsed().as_secs_f64());
        response
    }

    /// `GET /metrics`.
    pub async fn page(State(metrics): State<Self>) -> Result<Response, Problem> {
        metrics.text().map(page).map_err(|error| {
            Problem::new(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                format!("encode the metrics: {error}"),
            )
        })
    }
}

/// Metrics text as an answer.
pub fn page(text: String) -> Response {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

/// Buckets for times from 0.1 ms to 100 s: 1, 2.5 and 5 in each decade.
#[must_use]
pub fn seconds_buckets() -> Vec<f64> {
    vec![
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        5.0, 10.0, 25.0, 50.0, 100.0,
    ]
}

/// Joins the texts of several services into one in which each metric is described once, as the
/// text format demands. The texts are those of [`Metrics::text`]: `# HELP`, `# TYPE`, samples.
#[must_use]
pub fn merge<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut families: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for text in texts {
        let mut family = "";
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(description) = line.strip_prefix("# ") {
                family = description.split(' ').nth(1).unwrap_or_default();
                let (head, _) = families.entry(family).or_default();
                if head.len() < 2 {
                    head.push(line);
                }
            } else {
                families.entry(family).or_default().1.push(line);
            }
        }
    }
    let lines = families.values().flat_map(|(head, samples)| head.iter().chain(samples));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_metrics_are_described_once() {
        let one = Metrics::new("one").unwrap();
        let two = Metrics::new("two").unwrap();
        one.refused_peer();
        let merged = merge([one.text().unwrap().as_str(), two.text().unwrap().as_str()]);
        let count = |what: &str| merged.lines().filter(|line| line.starts_with(what)).count();
        assert_eq!(count("# TYPE stasis_peers_refused_total counter"), 1);
        assert_eq!(count("# HELP stasis_peers_refused_total "), 1);
        assert!(merged.contains("stasis_peers_refused_total{service=\"one\"} 1\n"));
        assert!(merged.contains("stasis_peers_refused_total{service=\"two\"} 0\n"));
        let family: Vec<_> = merged.lines().filter(|line| line.contains("build_info")).collect();
        assert_eq!(family.len(), 4, "{merged}");
        let first = merged.find("stasis_build_info").unwrap();
        let last = merged.rfind("stasis_build_info").unwrap();
        assert!(!merged[first..last].contains("peers_refused"), "one group a metric: {merged}");
    }
}
