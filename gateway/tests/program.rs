//! The gateway's own program: what only a process of its own can show.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{any, get, post};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::net::UnixListener;

struct Gateway {
    child: Child,
    url: String,
    token: String,
}

impl Gateway {
    async fn start(run_dir: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_stasis-gateway"))
            .args(["--listen", &format!("127.0.0.1:{port}"), "--run-dir"])
            .arg(run_dir)
            .env("STASIS_TOKEN_FILE", run_dir.join("gateway.token"))
            .env("STASIS_METRICS_TOKEN_FILE", run_dir.join("metrics.token"))
            .env("STASIS_STATE_DIR", run_dir.join("gateway"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut gateway =
            Self { child, url: format!("http://127.0.0.1:{port}"), token: String::new() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while reqwest::get(format!("{}/v1/jobs", gateway.url)).await.is_err() {
            assert!(Instant::now() < deadline, "the gateway does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        gateway.token = std::fs::read_to_string(run_dir.join("gateway.token")).unwrap();
        gateway
    }
}

impl Gateway {
    async fn get(&self, path: &str) -> serde_json::Value {
        let request = reqwest::Client::new().get(format!("{}{path}", self.url));
        request.bearer_auth(self.token.trim()).send().await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let request = reqwest::Client::new().post(format!("{}{path}", self.url)).json(body);
        request.bearer_auth(self.token.trim()).send().await.unwrap().json().await.unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_trace_goes_on_in_the_services() {
    let directory = tempfile::tempdir().unwrap();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let hear = heard.clone();
    let processes = get(move |headers: HeaderMap| async move {
        let parent = headers.get("traceparent").unwrap().to_str().unwrap();
        hear.lock().unwrap().push(parent.to_owned());
        Json(json!({"processes": []}))
    });
    let listener = UnixListener::bind(directory.path().join("dumper.sock")).unwrap();
    let app = Router::new().route("/v1/processes", processes);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let gateway = Gateway::start(directory.path()).await;
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let client = reqwest::Client::new();
    for headers in [true, false] {
        let mut request = client.get(format!("{}/v1/processes", gateway.url));
        request = request.bearer_auth(gateway.token.trim());
        if headers {
            request = request.header("traceparent", format!("00-{trace}-{span}-01"));
        }
        assert!(request.send().await.unwrap().status().is_success());
    }
    let heard = heard.lock().unwrap();
    assert!(heard[0].starts_with(&format!("00-{trace}-")), "the same trace: {heard:?}");
    assert!(!heard[0].contains(span), "a span of the gateway's own: {heard:?}");
    assert!(!heard[1].contains(trace), "a trace of its own: {heard:?}");
}

#[tokio::test]
async fn it_ends_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(directory.path()).await;
    kill(Pid::from_raw(gateway.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = gateway.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(status.success(), "{status}");
}

#[test]
fn a_listener_beyond_loopback_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:7437"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stasis-gateway"));
        command.args(["--listen", address, "--run-dir"]).arg(directory.path());
        command.env("STASIS_TOKEN_FILE", directory.path().join("gateway.token"));
        command.env("STASIS_STATE_DIR", directory.path().join("gateway"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{address}");
        assert!(said.contains("TLS") && said.contains("127.0.0.1"), "{address}: {said}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    }
}

/// A dumper that begins each dump and never ends it, and knows each job whose id is in `done` to be done.
fn slow_dumper(begun: Arc<Mutex<Vec<String>>>, done: Arc<Mutex<Vec<String>>>) -> Router {
    let dump = post(move |headers: HeaderMap| async move {
        let name = headers.get("stasis-operation").unwrap().to_str().unwrap().to_owned();
        begun.lock().unwrap().push(name);
        std::future::pending::<Json<serde_json::Value>>().await
    });
    let operation = any(move |axum::extract::Path(name): axum::extract::Path<String>| async move {
        let is_done = done.lock().unwrap().contains(&name);
        let summary = json!({"frozen_us": 830, "total_us": 9, "processes": 1, "threads": 1, "pages_scanned": 3,
            "pages_written": 2, "image_bytes": 5, "account": {"stop_us": 1, "inventory_us": 2, "registers_us": 3,
            "parasite_us": 4, "files_us": 5, "memory_us": 6, "cure_us": 7}});
        match is_done {
            true => Json(json!({"state": "done", "answer": summary})),
            false => Json(json!({"state": "running"})),
        }
    });
    let none = || async { (StatusCode::NOT_FOUND, Json(json!({"detail": "none"}))) };
    Router::new()
        .route("/v1/dumps", dump)
        .route("/v1/operations/{name}", operation)
        .route("/v1/checkpoints/{*directory}", get(none))
}

async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_job_outlives_the_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let (begun, done) =
        (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
    let listener = UnixListener::bind(directory.path().join("dumper.sock")).unwrap();
    let dumper = slow_dumper(begun.clone(), done.clone());
    tokio::spawn(async move { axum::serve(listener, dumper).await });

    let first = Gateway::start(directory.path()).await;
    let body = json!({"pid": std::process::id(), "directory": "d", "leave_running": true});
    let job: serde_json::Value = first.post("/v1/checkpoints", &body).await;
    let id = job["id"].as_str().unwrap().to_owned();
    until("the dump begins", async || begun.lock().unwrap().first().cloned()).await;
    // SIGKILL: nothing is said to anybody.
    drop(first);

    let second = Gateway::start(directory.path()).await;
    let path = format!("/v1/jobs/{id}");
    let job: serde_json::Value = second.get(&path).await;
    assert_eq!((&job["state"], &job["found_again"]), (&json!("running"), &json!(true)), "{job}");
    let busy: serde_json::Value = second.post("/v1/checkpoints", &body).await;
    assert!(busy["detail"].as_str().unwrap().contains(&id), "{busy}");
    done.lock().unwrap().push(id.clone());
    let ended: serde_json::Value = second.get(&format!("{path}?wait=10s")).await;
    assert_eq!(
        (&ended["state"], &ended["dump"]["frozen_us"]),
        (&json!("done"), &json!(830)),
        "{ended}"
    );
    assert_eq!(begun.lock().unwrap().len(), 1, "nothing is done twice");
}

#[tokio::test]
async fn a_job_of_a_service_that_ends_is_settled() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("dumper.sock");
    let begun = Arc::<Mutex<Vec<String>>>::default();
    let dumper = slow_dumper(begun.clone(), Arc::default());
    let listener = UnixListener::bind(&socket).unwrap();
    // A runtime of its own, so that its connections end with it.
    let of_dumper = tokio::runtime::Runtime::new().unwrap();
    let listener = {
        let _in = of_dumper.enter();
        UnixListener::from_std(listener.into_std().unwrap()).unwrap()
    };
    of_dumper.spawn(async move { axum::serve(listener, dumper).await });
    let gateway = Gateway::start(directory.path()).await;
    let post = async |name: &str| -> serde_json::Value {
        let body = json!({"pid": std::process::id(), "directory": name, "leave_running": true});
        gateway.post("/v1/checkpoints", &body).await
    };
    let job = post("lost").await;
    until("the dump begins", async || begun.lock().unwrap().first().cloned()).await;
    of_dumper.shutdown_background();
    std::fs::remove_file(&socket).unwrap();
    // The next one knows of nothing; what was written is there.
    let unknown = || async { (StatusCode::NOT_FOUND, Json(json!({"detail": "none"}))) };
    let one = move |axum::extract::Path(name): axum::extract::Path<String>| async move {
        let summary = json!({"directory": name, "created_ms": 9_000_000_000_000_u64, "image_bytes": 5,
            "pid": 7, "comm": "x", "processes": 1, "threads": 1});
        Json(summary)
    };
    let next = Router::new()
        .route("/v1/operations/{name}", any(unknown))
        .route(
            "/v1/verifications",
            axum::routing::post(async || Json(json!({"sound": true, "files": 1, "bytes": 1}))),
        )
        .route("/v1/checkpoints/{*directory}", get(one));
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move { axum::serve(listener, next).await });
    let path = format!("/v1/jobs/{}?wait=20s", job["id"].as_str().unwrap());
    let ended: serde_json::Value = gateway.get(&path).await;
    assert_eq!((&ended["state"], &ended["dump"]), (&json!("done"), &json!(null)), "{ended}");
}
