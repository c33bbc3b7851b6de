//! Metrics, as Prometheus reads them. Each service has one registry of its own, passed to who
//! counts; none is global. What they are is in one table ([`definitions`]).

pub mod definitions;
mod failures;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::{Problem, blocking};
pub use definitions::{Definition, Kind};
pub use failures::Failures;

/// The metrics that every service has, and the registry that its own join.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// What the process takes (`process_*`), which each service has: its series say of which.
    process: Arc<Registry>,
    service: &'static str,
    requests: IntCounterVec,
    durations: HistogramVec,
    failures: IntCounterVec,
    refused: IntCounterVec,
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    registry: &Registry,
    Definition { name, help, labels, .. }: &Definition,
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(*name, *help), labels)?)
}

fn gauges(
    registry: &Registry,
    Definition { name, help, labels, .. }: &Definition,
) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(*name, *help), labels)?)
}

fn histograms(
    registry: &Registry,
    Definition { name, help, labels, kind }: &Definition,
) -> Result<HistogramVec, prometheus::Error> {
    let buckets = match kind {
        Kind::Histogram(buckets) => buckets.to_vec(),
        Kind::Counter | Kind::Gauge => {
            return Err(prometheus::Error::Msg(format!("{name} is no histogram")));
        }
    };
    register(
        registry,
        HistogramVec::new(HistogramOpts::new(*name, *help).buckets(buckets), labels)?,
    )
}

impl Metrics {
    /// A registry with the common metrics.
    ///
    /// # Errors
    /// Never, if the table is as it should be.
    pub fn new(service: &'static str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let of_service = HashMap::from([("service".to_owned(), service.to_owned())]);
        let process = Registry::new_custom(None, Some(of_service))?;
        process.register(Box::new(ProcessCollector::for_self()))?;
        let build = gauges(&registry, &definitions::BUILD)?;
        let refused = counters(&registry, &definitions::PEERS_REFUSED)?;
        build.with_label_values(&[service, env!("CARGO_PKG_VERSION")]).set(1);
        let failures = counters(&registry, &definitions::REQUEST_FAILURES)?;
        failures.with_label_values(&[service]).reset();
        refused.with_label_values(&[service]).reset();
        Ok(Self {
            requests: counters(&registry, &definitions::REQUESTS)?,
            durations: histograms(&registry, &definitions::REQUEST_SECONDS)?,
            registry: Arc::new(registry),
            process: Arc::new(process),
            service,
            failures,
            refused,
        })
    }

    /// Registers counters, one for each set of values of the labels.
    ///
    /// # Errors
    /// If they are registered already; so with all that follow.
    pub fn counters(&self, definition: &Definition) -> Result<IntCounterVec, prometheus::Error> {
        counters(&self.registry, definition)
    }

    /// Registers counters by one label, with those of these values at 0: a counter that is not there yet cannot be told from one that
    /// was lost, and its first step is no increase.
    pub fn counters_of(
        &self,
        definition: &Definition,
        values: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let made = self.counters(definition)?;
        for value in values {
            made.with_label_values(&[*value]).reset();
        }
        Ok(made)
    }

    /// Registers a counter without labels.
    pub fn counter(&self, definition: &Definition) -> Result<IntCounter, prometheus::Error> {
        self.counters(definition)?.get_metric_with_label_values::<&str>(&[])
    }

    /// Registers gauges, one for each set of values of the labels.
    pub fn gauges(&self, definition: &Definition) -> Result<IntGaugeVec, prometheus::Error> {
        gauges(&self.registry, definition)
    }

    /// Registers gauges by one label, with those of these values at 0.
    pub fn gauges_of(
        &self,
        definition: &Definition,
        values: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let made = self.gauges(definition)?;
        for value in values {
            made.with_label_values(&[*value]).set(0);
        }
        Ok(made)
    }

    /// Registers a gauge without labels.
    pub fn gauge(&self, definition: &Definition) -> Result<IntGauge, prometheus::Error> {
        self.gauges(definition)?.get_metric_with_label_values::<&str>(&[])
    }

    /// Registers histograms, one for each set of values of the labels.
    pub fn histograms(&self, definition: &Definition) -> Result<HistogramVec, prometheus::Error> {
        histograms(&self.registry, definition)
    }

    /// Registers histograms by one label, with those of these values empty.
    pub fn histograms_of(
        &self,
        definition: &Definition,
        values: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let made = self.histograms(definition)?;
        for value in values {
            made.get_metric_with_label_values(&[*value])?;
        }
        Ok(made)
    }

    /// Registers a histogram without labels.
    pub fn histogram(&self, definition: &Definition) -> Result<Histogram, prometheus::Error> {
        self.histograms(definition)?.get_metric_with_label_values::<&str>(&[])
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// If one cannot be written as text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let all = [self.registry.gather(), self.process.gather()].concat();
        prometheus::TextEncoder::new().encode_to_string(&all)
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
        if matches!(status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY) {
            metrics.failures.with_label_values(&[metrics.service]).inc();
        }
        metrics
            .durations
            .with_label_values(&[metrics.service, &path])
            .observe(start.elapsed().as_secs_f64());
        response
    }

    /// `GET /metrics`.
    pub async fn page(State(metrics): State<Self>) -> Result<Response, Problem> {
        // What the process takes is read from /proc.
        blocking(move || metrics.text()).await.map(page).map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("encode the metrics: {error}"))
        })
    }
}

/// Metrics text as an answer.
pub fn page(text: String) -> Response {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
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
    use api::Code;

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
        for service in ["one", "two"] {
            let line = format!("process_open_fds{{service=\"{service}\"}} ");
            assert!(merged.contains(&line), "{merged}");
        }
    }

    #[test]
    fn failures_are_there_before_the_first() {
        let metrics = Metrics::new("one").unwrap();
        let jobs =
            Failures::register(&metrics, &definitions::JOB_FAILURES, &["checkpoint"]).unwrap();
        let dumps = Failures::register(&metrics, &definitions::RESTORE_FAILURES, &[]).unwrap();
        jobs.count(&["checkpoint"], Code::Invalid);
        dumps.count(&[], Code::NoRoom);
        let text = metrics.text().unwrap();
        for line in [
            r#"stasis_job_failures_total{fault="user",kind="checkpoint",reason="invalid"} 1"#,
            r#"stasis_job_failures_total{fault="product",kind="checkpoint",reason="failed"} 0"#,
            r#"stasis_restore_failures_total{fault="environment",reason="no_room"} 1"#,
            r#"stasis_restore_failures_total{fault="product",reason="failed"} 0"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
