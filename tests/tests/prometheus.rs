//! What Prometheus says of the metrics, the rules and the dashboards: its own checker, and one that scrapes a stack at work.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stasis_tests::{Machine, Outcome, Scratch, Services, WebServer, free_port, wait_until};

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("dashboards")
}

fn promtool(arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new("promtool").args(arguments).current_dir(dashboards()))
}

/// A copy of the scrape configuration that asks these services, and of the rules; the path of it.
fn configuration(scratch: &Scratch, token: &Path, target: &str) -> PathBuf {
    let directory = scratch.path("prometheus");
    std::fs::create_dir_all(&directory).expect("mkdir");
    for name in ["records.yml", "alerts.yml"] {
        std::fs::copy(dashboards().join(name), directory.join(name)).expect("copy");
    }
    let text = std::fs::read_to_string(dashboards().join("prometheus.yml")).expect("read");
    let token = token.display().to_string();
    let text = text
        .replace("/etc/prometheus/stasis.token", &token)
        .replace("127.0.0.1:7437", target)
        .replace("interval: 10s", "interval: 1s");
    for changed in [token.as_str(), target, "scrape_interval: 1s"] {
        assert!(text.contains(changed), "{changed} is not in {text}");
    }
    let path = directory.join("prometheus.yml");
    std::fs::write(&path, text).expect("write");
    path
}

#[test]
fn rules_are_as_prometheus_wants_them_and_fire_when_they_should() {
    promtool(&["check", "rules", "records.yml", "alerts.yml"]).must_succeed("promtool");
    promtool(&["test", "rules", "rules_test.yml"]).must_succeed("promtool");
    let scratch = Scratch::new();
    let token = scratch.path("token");
    std::fs::write(&token, "x").expect("write");
    let path = configuration(&scratch, &token, "127.0.0.1:1");
    promtool(&["check", "config", &path.to_string_lossy()]).must_succeed("promtool");
}

/// A Prometheus of the test's own; ended when dropped.
struct Prometheus {
    child: Child,
    address: String,
    log: PathBuf,
    client: reqwest::blocking::Client,
}

