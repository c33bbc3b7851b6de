//! One trace a job, from who asks through the gateway and the services to the steps of the frozen moment, as a collector gets it; and
//! log lines that say of which trace they are.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;
use stasis_tests::{Machine, Scratch, Services, WebServer, wait_until};

/// A span, and the service that has sent it.
#[derive(Clone, Debug)]
struct Sent {
    service: String,
    span: Span,
}

type Spans = Arc<Mutex<Vec<Sent>>>;

/// What collects spans, by OTLP over HTTP; it ends with the test.
struct Collector {
    spans: Spans,
    address: String,
    _runtime: tokio::runtime::Runtime,
}

fn name_of(resource: Option<&Resource>) -> String {
    let attributes = resource.into_iter().flat_map(|resource| &resource.attributes);
    let name = attributes.filter(|it| it.key == "service.name").find_map(|it| {
        match it.value.as_ref()?.value.as_ref()? {
            Value::StringValue(name) => Some(name.clone()),
            _ => None,
        }
    });
    name.unwrap_or_default()
}

async fn collect(State(spans): State<Spans>, body: Bytes) -> Vec<u8> {
    let request = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
    let mut kept = spans.lock().expect("nobody panicked");
    for of_resource in request.resource_spans {
        let service = name_of(of_resource.resource.as_ref());
        let sent = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        kept.extend(sent.map(|span| Sent { service: service.clone(), span }));
    }
    ExportTraceServiceResponse::default().encode_to_vec()
}

impl Collector {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let spans = Spans::default();
        let app = Router::new().route("/v1/traces", post(collect)).with_state(spans.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("listen");
        let address = format!("http://{}", listener.local_addr().expect("its address"));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { spans, address, _runtime: runtime }
    }

    /// The spans of a trace, when those of these services and names are there.
    fn whole(&self, id: [u8; 16], wanted: &[(&str, &str)]) -> Vec<Sent> {
        let until_now = || -> Vec<Sent> {
            let spans = self.spans.lock().expect("nobody panicked");
            spans.iter().filter(|sent| sent.span.trace_id == id).cloned().collect()
        };
        let is_whole = || {
            let trace = until_now();
            let is_there = |(service, name): &(&str, &str)| {
                trace.iter().any(|sent| sent.service == *service && sent.span.name == *name)
            };
            wanted.iter().all(is_there)
        };
        assert!(wait_until(Duration::from_secs(60), is_whole), "{wanted:?}: {:#?}", until_now());
        until_now()
    }
}

/// Traces of who asks, and the span of his that he asks in.
const DUMP: [u8; 16] = *b"a trace of dumps";
const RESTORE: [u8; 16] = *b"one of a restore";
const PARENT: [u8; 8] = *b"who asks";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The only span of a name that hangs below another one.
fn below<'a>(trace: &'a [Sent], parent: &[u8], service: &str, name: &str) -> &'a Span {
    let here = |sent: &&Sent| {
        let Sent { service: of, span } = sent;
        of == service && span.name == name && span.parent_span_id == parent
    };
    let found: Vec<_> = trace.iter().filter(here).collect();
    assert_eq!(found.len(), 1, "{service}: {name} below {parent:x?} in {trace:#?}");
    &found[0].span
}

/// Has the gateway do a job within a trace, and waits for its end.
fn ask(services: &Services, trace: [u8; 16], path: &str, body: &serde_json::Value) {
    let traceparent = format!("00-{}-{}-01", hex(&trace), hex(&PARENT));
    let token = std::fs::read_to_string(services.token_file()).expect("the token");
    let request = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
    let request = request.post(format!("{}{path}?wait=60s", services.address()));
    let request = request.bearer_auth(token.trim()).header("traceparent", traceparent);
    let job: serde_json::Value =
        request.json(body).send().and_then(|answer| answer.json()).expect("an answer");
    assert_eq!(job["state"], "done", "{job}");
}

#[test]
fn a_job_is_one_trace_down_to_the_steps_of_the_frozen_moment() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address.as_str()),
        // Milliseconds between two times that spans are sent.
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("STASIS_LOG_FORMAT", "json"),
    ];
    let services = Services::start_with(&scratch.path("services"), &settings);
    let web = WebServer::start(&scratch.path("web"));
    let pid = web.program.pid();
    let body = json!({"pid": pid, "directory": "traced", "leave_running": false});
    ask(&services, DUMP, "/v1/checkpoints", &body);
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).expect("reap");
    ask(&services, RESTORE, "/v1/restores", &json!({"directory": "traced"}));

    let trace = collector.whole(
        DUMP,
        &[
            ("stasis-gateway", "POST /v1/checkpoints"),
            ("stasis-dumper", "POST /v1/dumps"),
            ("stasis-dumper", "frozen"),
        ],
    );
    let asked = below(&trace, &PARENT, "stasis-gateway", "POST /v1/checkpoints");
    let dumped = below(&trace, &asked.span_id, "stasis-dumper", "POST /v1/dumps");
    let frozen = below(&trace, &dumped.span_id, "stasis-dumper", "frozen");
    for step in ["stop", "inventory", "registers", "parasite", "memory"] {
        let step = below(&trace, &frozen.span_id, "stasis-dumper", step);
        assert!(step.start_time_unix_nano >= frozen.start_time_unix_nano);
        // The steps and the whole are measured by themselves.
        assert!(step.end_time_unix_nano <= frozen.end_time_unix_nano + 1_000_000);
    }
    assert!(dumped.start_time_unix_nano <= frozen.start_time_unix_nano);
    assert!(frozen.end_time_unix_nano <= dumped.end_time_unix_nano);
    let roots = trace.iter().filter(|sent| sent.span.parent_span_id == PARENT).count();
    assert_eq!(roots, 1, "who asked has asked for one thing: {trace:#?}");

    let trace = collector.whole(
        RESTORE,
        &[("stasis-gateway", "POST /v1/restores"), ("stasis-restorer", "POST /v1/restores")],
    );
    let asked = below(&trace, &PARENT, "stasis-gateway", "POST /v1/restores");
    below(&trace, &asked.span_id, "stasis-restorer", "POST /v1/restores");

    // One JSON object a line, and what is done for somebody has the id of his trace.
    let logs = services.logs();
    let lines = logs.lines().filter(|line| !line.starts_with("--- ")).map(|line| {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        line
    });
    let lines: Vec<_> = lines.collect();
    for (trace, says) in [(DUMP, ": dumped process"), (RESTORE, ": restored traced")] {
        let here = |line: &&serde_json::Value| {
            line["fields"]["message"].as_str().is_some_and(|message| message.contains(says))
        };
        let line = lines.iter().find(here).unwrap_or_else(|| panic!("no {says} in {logs}"));
        assert_eq!(line["span"]["trace_id"], hex(&trace), "{line}");
    }
    drop(services);
    machine.end_tree(pid);
}
