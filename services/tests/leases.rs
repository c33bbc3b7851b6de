//! Leases of the freezer's service, on real trees. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends at the first thing that is not as it should be, and says what it skips"
)]

#[path = "../../freezer/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Group, Tree, eventually, frozen};
use kernel::cgroup::Version;

/// The service, ended when dropped.
struct Freezer {
    child: Child,
    socket: PathBuf,
}

impl Freezer {
    fn start(directory: &Path) -> Self {
        let socket = directory.join("freezer.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_stasis-freezer"))
            .arg("--socket")
            .arg(&socket)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let freezer = Self { child, socket };
        eventually("the freezer answers", || freezer.client().get(URL).send().is_ok());
        freezer
    }

    /// A client with a connection of its own.
    fn client(&self) -> reqwest::blocking::Client {
        let builder = reqwest::blocking::Client::builder().unix_socket(self.socket.as_path());
        builder.build().unwrap()
    }

    fn lease(&self, client: &reqwest::blocking::Client, body: &str) -> (u16, serde_json::Value) {
        let request = client.post(URL).header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().unwrap();
        (response.status().as_u16(), response.json().unwrap())
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const URL: &str = "http://freezer/v1/leases";

#[test]
fn a_lease_ends_when_given_back_when_over_and_when_its_holder_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let freezer = Freezer::start(directory.path());
    let tree = Tree::start();
    let client = freezer.client();
    let body =
        |ttl: u64| format!(r#"{{"pid": {}, "method": "ptrace", "ttl_ms": {ttl}}}"#, tree.pid());
    let running = || !tree.states().contains(&b't');

    let (status, lease) = freezer.lease(&client, &body(60_000));
    assert_eq!(status, 201, "{lease}");
    assert_eq!(tree.states(), b"tt");
    let one = format!("{URL}/{}", lease["id"].as_str().unwrap());
    assert_eq!(client.delete(&one).send().unwrap().status().as_u16(), 204);
    assert!(running());
    assert_eq!(client.delete(&one).send().unwrap().status().as_u16(), 404);

    let expired = |count: u32| {
        let page = client.get("http://freezer/metrics").send().unwrap().text().unwrap();
        page.contains(&format!("stasis_lease_ends_total{{reason=\"expired\"}} {count}\n"))
    };
    assert!(expired(0), "before the first: its step is seen as an increase");
    let (_, lease) = freezer.lease(&client, &body(300));
    let one = format!("{URL}/{}/renew", lease["id"].as_str().unwrap());
    let renewal = client.post(one).header("content-type", "application/json");
    let renewed: serde_json::Value =
        renewal.body(r#"{"ttl_ms": 600}"#).send().unwrap().json().unwrap();
    assert!(renewed["expires_in_ms"].as_u64().unwrap() > 400, "{renewed}");
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(tree.states(), b"tt", "the renewed lease still holds");
    eventually("the lease is over", running);
    eventually("it is counted", || expired(1));

    let holder = freezer.client();
    assert_eq!(freezer.lease(&holder, &body(60_000)).0, 201);
    assert_eq!(tree.states(), b"tt");
    drop(holder);
    eventually("the holder is gone", running);
}

#[test]
fn bad_requests_name_the_field() {
    let directory = tempfile::tempdir().unwrap();
    let freezer = Freezer::start(directory.path());
    let client = freezer.client();
    for (body, status, field) in [
        (r#"{"ttl_ms": 5}"#, 422, "pid"),
        (r#"{"pid": 1, "cgroup": "/x", "ttl_ms": 5}"#, 422, "pid"),
        (r#"{"pid": 0, "ttl_ms": 5}"#, 422, "pid"),
        (r#"{"pid": 1, "ttl_ms": 0}"#, 422, "ttl_ms"),
        (r#"{"pid": 1, "ttl_ms": 5, "x": 1}"#, 422, "x"),
        (r#"{"pid": 1, "method": "magic", "ttl_ms": 5}"#, 422, "method"),
    ] {
        let (answered, answer) = freezer.lease(&client, body);
        assert_eq!((answered, answer["field"].as_str()), (status, Some(field)), "{body}");
        assert!(answer["remedy"].is_string(), "{answer}");
    }
    let (status, answer) = freezer.lease(&client, r#"{"pid": 2147483647, "ttl_ms": 5}"#);
    assert_eq!(status, 404, "{answer}");
    let (status, answer) = freezer.lease(&client, r#"{"cgroup": "/../x", "ttl_ms": 5}"#);
    assert_eq!(status, 422, "{answer}");
}

#[test]
fn a_killed_freezer_leaves_nothing_frozen() {
    let directory = tempfile::tempdir().unwrap();
    let tree = Tree::start();
    let Some(group) = Group::make(Version::V2, "killed") else { return };
    let body =
        |method| format!(r#"{{"pid": {}, "method": "{method}", "ttl_ms": 60000}}"#, tree.pid());

    let freezer = Freezer::start(directory.path());
    let client = freezer.client();
    assert_eq!(freezer.lease(&client, &body("ptrace")).0, 201);
    drop(freezer);
    assert!(!tree.states().contains(&b't'));

    group.add(&tree);
    let freezer = Freezer::start(directory.path());
    let client = freezer.client();
    assert_eq!(freezer.lease(&client, &body("cgroup_v2")).0, 201);
    drop(freezer);
    assert!(frozen(Version::V2, &group.0));
    let _freezer = Freezer::start(directory.path());
    assert!(!frozen(Version::V2, &group.0));
    drop(tree);
}

#[test]
fn who_may_not_ask_is_told_so() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let freezer = Freezer::start(directory.path());
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--include", "--unix-socket"]).arg(&freezer.socket).arg(URL);
    let Ok(answer) = curl.uid(NOBODY).gid(NOBODY).output() else {
        eprintln!("SKIPPED: there is no curl here");
        return;
    };
    let answer = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("uid 65534 with gid 65534 may not ask this service"), "{answer}");
    let metrics = freezer.client().get("http://freezer/metrics").send().unwrap().text().unwrap();
    assert!(metrics.contains("stasis_peers_refused_total{service=\"freezer\"} 1"), "{metrics}");
}
