//! The five services and the gateway's REST API, on real programs.

use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{
    Dump, Engine, Machine, Redis, Scratch, Services, WebServer, Workload, wait_until,
};

#[test]
fn real_programs_are_carried_through_the_gateway() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let redis = Redis::start(&scratch.path("redis"));
    redis.fill(2000);
    let programs = [("web", web.program.pid()), ("redis", redis.program.pid())];
    for (name, pid) in programs {
        let job = services.checkpoint(pid, &format!("{name}/on"), true).expect("checkpoint");
        assert!(job["dump"]["frozen_us"].as_u64().is_some_and(|us| us > 0), "{job}");
        assert!(job["dump"]["image_bytes"].as_u64().is_some_and(|b| b > 100_000), "{job}");
    }
    redis.verify(2000).expect("the keys");
    let counted = web.count();
    for (name, pid) in programs {
        services.checkpoint(pid, &format!("{name}/end"), false).expect("checkpoint");
        let gone = || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
        assert!(wait_until(Duration::from_secs(5), gone), "{name} was to be ended");
    }
    // The test started them, so the test reaps them: a restore needs their pids.
    for (_, pid) in programs {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::wait::waitpid(pid, None).expect("reap");
    }
    for (name, pid) in programs {
        let job = services.restore(&format!("{name}/end")).expect("restore");
        assert_eq!(job["restore"]["pid"], pid);
    }
    redis.verify(2000).expect("the keys after the restore");
    assert!(web.count() >= counted);
    let on = wait_until(Duration::from_secs(5), || web.count() > counted + 20);
    assert!(on, "the web server does not count on");

    let listed = services.call("GET", "/v1/checkpoints", None).body;
    let names: Vec<_> = listed["checkpoints"].as_array().expect("a list").iter().collect();
    for name in ["redis/end", "redis/on", "web/end", "web/on"] {
        assert!(names.iter().any(|c| c["directory"] == name), "{name} is not in {listed}");
    }
    assert_eq!(listed["unfinished"], Value::Null, "nothing is left over: {listed}");
    let metrics = services.call("GET", "/metrics", None);
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.contains("# TYPE"), "{}", metrics.text);
}

/// The restorer's worker begins as a process that can become the tree's root.
#[test]
fn what_nobody_sees_is_carried_through_the_gateway() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("settings_unseen", scratch.path("work"));
    services.checkpoint(workload.pid(), "unseen", false).expect("checkpoint");
    let pid = nix::unistd::Pid::from_raw(workload.pid());
    nix::sys::wait::waitpid(pid, None).expect("reap");
    services.restore("unseen").expect("restore");
    workload.check().expect("it is what it was");
}

#[test]
fn processes_are_listed_with_what_speaks_against_them() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let good = Workload::start("pipes", scratch.path("good"));
    let bad = Workload::start("unsupported-inotify", scratch.path("bad"));
    let of = |pid: i32| {
        let listed = services.call("GET", &format!("/v1/processes?pid={pid}"), None).body;
        listed["processes"].get(0).expect("the process is listed").clone()
    };
    assert_eq!(of(good.pid())["dumpable"], true, "{}", of(good.pid()));
    assert_eq!(of(bad.pid())["dumpable"], false);
    assert!(of(bad.pid())["refusals"].to_string().contains("inotify"), "{}", of(bad.pid()));
    // The job says the same, and what helps.
    let error = services.checkpoint(bad.pid(), "bad", false).expect_err("cannot be dumped");
    assert!(error.to_string().contains("inotify"), "{error}");
    bad.check().expect("it runs on");
}

