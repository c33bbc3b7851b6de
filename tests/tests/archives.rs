//! Checkpoints leave a machine and come to another as archives, and nothing else does.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use stasis_tests::{Machine, Outcome, Scratch, Services, Workload, stasis_program};

/// The command line with the gateway, with what comes from and goes to files.
fn shell(services: &Services, arguments: &[&str], from: Option<&Path>, to: &Path) -> Outcome {
    let gateway = format!("--gateway=unix:{}", services.socket("gateway").display());
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" < \"$FROM\" > \"$TO\"", "sh"]).arg(stasis_program());
    command.arg(gateway).args(arguments).env("TO", to);
    command.env("FROM", from.unwrap_or(Path::new("/dev/null"))).stdin(Stdio::null());
    Outcome::of(&mut command)
}

/// Sends an archive to a gateway; what it answers.
fn send(services: &Services, name: &str, archive: &[u8]) -> (u16, Value) {
    let token = fs::read_to_string(services.token_file()).expect("the token");
    let client = reqwest::blocking::Client::new();
    let request = client.put(format!("{}/v1/uploads/{name}", services.address()));
    let answer =
        request.bearer_auth(token.trim()).body(archive.to_vec()).send().expect("an answer");
    (answer.status().as_u16(), answer.json().unwrap_or_default())
}

/// All that is below the checkpoint root, as long as it is no checkpoint.
fn left(services: &Services) -> Vec<String> {
    let all = fs::read_dir(services.checkpoints()).expect("the root").flatten();
    all.map(|it| it.file_name().to_string_lossy().into_owned()).collect()
}

fn audit(services: &Services) -> String {
    let place = services.socket("gateway").parent().expect("a directory").join("gateway/audit");
    let files = fs::read_dir(place).expect("the audit").flatten();
    files.map(|file| fs::read_to_string(file.path()).expect("read")).collect()
}

#[test]
fn one_goes_to_another_machine_and_is_restored_there() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let here = Services::start(&scratch.path("here"));
    let workload = Workload::start("memory", scratch.path("work"));
    let pid = workload.pid();
    let labels = serde_json::json!({"pid": pid, "directory": "web/first", "leave_running": false,
        "labels": {"app": "web"}});
    here.job("/v1/checkpoints", &labels).expect("checkpoint");
    machine.await_gone(pid);
    let archive = scratch.path("checkpoint.tar");
    shell(&here, &["download", "web/first"], None, &archive).must_succeed("download");
    let listed = Outcome::of(Command::new("tar").arg("-tf").arg(&archive));
    let listed = listed.must_succeed("tar -t").stdout;
    assert!(listed.contains("inventory.img\n") && listed.contains("stasis-manifest\n"), "{listed}");
    let before = here.call("GET", "/v1/checkpoints/web/first", None).body;
    assert!(audit(&here).contains("download of checkpoint web/first"), "{}", audit(&here));
    drop(here);

    let there = Services::start(&scratch.path("there"));
    let told = scratch.path("told");
    let upload = ["--json", "upload", "of/other"];
    shell(&there, &upload, Some(&archive), &told).must_succeed("upload");
    let taken: Value = serde_json::from_slice(&fs::read(&told).expect("read")).expect("JSON");
    assert_eq!((&taken["directory"], &taken["labels"]), (&"of/other".into(), &before["labels"]));
    let seconds = |of: &Value| of["created_ms"].as_u64().map(|ms| ms / 1000);
    assert_eq!(seconds(&taken), seconds(&before), "it is as old as it was");
    assert!(audit(&there).contains("upload of checkpoint of/other"));
    let again = shell(&there, &upload, Some(&archive), &told);
    assert!(!again.success && again.stderr.contains("is there already"), "{again:?}");
    assert_eq!(there.call("GET", "/v1/checkpoints/of/other", None).body["pid"], pid);
    // Nobody but an admin makes processes that a stranger had in mind.
    assert_eq!(taken["uploaded"], true, "{taken}");
    let request = r#"{"name": "keeper", "roles": ["restore"]}"#;
    let keeper = there.call("POST", "/v1/tokens", Some(request)).body["token"].clone();
    let keeper = keeper.as_str().expect("a token");
    let client = reqwest::blocking::Client::new();
    let restore = client.post(there.address() + "/v1/restores?wait=30s").bearer_auth(keeper);
    let body = r#"{"directory": "of/other"}"#;
    let restore = restore.header("content-type", "application/json").body(body);
    let job: Value = restore.send().expect("an answer").json().expect("JSON");
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&"failed".into(), &"untrusted".into()),
        "{job}"
    );
    there.restore("of/other").expect("restore");
    workload.check().expect("it is as it was");
    drop(there);
    machine.end_all();
}