impl Prometheus {
    fn start(scratch: &Scratch, configuration: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let log = scratch.path("prometheus.log");
        let output = std::fs::File::create(&log).expect("make a log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path("series").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("dup"))
            .stderr(output)
            .spawn()
            .expect("start prometheus, of the package of that name");
        let client = reqwest::blocking::Client::builder().no_proxy().build().expect("a client");
        let prometheus = Self { child, address: format!("http://{address}"), log, client };
        let ready = format!("{}/-/ready", prometheus.address);
        let is_ready = || {
            prometheus.client.get(&ready).send().is_ok_and(|answer| answer.status().is_success())
        };
        assert!(wait_until(Duration::from_secs(60), is_ready), "{}", prometheus.said());
        prometheus
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn answer(&self, path: &str, query: Option<&str>) -> Value {
        let url = format!("{}/api/v1/{path}", self.address);
        let request = match query {
            Some(query) => self.client.post(url).form(&[("query", query)]),
            None => self.client.get(url),
        };
        let answer: Value = request.send().and_then(|it| it.json()).expect("an answer");
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }

    /// The values that a query has now.
    fn values(&self, query: &str) -> Vec<f64> {
        let data = self.answer("query", Some(query));
        let found = data["result"].as_array().expect("a vector").iter();
        let value = |found: &Value| found["value"][1].as_str().and_then(|it| it.parse().ok());
        found.map(|found| value(found).expect("a number")).collect()
    }

    /// Waits until a query has a value that is good.
    fn will_have(&self, query: &str, good: impl Fn(f64) -> bool) {
        let there = || self.values(query).into_iter().any(&good);
        let said = || (self.values(query), self.answer("targets", None), self.said());
        assert!(wait_until(Duration::from_secs(60), there), "{query}: {:?}", said());
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        // It may have ended by itself.
        kill(pid, Signal::SIGTERM).ok();
        self.child.wait().ok();
    }
}

/// The queries of all dashboards, of all machines and with a range that two scrapes are in.
fn queries() -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| walk(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for file in std::fs::read_dir(dashboards()).expect("list").flatten() {
        if file.path().extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(file.path()).expect("read");
            walk(&serde_json::from_str(&text).expect("JSON"), &mut found);
        }
    }
    let set = |query: String| {
        let query = query.replace("$__rate_interval", "5m").replace("$job", "stasis");
        let query = query.replace("$instance", ".*");
        assert!(!query.contains('$'), "{query} has another variable");
        query
    };
    found.into_iter().map(set).collect()
}

/// Whether a query has no data where all is well and nothing is at work.
fn may_be_empty(query: &str) -> bool {
    query.ends_with("> 0")
        || query.contains("stasis_jobs_oldest_start")
        || query.contains(r#"status=~"500|502""#)
}

/// A label that has to be written with care.
const LABEL: &str = "web \"1\" \\ é";

/// What somebody does with a stack, and what he does wrong.
fn at_work(services: &Services, web: &WebServer) {
    let pid = web.program.pid();
    let labels = json!({"app": LABEL});
    let policy = json!({"select": {"pid": pid}, "every": "1d"}).to_string();
    assert_eq!(services.call("PUT", "/v1/policies/web", Some(&policy)).status, 201);
    assert_eq!(services.call("POST", "/v1/policies/web/run", None).status, 202);
    let run = || services.call("GET", "/v1/policies/web", None).body["last"].clone();
    assert!(wait_until(Duration::from_secs(60), || run()["finished_ms"].is_u64()), "{}", run());
    for (directory, stays) in [("on", true), ("end", false)] {
        let body =
            json!({"pid": pid, "directory": directory, "leave_running": stays, "labels": labels});
        services.job("/v1/checkpoints", &body).expect("checkpoint");
    }
    nix::sys::wait::waitpid(Pid::from_raw(pid), None).expect("reap");
    let of_policy = services.call("GET", "/v1/policies/web", None).body;
    assert!(of_policy["good_ms"].is_u64(), "{of_policy}");
    services.restore("end").expect("restore");
    services.job("/v1/verifications", &json!({"directory": "on"})).expect("verify");
    assert_eq!(services.call("GET", "/v1/processes", None).status, 200);
    let refused = services.restore("on").expect_err("its process is there");
    assert_eq!(refused["code"], "refused", "{refused}");
    let wrong = services.checkpoint(i32::MAX, "wrong", true).expect_err("no such process");
    assert_eq!(wrong["code"], "invalid", "{wrong}");
}

#[test]
fn a_prometheus_scrapes_the_services_and_answers_the_dashboards() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services =
        Services::start_with(&scratch.path("services"), &[("STASIS_METRICS_LABEL", "app")]);
    let target = services.address().replace("http://", "");
    let path = configuration(&scratch, &services.metrics_token_file(), &target);
    let prometheus = Prometheus::start(&scratch, &path);
    // What is counted from now on is an increase.
    prometheus.will_have("count_over_time(up{job='stasis'}[5m]) * up", |scrapes| scrapes >= 2.0);
    let web = WebServer::start(&scratch.path("web"));
    let pid = web.program.pid();
    at_work(&services, &web);

    let page = services.call("GET", "/metrics", None).text;
    let mut lint = Command::new("promtool");
    lint.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut lint = lint.stderr(Stdio::piped()).spawn().expect("start promtool");
    lint.stdin.take().expect("a pipe").write_all(page.as_bytes()).expect("write");
    let lint = lint.wait_with_output().expect("wait");
    let said = String::from_utf8_lossy(&lint.stderr);
    assert!(lint.status.success() && said.is_empty(), "{said}{page}");

    let labelled = "stasis_store_labelled_checkpoints{key='app'}";
    prometheus.will_have(labelled, |it| it == 2.0);
    let labelled = prometheus.answer("query", Some(labelled));
    assert_eq!(labelled["result"][0]["metric"]["value"], LABEL);
    prometheus
        .will_have("increase(stasis_dump_frozen_seconds_count{target='process'}[5m])", |it| {
            it > 1.0
        });
    prometheus.will_have("increase(stasis_restores_total{outcome='done'}[5m])", |it| it > 0.0);
    prometheus.will_have(
        "histogram_quantile(0.99, rate(stasis_dump_frozen_seconds_bucket{target='process'}[5m]))",
        |it| it > 0.0,
    );
    prometheus.will_have("instance:stasis_dump_frozen_slow:ratio_rate5m", |it| it >= 0.0);
    prometheus
        .will_have("increase(stasis_restore_failures_total{fault='user'}[5m])", |it| it > 0.0);
    for service in ["collector", "freezer", "dumper", "restorer", "gateway"] {
        prometheus.will_have(&format!("process_open_fds{{service='{service}'}}"), |it| it > 3.0);
    }
    let queries = queries();
    assert!(queries.len() > 80, "{queries:?}");
    let empty = |query: &&String| prometheus.values(query).is_empty() && !may_be_empty(query);
    let empty: Vec<_> = queries.iter().filter(empty).collect();
    assert!(empty.is_empty(), "these have no data: {empty:#?}");

    // The rules are evaluated without an error, and none of what was done wrong fires anything.
    let rules = prometheus.answer("rules", None);
    let groups = rules["groups"].as_array().expect("groups");
    let rules: Vec<_> =
        groups.iter().flat_map(|group| group["rules"].as_array()).flatten().collect();
    assert!(rules.len() > 20 && rules.iter().all(|rule| rule["health"] == "ok"), "{rules:#?}");
    let firing: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").collect();
    assert!(firing.is_empty(), "{firing:#?}");
    drop(prometheus);
    machine.end_tree(pid);
}

/// A file system of a mebibyte; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).expect("mkdir");
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, &path, Some("tmpfs"), flags, Some("size=1m")).expect("mount");
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn failures_are_counted_by_whose_fault_they_are() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let root = scratch.path("services").join("checkpoints");
    let _small = Small::mount(root.join("small"));
    std::fs::write(root.join("small/fills"), vec![0; 1000 << 10]).expect("write");
    let services = Services::start(&scratch.path("services"));
    let web = WebServer::start(&scratch.path("web"));
    let pid = web.program.pid();

    let full = services.checkpoint(pid, "small/x", true).expect_err("there is no room");
    assert_eq!(full["code"], "no_room", "{full}");
    let body = json!({"pid": pid, "directory": "late", "leave_running": true, "timeout_ms": 1});
    let late = services.job("/v1/checkpoints", &body).expect_err("there is no time");
    assert_eq!((&late["code"], &late["field"]), (&json!("over_budget"), &json!("timeout_ms")));
    services.checkpoint(pid, "bad", false).expect("checkpoint");
    nix::sys::wait::waitpid(Pid::from_raw(pid), None).expect("reap");
    let image = root.join(format!("bad/core-{pid}.img"));
    let mut bytes = std::fs::read(&image).expect("read");
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(&image, bytes).expect("write");
    let damaged = services.restore("bad").expect_err("it is damaged");
    assert_eq!(damaged["code"], "damaged", "{damaged}");

    let page = services.call("GET", "/metrics", None).text;
    for line in [
        r#"stasis_dump_failures_total{fault="environment",reason="no_room",target="process"} 1"#,
        r#"stasis_dump_failures_total{fault="user",reason="over_budget",target="process"} 1"#,
        r#"stasis_restore_failures_total{fault="environment",reason="damaged"} 1"#,
        r#"stasis_job_failures_total{fault="environment",kind="checkpoint",reason="no_room"} 1"#,
        r#"stasis_job_failures_total{fault="environment",kind="restore",reason="damaged"} 1"#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    let of_product = page.lines().filter(|line| line.contains(r#"fault="product""#));
    assert!(of_product.clone().count() > 10);
    let wrong: Vec<_> = of_product.filter(|line| !line.ends_with(" 0")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    machine.end_tree(pid);
}

/// The names and labels of all that is on the page.
fn series(services: &Services) -> BTreeSet<String> {
    let page = services.call("GET", "/metrics", None).text;
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned())).collect()
}

