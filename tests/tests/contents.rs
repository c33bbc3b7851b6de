//! What is in checkpoints, as the gateway tells it: one by itself, two compared.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{
    Machine, Outcome, Scratch, Services, WebServer, Workload, stasis_program, wait_until,
};

/// The command line with the gateway: what it says as JSON.
fn shell(services: &Services, arguments: &[&str]) -> Value {
    let gateway = format!("--gateway=unix:{}", services.socket("gateway").display());
    let mut command = Command::new(stasis_program());
    let said = Outcome::of(command.args([&gateway, "--json"]).args(arguments));
    let said = said.must_succeed(&arguments.join(" ")).stdout;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
}

#[test]
fn two_are_compared_as_the_shell_does_it() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    for name in ["web/first", "web/second"] {
        let before = web.count();
        assert!(wait_until(Duration::from_secs(20), || web.count() > before), "it counts");
        services.checkpoint(web.program.pid(), name, true).expect("checkpoint");
    }
    let ask = |query: &str| services.call("GET", &format!("/v1/comparisons?{query}"), None);
    let found = ask("before=web/first&after=web/second");
    assert_eq!(found.status, 200, "{}", found.text);
    let found = found.body;
    assert_eq!(
        (&found["before"]["directory"], &found["after"]["directory"]),
        (&json!("web/first"), &json!("web/second"))
    );
    let changed = &found["memory"]["total"]["changed"]["pages"];
    assert!(changed.as_u64() > Some(0), "it has counted: {found}");
    assert_eq!(shell(&services, &["diff", "web/first", "web/second"]), found);
    let mut here = Command::new(stasis_program());
    let place = |name: &str| services.checkpoints().join(name);
    here.args(["--json", "diff"]).args([place("web/first"), place("web/second")]);
    let here: Value = serde_json::from_str(&Outcome::of(&mut here).must_succeed("diff").stdout)
        .expect("a comparison");
    assert_eq!((&here["memory"], &here["files"]), (&found["memory"], &found["files"]));
    assert_eq!(ask("before=web/first&after=web/first").body["same"], true);

    for (query, status, field) in [
        ("before=web/first&after=none", 404, "after"),
        ("before=none&after=web/first", 404, "before"),
        ("before=../x&after=web/first", 422, ""),
        ("before=web/first", 422, ""),
        ("before=web/first&after=web/second&deep=yes", 422, ""),
    ] {
        let answer = ask(query);
        assert_eq!(answer.status, status, "{query}: {}", answer.text);
        assert_eq!(answer.body["field"].as_str().unwrap_or_default(), field, "{}", answer.text);
        assert!(answer.body["remedy"].is_string(), "{query}: {}", answer.text);
    }
}

#[test]
fn what_is_damaged_is_said_to_be_so() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("memory", scratch.path("work"));
    for name in ["sound", "broken"] {
        services.checkpoint(workload.pid(), name, true).expect("checkpoint");
    }
    // Each image in its turn, cut off and filled with what is none.
    let place = services.checkpoints().join("broken");
    let files: Vec<_> = fs::read_dir(&place).expect("a checkpoint").flatten().collect();
    for file in files.iter().filter(|file| file.file_type().is_ok_and(|kind| kind.is_file())) {
        let path = file.path();
        let whole = fs::read(&path).expect("read");
        for bytes in [&whole[..whole.len() / 2], &[0xff; 4096]] {
            fs::write(&path, bytes).expect("write");
            for query in ["/v1/comparisons?before=sound&after=broken", "/v1/contents/broken"] {
                let answer = services.call("GET", query, None);
                let is_told = answer.status == 404 || answer.body["code"] == "damaged";
                // Statistics and labels are a help, and nothing of the tree.
                assert!(is_told || answer.status == 200, "{}: {}", path.display(), answer.text);
            }
        }
        fs::write(&path, whole).expect("write");
    }
    let query = "/v1/comparisons?before=sound&after=broken";
    assert_eq!(services.call("GET", query, None).status, 200);
    assert!(!services.logs().contains("panicked"), "{}", services.logs());
}