#[test]
fn what_is_broken_hostile_or_half_leaves_nothing() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("memory", scratch.path("work"));
    services.checkpoint(workload.pid(), "good", true).expect("checkpoint");
    let archive = scratch.path("good.tar");
    shell(&services, &["download", "good"], None, &archive).must_succeed("download");
    let whole = fs::read(&archive).expect("read");
    assert_eq!(services.call("DELETE", "/v1/checkpoints/good", None).status, 204);

    let tar = |name: &str, make: &str| {
        let (dir, to) = (scratch.path(name), scratch.path(&format!("{name}.tar")));
        fs::create_dir(&dir).expect("mkdir");
        let mut command = Command::new("sh");
        command.args(["-ec", make]).current_dir(&dir).env("TO", &to).env("GOOD", &archive);
        Outcome::of(&mut command).must_succeed(name);
        fs::read(&to).expect("read")
    };
    let mut changed = whole.clone();
    let middle = whole.len() / 2;
    changed[middle..middle + 4096].iter_mut().for_each(|byte| *byte ^= 0xff);
    let unpack = "tar -xf $GOOD && ";
    let made = |name, make: &str| tar(name, &format!("{unpack}{make}"));
    for (what, bytes, statuses) in [
        ("nothing", Vec::new(), &[422][..]),
        ("no archive", b"no archive at all".repeat(100), &[400]),
        ("half", whole[..middle].to_vec(), &[400, 422]),
        ("changed", changed, &[400, 422]),
        ("no manifest", made("a", "rm stasis-manifest && tar -cf $TO *"), &[422]),
        ("no inventory", made("b", "rm inventory.img && tar -cf $TO *"), &[422]),
        ("a file is missing", made("c", "rm core-*.img && tar -cf $TO *"), &[422]),
        ("one more image", made("d", "cp pstree.img fs-77.img && tar -cf $TO *"), &[422]),
        (
            "a link",
            made("e", "rm pstree.img && ln -s /etc/passwd pstree.img && tar -cf $TO *"),
            &[422],
        ),
        ("a parent", made("f", "rm -f parent && ln -s ../other parent && tar -cf $TO *"), &[409]),
        ("a path out", made("g", "mkdir x && cd x && tar -Pcf $TO ../inventory.img"), &[422]),
        ("a pipe", made("h", "mkfifo tty.img && tar -cf $TO *"), &[422]),
        ("a long name", made("i", "touch $(printf %0150d 1).log && tar -cf $TO *"), &[422]),
        ("squeezed", made("j", "tar -czf $TO *"), &[400]),
    ] {
        let (status, answer) = send(&services, "some/where", &bytes);
        assert!(statuses.contains(&status), "{what}: {status} {answer}");
        assert!(answer["remedy"].is_string() && answer["detail"].is_string(), "{what}: {answer}");
        assert!(left(&services).is_empty(), "{what}: {:?}", left(&services));
    }

    // Somebody hangs up in the middle of it.
    let token = fs::read_to_string(services.token_file()).expect("the token");
    let address = services.address().replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("connect");
    let head = format!(
        "PUT /v1/uploads/some/where HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        token.trim(),
        whole.len()
    );
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&whole[..middle]))
        .expect("send");
    drop(stream);
    let gone = || left(&services).is_empty();
    assert!(
        stasis_tests::wait_until(std::time::Duration::from_secs(20), gone),
        "{:?}",
        left(&services)
    );

    // Somebody stops in the middle of it, and waits.
    let mut stream = TcpStream::connect(&address).expect("connect");
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&whole[..middle]))
        .expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("nothing came"), "{answer}");
    assert!(
        stasis_tests::wait_until(std::time::Duration::from_secs(20), gone),
        "{:?}",
        left(&services)
    );

    // As tar(1) makes it of the directory, and as it was sent.
    let by_hand = made("k", "tar -cf $TO .");
    let (status, answer) = send(&services, "by/hand", &by_hand);
    assert_eq!(status, 201, "{answer}");
    assert_eq!(send(&services, "by/hand", &whole).0, 409);
    assert_eq!(send(&services, "by/hand/inside", &whole).0, 409);
    assert_eq!(send(&services, "users/0/x", &whole).0, 422);
    assert_eq!(send(&services, ".hidden", &whole).0, 422);
    assert!(!services.logs().contains("panicked"), "{}", services.logs());
}

