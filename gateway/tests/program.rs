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
use axum::http::HeaderMap;
use axum::routing::get;
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
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{address}");
        assert!(said.contains("TLS") && said.contains("127.0.0.1"), "{address}: {said}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    }
}
