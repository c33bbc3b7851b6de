//! Several trees in one frozen moment, by the gateway: one job, all checkpoints or none.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};
use stasis_tests::faults::{Random, held};
use stasis_tests::{Machine, Outcome, Scratch, Services, Workload, stasis_program, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// How often jobs are cancelled, and the dumper is killed.
const TIMES: u32 = 10;

struct Rig {
    scratch: Scratch,
    services: Services,
    programs: Vec<Workload>,
}

impl Rig {
    fn start(families: &[&str]) -> Self {
        let scratch = Scratch::new();
        let services = Services::start(&scratch.path("services"));
        let start = |(at, family): (usize, &&str)| {
            Workload::start(family, scratch.path(&format!("program-{at}")))
        };
        let programs = families.iter().enumerate().map(start).collect();
        Self { scratch, services, programs }
    }

    fn pids(&self) -> Vec<i32> {
        self.programs.iter().map(Workload::pid).collect()
    }

    fn request(&self, directory: &str) -> Value {
        json!({"pids": self.pids(), "together": true, "directory": directory, "leave_running": true})
    }

    /// The directories of the checkpoints below one.
    fn below(&self, directory: &str) -> Vec<String> {
        let path = format!("/v1/checkpoints?below={directory}");
        let listed = self.services.call("GET", &path, None).body;
        let all = listed["checkpoints"].as_array().expect("a list").iter();
        all.map(|it| it["directory"].as_str().expect("a name").to_owned()).collect()
    }

    fn must_run_on(&self) {
        for pid in self.pids() {
            assert!(wait_until(SOON, || held(pid).is_empty()), "{:?}", held(pid));
        }
    }

    /// Whether all checkpoints are there, or none.
    fn all_or_none(&self, directory: &str) -> bool {
        let count = self.below(directory).len();
        assert!(count == 0 || count == self.programs.len(), "{:?}", self.below(directory));
        self.must_run_on();
        count > 0
    }

    fn nothing_is_left_over(&self) {
        let listed = || self.services.call("GET", "/v1/checkpoints", None).body;
        assert_eq!(listed()["unfinished"], Value::Null, "{}", listed());
    }

    fn refused(&self, request: &Value, field: &str) -> Value {
        let answer = self.services.call("POST", "/v1/checkpoints", Some(&request.to_string()));
        assert_eq!((answer.status, &answer.body["field"]), (422, &json!(field)), "{}", answer.text);
        assert!(answer.body["remedy"].is_string(), "{}", answer.text);
        answer.body
    }
}

#[test]
fn one_job_takes_all_of_them() {
    let machine = Machine::prepare();
    let rig = Rig::start(&["pipes", "threads", "unix_sockets"]);
    let (services, pids) = (&rig.services, rig.pids());
    let mut request = rig.request("on");
    request["labels"] = json!({"app": "shop"});
    let asker = services.asker();
    let ask =
        || asker.ask("POST", "/v1/checkpoints?wait=60s", Some(&request.to_string()), Some("x"));
    let job = ask().expect("an answer");
    assert_eq!(job.status, 200, "{}", job.text);
    let job = job.body;
    assert_eq!((&job["state"], &job["pids"]), (&json!("done"), &json!(pids)), "{job}");
    assert_eq!(ask().expect("an answer").body["id"], job["id"], "it was sent before");
    let told = &job["together"];
    let id = told["id"].as_str().expect("an id");
    for (one, pid) in told["checkpoints"].as_array().expect("a list").iter().zip(&pids) {
        assert_eq!((&one["pid"], &one["directory"]), (&json!(pid), &json!(format!("on/{pid}"))));
        assert!(one["dump"]["frozen_us"].as_u64() <= told["frozen_us"].as_u64(), "{job}");
    }
    let path = format!("/v1/checkpoints?labels=stasis.together%3D{id},app%3Dshop");
    let found = services.call("GET", &path, None).body;
    assert_eq!(found["checkpoints"].as_array().map(Vec::len), Some(pids.len()), "{found}");
    rig.must_run_on();
    let again = services.call("POST", "/v1/checkpoints?wait=60s", Some(&request.to_string()));
    assert!(again.body["error"]["code"] == "conflict" || again.status == 409, "{}", again.text);

    // All that a selector means.
    let by_path = json!({"command": rig.scratch.path("program-").to_string_lossy()});
    let mut selected = json!({"select": by_path, "directory": "selected", "leave_running": true});
    let refusal = rig.refused(&selected, "select");
    assert!(refusal["remedy"].as_str().is_some_and(|it| it.contains("together")), "{refusal}");
    selected["together"] = json!(true);
    services.job("/v1/checkpoints", &selected).expect("checkpoints");
    assert_eq!(rig.below("selected").len(), pids.len());

    // They are ended, and come back each by itself.
    let mut ending = rig.request("end");
    ending["leave_running"] = json!(false);
    services.job("/v1/checkpoints", &ending).expect("checkpoints");
    for pid in &pids {
        waitpid(Pid::from_raw(*pid), None).expect("reap");
    }
    machine.reap();
    for (pid, program) in pids.iter().zip(&rig.programs) {
        services.restore(&format!("end/{pid}")).expect("restore");
        program.check().expect("it is what it was");
    }
    rig.nothing_is_left_over();
}

#[test]
fn each_of_a_batch_has_a_job_of_its_own() {
    let _machine = Machine::prepare();
    let rig = Rig::start(&["pipes", "unsupported-inotify", "unix_sockets"]);
    let (services, pids) = (&rig.services, rig.pids());
    let by_path = json!({"command": rig.scratch.path("program-").to_string_lossy()});
    let request = json!({"select": by_path, "directory": "each", "leave_running": true});
    let asker = services.asker();
    let ask = |request: &Value, key: &str| {
        let answer =
            asker.ask("POST", "/v1/batches?wait=60s", Some(&request.to_string()), Some(key));
        answer.expect("an answer")
    };
    let batch = ask(&request, "x");
    assert_eq!(batch.status, 200, "{}", batch.text);
    let jobs = batch.body["jobs"].as_array().expect("jobs").clone();
    let told: Vec<_> = jobs.iter().map(|job| (&job["pid"], &job["state"])).collect();
    let expected = [json!("done"), json!("failed"), json!("done")];
    let pids_told: Vec<Value> = pids.iter().map(|pid| json!(pid)).collect();
    assert_eq!(told, pids_told.iter().zip(&expected).collect::<Vec<_>>(), "{}", batch.text);
    assert_eq!(rig.below("each"), [pids[0], pids[2]].map(|pid| format!("each/{pid}")));
    rig.must_run_on();

    // The same request once more begins nothing.
    let ids = |batch: &Value| -> Vec<Value> {
        batch["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].clone()).collect()
    };
    assert_eq!(ids(&ask(&request, "x").body), ids(&batch.body));
    // By another name two of the places are taken, and that one is free whose dump had failed.
    let again = ask(&request, "y").body;
    assert_eq!(ids(&again).len(), 1, "{again}");
    let refused = again["refused"].as_array().expect("trees");
    assert!(refused.iter().all(|one| one["error"]["code"] == "conflict"), "{again}");

    // What speaks against all is the answer.
    let none = json!({"pids": [pids[0]], "directory": "each", "leave_running": true});
    let answer = ask(&none, "z");
    assert_eq!(
        (answer.status, &answer.body["field"]),
        (409, &json!("directory")),
        "{}",
        answer.text
    );
    for (wrong, field) in [
        (json!({"pids": pids, "together": true, "leave_running": true}), "together"),
        (json!({"pids": pids}), "leave_running"),
        (json!({"container": "web", "leave_running": true}), "container"),
        (json!({"leave_running": true}), "pids"),
        (json!({"select": {}, "leave_running": true}), "select"),
    ] {
        let answer = ask(&wrong, field);
        assert_eq!((answer.status, &answer.body["field"]), (422, &json!(field)), "{}", answer.text);
    }
    rig.nothing_is_left_over();
}

#[test]
fn what_cannot_be_together_is_refused() {
    let _machine = Machine::prepare();
    let rig = Rig::start(&["pipes", "unsupported-inotify"]);
    let pids = rig.pids();
    let with = |changes: &[(&str, Value)]| {
        let mut request = rig.request("wrong");
        for (name, value) in changes {
            request[name] = value.clone();
        }
        request
    };
    for (changes, field) in [
        (vec![("together", json!(false))], "pids"),
        (vec![("pids", json!([pids[0], pids[0]]))], "pids"),
        (vec![("pids", json!([]))], "pids"),
        (vec![("pids", json!((1..=65).collect::<Vec<_>>()))], "pids"),
        (vec![("pids", json!([pids[0], i32::MAX]))], "pids"),
        (vec![("pid", json!(pids[0]))], "pids"),
        (vec![("container", json!("x"))], "container"),
        (vec![("select", json!({"comm": "x"}))], "select"),
        (vec![("dry_run", json!(true)), ("track", json!(true))], "track"),
        (vec![("directory", json!("a/b/c/d/e/f/g/h"))], "directory"),
    ] {
        rig.refused(&with(&changes), field);
    }
    let error = rig.services.job("/v1/checkpoints", &rig.request("bad")).expect_err("refused");
    assert_eq!(error["refusals"][0]["task"], pids[1], "{error}");
    assert!(error["detail"].as_str().is_some_and(|it| it.contains("all run on")), "{error}");
    let mut tried = rig.request("bad");
    tried["dry_run"] = json!(true);
    let error = rig.services.job("/v1/checkpoints", &tried).expect_err("refused");
    assert_eq!(error["refusals"][0]["task"], pids[1], "{error}");
    assert!(!rig.all_or_none("bad"));
    assert!(!rig.services.checkpoints().join("bad").exists());
    rig.nothing_is_left_over();
    let policy = json!({"select": {"container": "x"}, "every": "1h", "together": true}).to_string();
    let answer = rig.services.call("PUT", "/v1/policies/wrong", Some(&policy));
    assert_eq!(
        (answer.status, &answer.body["field"]),
        (422, &json!("together")),
        "{}",
        answer.text
    );
}

#[test]
fn who_cancels_gets_none_or_all() {
    let _machine = Machine::prepare();
    let rig = Rig::start(&["pipes", "threads"]);
    let mut random = Random::new(0x70_6765);
    let mut cancelled = 0;
    for round in 0..TIMES {
        let directory = format!("c/{round}");
        let id = rig.services.begin("/v1/checkpoints", &rig.request(&directory)).expect("a job");
        std::thread::sleep(random.below(Duration::from_millis(80)));
        let answer = rig.services.call("POST", &format!("/v1/jobs/{id}/cancel?wait=60s"), None);
        assert!(answer.status < 400, "{}", answer.text);
        let job = rig.services.call("GET", &format!("/v1/jobs/{id}?wait=60s"), None).body;
        assert!(job["state"] == "cancelled" || job["state"] == "done", "{job}");
        assert_eq!(rig.all_or_none(&directory), job["state"] == "done", "{job}");
        cancelled += u32::from(job["state"] == "cancelled");
    }
    assert!(cancelled > 0, "none was cancelled in time");
    rig.nothing_is_left_over();
    rig.programs.iter().for_each(|program| program.check().expect("it runs on"));
}

#[test]
fn when_the_dumper_is_killed_there_are_none_or_all() {
    let _machine = Machine::prepare();
    let mut rig = Rig::start(&["pipes", "threads"]);
    let mut random = Random::new(0x6b_696c);
    let mut none = 0;
    for round in 0..TIMES {
        let directory = format!("k/{round}");
        let id = rig.services.begin("/v1/checkpoints", &rig.request(&directory)).expect("a job");
        std::thread::sleep(random.below(Duration::from_millis(150)));
        rig.services.kill("dumper");
        rig.services.start_again("dumper");
        let job = rig.services.call("GET", &format!("/v1/jobs/{id}?wait=60s"), None).body;
        assert!(job["state"] == "failed" || job["state"] == "done", "{job}");
        assert_eq!(rig.all_or_none(&directory), job["state"] == "done", "{job}");
        none += u32::from(job["state"] == "failed");
    }
    assert!(none > 0, "it was never killed in time");
    rig.nothing_is_left_over();
    rig.programs.iter().for_each(|program| program.check().expect("it runs on"));
}

#[test]
fn a_policy_takes_all_of_a_moment() {
    let _machine = Machine::prepare();
    let rig = Rig::start(&["pipes", "threads"]);
    let spec = json!({"select": {"command": rig.scratch.path("program-").to_string_lossy()}, "every": "1h",
        "paused": true, "together": true});
    let answer = rig.services.call("PUT", "/v1/policies/shop", Some(&spec.to_string()));
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(rig.services.call("POST", "/v1/policies/shop/run", None).status, 202);
    let last = || rig.services.call("GET", "/v1/policies/shop", None).body["last"].clone();
    assert!(wait_until(SOON, || last()["finished_ms"].is_u64()), "{}", last());
    assert_eq!((&last()["done"], &last()["failed"]), (&json!(2), &json!(0)), "{}", last());
    assert_eq!(last()["jobs"].as_array().map(Vec::len), Some(1), "{}", last());
    let listed = rig.services.call("GET", "/v1/checkpoints?labels=stasis.policy%3Dshop", None).body;
    let labels: Vec<_> =
        listed["checkpoints"].as_array().expect("a list").iter().map(|it| &it["labels"]).collect();
    assert!(labels.len() == 2 && labels[0] == labels[1], "{listed}");
    assert!(labels[0]["stasis.together"].is_string(), "{listed}");
    rig.must_run_on();
}

#[test]
fn a_shell_asks_a_gateway_for_all_or_for_each() {
    let _machine = Machine::prepare();
    let rig = Rig::start(&["pipes", "threads"]);
    let pids: Vec<String> = rig.pids().iter().map(ToString::to_string).collect();
    let dump = |options: &[&str]| -> Value {
        let mut command = Command::new(stasis_program());
        command.arg(format!("--gateway=unix:{}", rig.services.socket("gateway").display()));
        command.args(["--json", "dump"]).args(&pids).args(options);
        let said = Outcome::of(&mut command).must_succeed("dump").stdout;
        serde_json::from_str(&said).expect("JSON")
    };
    let tried = dump(&["--together", "--dry-run"]);
    assert!(tried["frozen_us"].as_u64() > Some(0) && tried["together"].is_null(), "{tried}");
    for (options, directory) in [
        (&["--together", "--leave-running", "-D", "all"][..], "all"),
        (&["--leave-running", "-D", "each"], "each"),
    ] {
        let told = dump(options);
        assert_eq!(told["together"].is_string(), directory == "all", "{told}");
        for (one, pid) in told["checkpoints"].as_array().expect("a list").iter().zip(&pids) {
            assert_eq!(one["directory"], format!("{directory}/{pid}"), "{told}");
            assert!(one["frozen_us"].as_u64() > Some(0), "{told}");
        }
        assert!(rig.all_or_none(directory));
    }
    let there = |pid: &String| {
        let images = rig.services.checkpoints().join("all").join(pid);
        Path::new(&images).join("inventory.img").exists()
    };
    assert!(pids.iter().all(there));
}