#[test]
fn nobody_makes_a_time_series_by_what_he_sends() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services =
        Services::start_with(&scratch.path("services"), &[("STASIS_METRICS_LABEL", "app")]);
    let send = |made_up: &str| {
        let labels = json!({"app": made_up});
        let body = json!({"pid": i32::MAX, "leave_running": true, "labels": labels}).to_string();
        for (method, path, body) in [
            ("GET", format!("/{made_up}"), None),
            ("GET", format!("/v1/jobs/{made_up}"), None),
            ("GET", format!("/v1/jobs?state={made_up}"), None),
            ("GET", format!("/v1/processes?comm={made_up}"), None),
            ("GET", format!("/v1/tracks/{made_up}"), None),
            ("DELETE", format!("/v1/checkpoints/{made_up}"), None),
            ("POST", "/v1/checkpoints".to_owned(), Some(body.as_str())),
            (made_up, "/v1/jobs".to_owned(), None),
        ] {
            assert!(services.call(method, &path, body).status < 500, "{method} {path}");
        }
    };
    send("first");
    // The page is asked for itself.
    series(&services);
    let before = series(&services);
    (0..50).for_each(|number| send(&format!("made-up-{number}")));
    let more: Vec<_> = series(&services).difference(&before).cloned().collect();
    assert!(more.is_empty(), "{more:#?}");
}
