//! All that `/proc/PID` says of a process, to see that a checkpoint left no trace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Files of `/proc/PID` and their contents, without what changes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

/// Text files of a process.
const OF_PROCESS: &[&str] = &[
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "coredump_filter",
    "environ",
    "limits",
    "loginuid",
    "maps",
    "oom_score_adj",
    "personality",
    "smaps",
    "status",
    "timers",
    "timerslack_ns",
    "uid_map",
    "gid_map",
];

/// Text files of each of its threads.
const OF_THREAD: &[&str] = &["comm", "status", "syscall", "stat", "wchan", "children"];

/// Links of a process.
const LINKS: &[&str] = &["cwd", "exe", "root"];

/// Lines of `status` and `smaps` that count what goes on behind a process's back: switches, signals
/// queued by the same user, which pages happen to be in memory or are shared with others just now.
const VOLATILE: &[&str] = &[
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
    "SigQ",
    "VmHWM",
    "VmRSS",
    "VmPTE",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Pss_Anon",
    "Pss_File",
    "Pss_Shmem",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "LazyFree",
    "KSM",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
];

impl Snapshot {
    /// Reads everything.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let mut all = BTreeMap::new();
        let base = format!("/proc/{pid}");
        for name in OF_PROCESS {
            all.insert((*name).to_owned(), text(&format!("{base}/{name}")));
        }
        for name in LINKS {
            all.insert((*name).to_owned(), link(&format!("{base}/{name}")));
        }
        for dir in ["ns", "fd"] {
            for name in names(&format!("{base}/{dir}")) {
                all.insert(format!("{dir}/{name}"), link(&format!("{base}/{dir}/{name}")));
            }
        }
        for name in names(&format!("{base}/fdinfo")) {
            all.insert(format!("fdinfo/{name}"), text(&format!("{base}/fdinfo/{name}")));
        }
        for tid in names(&format!("{base}/task")) {
            for name in OF_THREAD {
                let path = format!("{base}/task/{tid}/{name}");
                let text = if *name == "stat" { stat(&path) } else { text(&path) };
                all.insert(format!("task/{tid}/{name}"), text);
            }
        }
        Self(all)
    }

    /// What differs, a line for each.
    #[must_use]
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(later.0.keys()).collect();
        let mut found = Vec::new();
        for name in names {
            match (self.0.get(name), later.0.get(name)) {
                (Some(before), Some(after)) => lines(name, before, after, &mut found),
                (Some(_), None) => found.push(format!("{name} is gone")),
                (None, _) => found.push(format!("{name} is new")),
            }
        }
        found
    }
}

fn lines(name: &str, before: &str, after: &str, found: &mut Vec<String>) {
    if before == after {
        return;
    }
    for line in before.lines().filter(|line| !after.lines().any(|other| other == *line)) {
        found.push(format!("{name}: - {line}"));
    }
    for line in after.lines().filter(|line| !before.lines().any(|other| other == *line)) {
        found.push(format!("{name}: + {line}"));
    }
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn link(path: &str) -> String {
    fs::read_link(Path::new(path)).map_or_else(|e| e.to_string(), |p| p.display().to_string())
}

fn text(path: &str) -> String {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return error.kind().to_string(),
    };
    let text = String::from_utf8_lossy(&bytes);
    let kept = text.lines().filter(|line| {
        !line.split_once(':').is_some_and(|(name, _)| VOLATILE.contains(&name.trim()))
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// The fields of `stat` without times and counters of faults, which grow by themselves.
fn stat(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let Some((head, tail)) = text.rsplit_once(')') else { return text };
    let counted = [10, 11, 12, 13, 14, 15, 16, 17, 24, 39, 42, 43, 44];
    let fields = tail.split_whitespace().enumerate();
    let kept = fields.filter(|(index, _)| !counted.contains(&(index + 3)));
    format!("{head}) {}", kept.map(|(_, field)| field).collect::<Vec<_>>().join(" "))
}
