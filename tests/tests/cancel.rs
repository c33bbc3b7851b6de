//! Jobs that are cancelled, or wait for their turn.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};
use stasis_tests::faults::Random;
use stasis_tests::{Machine, Program, Scratch, Services, WebServer, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// How often jobs are cancelled at random moments.
const TIMES: u32 = 12;

fn begun(services: &Services, path: &str, body: &Value) -> String {
    let answer = services.call("POST", path, Some(&body.to_string()));
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.body["id"].as_str().expect("an id").to_owned()
}

fn cancelled(services: &Services, id: &str) -> Value {
    let answer = services.call("POST", &format!("/v1/jobs/{id}/cancel?wait=60s"), None);
    assert!(answer.status == 200 || answer.status == 202, "{}", answer.text);
    let job = services.call("GET", &format!("/v1/jobs/{id}?wait=60s"), None).body;
    assert!(job["state"] == "cancelled" || job["state"] == "done", "{job}\n{}", services.logs());
    job
}

fn counts(web: &WebServer) -> bool {
    let before = web.count();
    wait_until(SOON, || web.count() > before)
}

#[test]
fn a_cancelled_checkpoint_leaves_the_tree_and_no_images() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let mut random = Random::new(0xca9ce1);
    let mut ends = [0, 0];
    for round in 0..TIMES {
        let directory = format!("c/{round}");
        let stays =
            json!({"pid": web.program.pid(), "directory": directory, "leave_running": true});
        let id = begun(&services, "/v1/checkpoints", &stays);
        std::thread::sleep(random.below(Duration::from_millis(60)));
        let job = cancelled(&services, &id);
        let there =
            services.call("GET", &format!("/v1/checkpoints/{directory}"), None).status == 200;
        assert_eq!(there, job["state"] == "done", "{job}");
        assert!(counts(&web), "it stands still: {job}");
        ends[usize::from(there)] += 1;
    }
    let listed = services.call("GET", "/v1/checkpoints", None).body;
    assert_eq!(listed["unfinished"], Value::Null, "{listed}");
    assert!(ends[0] > 0, "none was cancelled in time");
}

#[test]
fn of_a_cancelled_restore_nothing_or_all_is_there() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let pid = web.program.pid();
    services.checkpoint(pid, "end", false).expect("checkpoint");
    waitpid(Pid::from_raw(pid), None).expect("reap");
    let mut random = Random::new(0x5e77);
    for _ in 0..TIMES {
        let id = begun(&services, "/v1/restores", &json!({"directory": "end"}));
        std::thread::sleep(random.below(Duration::from_millis(80)));
        let job = cancelled(&services, &id);
        if job["state"] == "done" {
            assert!(job["pid"] == pid && counts(&web), "{job}");
            machine.end_tree(pid);
        }
        let gone = || !Path::new(&format!("/proc/{pid}")).exists();
        assert!(wait_until(SOON, gone), "{job}");
    }
    // It comes back all the same.
    services.restore("end").expect("restore");
    assert!(counts(&web));
    machine.end_tree(pid);
}

/// A program with much memory, so that it takes a while to read its checkpoint.
const LARGE: &str = "import os, sys, time
kept = bytearray(os.urandom(1 << 20)) * 256
open(sys.argv[1], 'w').close()
time.sleep(1000)
";

#[test]
fn a_cancelled_verification_reads_no_further() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let ready = scratch.path("ready");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", LARGE]).arg(&ready);
    let program = Program::start(&mut command, &scratch.path("log"));
    assert!(wait_until(SOON, || ready.exists()), "it is not up");
    services.checkpoint(program.pid(), "large", true).expect("checkpoint");
    let mut random = Random::new(0x7e51f7);
    let mut ends = [0, 0];
    for _ in 0..TIMES {
        let id = begun(&services, "/v1/verifications", &json!({"directory": "large"}));
        std::thread::sleep(random.below(Duration::from_millis(40)));
        let job = cancelled(&services, &id);
        let is_done = job["state"] == "done";
        // What was read until then says nothing of the checkpoint.
        assert_eq!(job["verified"]["sound"], if is_done { json!(true) } else { Value::Null });
        ends[usize::from(is_done)] += 1;
    }
    assert!(ends[0] > 0, "none was cancelled in time");
    machine.end_all();
}

#[test]
fn jobs_wait_for_their_turn_and_outlive_the_gateway() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = Services::start(&scratch.path("services"));
    services.set("STASIS_JOBS_AT_ONCE", "1");
    services.kill("gateway");
    services.start_again("gateway");
    let webs: Vec<WebServer> =
        (0..4).map(|n| WebServer::start(&scratch.path(&format!("web{n}")))).collect();
    let request = |n: usize, priority: &str| {
        json!({"pid": webs[n].program.pid(), "directory": format!("q/{n}"), "leave_running": true,
            "priority": priority})
    };
    let order = [(0, "normal"), (1, "low"), (2, "normal"), (3, "high")];
    let ids: Vec<String> =
        order.iter().map(|(n, it)| begun(&services, "/v1/checkpoints", &request(*n, it))).collect();
    services.kill("gateway");
    services.start_again("gateway");
    let ended = |id: &String| {
        let job = services.call("GET", &format!("/v1/jobs/{id}?wait=60s"), None).body;
        let unheard = job["error"]["detail"].as_str().is_some_and(|it| it.contains("the gateway"));
        assert!(job["state"] == "done" || unheard, "{job}\n{}", services.logs());
    };
    ids.iter().for_each(ended);
    // One that waits is cancelled at once.
    let again = |n: usize| json!({"pid": webs[n].program.pid(), "directory": format!("r/{n}"), "leave_running": true});
    let first = begun(&services, "/v1/checkpoints", &again(0));
    let second = begun(&services, "/v1/checkpoints", &again(1));
    cancelled(&services, &second);
    ended(&first);
    assert!(webs.iter().all(counts), "one stands still");
}
