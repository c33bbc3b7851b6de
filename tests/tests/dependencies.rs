//! House rules for what depends on what: engines link no server, and nobody names what he does not use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Libraries that checkpoint and restore, and the face of CRIU over them.
const ENGINES: &[&str] = &[
    "stasis-arch",
    "stasis-catalog",
    "stasis-collector",
    "stasis-containers",
    "stasis-criu",
    "stasis-dumper",
    "stasis-freezer",
    "stasis-hooks",
    "stasis-ids",
    "stasis-images",
    "stasis-inventory",
    "stasis-kernel",
    "stasis-parasite",
    "stasis-restorer",
    "stasis-support",
];

/// What belongs to services: servers and clients of HTTP, asynchronous run times, telemetry.
const SHELLS: &[&str] =
    &["axum", "futures", "hyper", "opentelemetry", "prometheus", "reqwest", "tokio", "tower"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// What cargo says; it asks no network for it.
fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root()).args(arguments).args(["--locked", "--offline"]);
    let output = command.output().expect("start cargo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn engines_link_no_server() {
    let mut found = Vec::new();
    for engine in ENGINES {
        let tree = cargo(&["tree", "-p", engine, "-e", "normal", "--prefix", "none"]);
        let names = tree.lines().filter_map(|line| line.split(' ').next());
        // `tokio` stands for `tokio-util` as well.
        let of_shells = |name: &&str| {
            SHELLS.iter().any(|shell| {
                name.strip_prefix(shell)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        };
        found.extend(names.filter(of_shells).map(|name| format!("{engine} links {name}")));
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{found:#?}");
}

/// The text of all Rust files below a folder, without comments.
fn code(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            code(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let read = std::fs::read_to_string(&path).expect("read");
            let lines = read.lines().filter(|line| !line.trim_start().starts_with("//"));
            lines.for_each(|line| text.extend([line, "\n"]));
        }
    }
}

/// Whether code speaks of a crate: as the beginning of a path, or in a `use`.
fn names(code: &str, krate: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(krate).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + krate.len()..]);
        let is_used = before.ends_with("use ") || before.ends_with("extern crate ");
        !before.ends_with(is_word)
            && (after.starts_with("::") || is_used && !after.starts_with(is_word))
    })
}

/// All packages of ours, as cargo tells of them.
fn packages() -> Vec<Value> {
    let workspaces =
        ["Cargo.toml", "ebpf/Cargo.toml", "parasite/blobs/Cargo.toml", "fuzz/Cargo.toml"];
    let mut packages = Vec::new();
    for workspace in workspaces {
        let arguments = ["metadata", "--no-deps", "--format-version", "1", "--manifest-path"];
        let told = cargo(&[&arguments[..], &[workspace]].concat());
        let metadata: Value = serde_json::from_str(&told).expect("JSON");
        packages.extend(metadata["packages"].as_array().expect("packages").iter().cloned());
    }
    packages
}

#[test]
fn every_dependency_is_used() {
    let unused: Vec<_> = packages().iter().flat_map(unused_of).collect();
    assert!(unused.is_empty(), "take these out of Cargo.toml: {unused:#?}");
}

/// The room that a folder of a package is in, as the design calls it.
fn room(folder: &Path) -> String {
    let folder = folder.strip_prefix(root()).expect("inside");
    match folder.to_str().expect("UTF-8") {
        "ebpf/common" => "ebpf/common".to_owned(),
        other => other.split('/').next().expect("a name").to_owned(),
    }
}

/// The names in backticks of a cell.
fn names_of(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches('/').to_owned())
}

/// The table of rooms in the design says for each what it may depend on: that is what it depends on.
#[test]
fn the_design_says_what_depends_on_what() {
    let mut real: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        let own = room(manifest.parent().expect("a folder"));
        let declared = package["dependencies"].as_array().expect("dependencies");
        let used = declared.iter().filter(|it| it["kind"].is_null());
        let rooms = used.filter_map(|it| it["path"].as_str()).map(|path| room(Path::new(path)));
        let others: Vec<_> = rooms.filter(|other| *other != own).collect();
        real.entry(own).or_default().extend(others);
    }
    let design = std::fs::read_to_string(root().join("docs/design.md")).expect("read");
    let (_, table) =
        design.split_once("| room | what lives there | may depend on |").expect("table");
    let mut said: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in table.lines().skip(2).take_while(|row| row.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        let [rooms, _, others] = cells[..] else { panic!("not three cells: {row}") };
        for room in names_of(rooms) {
            said.insert(room, names_of(others).collect());
        }
    }
    // Tests depend on what they test, and a library of records has nothing to depend on.
    real.remove("tests");
    real.remove("ebpf/common");
    let rooms = said.iter().filter(|(room, _)| real.contains_key(*room));
    let rooms: BTreeMap<_, _> =
        rooms.map(|(room, others)| (room.clone(), others.clone())).collect();
    assert_eq!(rooms, real, "the table of rooms in docs/design.md, and what cargo knows");
}

fn unused_of(package: &Value) -> Vec<String> {
    // A package inside the folder of another is not its code.
    let mut of_programs = String::new();
    let mut of_tests = String::new();
    let mut of_build = String::new();
    for target in package["targets"].as_array().expect("targets") {
        let path = Path::new(target["src_path"].as_str().expect("a path"));
        let kind = target["kind"][0].as_str().expect("a kind");
        match kind {
            "custom-build" => of_build += &std::fs::read_to_string(path).expect("read"),
            "test" | "example" | "bench" => code(path.parent().expect("a folder"), &mut of_tests),
            _ => code(path.parent().expect("a folder"), &mut of_programs),
        }
    }
    // Units are beside the code.
    of_tests += &of_programs;
    let declared = package["dependencies"].as_array().expect("dependencies");
    let unused = declared.iter().filter_map(|dependency| {
        let name = dependency["rename"].as_str().or(dependency["name"].as_str()).expect("a name");
        let krate = name.replace('-', "_");
        let code = match dependency["kind"].as_str() {
            None => &of_programs,
            Some("dev") => &of_tests,
            Some(_) => &of_build,
        };
        let package = package["name"].as_str().expect("a name");
        (!names(code, &krate)).then(|| format!("{package}: {name}"))
    });
    unused.collect()
}
