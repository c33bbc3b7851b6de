//! The gateway over real sockets, and fakes that speak the services' JSON on Unix sockets behind it.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::future::pending;
use std::sync::Arc;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use reqwest::Method;
use serde_json::{Value, json};
use service::metrics::Metrics;
use stasis_gateway::{
    Access, Audit, DoorSettings, Gateway, GatewayMetrics, Hosts, Identities, Issued, LimitSettings,
    Limits, Services, State, TokenSettings, Tokens, doors,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

pub(crate) struct Rest {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    /// The same on the Unix socket.
    pub(crate) socket: reqwest::Client,
    pub(crate) token: String,
    pub(crate) metrics_token: String,
    pub(crate) directory: tempfile::TempDir,
    /// Lets the fake dumper finish a dump.
    pub(crate) go: Arc<Notify>,
}

impl Rest {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let services = Services::in_directory(directory.path()).unwrap();
        let common = Metrics::new("gateway").unwrap();
        let metrics = GatewayMetrics::new(common.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let files = TokenSettings {
            token_file: directory.path().join("gateway.token"),
            metrics_token_file: directory.path().join("metrics.token"),
        };
        let state = State::forgotten().unwrap();
        let identities = Identities {
            tokens: Tokens::open(&files).unwrap(),
            issued: Issued::of(state.clone()).unwrap(),
            access: Access::open(None).unwrap(),
        };
        let hosts = Hosts::with(&["proxy.example".to_owned()]);
        let n = |n| std::num::NonZeroU32::new(n).unwrap();
        let limits = LimitSettings { changes_per_second: n(1000), requests_per_second: n(1000) };
        let limits = Limits::of(limits);
        let settings = DoorSettings { hosts, users: true, tls: None, limits };
        let gateway =
            Gateway::new(services, state, metrics, identities, Audit::nowhere(), 16).unwrap();
        let doors = doors(gateway, settings, common);
        let path = directory.path().join("gateway.sock");
        let socket = service::Socket::bind(&path).unwrap();
        tokio::spawn(doors.answer(listener, socket, [pending(), pending()]));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let socket = reqwest::Client::builder().no_proxy().unix_socket(path).build().unwrap();
        let read = |path| std::fs::read_to_string(path).unwrap().trim().to_owned();
        let (token, metrics_token) = (read(&files.token_file), read(&files.metrics_token_file));
        Self { url, http, socket, token, metrics_token, directory, go: Arc::default() }
    }

    /// With all four services behind it.
    pub(crate) async fn with_services() -> Self {
        let rest = Self::start().await;
        rest.fake("restorer", restorer());
        rest.fake("freezer", Router::new());
        rest.fake("collector", Router::new());
        let processes = get(|| async {
            Json(json!({"processes": [{"pid": 7, "ppid": 1, "comm": "x", "command": "x <script>-y",
                "uid": 0, "threads": 1, "memory_bytes": 4096, "dumpable": true, "refusals": []}]}))
        });
        rest.fake("dumper", dumper(rest.go.clone()).route("/v1/processes", processes));
        rest
    }

    pub(crate) fn fake(&self, name: &'static str, own: Router) {
        let listener = UnixListener::bind(self.directory.path().join(format!("{name}.sock")));
        let health = json!({"service": name, "status": "ok", "version": "1.2.3"});
        let metrics = format!(
            "# HELP stasis_requests_total Requests answered.\n# TYPE stasis_requests_total \
             counter\nstasis_requests_total{{service=\"{name}\"}} 1\n"
        );
        let app = own
            .route("/healthz", get(async || Json(health)))
            .route("/metrics", get(async || metrics));
        let listener = listener.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&str>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.ask(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn finished(&self, job: &Value) -> Value {
        let path = format!("/v1/jobs/{}?wait=10s", job["id"].as_str().unwrap());
        self.get(&path).await.1
    }
}

pub(crate) fn summary(directory: &str) -> Value {
    json!({"directory": directory, "created_ms": 1, "image_bytes": 5, "pid": 7, "comm": "x",
        "processes": 1, "threads": 1})
}

/// Dumps when it is told to, and never process 1.
pub(crate) fn dumper_of_dumps(go: Arc<Notify>) -> Router {
    let dump = move |headers: HeaderMap, Json(request): Json<Value>| async move {
        go.notified().await;
        if request["pid"] == 1 {
            let error = json!({"detail": "dump process 1: it is init", "remedy": "dump another"});
            return (StatusCode::UNPROCESSABLE_ENTITY, Json(error));
        }
        let parent = headers.get("traceparent").map(|parent| parent.to_str().unwrap());
        let after = request["after"].as_str().unwrap();
        // What was asked comes back in numbers that the summary has room for.
        let done = json!({"frozen_us": 830, "total_us": parent.map_or(0, str::len), "processes": 1,
            "threads": if after == "kill" { 9 } else { 8 }, "pages_scanned": 3, "pages_written": 2,
            "image_bytes": 5, "account": {"stop_us": 1, "inventory_us": 2, "registers_us": 3,
            "parasite_us": 4, "files_us": 5, "memory_us": 6, "cure_us": 7}});
        (StatusCode::OK, Json(done))
    };
    Router::new().route("/v1/dumps", post(dump))
}

/// Knows the checkpoint `there`, too.
pub(crate) fn dumper(go: Arc<Notify>) -> Router {
    let one = |Path(name): Path<String>| async move {
        match name.as_str() {
            "there" => (StatusCode::OK, Json(summary("there"))),
            "runs" => (StatusCode::OK, Json(summary("runs"))),
            _ => (StatusCode::NOT_FOUND, Json(json!({"detail": "none"}))),
        }
    };
    dumper_of_dumps(go)
        .route("/v1/checkpoints", get(async || Json(json!({"checkpoints": [summary("there")]}))))
        .route("/v1/checkpoints/{*directory}", get(one))
}

pub(crate) fn restorer() -> Router {
    let restore = post(|Json(request): Json<Value>| async move {
        assert_eq!(request["directory"], "there");
        Json(json!({"pid": 7, "total_us": 9, "processes": 1, "threads": 1, "pages_restored": 2}))
    });
    let list =
        get(async || Json(json!({"restores": [{"directory": "runs", "pid": 7, "running": true}]})));
    Router::new().route("/v1/restores", restore.merge(list))
}