/// A refused restore names task, object, reason and remedy, each in its field; the command says the same.
#[test]
fn what_a_restore_refuses_has_its_remedy_in_a_field() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("pipes", scratch.path("work"));
    services.checkpoint(workload.pid(), "running", true).expect("checkpoint");
    let failed = services.restore("running").expect_err("its number is in use");
    let error = &failed;
    let refused = error["refusals"].as_array().expect("what is refused");
    let [one] = &refused[..] else { panic!("one number is in use: {failed}") };
    let pid = workload.pid();
    assert_eq!((&one["task"], &one["object"]), (&json!(pid), &json!(format!("process {pid}"))));
    let remedy = one["remedy"].as_str().expect("a remedy");
    assert!(remedy.starts_with(&format!("end it (kill {pid})")), "{failed}");
    let reason = one["reason"].as_str().expect("a reason");
    assert!(reason.contains("its number is in use by process"), "{failed}");
    assert_eq!(error["remedy"], remedy, "{failed}");
    let images = services.checkpoints().join("running");
    let said = Engine::Stasis.restore(&images, Dump::RUNNING_ON);
    // The program sleeps and looks, so whether it runs just now may differ.
    let without_state = |text: &str| text.replace(" in state R", "").replace(" in state S", "");
    let line = without_state(&format!("process {pid}: {reason}; {remedy}"));
    let heard = without_state(&said.stderr);
    assert!(!said.success && heard.contains(&line), "{line}, not in: {heard}");
    workload.check().expect("it runs on");
}

#[test]
fn trees_are_tracked_until_they_end() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let tree = Workload::start("tree", scratch.path("tree"));
    let body = format!(r#"{{"tree": {}, "files": true}}"#, tree.pid());
    let track = services.call("POST", "/v1/tracks", Some(&body));
    assert_eq!(track.status, 201, "{}", track.text);
    let path = format!("/v1/tracks/{}", track.body["id"]);
    assert_eq!((&track.body["stale"], &track.body["lost"]), (&json!(false), &json!(0)));
    let processes = track.body["processes"].as_array().expect("a list").len();
    assert!(processes > 1, "{}", track.text);
    assert_eq!(services.call("POST", "/v1/tracks", Some(&body)).status, 409);
    let inventory = services.call("GET", &format!("{path}/inventory"), None).body;
    assert_eq!(inventory["processes"][tree.pid().to_string()]["pid"], tree.pid());
    assert_eq!(services.call("GET", &path, None).body["files"], true);
    let metrics = services.call("GET", "/metrics", None).text;
    assert!(metrics.contains("stasis_tracks 1"), "{metrics}");
    for (body, field) in [
        ("{}", "pid"),
        (r#"{"pid": 1, "tree": 1}"#, "pid"),
        (r#"{"tree": -1}"#, "tree"),
        (r#"{"cgroup": "/no/such/one"}"#, "cgroup"),
    ] {
        let answer = services.call("POST", "/v1/tracks", Some(body));
        let error = &answer.body;
        assert_eq!((answer.status, error["field"].as_str()), (422, Some(field)), "{error}");
        assert!(error["remedy"].is_string(), "{error}");
    }
    assert_eq!(services.call("DELETE", &path, None).status, 204);
    assert_eq!(services.call("DELETE", &path, None).status, 404);
    assert_eq!(services.call("POST", "/v1/tracks", Some(&body)).status, 201);
    tree.check().expect("nothing happened to it");
    drop(tree);
    let ended = || services.call("GET", "/v1/tracks", None).body == json!({"tracks": []});
    assert!(wait_until(Duration::from_secs(10), ended), "the track ends with its tree");
}

#[test]
fn bad_input_is_answered_with_the_field_and_the_remedy() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let cases: &[(&str, Value, &str)] = &[
        ("/v1/checkpoints", json!({}), "leave_running"),
        ("/v1/checkpoints", json!({"leave_running": true}), "pid"),
        ("/v1/checkpoints", json!({"pid": "4711"}), "pid"),
        ("/v1/checkpoints", json!({"pid": -1, "leave_running": true}), "pid"),
        ("/v1/checkpoints", json!({"pid": 0, "leave_running": true}), "pid"),
        ("/v1/checkpoints", json!({"pid": 4711}), "leave_running"),
        ("/v1/checkpoints", json!({"pid": 4711, "directory": "../etc"}), "directory"),
        ("/v1/checkpoints", json!({"pid": 4711, "directory": "/etc"}), "directory"),
        ("/v1/checkpoints", json!({"pid": 4711, "leave_runing": true}), "leave_runing"),
        ("/v1/checkpoints", json!({"pid": 4711, "leave_running": 1}), "leave_running"),
        ("/v1/restores", json!({}), "directory"),
        ("/v1/restores", json!({"directory": ""}), "directory"),
        ("/v1/restores", json!({"directory": "a", "cgroups": "some"}), "cgroups"),
    ];
    for (path, body, field) in cases {
        let answer = services.call("POST", path, Some(&body.to_string()));
        assert_eq!(answer.status, 422, "{path} {body}: {}", answer.text);
        let error = &answer.body;
        assert_eq!(error["field"], *field, "{path} {body}: {error}");
        assert!(error["remedy"].as_str().is_some_and(|r| r.len() > 5), "{path} {body}: {error}");
    }
    let not_json = services.call("POST", "/v1/checkpoints", Some("{"));
    assert_eq!(not_json.status, 400, "{}", not_json.text);
    assert!(not_json.body["detail"].is_string(), "{}", not_json.text);
    for (method, path, status) in [
        ("GET", "/v1/jobs/none", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/checkpoints", 405),
    ] {
        let answer = services.call(method, path, None);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        assert!(answer.body["detail"].is_string(), "{method} {path}: {}", answer.text);
    }
    let missing = services.restore("never/made").expect_err("there is no such checkpoint");
    assert!(missing.to_string().contains("never/made"), "{missing}");
    let nobody = services.checkpoint(4_194_300, "nobody", false).expect_err("no such process");
    assert!(nobody.to_string().contains("4194300"), "{nobody}");
}

#[test]
fn the_gateway_holds_no_capabilities() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let status = format!("/proc/{}/status", services.pid("gateway"));
    let status = std::fs::read_to_string(status).expect("read");
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(set)).expect("the set");
        let value = line.split_whitespace().nth(1).expect("a value");
        assert_eq!(value, "0000000000000000", "{line}");
    }
}

