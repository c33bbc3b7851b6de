//! A house rule: every metric is on the dashboard, and the dashboard and the alerts ask for no
//! metric that is not there.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOMS: [&str; 3] = ["gateway", "service", "services"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(directory: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// The words of a text that begin as our metrics do.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    text.split(part).filter(|word| word.starts_with("stasis_"))
}

/// The metrics that the services register: whole string literals in their sources.
fn registered() -> BTreeSet<String> {
    let mut texts = Vec::new();
    for room in ROOMS {
        sources(&root().join(room).join("src"), &mut texts);
    }
    let literals = texts.iter().flat_map(|text| text.split('"'));
    let whole = literals.filter(|literal| words(literal).next() == Some(literal));
    // Crates are named so too, with no further part.
    let crates: BTreeSet<String> = ROOMS.iter().map(|room| format!("stasis_{room}")).collect();
    whole.map(str::to_owned).filter(|name| !crates.contains(name)).collect()
}

/// The metrics that a text asks for; a histogram is asked for by its parts.
fn asked(text: &str, registered: &BTreeSet<String>) -> BTreeSet<String> {
    let whole = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| word.strip_suffix(part));
        match base {
            Some(base) if registered.contains(base) => base.to_owned(),
            _ => word.to_owned(),
        }
    };
    words(text).map(whole).collect()
}

/// The queries of a dashboard.
fn queries(value: &serde_json::Value, found: &mut String) {
    match value {
        serde_json::Value::Object(fields) => {
            if let Some(query) = fields.get("expr").and_then(|query| query.as_str()) {
                found.push_str(query);
                found.push('\n');
            }
            fields.values().for_each(|field| queries(field, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[test]
fn every_metric_is_on_the_dashboard_and_no_other() {
    let registered = registered();
    assert!(registered.len() > 20, "{registered:?}");
    let text = fs::read_to_string(root().join("dashboards/stasis.json")).unwrap();
    let mut shown = String::new();
    queries(&serde_json::from_str(&text).unwrap(), &mut shown);
    let shown = asked(&shown, &registered);
    let missing: Vec<_> = registered.difference(&shown).collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
    let unknown: Vec<_> = shown.difference(&registered).collect();
    assert!(unknown.is_empty(), "on the dashboard, and nowhere registered: {unknown:?}");
}

#[test]
fn alerts_ask_for_metrics_that_are_there() {
    let registered = registered();
    let text = fs::read_to_string(root().join("dashboards/alerts.yml")).unwrap();
    let asked = asked(&text, &registered);
    assert!(asked.len() > 5, "{asked:?}");
    let unknown: Vec<_> = asked.difference(&registered).collect();
    assert!(unknown.is_empty(), "in the alerts, and nowhere registered: {unknown:?}");
}
