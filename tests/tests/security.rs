//! Attacks on the gateway by a user of the machine: he gets and does what he might do by ptrace, and
//! nothing else; whatever is refused is counted, and touches nobody.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{Machine, Scratch, Services, wait_until};

/// Somebody who has no account.
const USER: u32 = 54_321;

/// The services, with a socket that a user can reach.
fn services(scratch: &Scratch) -> Services {
    let services = Services::start(&scratch.path("services"));
    let socket = services.socket("gateway");
    for directory in socket.ancestors().skip(1).take_while(|path| *path != Path::new("/tmp")) {
        let mode = directory.metadata().expect("stat").permissions().mode();
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode | 0o011)).ok();
    }
    services
}

/// Status and body of a request that the user makes.
fn ask(arguments: &[&str]) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "90", "-w", "\n%{http_code}"]).args(arguments);
    let output = curl.uid(USER).gid(USER).output().expect("curl");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    let status = status.parse().expect("a status");
    assert_ne!(status, 0, "{}", String::from_utf8_lossy(&output.stderr));
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

/// Asks on the socket.
fn by_socket(services: &Services, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let socket = services.socket("gateway");
    let (socket, url) = (socket.to_str().expect("UTF-8"), format!("http://stasis{path}"));
    let text = body.map(Value::to_string).unwrap_or_default();
    let mut arguments = vec!["--unix-socket", socket, "-X", method, &url];
    if body.is_some() {
        arguments.extend(["-H", "Content-Type: application/json", "-d", &text]);
    }
    ask(&arguments)
}

/// A job of the user's when it is done; or why it is not, or there is none.
fn job(services: &Services, path: &str, body: &Value) -> Value {
    let (status, answer) = by_socket(services, "POST", path, Some(body));
    if status != 202 {
        return answer;
    }
    let id = answer["id"].as_str().expect("an id");
    let job = by_socket(services, "GET", &format!("/v1/jobs/{id}?wait=60s"), None).1;
    if job["state"] == "failed" { job["error"].clone() } else { job }
}

/// A program in a session of its own.
struct Program {
    pid: i32,
}

impl Program {
    #[allow(clippy::zombie_processes, reason = "waited for by number, in `reap`")]
    fn start(uid: u32, command: &[&str]) -> Self {
        let mut setsid = Command::new("setsid");
        setsid.args(command).uid(uid).gid(uid).current_dir("/");
        setsid.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = setsid.spawn().expect("start a program");
        let pid = i32::try_from(child.id()).expect("a pid");
        let there = || name(pid) != "setsid";
        assert!(wait_until(Duration::from_secs(10), there), "the program is executed");
        Self { pid }
    }

    fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['S', 'R']))
    }

    fn reap(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        nix::sys::wait::waitpid(pid, None).expect("it has ended");
    }
}