#[test]
fn what_is_inside_is_told_as_the_shell_does_it() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    services.checkpoint(web.program.pid(), "web/first", true).expect("checkpoint");
    let found = services.call("GET", "/v1/contents/web/first", None);
    assert_eq!(found.status, 200, "{}", found.text);
    let found = found.body;
    let root = &found["processes"][0];
    assert_eq!(
        (&found["directory"], &root["pid"]),
        (&json!("web/first"), &json!(web.program.pid()))
    );
    let list = |of: &Value| of.as_array().expect("a list").clone();
    let files = list(&root["files"]);
    let listens = |file: &Value| {
        file["kind"] == "tcp socket"
            && file["what"].as_str().is_some_and(|it| it.contains("listening"))
    };
    assert!(files.iter().any(listens), "{files:?}");
    let map = list(&root["map"]);
    let code = map.iter().find(|it| it["permissions"] == "r-xp" && it["file"].is_string());
    assert!(code.is_some(), "{map:?}");
    let pages = |name: &str| map.iter().filter_map(|it| it[name].as_u64()).sum::<u64>();
    let memory = &root["memory"];
    assert!(pages("stored_pages") > 0, "{root}");
    assert_eq!(Some(pages("stored_pages")), memory["stored_pages"].as_u64(), "{root}");
    assert_eq!(Some(pages("parent_pages")), memory["parent_pages"].as_u64(), "{root}");
    assert_eq!(shell(&services, &["show", "web/first"]), found);

    let mut here = Command::new(stasis_program());
    here.args(["--json", "show"]).arg(services.checkpoints().join("web/first"));
    let here = Outcome::of(&mut here).must_succeed("show").stdout;
    let mut here: Value = serde_json::from_str(&here).expect("contents");
    here["directory"] = json!("web/first");
    assert_eq!(here, found, "there is nothing left out of so little");

    for (name, status) in [("none", 404), (".hidden", 422), ("web", 404)] {
        let answer = services.call("GET", &format!("/v1/contents/{name}"), None);
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
    }
}

#[test]
fn who_is_bound_to_labels_sees_nothing_of_others() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("memory", scratch.path("work"));
    for (name, team) in [("ours", "web"), ("theirs", "db")] {
        let body = json!({"pid": workload.pid(), "directory": name, "leave_running": true,
            "labels": {"team": team}});
        services.job("/v1/checkpoints", &body).expect("checkpoint");
    }
    let request = r#"{"name": "viewer", "roles": ["view"], "labels": {"team": "web"}}"#;
    let given = services.call("POST", "/v1/tokens", Some(request));
    let token = given.body["token"].as_str().unwrap_or_else(|| panic!("{}", given.text));
    let client = reqwest::blocking::Client::new();
    for (path, status) in [
        ("v1/contents/ours", 200),
        ("v1/contents/theirs", 404),
        ("v1/comparisons?before=ours&after=ours", 200),
        ("v1/comparisons?before=ours&after=theirs", 404),
        ("v1/comparisons?before=theirs&after=ours", 404),
    ] {
        let request = client.get(format!("{}/{path}", services.address())).bearer_auth(token);
        assert_eq!(request.send().expect("an answer").status().as_u16(), status, "{path}");
    }
    // A tree is known by what its checkpoint was called when it was restored, whatever lies there now.
    let ask = |path: &str| {
        let request = client.get(format!("{}/{path}", services.address())).bearer_auth(token);
        request.send().and_then(reqwest::blocking::Response::json::<Value>).expect("an answer")
    };
    services
        .job("/v1/checkpoints", &json!({"pid": workload.pid(), "directory": "end", "leave_running": false, "labels": {"team": "db"}}))
        .expect("checkpoint");
    let pid = nix::unistd::Pid::from_raw(workload.pid());
    nix::sys::wait::waitpid(pid, None).expect("reap");
    services.restore("end").expect("restore");
    let relabelled = services.call("PUT", "/v1/labels/end", Some(r#"{"team": "web"}"#));
    assert_eq!(relabelled.status, 200, "{}", relabelled.text);
    assert_eq!(ask("v1/restores"), json!({"restores": []}));
    let all = services.call("GET", "/v1/restores", None).body;
    assert_eq!(all["restores"][0]["labels"], json!({"team": "db"}), "{all}");
    workload.check().expect("it is what it was");
}
