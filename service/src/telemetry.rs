//! Logs and traces.
//!
//! Each request is a span, child of the one that the caller names in its `traceparent` header
//! (W3C trace context); what the service asks of others carries the span on. Spans are exported
//! by OTLP over plain HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, and only passed on when it
//! is not. What is logged of a request has the id of its trace, exported or not.

use std::io;
use std::time::{Duration, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, TraceContextExt, Tracer, TracerProvider};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::{Error, LogFormat, LogSettings};

/// Logs and traces while it lives; dropping it sends what was not sent yet.
#[derive(Debug)]
pub(crate) struct Telemetry(SdkTracerProvider);

impl Telemetry {
    /// Sets up both, for the whole process. Must be called outside an async runtime: the
    /// exporter has a thread and a client of its own.
    pub(crate) fn start(service: &'static str, settings: LogSettings) -> Result<Self, Error> {
        let filter = match std::env::var_os("STASIS_LOG") {
            Some(_) => EnvFilter::try_from_env("STASIS_LOG").map_err(Error::Filter)?,
            None => EnvFilter::new("info"),
        };
        let provider = provider(service)?;
        // The spans of ours; what the HTTP crates say of themselves at lower levels is no part
        // of a trace.
        let traces = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("stasis"))
            .with_filter(LevelFilter::INFO);
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
        let lines = match settings.log_format {
            LogFormat::Text => lines.with_ansi(false).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry()
            .with(traces)
            .with(lines.with_filter(filter))
            .try_init()
            .map_err(|error| Error::Telemetry(error.into()))?;
        Ok(Self(provider))
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!("send the last spans: {error}");
        }
    }
}

fn provider(service: &'static str) -> Result<SdkTracerProvider, Error> {
    let resource = Resource::builder().with_service_name(format!("stasis-{service}")).build();
    let builder = SdkTracerProvider::builder().with_resource(resource);
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none() {
        return Ok(builder.build());
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .build()
        .map_err(|error| Error::Telemetry(error.into()))?;
    Ok(builder.with_batch_exporter(exporter).build())
}

/// Makes spans of what has been measured already: where no span may be begun and ended, because
/// nothing that can wait is done there.
#[derive(Clone, Debug)]
pub struct Traces(SdkTracer);

impl Traces {
    pub(crate) fn of(telemetry: &Telemetry) -> Self {
        Self(telemetry.0.tracer("stasis"))
    }

    /// A span `name` below the present one, begun at `started`, and below it `steps`, one behind the
    /// other; those that took no time are left out. `whole` is how long all of it took, which may
    /// be more than the steps.
    pub fn measured(
        &self,
        name: &'static str,
        started: SystemTime,
        whole: Duration,
        steps: &[(&'static str, Duration)],
    ) {
        let parent = tracing::Span::current().context();
        let span = |name, at, parent: &Context| {
            self.0.span_builder(name).with_start_time(at).start_with_context(&self.0, parent)
        };
        let within = parent.with_span(span(name, started, &parent));
        let mut at = started;
        for &(step, took) in steps.iter().filter(|(_, took)| !took.is_zero()) {
            let mut step = span(step, at, &within);
            at += took;
            step.end_with_timestamp(at);
        }
        within.span().end_with_timestamp(started + whole);
    }
}

/// Answers a request within a span; a layer for a router.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{} {}", request.method(), path.unwrap_or("unmatched")),
        otel.kind = "server",
        trace_id = tracing::field::Empty,
        http.status = tracing::field::Empty,
    );
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!("take over a trace context: {error}");
    }
    let trace = span.context().span().span_context().trace_id();
    span.record("trace_id", tracing::field::display(trace));
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.status", response.status().as_u16());
    response
}

/// The headers that carry the present span to another service.
pub(crate) fn carry() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let context = tracing::Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(&mut headers));
    headers
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::InMemorySpanExporter;

    use super::*;

    #[test]
    fn measured_steps_stand_one_behind_the_other() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let traces = Traces(provider.tracer("test"));
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let milliseconds = Duration::from_millis;
        let steps =
            [("stop", milliseconds(1)), ("cure", Duration::ZERO), ("memory", milliseconds(4))];
        traces.measured("frozen", start, milliseconds(6), &steps);

        let spans = exporter.get_finished_spans().unwrap();
        let times: Vec<_> =
            spans.iter().map(|span| (&*span.name, span.start_time, span.end_time)).collect();
        let at = |after| start + milliseconds(after);
        let wanted = [("stop", start, at(1)), ("memory", at(1), at(5)), ("frozen", start, at(6))];
        assert_eq!(times, wanted);
        let whole = spans[2].span_context.span_id();
        assert!(spans[..2].iter().all(|span| span.parent_span_id == whole));
    }
}