fn name(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

fn refused(services: &Services, reason: &str) -> u64 {
    let text = services.call("GET", "/metrics", None).text;
    let line = format!("stasis_gateway_refused_total{{reason=\"{reason}\"}} ");
    let found = text.lines().find_map(|text| text.strip_prefix(&line)).expect("the metric");
    found.parse().expect("a number")
}

#[test]
fn without_the_token_and_under_a_forged_name_nothing_is_told_or_done() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = services(&scratch);
    let target = Program::start(0, &["sleep", "1001"]);
    let end = json!({"pid": target.pid, "directory": "stolen", "leave_running": false}).to_string();
    let wrong = format!("Authorization: Bearer {}", "0".repeat(64));
    let url = |path: &str| services.address() + path;
    let dump = [&*url("/v1/checkpoints"), "-H", "Content-Type: application/json", "-d", &end];
    let before = refused(&services, "token");
    for (status, request) in [
        (401, &[&*url("/v1/processes")][..]),
        (401, &[&*url("/v1/checkpoints")]),
        (401, &[&*url("/v1/jobs")]),
        (401, &[&*url("/metrics")]),
        (401, &dump),
        (401, &[&*url("/v1/processes"), "-H", &wrong]),
        (200, &[&*url("/healthz")]),
    ] {
        let (answered, body) = ask(request);
        assert_eq!(answered, status, "{request:?}: {body}");
        assert!(!body.to_string().contains("sleep"), "{body}");
    }
    assert_eq!(refused(&services, "token"), before + 6);
    // The token itself is root's alone.
    let token = services.token_file();
    let read = Command::new("cat").arg(&token).uid(USER).gid(USER).output().expect("cat");
    assert!(!read.status.success() && read.stdout.is_empty());
    // With the token, as a page would have it whose name was made to lead here.
    let token = std::fs::read_to_string(token).expect("the token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    for (status, reason, header) in
        [(421, "host", "Host: rebound.example"), (403, "origin", "Origin: http://rebound.example")]
    {
        let before = refused(&services, reason);
        let (answered, body) = ask(&[&url("/v1/processes"), "-H", &bearer, "-H", header]);
        assert_eq!(answered, status, "{header}: {body}");
        assert_eq!(refused(&services, reason), before + 1);
    }
    assert!(target.runs());
    assert!(!services.checkpoints().join("stolen").exists());
    assert!(!services.logs().contains(token.trim()), "a token is in no log");
}

#[test]
fn a_user_sees_and_does_nothing_to_what_is_roots() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = services(&scratch);
    let (roots, his) =
        (Program::start(0, &["sleep", "1001"]), Program::start(USER, &["sleep", "1002"]));
    let made = services.checkpoint(roots.pid, "roots/one", true).expect("root's checkpoint");
    let get = |path: &str| by_socket(&services, "GET", path, None);

    let (status, listed) = get("/v1/processes");
    assert_eq!(status, 200, "{listed}");
    let rows = listed["processes"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["pid"] == his.pid).expect("his own");
    assert_eq!(row["dumpable"], true, "{row}");
    assert!(rows.iter().all(|row| row["uid"] == USER), "{listed}");
    assert!(!listed.to_string().contains("sleep 1001"), "{listed}");

    let before = refused(&services, "right");
    for stay in [true, false] {
        let asked = json!({"pid": roots.pid, "directory": "stolen", "leave_running": stay});
        let failed = job(&services, "/v1/checkpoints", &asked);
        assert_eq!(failed["code"], "forbidden", "{failed}");
        assert!(failed["detail"].to_string().contains("may not trace"), "{failed}");
        assert!(failed["remedy"].is_string(), "{failed}");
    }
    for (body, field) in [
        (json!({"pid": roots.pid}), "pid"),
        (json!({"tree": roots.pid}), "tree"),
        (json!({"tree": 1}), "tree"),
        (json!({"cgroup": "/"}), "cgroup"),
        (json!({"pid": his.pid, "files": true}), "files"),
    ] {
        let (status, answer) = by_socket(&services, "POST", "/v1/tracks", Some(&body));
        assert_eq!((status, &answer["field"]), (403, &json!(field)), "{body}: {answer}");
    }
    assert_eq!(get("/metrics").0, 403);
    assert_eq!(refused(&services, "right"), before + 8);

    // What root has asked for is not there, for him.
    assert_eq!(get("/v1/checkpoints"), (200, json!({"checkpoints": []})));
    assert_eq!(get("/v1/checkpoints/roots/one").0, 404);
    assert_eq!(get("/v1/restores"), (200, json!({"restores": []})));
    let jobs = get("/v1/jobs").1;
    assert!(!jobs.to_string().contains("roots/one"), "{jobs}");
    assert_eq!(get(&format!("/v1/jobs/{}", made["id"].as_str().expect("an id"))).0, 404);
    let track = services.call("POST", "/v1/tracks", Some(&json!({"pid": roots.pid}).to_string()));
    assert_eq!(track.status, 201, "{}", track.text);
    let path = format!("/v1/tracks/{}", track.body["id"]);
    assert_eq!(get("/v1/tracks"), (200, json!({"tracks": []})));
    assert_eq!(get(&format!("{path}/inventory")).0, 404);
    assert_eq!(by_socket(&services, "DELETE", &path, None).0, 404);
    assert_eq!(services.call("GET", &path, None).status, 200, "it is still there");
    for name in ["roots/one", "users/0/x", "users/54322/x"] {
        let (status, answer) =
            by_socket(&services, "POST", "/v1/restores", Some(&json!({"directory": name})));
        assert_eq!(status, 404, "{name}: {answer}");
    }
    assert!(roots.runs() && his.runs());
    assert!(!services.checkpoints().join("stolen").exists());
}

