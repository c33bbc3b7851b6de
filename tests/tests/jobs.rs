//! Jobs end well or are said to have failed, whoever of the gateway and the services is killed meanwhile.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stasis_tests::faults::Random;
use stasis_tests::{Machine, Scratch, Services, WebServer, wait_until};

/// What is said of a job of which the gateway had told nobody.
const UNHEARD: &str = "the gateway ended before";

/// How often each of them is killed.
const KILLS: u32 = 6;

fn killed(services: &mut Services, name: &'static str, after: Duration) {
    sleep(after);
    services.kill(name);
    services.start_again(name);
}

/// What became of a job.
fn ended(services: &Services, job: &Value) -> Value {
    let id = job["id"].as_str().unwrap_or_else(|| panic!("no job: {job}"));
    let job = services.call("GET", &format!("/v1/jobs/{id}?wait=60s"), None).body;
    assert!(job["state"] == "done" || job["state"] == "failed", "{job}\n{}", services.logs());
    job
}

fn is_listed(services: &Services, directory: &str) -> bool {
    let answer = services.call("GET", &format!("/v1/checkpoints/{directory}"), None);
    assert!(answer.status == 404 || answer.body["damage"].is_null(), "{}", answer.text);
    answer.status == 200
}

#[test]
fn checkpoints_outlive_the_gateway_and_the_dumper() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let pid = web.program.pid();
    let mut random = Random::new(0x70b5);
    let (mut done, mut failed) = (0, 0);
    for round in 0..KILLS {
        for victim in ["gateway", "dumper"] {
            let directory = format!("{victim}/{round}");
            let body = json!({"pid": pid, "directory": directory, "leave_running": true});
            let begun = services.call("POST", "/v1/checkpoints", Some(&body.to_string()));
            assert_eq!(begun.status, 202, "{}", begun.text);
            killed(&mut services, victim, random.below(Duration::from_millis(120)));
            let job = ended(&services, &begun.body);
            // The dumper goes on without a gateway, if it has heard of it.
            let unheard = job["error"]["detail"].as_str().is_some_and(|it| it.contains(UNHEARD));
            let good = victim == "dumper" || job["state"] == "done" || unheard;
            assert!(good, "{job}\n{}", services.logs());
            assert_eq!(is_listed(&services, &directory), job["state"] == "done", "{job}");
            let (before, counts) = (web.count(), || web.count());
            assert!(wait_until(Duration::from_secs(5), || counts() > before), "it stands still");
            match job["state"] == "done" {
                true => done += 1,
                false => failed += 1,
            }
        }
    }
    let listed = services.call("GET", "/v1/checkpoints", None).body;
    assert_eq!(listed["unfinished"], Value::Null, "nothing is left over: {listed}");
    assert!(done > 0, "{failed} failed");
}

#[test]
fn restores_outlive_the_gateway_and_the_restorer() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let pid = web.program.pid();
    services.checkpoint(pid, "end", false).expect("checkpoint");
    waitpid(Pid::from_raw(pid), None).expect("reap");
    let there = || Path::new(&format!("/proc/{pid}/exe")).exists();
    let mut random = Random::new(0x7e57);
    for round in 0..KILLS {
        for victim in ["gateway", "restorer"] {
            let body = json!({"directory": "end"}).to_string();
            let begun = services.call("POST", "/v1/restores", Some(&body));
            assert_eq!(begun.status, 202, "{}", begun.text);
            killed(&mut services, victim, random.below(Duration::from_millis(120)));
            let job = ended(&services, &begun.body);
            let what = format!("round {round}, {victim}: {job}\n{}", services.logs());
            let unheard = job["error"]["detail"].as_str().is_some_and(|it| it.contains(UNHEARD));
            assert!(victim == "restorer" || job["state"] == "done" || unheard, "{what}");
            if job["state"] == "done" {
                assert!(job["pid"] == pid && there(), "{what}");
                let before = web.count();
                let counts = wait_until(Duration::from_secs(5), || web.count() > before);
                assert!(counts, "it stands still: {what}");
                machine.end_tree(pid);
            }
            // What a killed restorer leaves is ours to reap.
            let gone = || {
                waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).ok();
                !Path::new(&format!("/proc/{pid}")).exists()
            };
            assert!(wait_until(Duration::from_secs(5), gone), "{what}");
        }
    }
}
