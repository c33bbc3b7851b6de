//! Checkpoints for which there is no room are refused before their trees stand still.

use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{Answer, Machine, Scratch, Services, WebServer, wait_until};

fn asked(services: &Services, pid: i32, directory: &str) -> Value {
    let body = json!({"pid": pid, "directory": directory, "leave_running": true}).to_string();
    let answer: Answer = services.call("POST", "/v1/checkpoints?wait=60s", Some(&body));
    assert!(answer.body["id"].is_string(), "{}", answer.text);
    answer.body
}

fn restarted(services: &mut Services, settings: &[(&'static str, &str)]) {
    for (name, value) in settings {
        services.set(name, value);
    }
    services.kill("dumper");
    services.start_again("dumper");
}

#[test]
fn what_has_no_room_is_refused_and_runs_on() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let pid = web.program.pid();
    restarted(&mut services, &[("STASIS_KEEP_FREE", "1024T")]);
    let job = asked(&services, pid, "never");
    let error = &job["error"];
    assert_eq!((&job["state"], &error["code"]), (&json!("failed"), &json!("no_room")), "{job}");
    assert!(error["detail"].as_str().is_some_and(|it| it.contains("are to stay so")), "{job}");

    let limits = [("STASIS_KEEP_FREE", "1M"), ("STASIS_MOST_CHECKPOINTS", "1")];
    restarted(&mut services, &limits);
    assert_eq!(asked(&services, pid, "one")["state"], "done");
    let job = asked(&services, pid, "two");
    assert_eq!(job["error"]["code"], "no_room", "{job}");
    assert!(job["error"]["remedy"].as_str().is_some_and(|it| it.contains("DELETE")), "{job}");
    assert_eq!(services.call("DELETE", "/v1/checkpoints/one", None).status, 204);
    assert_eq!(asked(&services, pid, "two")["state"], "done");

    restarted(&mut services, &[("STASIS_MOST_CHECKPOINTS", "9"), ("STASIS_MOST_BYTES", "10k")]);
    let job = asked(&services, pid, "three");
    assert_eq!(job["error"]["code"], "no_room", "{job}");
    let listed = services.call("GET", "/v1/checkpoints", None).body;
    assert_eq!(listed["checkpoints"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["unfinished"], Value::Null, "{listed}");
    let before = web.count();
    assert!(wait_until(Duration::from_secs(30), || web.count() > before), "it stands still");
}
