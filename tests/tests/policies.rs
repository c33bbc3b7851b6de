//! Policies: checkpoints at their times, and of those the ones that are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{Machine, Scratch, Services, WebServer, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn set(services: &Services, name: &str, spec: &Value) -> Value {
    let answer = services.call("PUT", &format!("/v1/policies/{name}"), Some(&spec.to_string()));
    assert!(answer.status == 200 || answer.status == 201, "{}", answer.text);
    answer.body
}

fn policy(services: &Services, name: &str) -> Value {
    services.call("GET", &format!("/v1/policies/{name}"), None).body
}

/// The runs that there are checkpoints of.
fn runs(services: &Services, name: &str) -> BTreeSet<String> {
    let path = format!("/v1/checkpoints?labels=stasis.policy%3D{name}");
    let list = services.call("GET", &path, None).body;
    let runs = list["checkpoints"].as_array().expect("a list").iter();
    runs.map(|it| it["labels"]["stasis.run"].as_str().expect("a run").to_owned()).collect()
}

/// Waits until a policy has been at work so often since, and is not any more.
fn at_work(services: &Services, name: &str, times: usize) {
    let mut seen = BTreeSet::new();
    let often = || {
        let last = policy(services, name)["last"].clone();
        if last["finished_ms"].is_u64() {
            assert!(last["failed"] == 0 && last["problem"].is_null(), "{last}");
            seen.insert(last["started_ms"].as_u64());
        }
        seen.len() >= times
    };
    assert!(wait_until(SOON, often), "{}\n{}", policy(services, name), services.logs());
}

#[test]
fn a_policy_keeps_so_many_runs_and_outlives_the_gateway() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let spec = json!({"select": {"pid": web.program.pid()}, "every": "1s", "keep": {"runs": 2},
        "labels": {"app": "web"}});
    let made = set(&services, "web", &spec);
    assert_eq!((&made["version"], &made["spec"]["keep"]["runs"]), (&json!(1), &json!(2)));
    at_work(&services, "web", 4);
    let first = runs(&services, "web");
    services.kill("gateway");
    services.start_again("gateway");
    at_work(&services, "web", 3);
    let count = |services: &Services| runs(services, "web").len();
    // One run may be at work, or just about to be swept.
    assert!(
        wait_until(SOON, || (1..=3).contains(&count(&services))),
        "{:?}",
        runs(&services, "web")
    );
    assert!(runs(&services, "web").intersection(&first).count() < first.len());
    let before = web.count();
    assert!(wait_until(SOON, || web.count() > before), "it stands still");

    let mut paused = spec;
    paused["paused"] = json!(true);
    assert!(set(&services, "web", &paused)["next_ms"].is_null());
    let resting = || policy(&services, "web")["last"]["finished_ms"].is_u64();
    assert!(wait_until(SOON, resting));
    assert!(wait_until(SOON, || count(&services) == 2), "{:?}", runs(&services, "web"));
    let kept = runs(&services, "web");
    // At work once more, because somebody says so.
    let answer = services.call("POST", "/v1/policies/web/run", None);
    assert_eq!(answer.status, 202, "{}", answer.text);
    let newer = || runs(&services, "web").iter().any(|run| !kept.contains(run));
    assert!(wait_until(SOON, newer), "{}", policy(&services, "web"));

    let one = services.call("GET", "/v1/checkpoints?labels=stasis.policy%3Dweb", None).body;
    let one = &one["checkpoints"][0];
    assert_eq!(one["labels"]["app"], "web");
    assert!(one["directory"].as_str().is_some_and(|it| it.starts_with("policies/web/")), "{one}");
    assert_eq!(services.call("DELETE", "/v1/policies/web", None).status, 204);
    assert!(count(&services) >= 2, "its checkpoints stay");
}

#[test]
fn what_a_policy_does_not_find_is_said() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let nobody = json!({"select": {"unit": "there-is-no-such.service"}, "every": "1s"});
    set(&services, "nobody", &nobody);
    let said = || policy(&services, "nobody")["last"]["problem"]["detail"].is_string();
    assert!(wait_until(SOON, said));
    let problem = policy(&services, "nobody")["last"]["problem"].clone();
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("nothing runs") && problem["remedy"].is_string(), "{problem}");
    for (spec, field) in [
        (json!({"select": {}, "every": "1s"}), "select"),
        (json!({"select": {"pid": 1, "container": "x"}, "every": "1s"}), "select.container"),
        (json!({"select": {"pid": 1}}), "every"),
        (json!({"select": {"pid": 1}, "cron": "soon"}), "cron"),
        (json!({"select": {"pid": 1}, "every": "1s", "keep": {"runs": 0}}), "keep.runs"),
        (json!({"select": {"pid": 1}, "every": "1s", "labels": {"stasis.x": "y"}}), "labels"),
    ] {
        let answer = services.call("PUT", "/v1/policies/wrong", Some(&spec.to_string()));
        assert_eq!((answer.status, &answer.body["field"]), (422, &json!(field)), "{}", answer.text);
    }
    // The same selects what a checkpoint is taken of.
    let web = WebServer::start(&scratch.path("web"));
    let selected = |select: Value| {
        let body = json!({"select": select, "leave_running": true}).to_string();
        services.call("POST", "/v1/checkpoints?wait=60s", Some(&body))
    };
    let pid = web.program.pid();
    let answer = selected(json!({"pid": pid}));
    assert_eq!(
        (&answer.body["state"], &answer.body["pid"]),
        (&json!("done"), &json!(pid)),
        "{}",
        answer.text
    );
    for (select, said) in [
        (json!({"unit": "there-is-no-such.service"}), "nothing runs"),
        (json!({}), "everything that runs"),
        (json!({"pid": pid, "container": "x"}), "by its name alone"),
    ] {
        let answer = selected(select);
        assert!(answer.status == 422 && answer.text.contains(said), "{}", answer.text);
    }
    let node = services.call("GET", "/v1/nodes", None).body["nodes"][0].clone();
    assert!(node["status"] == "ok" && node["memory_bytes"].as_u64() > Some(0), "{node}");

    let reserved = json!({"pid": 1, "leave_running": true, "labels": {"stasis.policy": "web"}});
    let answer = services.call("POST", "/v1/checkpoints", Some(&reserved.to_string()));
    assert_eq!((answer.status, &answer.body["field"]), (422, &json!("labels")), "{}", answer.text);
}
