//! The gateway's API: HTTP on TCP before it, fakes of the services behind it.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod fakes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use reqwest::Method;
use serde_json::{Value, json};

use fakes::{Rest, dumper_of_dumps, summary};
use tokio::sync::Notify;

#[tokio::test]
async fn a_checkpoint_is_a_job() {
    let rest = Rest::with_services().await;
    let pid = std::process::id();
    let body = format!(r#"{{"pid": {pid}, "directory": "new", "leave_running": true}}"#);
    let (status, job) = rest.post("/v1/checkpoints", &body).await;
    assert_eq!(status, 202, "{job}");
    assert_eq!((&job["state"], &job["kind"]), (&json!("running"), &json!("checkpoint")));
    assert_eq!((&job["directory"], &job["pid"]), (&json!("new"), &json!(pid)));

    let (status, busy) = rest.post("/v1/checkpoints", &body).await;
    assert_eq!((status, &busy["field"]), (409, &json!("directory")), "{busy}");
    let at = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    assert_eq!(rest.get(&at).await.1["state"], "running");

    rest.go.notify_one();
    let done = rest.finished(&job).await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!((&done["dump"]["frozen_us"], &done["dump"]["threads"]), (&json!(830), &json!(8)));
    assert!(done["finished_ms"].as_u64().unwrap() >= done["created_ms"].as_u64().unwrap());
    assert_eq!(rest.get("/v1/jobs").await.1["jobs"][0]["id"], job["id"]);
}

#[tokio::test]
async fn names_are_made_up_and_ended_is_what_was_said() {
    let rest = Rest::with_services().await;
    let body = format!(r#"{{"pid": {}, "leave_running": false}}"#, std::process::id());
    let (status, job) = rest.post("/v1/checkpoints", &body).await;
    assert_eq!(status, 202, "{job}");
    let name = job["directory"].as_str().unwrap();
    assert!(name.starts_with(&format!("{}-", std::process::id())), "{name}");
    rest.go.notify_one();
    assert_eq!(rest.finished(&job).await["dump"]["threads"], 9);
}

#[tokio::test]
async fn a_restore_is_a_job_with_the_pid() {
    let rest = Rest::with_services().await;
    let (status, job) = rest.post("/v1/restores", r#"{"directory": "there"}"#).await;
    assert_eq!(status, 202, "{job}");
    let done = rest.finished(&job).await;
    assert_eq!((&done["state"], &done["pid"]), (&json!("done"), &json!(7)), "{done}");
    assert_eq!(done["restore"]["pages_restored"], 2);
}

#[tokio::test]
async fn a_failed_job_says_what_the_service_said() {
    let rest = Rest::with_services().await;
    let (status, job) = rest.post("/v1/checkpoints", r#"{"pid": 1, "leave_running": true}"#).await;
    assert_eq!(status, 202, "{job}");
    rest.go.notify_one();
    let failed = rest.finished(&job).await;
    assert_eq!(failed["state"], "failed");
    let error = json!({"code": "failed", "detail": "dump process 1: it is init",
        "remedy": "dump another"});
    assert_eq!(failed["error"], error);
}

#[tokio::test]
async fn bad_input_names_the_field_and_the_remedy() {
    let rest = Rest::with_services().await;
    let (checkpoints, restores) = ("/v1/checkpoints", "/v1/restores");
    for (path, body, status, field) in [
        (checkpoints, r#"{"pid": -1, "leave_running": true}"#, 422, Some("pid")),
        (checkpoints, r#"{"pid": 0, "leave_running": true}"#, 422, Some("pid")),
        (checkpoints, r#"{"pid": 2147483647, "leave_running": true}"#, 422, Some("pid")),
        (checkpoints, r#"{"pid": "7", "leave_running": true}"#, 422, Some("pid")),
        (checkpoints, r#"{"pid": 1.5, "leave_running": true}"#, 422, Some("pid")),
        (checkpoints, r#"{"pid": null, "leave_running": true}"#, 422, Some("pid")),
        (checkpoints, r"{}", 422, Some("leave_running")),
        (checkpoints, r#"{"leave_running": true}"#, 422, Some("pid")),
        (checkpoints, r#"{"pid": 7}"#, 422, Some("leave_running")),
        (checkpoints, r#"{"pid": 7, "leave_running": null}"#, 422, Some("leave_running")),
        (checkpoints, r#"{"pid": 1, "leave_runing": true}"#, 422, Some("leave_runing")),
        (checkpoints, r#"{"pid": 1, "leave_running": "yes"}"#, 422, Some("leave_running")),
        (
            checkpoints,
            r#"{"pid": 1, "directory": "/etc", "leave_running": true}"#,
            422,
            Some("directory"),
        ),
        (
            checkpoints,
            r#"{"pid": 1, "directory": "a/../../b", "leave_running": true}"#,
            422,
            Some("directory"),
        ),
        (
            checkpoints,
            r#"{"pid": 1, "directory": "", "leave_running": true}"#,
            422,
            Some("directory"),
        ),
        (
            checkpoints,
            r#"{"pid": 1, "directory": "there", "leave_running": true}"#,
            409,
            Some("directory"),
        ),
        (checkpoints, "[1]", 400, None),
        (checkpoints, "{", 400, None),
        (checkpoints, "", 400, None),
        (restores, r"{}", 422, Some("directory")),
        (restores, r#"{"directory": "nowhere"}"#, 404, Some("directory")),
        (restores, r#"{"directory": "runs"}"#, 409, Some("directory")),
        (restores, r#"{"directory": 5}"#, 422, Some("directory")),
        (restores, r#"{"directory": "there", "pid": 1}"#, 422, Some("pid")),
    ] {
        let (answered, answer) = rest.post(path, body).await;
        assert_eq!(answered, status, "{path} {body}: {answer}");
        assert_eq!(answer["field"].as_str(), field, "{path} {body}: {answer}");
        assert!(answer["detail"].is_string(), "{path} {body}: {answer}");
        assert!(answer["remedy"].is_string(), "{path} {body}: {answer}");
    }
    let large =
        format!(r#"{{"pid": 1, "leave_running": true, "directory": "{}"}}"#, "x".repeat(70_000));
    let (status, answer) = rest.post(checkpoints, &large).await;
    assert_eq!(status, 413, "{answer}");
}

#[tokio::test]
async fn wrong_paths_methods_types_and_queries_are_json_too() {
    let rest = Rest::with_services().await;
    for (method, path, status) in [
        (Method::GET, "/v1/nothing", 404),
        (Method::GET, "/v1/jobs/nobody", 404),
        (Method::GET, "/v1/checkpoints/nowhere", 404),
        (Method::GET, "/v1/checkpoints/.hidden", 422),
        (Method::GET, "/v1/jobs?limit=0", 422),
        (Method::GET, "/v1/jobs?limit=1001", 422),
        (Method::GET, "/v1/jobs?cursor=x", 422),
        (Method::GET, "/v1/jobs?state=lost", 422),
        (Method::GET, "/v1/jobs?page=2", 422),
        (Method::GET, "/v1/jobs/x?wait=many", 422),
        (Method::GET, "/v1/jobs/x?wait=61s", 422),
        (Method::GET, "/v1/jobs/x?wait_ms=1", 422),
        (Method::DELETE, "/v1/checkpoints", 405),
        (Method::PUT, "/v1/restores", 405),
        (Method::PUT, "/v1/jobs", 405),
        (Method::POST, "/v1/checkpoints", 415),
    ] {
        let (answered, answer) = rest.ask(method.clone(), path, None).await;
        assert_eq!(answered, status, "{method} {path}: {answer}");
        assert!(answer["detail"].is_string(), "{method} {path}: {answer}");
        assert!(answer["remedy"].is_string(), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn lists_come_from_the_services() {
    let rest = Rest::with_services().await;
    assert_eq!(rest.get("/v1/processes").await.1["processes"][0]["comm"], "x");
    assert_eq!(rest.get("/v1/checkpoints").await.1["checkpoints"][0]["directory"], "there");
    assert_eq!(rest.get("/v1/restores").await.1["restores"][0]["pid"], 7);
    assert_eq!(rest.get("/v1/checkpoints/there").await.1["image_bytes"], 5);
}

#[tokio::test]
async fn a_service_that_is_down_is_said_to_be() {
    let rest = Rest::start().await;
    let (status, health) = rest.get("/healthz").await;
    assert_eq!((status, &health["status"]), (503, &json!("degraded")));
    assert_eq!(health["services"]["dumper"]["status"], "down");
    let (status, answer) = rest.get("/v1/processes").await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("dumper"), "{answer}");
    assert!(answer["remedy"].is_string(), "{answer}");

    let rest = Rest::with_services().await;
    let (status, health) = rest.get("/healthz").await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    assert_eq!(health["services"]["freezer"]["version"], "1.2.3");
}

#[tokio::test]
async fn metrics_of_all_are_on_one_page() {
    let rest = Rest::with_services().await;
    rest.get("/v1/jobs").await;
    let page = rest.http.get(format!("{}/metrics", rest.url)).bearer_auth(&rest.metrics_token);
    let page = page.send().await.unwrap();
    let text = page.text().await.unwrap();
    assert_eq!(text.matches("# TYPE stasis_requests_total counter").count(), 1, "{text}");
    assert!(text.contains("stasis_requests_total{service=\"dumper\"} 1"), "{text}");
    assert!(text.contains("path=\"/v1/jobs\""), "{text}");
    assert!(text.contains("stasis_service_up{service=\"freezer\"} 1"), "{text}");
    assert!(text.contains("stasis_jobs_total{kind=\"restore\",outcome=\"failed\"} 0"), "{text}");
}

#[tokio::test]
async fn a_dump_takes_as_long_as_it_takes() {
    let rest = Rest::with_services().await;
    let body =
        format!(r#"{{"pid": {}, "directory": "slow", "leave_running": true}}"#, std::process::id());
    let (_, job) = rest.post("/v1/checkpoints", &body).await;
    let path = format!("/v1/jobs/{}?wait=50ms", job["id"].as_str().unwrap());
    let before = std::time::Instant::now();
    assert_eq!(rest.get(&path).await.1["state"], "running");
    assert!(before.elapsed() >= Duration::from_millis(50));
    rest.go.notify_one();
    assert_eq!(rest.finished(&job).await["state"], "done");
}

/// The fake collector, dumper and restorer refuse a user whatever is root's.
fn refusing(seen: Arc<std::sync::Mutex<Vec<Option<String>>>>) -> Router {
    let answer = move |headers: HeaderMap| async move {
        let user = headers.get(api::User::HEADER).map(|user| user.to_str().unwrap().to_owned());
        seen.lock().unwrap().push(user);
        let error = json!({"detail": "not yours", "remedy": "ask as root"});
        (StatusCode::FORBIDDEN, Json(error))
    };
    Router::new().fallback(answer)
}

#[tokio::test]
async fn a_token_is_demanded_over_tcp() {
    let rest = Rest::with_services().await;
    let everything = [
        (Method::GET, "/v1/processes"),
        (Method::GET, "/v1/checkpoints"),
        (Method::GET, "/v1/checkpoints/there"),
        (Method::POST, "/v1/checkpoints"),
        (Method::GET, "/v1/restores"),
        (Method::POST, "/v1/restores"),
        (Method::GET, "/v1/jobs"),
        (Method::GET, "/v1/jobs/x"),
        (Method::GET, "/v1/tracks"),
        (Method::POST, "/v1/tracks"),
        (Method::DELETE, "/v1/tracks/1"),
        (Method::GET, "/metrics"),
        (Method::GET, "/v1/nothing"),
    ];
    let wrong = "0".repeat(64);
    for (method, path) in everything {
        let url = format!("{}{path}", rest.url);
        let plain = rest.http.request(method.clone(), &url);
        let shown = plain.try_clone().unwrap().bearer_auth(&wrong);
        for request in [plain, shown] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{method} {path}");
            assert!(answer.headers().contains_key("www-authenticate"), "{method} {path}");
            let answer: Value = answer.json().await.unwrap();
            assert!(answer["remedy"].is_string(), "{method} {path}: {answer}");
        }
        if path != "/metrics" && path != "/v1/nothing" {
            let metrics = rest.http.request(method.clone(), &url).bearer_auth(&rest.metrics_token);
            assert_eq!(metrics.send().await.unwrap().status(), 403, "{method} {path}");
        }
    }
    let health = rest.http.get(format!("{}/healthz", rest.url)).send().await.unwrap();
    assert_eq!(health.status(), 200, "open to all");
    let page = rest.http.get(format!("{}/metrics", rest.url)).bearer_auth(&rest.token);
    let text = page.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("stasis_gateway_refused_total{reason=\"token\"} 26"), "{text}");
    assert!(text.contains("stasis_gateway_refused_total{reason=\"right\"} 11"), "{text}");
}

#[tokio::test]
async fn other_names_and_other_sites_are_refused() {
    let rest = Rest::with_services().await;
    let ask = async |host: &str, origin: Option<&str>| {
        let mut request = rest.http.get(format!("{}/v1/jobs", rest.url)).bearer_auth(&rest.token);
        request = request.header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("localhost:1", None).await, 200);
    assert_eq!(ask("proxy.example", None).await, 200);
    assert_eq!(ask("proxy.example", Some("https://proxy.example")).await, 200);
    assert_eq!(ask("rebound.example", None).await, 421);
    assert_eq!(ask("proxy.example", Some("https://evil.example")).await, 403);
    assert_eq!(ask("localhost:1", Some("null")).await, 403);
    let health = rest.http.get(format!("{}/healthz", rest.url)).header("host", "rebound.example");
    assert_eq!(health.send().await.unwrap().status(), 421);
}

#[tokio::test]
async fn root_needs_no_token_on_the_socket() {
    let rest = Rest::with_services().await;
    let ask = async |path: &str| rest.socket.get(format!("http://x{path}")).send().await.unwrap();
    for path in ["/v1/processes", "/v1/jobs", "/metrics", "/healthz", "/v1/checkpoints/there"] {
        assert_eq!(ask(path).await.status(), 200, "{path}");
    }
    assert_eq!(ask("/v1/nothing").await.status(), 404);
}

#[tokio::test]
async fn services_are_told_of_nobody_for_who_may_do_everything() {
    let rest = Rest::start().await;
    let seen = Arc::default();
    for name in ["collector", "dumper", "restorer"] {
        rest.fake(name, refusing(Arc::clone(&seen)));
    }
    // A caller cannot say on whose behalf he asks.
    let request = rest.http.get(format!("{}/v1/processes", rest.url)).bearer_auth(&rest.token);
    let answer = request.header(api::User::HEADER, "0:0").send().await.unwrap();
    assert_eq!(answer.status(), 502, "refused for who we are, which is no fault of who asks");
    assert_eq!(*seen.lock().unwrap(), [None]);
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_one_job_and_waited_for() {
    let rest = Rest::with_services().await;
    let body =
        format!(r#"{{"pid": {}, "directory": "k", "leave_running": true}}"#, std::process::id());
    let send = async |body: String, key: &'static str| {
        let request = rest.http.post(format!("{}/v1/checkpoints?wait=10s", rest.url));
        let request = request.bearer_auth(&rest.token).header("idempotency-key", key);
        let answer = request.header("content-type", "application/json").body(body).send().await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        let location = answer.headers().get("location").cloned();
        (status, location, answer.json::<Value>().await.unwrap())
    };
    rest.go.notify_one();
    let (status, location, first) = send(body.clone(), "a").await;
    assert_eq!((status, &first["state"]), (200, &json!("done")), "{first}");
    assert_eq!(location.unwrap(), format!("/v1/jobs/{}", first["id"].as_str().unwrap()));
    let (status, _, again) = send(body.clone(), "a").await;
    assert_eq!((status, &again["id"]), (200, &first["id"]), "{again}");
    let (status, _, other) = send(body.replace("true", "false"), "a").await;
    assert_eq!(status, 422, "{other}");
    let (status, _, empty) = send(body, "").await;
    assert_eq!(status, 400, "{empty}");
    assert_eq!(rest.get("/v1/jobs").await.1["jobs"].as_array().unwrap().len(), 1);
}

/// Of the same request, sent twice at a time, the one is looked at while the other is done: to both the answer is its job.
#[tokio::test]
async fn what_is_sent_twice_at_once_is_one_job() {
    let rest = Rest::start().await;
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let found = {
        let (asked, go, count) = (asked.clone(), go.clone(), AtomicUsize::new(0));
        let count = Arc::new(count);
        move || async move {
            // What is looked at first is told as it is when the other has been done.
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                asked.notify_one();
                go.notified().await;
                return (StatusCode::OK, Json(summary("k")));
            }
            (StatusCode::NOT_FOUND, Json(json!({"detail": "none"})))
        }
    };
    let own = std::process::id();
    let processes = move || async move {
        Json(json!({"processes": [{"pid": own, "ppid": 1, "comm": "x", "command": "x", "uid": 0,
            "threads": 1, "memory_bytes": 4096, "dumpable": true, "refusals": []}]}))
    };
    let dumper = dumper_of_dumps(rest.go.clone())
        .route("/v1/checkpoints/{*directory}", get(found))
        .route("/v1/processes", get(processes));
    rest.fake("dumper", dumper);
    rest.go.notify_one();
    let send = async || {
        let request = rest.http.post(format!("{}/v1/checkpoints?wait=10s", rest.url));
        let body = json!({"select": {"comm": "x"}, "directory": "k", "leave_running": true});
        let request = request.bearer_auth(&rest.token).header("idempotency-key", "a").json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let slow = send();
    let fast = async {
        asked.notified().await;
        let job = send().await;
        go.notify_one();
        job
    };
    let ((slow_status, slow), (status, fast)) = tokio::join!(slow, fast);
    assert_eq!((status, &fast["state"]), (200, &json!("done")), "{fast}");
    assert_eq!((slow_status, &slow["id"]), (200, &fast["id"]), "{slow}");
    let (status, again) = send().await;
    assert_eq!((status, &again["id"]), (200, &fast["id"]), "what was selected is not compared");
}

#[tokio::test]
async fn a_list_has_pages() {
    let rest = Rest::with_services().await;
    for _ in 0..3 {
        let (_, job) = rest.post("/v1/restores", r#"{"directory": "there"}"#).await;
        rest.finished(&job).await;
    }
    let (_, first) = rest.get("/v1/jobs?limit=2&kind=restore&state=done").await;
    assert_eq!(first["jobs"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let (_, last) = rest.get(&format!("/v1/jobs?limit=2&cursor={next}")).await;
    assert_eq!((last["jobs"].as_array().unwrap().len(), &last["next"]), (1, &Value::Null));
}

/// `make docs-openapi` writes it.
#[test]
fn the_description_of_the_api_is_that_of_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let made = stasis_gateway::openapi() + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "docs/openapi.json is not what the code says: run `make docs-openapi`");
}
