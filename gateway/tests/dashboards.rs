//! House rules of the dashboards and rules: every metric is on a dashboard or in an alert, none is asked for that is not there, and
//! who is woken by an alert finds what it means. What Prometheus itself thinks of them, `tests/tests/prometheus.rs` asks.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use service::metrics::definitions::ALL;

/// The metrics of the process, which a library defines.
const OF_PROCESS: [&str; 7] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The dashboards, by their file names.
fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(root().join("dashboards")).unwrap().flatten();
    let paths = files.map(|file| file.path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
    };
    paths.map(read).collect()
}

/// The queries of a dashboard.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| queries(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

fn all_queries() -> Vec<String> {
    let mut found = Vec::new();
    dashboards().iter().for_each(|(_, dashboard)| queries(dashboard, &mut found));
    found
}

/// What follows a key in a file of rules, line by line.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(move |line| line.trim_start().trim_start_matches("- ").strip_prefix(key))
}

/// The expressions of a file of rules: what stands behind `expr:` and is further in.
fn expressions(text: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<_> = text.lines().collect();
    let begun = lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("expr:"));
    let whole = |(at, line): (usize, &&str)| {
        let behind = lines[at + 1..].iter().take_while(|other| indent(other) > indent(line));
        behind.fold(String::new(), |text, line| text + line.trim() + "\n")
    };
    begun.map(whole).collect()
}

/// The names that a query asks for which look like metrics of ours, of a process or recorded ones.
fn asked(query: &str) -> BTreeSet<String> {
    let part = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':');
    let starts = ["stasis_", "process_", "instance:"];
    let words = query.split(part).filter(|word| starts.iter().any(|start| word.starts_with(start)));
    let defined = |word: &str| ALL.iter().any(|metric| metric.name == word);
    let whole = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| word.strip_suffix(part));
        base.filter(|base| !defined(word) && defined(base)).unwrap_or(word).to_owned()
    };
    words.map(whole).collect()
}

fn recorded() -> BTreeSet<String> {
    values(&read("dashboards/records.yml"), "record: ").map(str::to_owned).collect()
}

#[test]
fn every_metric_is_shown_or_alerted_and_no_other() {
    let rules = read("dashboards/records.yml") + &read("dashboards/alerts.yml");
    let expressions = expressions(&rules);
    assert!(expressions.len() > 20, "{expressions:?}");
    let queries = all_queries();
    let asked: BTreeSet<_> =
        queries.iter().chain(&expressions).flat_map(|query| asked(query)).collect();
    let defined: BTreeSet<_> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    let missing: Vec<_> = defined.difference(&asked).collect();
    assert!(missing.is_empty(), "on no dashboard and in no alert: {missing:?}");
    let of_process = OF_PROCESS.map(str::to_owned).into();
    let there: BTreeSet<_> = defined.union(&of_process).cloned().chain(recorded()).collect();
    let unknown: Vec<_> = asked.difference(&there).collect();
    assert!(unknown.is_empty(), "asked for, and nowhere defined: {unknown:?}");
    let unused: Vec<_> = recorded().difference(&asked).cloned().collect();
    assert!(unused.is_empty(), "recorded, and asked for by nobody: {unused:?}");
}

#[test]
fn dashboards_are_of_the_machines_that_are_chosen() {
    let all = dashboards();
    assert!(all.len() >= 5);
    let mut ids = BTreeSet::new();
    for (name, dashboard) in &all {
        assert!(ids.insert(dashboard["uid"].as_str().unwrap()), "{name}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let variables: Vec<_> = variables.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(variables, ["datasource", "job", "instance"], "{name}");
        let mut panels = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = &panel["title"];
            assert!(panels.insert(panel["id"].as_u64().unwrap()), "{name}: {title}");
            if panel["type"] != "row" {
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
            }
        }
    }
    for query in all_queries() {
        assert!(query.contains(r#"job=~"$job",instance=~"$instance""#), "{query}");
    }
}

#[test]
fn every_alert_is_explained() {
    let alerts = read("dashboards/alerts.yml");
    let names: Vec<_> = values(&alerts, "alert: ").collect();
    assert!(names.len() > 10);
    for key in ["summary: \"", "remedy: \"", "expr: ", "labels: {severity: "] {
        assert_eq!(values(&alerts, key).count(), names.len(), "{key}");
    }
    let runbooks: Vec<_> = values(&alerts, "runbook: ").map(str::to_owned).collect();
    let wanted = names.iter().map(|name| format!("docs/operations.md#{}", name.to_lowercase()));
    assert_eq!(runbooks, wanted.collect::<Vec<_>>());

    let operations = read("docs/operations.md");
    let sections = operations.split("\n### ").skip(1);
    let sections: Vec<_> = sections.filter(|section| section.starts_with("Stasis")).collect();
    let explained: Vec<_> = sections.iter().filter_map(|section| section.lines().next()).collect();
    assert_eq!(explained, names, "the sections of docs/operations.md and the alerts");
    for section in sections {
        assert!(section.contains("\n- Look: ") && section.contains("\n- Do: "), "{section}");
    }
    let tested = read("dashboards/rules_test.yml");
    let fires = |name: &str| tested.contains(&format!("'{{alertname=\"{name}\"}}', value: 1"));
    let untested: Vec<_> = names.iter().filter(|name| !fires(name)).collect();
    assert!(untested.is_empty(), "no unit test fires these: {untested:?}");
}
