//! The document of the API shows each of its operations as a line to be typed; all of them are typed here, in its order, and answered
//! as the description says.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stasis_tests::{Machine, Outcome, Scratch, Services, Workload};

/// What the document calls what whoever types it has in its place.
const PID: &str = "4711";
const JOB: &str = "6f0c…";

/// Prints the status to the other output when all is there. Events go on for ever.
const SHELL: &str = r#"
curl() {
    local longest=60
    [[ "$*" == */v1/events* ]] && longest=2
    command curl --max-time $longest --write-out '%{stderr}\n%{method} %{http_code} %{url}\n' "$@"
}
"#;

fn read(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root");
    std::fs::read_to_string(root.join(name)).expect("read")
}

/// The commands with curl, each with the lines that it goes on in.
fn commands(document: &str) -> Vec<String> {
    let blocks = document.split("\n```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("\n```").next().expect("its end"));
    let joined = blocks.map(|block| block.replace("\\\n", " ")).collect::<Vec<_>>().join("\n");
    joined.lines().filter(|line| line.contains("curl ")).map(str::to_owned).collect()
}

/// Whether a path is one of these: what stands in braces is any part, and a directory any number of them.
fn is_of(path: &str, template: &str) -> bool {
    let Some((before, rest)) = template.split_once('{') else { return path == template };
    let (name, after) = rest.split_once('}').expect("a closing brace");
    let part = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    part.is_some_and(|part| !part.is_empty() && (name == "directory" || !part.contains('/')))
}

/// The operations of the description that a request is one of.
fn operations<'a>(
    described: &'a Value,
    method: &str,
    path: &str,
) -> impl Iterator<Item = (String, &'a Value)> {
    let method = method.to_lowercase();
    let paths = described["paths"].as_object().expect("paths");
    let of_path = paths.iter().filter(move |(template, _)| is_of(path, template));
    of_path.filter_map(move |(template, all)| {
        Some((format!("{method} {template}"), all.get(&method)?))
    })
}

/// Whoever types the document.
struct Reader<'a> {
    machine: &'a Machine,
    services: &'a Services,
    scratch: &'a Scratch,
    pid: i32,
    /// The job that was begun last.
    job: String,
}

impl Reader<'_> {
    /// A line with what this machine has in place of what the document names.
    fn meant(&self, line: &str) -> String {
        let run_dir = self.services.socket("gateway");
        let run_dir = run_dir.parent().expect("a directory").display().to_string();
        line.replace("/run/stasis/", &format!("{run_dir}/"))
            .replace("http://127.0.0.1:7437", &self.services.address())
            .replace("/var/lib/stasis/gateway.token", &self.services.token_file().to_string_lossy())
            .replace(PID, &self.pid.to_string())
            .replace(JOB, &self.job)
    }

    /// Types a line; what it was, what the status is, and where it went.
    fn type_in(&mut self, line: &str) -> (String, u16, String) {
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(format!("{SHELL}{}", self.meant(line)));
        let outcome = Outcome::of(shell.current_dir(self.scratch.path("")));
        let told = outcome.stderr.lines().last().unwrap_or_default();
        let told: Vec<&str> = told.split(' ').collect();
        let [method, status, url] = told[..] else { panic!("{line}: {}", outcome.stderr) };
        let after_host = url.split("://").nth(1).and_then(|rest| rest.split_once('/'));
        let path = format!("/{}", after_host.expect("a path").1);
        let path = path.split('?').next().expect("a path").to_owned();
        let status = status.parse().expect("a status");
        assert!(status < 300, "{line}: {status}: {}", outcome.stdout);
        if status == 202 && path != "/v1/policies/web/run" {
            let begun: Value = serde_json::from_str(&outcome.stdout).expect("a job");
            self.job = begun["id"].as_str().expect("its id").to_owned();
            self.services.ended(&self.job).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        (method.to_owned(), status, path)
    }
}

#[test]
fn every_line_of_the_document_works_and_every_operation_has_one() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("pipes", scratch.path("work"));
    let pid = workload.pid();
    // What is there before somebody begins to read.
    for name in ["web/old", "web/second"] {
        services.checkpoint(pid, name, true).expect("checkpoint");
    }
    let described: Value = serde_json::from_str(&read("docs/openapi.json")).expect("JSON");
    let (machine, services, scratch) = (&machine, &services, &scratch);
    let mut reader = Reader { machine, services, scratch, pid, job: String::new() };
    let mut typed = Vec::new();
    for line in commands(&read("docs/api.md")) {
        if line.contains("-X POST http://stasis/v1/restores") {
            // It comes back under its number.
            reader.machine.end_tree(pid);
        }
        let (method, status, path) = reader.type_in(&line);
        for (operation, described) in operations(&described, &method, &path) {
            let statuses = &described["responses"];
            let expected = statuses.get(status.to_string()).is_some();
            assert!(expected, "{line}: {status} is not described: {statuses}");
            typed.push(operation);
        }
    }
    for (path, all) in described["paths"].as_object().expect("paths") {
        for method in all.as_object().expect("operations").keys() {
            let operation = format!("{method} {path}");
            assert!(typed.contains(&operation), "docs/api.md has no curl line for {operation}");
        }
    }
    workload.check().expect("it is what it was");
}