#[test]
fn a_checkpoint_hides_no_other() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("pipes", scratch.path("work"));
    services.checkpoint(workload.pid(), "k/one", true).expect("a checkpoint");
    services.checkpoint(workload.pid(), "l", true).expect("a checkpoint");
    for (name, other) in [("k", "k/one"), ("l/one", "l"), ("k/one/x/y", "k/one")] {
        let error = services.checkpoint(workload.pid(), name, false).expect_err(name);
        assert!(error["detail"].to_string().contains(other), "{name}: {error}");
        assert!(error["remedy"].is_string(), "{name}: {error}");
    }
    let listed = services.call("GET", "/v1/checkpoints", None).body;
    let names = listed["checkpoints"].as_array().expect("a list").iter();
    assert_eq!(names.map(|one| &one["directory"]).collect::<Vec<_>>(), ["k/one", "l"]);
    workload.check().expect("it runs on");
}

#[test]
fn what_killed_dumpers_left_is_shown_and_cleared_at_the_next_start() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    let root = services.checkpoints();
    let [left, below, written] = [".a.stasis-tmp-7-0", "b/.c.stasis-tmp-8-0", ".d.stasis-tmp-9-0"]
        .map(|name| root.join(name));
    for directory in [&left, &below, &written] {
        std::fs::create_dir_all(directory).expect("make");
        std::fs::write(directory.join("pages-1.img"), vec![1; 100_000]).expect("write");
    }
    let lock = std::fs::File::open(&written).expect("open");
    lock.lock().expect("lock, as its writer does");
    let listed = services.call("GET", "/v1/checkpoints", None).body;
    let shown = listed["unfinished"].as_array().expect("a list");
    let told: Vec<_> = shown.iter().map(|one| (&one["path"], &one["being_written"])).collect();
    let wanted =
        [(".a.stasis-tmp-7-0", false), (".d.stasis-tmp-9-0", true), ("b/.c.stasis-tmp-8-0", false)];
    assert_eq!(
        told,
        wanted.map(|(path, live)| (json!(path), json!(live))).each_ref().map(|(a, b)| (a, b))
    );
    assert!(shown.iter().all(|one| one["bytes"].as_u64().is_some_and(|bytes| bytes >= 100_000)));
    services.kill("dumper");
    services.start_again("dumper");
    assert!(!left.exists() && !below.exists(), "cleared");
    assert!(written.exists(), "its writer lives");
}