#[test]
fn a_user_has_his_own_process_dumped_ended_and_restored() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = services(&scratch);
    let his = Program::start(USER, &["sleep", "1003"]);
    let asked =
        |name: &str, stay: bool| json!({"pid": his.pid, "directory": name, "leave_running": stay});
    let done = job(&services, "/v1/checkpoints", &asked("mine/on", true));
    assert_eq!(
        (&done["state"], &done["asked_by"]),
        (&json!("done"), &json!("uid 54321")),
        "{done}"
    );
    assert!(his.runs());
    let (status, track) =
        by_socket(&services, "POST", "/v1/tracks", Some(&json!({"tree": his.pid})));
    assert_eq!(status, 201, "{track}");
    let path = format!("/v1/tracks/{}", track["id"]);
    let (status, inventory) = by_socket(&services, "GET", &format!("{path}/inventory"), None);
    assert_eq!(
        (status, &inventory["processes"][his.pid.to_string()]["pid"]),
        (200, &json!(his.pid))
    );
    assert_eq!(by_socket(&services, "DELETE", &path, None).0, 204);

    // A name would be made by the dumper's rights.
    let mut linked = asked("mine/linked", true);
    linked["link_remap"] = json!(true);
    let refused = job(&services, "/v1/checkpoints", &linked);
    assert!(refused["detail"].to_string().contains("given no names"), "{refused}");
    let done = job(&services, "/v1/checkpoints", &asked("mine/end", false));
    assert_eq!(done["state"], "done", "{done}");
    his.reap();
    let listed = by_socket(&services, "GET", "/v1/checkpoints", None).1;
    let names: Vec<_> = listed["checkpoints"].as_array().expect("a list").iter().collect();
    assert_eq!(
        (&names[0]["directory"], &names[1]["directory"]),
        (&json!("mine/end"), &json!("mine/on"))
    );
    // They lie where root has them, and nobody else can alter them.
    let place = services.checkpoints().join("users/54321/mine/end");
    assert_eq!(place.metadata().expect("there").permissions().mode() & 0o7777, 0o700);
    let whole = services.call("GET", "/v1/checkpoints/users/54321/mine/end", None);
    assert_eq!(whole.status, 200, "{}", whole.text);

    let shell = json!({"directory": "mine/end", "shell_job": true});
    let refused = job(&services, "/v1/restores", &shell);
    assert!(refused["detail"].to_string().contains("terminal of the restorer"), "{refused}");
    // They would be set, or left, by the restorer's rights.
    for mode in ["ignore", "props", "full"] {
        let asked = json!({"directory": "mine/end", "cgroups": mode});
        let refused = job(&services, "/v1/restores", &asked);
        assert!(refused["detail"].to_string().contains("its own control groups"));
    }
    let back = job(&services, "/v1/restores", &json!({"directory": "mine/end"}));
    assert_eq!((&back["state"], &back["pid"]), (&json!("done"), &json!(his.pid)), "{back}");
    assert!(wait_until(Duration::from_secs(5), || his.runs()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", his.pid)).expect("it is back");
    assert!(status.contains("Uid:\t54321\t54321\t54321\t54321\n"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
    let listed = by_socket(&services, "GET", "/v1/restores", None).1;
    assert_eq!(listed["restores"][0]["directory"], "mine/end", "{listed}");
    assert_eq!(
        services.call("GET", "/v1/restores", None).body["restores"][0]["directory"],
        "users/54321/mine/end"
    );
    let logs = services.logs();
    for said in ["uid 54321: dumped process", "uid 54321: restored users/54321/mine/end"] {
        assert!(logs.contains(said), "{said:?} is not in\n{logs}");
    }
}

#[test]
fn what_has_more_rights_than_the_user_is_refused_with_its_tree_and_from_images() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = services(&scratch);
    // A program of his that has started one that gives rights.
    let given = PathBuf::from(format!("/tmp/stasis-setuid-{}", std::process::id()));
    std::fs::copy("/bin/sleep", &given).expect("copy sleep");
    std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o4755)).expect("chmod");
    let command = format!("{} 1004 & wait", given.display());
    let his = Program::start(USER, &["sh", "-c", &command]);
    let child = || stasis_tests::children_of(his.pid).first().copied().unwrap_or_default();
    let sleeps = || name(child()).starts_with("stasis-setuid");
    assert!(wait_until(Duration::from_secs(10), sleeps), "it has a child");
    let (pid, asked) =
        (child(), json!({"pid": his.pid, "directory": "mine", "leave_running": false}));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    std::fs::remove_file(&given).expect("remove");
    stasis_tests::require!(
        status.contains("Uid:\t54321\t0\t0\t0\n"),
        "/tmp is mounted without set-user-id programs (nosuid)"
    );
    let failed = job(&services, "/v1/checkpoints", &asked);
    let said = failed["detail"].as_str().expect("an error").to_owned();
    assert!(said.contains(&format!("uid 54321 may not trace process {pid} of its tree")), "{said}");
    let listed = by_socket(&services, "GET", "/v1/processes", None).1;
    let row = listed["processes"].as_array().expect("a list").iter().find(|p| p["pid"] == his.pid);
    let refusals = row.expect("his own")["refusals"].to_string();
    assert!(refusals.contains("it has rights that the caller lacks"), "{refusals}");
    assert!(listed["processes"].as_array().expect("a list").iter().all(|p| p["pid"] != pid));
    assert!(his.runs());

    // Images of root's that have come to where his are.
    let roots = Program::start(0, &["sleep", "1005"]);
    services.checkpoint(roots.pid, "roots", false).expect("root's checkpoint");
    roots.reap();
    std::fs::create_dir_all(services.checkpoints().join("users/54321")).expect("make his part");
    let (from, to) =
        (services.checkpoints().join("roots"), services.checkpoints().join("users/54321/x"));
    std::fs::rename(from, to).expect("move");
    let failed = job(&services, "/v1/restores", &json!({"directory": "x"}));
    assert!(failed["detail"].to_string().contains("its rights are more"), "{failed}");
    assert!(!roots.runs());
    // Containers are root's, whoever has a program in one.
    let (status, answer) = by_socket(&services, "GET", "/v1/containers", None);
    assert_eq!(status, 403, "{answer}");
    let failed =
        job(&services, "/v1/checkpoints", &json!({"container": "x", "leave_running": true}));
    assert!(failed["detail"].to_string().contains("containers are root's"), "{failed}");
    // And root puts nothing there by name.
    let his_part = json!({"pid": his.pid, "directory": "users/54321/y", "leave_running": true});
    let error = services.job("/v1/checkpoints", &his_part).expect_err("reserved");
    assert_eq!(error["field"], "directory", "{error}");
}

#[test]
fn a_gateway_for_root_alone_serves_no_user() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut services = services(&scratch);
    services.kill("gateway");
    services.set("STASIS_NO_USERS", "true");
    services.start_again("gateway");
    let (status, answer) = by_socket(&services, "GET", "/v1/processes", None);
    assert_eq!(status, 403, "{answer}");
    assert_eq!(by_socket(&services, "GET", "/healthz", None).0, 200);
    assert_eq!(services.call("GET", "/v1/processes", None).status, 200);
}