#[test]
fn nobody_but_who_may_do_everything_has_archives() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("memory", scratch.path("work"));
    services.checkpoint(workload.pid(), "one", true).expect("checkpoint");
    let client = reqwest::blocking::Client::new();
    let ask = |method: &str, path: &str, token: Option<&str>| {
        let method = method.parse().expect("a method");
        let request = client.request(method, services.address() + path);
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        request.send().expect("an answer").status().as_u16()
    };
    let bound = [
        r#"{"name": "viewer", "roles": ["view"]}"#,
        r#"{"name": "keeper", "roles": ["checkpoint", "restore"]}"#,
        r#"{"name": "bound", "roles": ["admin"], "labels": {"team": "web"}}"#,
    ];
    for request in bound {
        let given = services.call("POST", "/v1/tokens", Some(request));
        let token = given.body["token"].as_str().unwrap_or_else(|| panic!("{}", given.text));
        assert_eq!(ask("GET", "/v1/downloads/one", Some(token)), 403, "{request}");
        assert_eq!(ask("PUT", "/v1/uploads/two", Some(token)), 403, "{request}");
    }
    assert_eq!(ask("GET", "/v1/downloads/one", None), 401);
    assert_eq!(ask("PUT", "/v1/uploads/two", None), 401);
    assert_eq!(services.call("GET", "/v1/downloads/none", None).status, 404);

    // An increment is not whole without its parent.
    let root = services.checkpoints();
    for (name, parent) in [("first", None), ("second", Some("first"))] {
        let mut dump = Command::new(stasis_program());
        dump.args(["dump", &workload.pid().to_string(), "--leave-running", "--track"]);
        dump.args(parent.iter().flat_map(|it| ["--parent".into(), root.join(it)]));
        Outcome::of(dump.arg("-D").arg(root.join(name))).must_succeed("a dump");
    }
    let refused = services.call("GET", "/v1/downloads/second", None);
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(
        refused.text.contains("first") && refused.body["remedy"].is_string(),
        "{}",
        refused.text
    );

    // Whoever may has all of it, up to its end.
    let token = fs::read_to_string(services.token_file()).expect("the token");
    let address = services.address();
    let mut answer = client
        .get(format!("{address}/v1/downloads/one"))
        .bearer_auth(token.trim())
        .send()
        .expect("an answer");
    let mut bytes = Vec::new();
    answer.read_to_end(&mut bytes).expect("all of it");
    assert_eq!(bytes.len() % 512, 0);
    assert!(bytes.ends_with(&[0; 1024]));
}
