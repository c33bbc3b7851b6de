//! How a dump or a restore went, for people and for programs: the same for what is done here and for what a gateway did.

use std::time::Duration;

use api::{ContainerCheckpoint, DumpSummary, FrozenAccount, RestoreSummary};
use serde::Serialize;

use crate::progress::{bytes, count, time};
use crate::ps::plain;

/// What `stasis dump --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Dumped {
    /// Root of the tree.
    #[serde(rename = "pid")]
    pub(crate) root: Option<i32>,
    /// Where the checkpoint is.
    pub(crate) directory: String,
    /// The job of the gateway that it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    /// What it cost; absent if a service ended before it could say it.
    #[serde(flatten)]
    pub(crate) summary: Option<DumpSummary>,
}

/// What `stasis dump --dry-run --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Tried {
    /// Root of the tree.
    #[serde(rename = "pid")]
    pub(crate) root: Option<i32>,
    /// The job of the gateway that it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    /// What a dump would cost.
    #[serde(flatten)]
    pub(crate) summary: DumpSummary,
}

/// What `stasis dump --json` prints of several trees.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Several {
    /// What all of these checkpoints are called by, that are of one moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) together: Option<String>,
    /// For how long trees stood still, from the first that was stopped until the last that was let go; if they were dumped together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frozen_us: Option<u64>,
    /// The job of the gateway that it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    /// Each of them.
    pub(crate) checkpoints: Vec<Dumped>,
    /// Those that there are none of.
    pub(crate) failed: Vec<NotDumped>,
}

/// A tree that could not be dumped.
#[derive(Debug, Serialize)]
pub(crate) struct NotDumped {
    /// Root of the tree.
    #[serde(rename = "pid")]
    pub(crate) root: i32,
    /// Why not.
    pub(crate) error: String,
}

/// What `stasis restore --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    /// Root of the tree.
    #[serde(rename = "pid")]
    pub(crate) root: Option<i32>,
    /// Where the checkpoint is.
    pub(crate) directory: String,
    /// The job of the gateway that it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    /// What it took; absent if a service ended before it could say it.
    pub(crate) restore: Option<RestoreSummary>,
}

/// How a dump went, in a line.
pub(crate) fn of_dump(dump: &DumpSummary) -> String {
    format!(
        "{}, {}, {} in {}; frozen for {} ({})\n",
        counted(dump.processes, "process"),
        counted(dump.threads, "thread"),
        bytes(dump.image_bytes),
        micros(dump.total_us),
        micros(dump.frozen_us),
        account(&dump.account),
    )
}

/// What a dump would cost, in a line.
pub(crate) fn of_dry_run(dump: &DumpSummary) -> String {
    format!("nothing speaks against it, and nothing was written: {}", of_dump(dump))
}

/// How several dumps went, a line for each.
pub(crate) fn of_several(several: &Several, dry_run: bool) -> String {
    let mut text = String::new();
    if dry_run && !several.checkpoints.is_empty() {
        text += "nothing was written\n";
    }
    for one in &several.checkpoints {
        let root = one.root.map(|root| format!("process {root}: ")).unwrap_or_default();
        text += &match &one.summary {
            Some(dump) => root + &of_dump(dump),
            None => format!("{root}{} is there\n", plain(&one.directory)),
        };
    }
    if let Some(frozen) = several.frozen_us {
        text += &format!(
            "together: from the first stop until all ran on or were ended {}\n",
            micros(frozen)
        );
    }
    text
}

/// What is said where an inventory takes longer than it could.
pub(crate) fn said_of_source(source: Option<collector::Source>) -> &'static str {
    match source {
        Some(collector::Source::Proc) => {
            "the inventory came from /proc; where eBPF programs can be loaded it comes from them, and the tree stands still for a shorter \
             time (`stasis check` says what is missing)\n"
        }
        _ => "",
    }
}

/// How a restore went, in a line.
pub(crate) fn of_restore(restore: &RestoreSummary) -> String {
    format!(
        "{}, {} in {}; the root is process {}\n",
        counted(restore.processes, "process"),
        counted(restore.threads, "thread"),
        micros(restore.total_us),
        restore.pid,
    )
}

/// What became of a container's checkpoint, and how it comes back; `tells_place`: also where its images are.
pub(crate) fn of_container(done: &ContainerCheckpoint, tells_place: bool) -> String {
    let mut text = String::new();
    if tells_place || done.images.is_none() {
        let frozen = done.frozen_us.map(micros);
        let frozen = frozen.map(|time| format!("; frozen for {time}")).unwrap_or_default();
        let images = done.images.as_deref().unwrap_or("its engine's own place");
        let (name, engine) = (plain(&done.name), done.engine);
        text += &format!("container {name} of {engine} in {images}{frozen}\n");
    }
    if let Some(restore) = &done.restore {
        text += &format!("it comes back by: {}\n", plain(restore));
    }
    text
}

/// Where frozen time went, steps without any left out.
fn account(account: &FrozenAccount) -> String {
    let steps = [
        ("stop", account.stop_us),
        ("inventory", account.inventory_us),
        ("registers", account.registers_us),
        ("parasite", account.parasite_us),
        ("files", account.files_us),
        ("cure", account.cure_us),
        ("memory", account.memory_us),
        ("release", account.release_us),
        ("others", account.others_us),
        ("handover", account.handover_us),
    ];
    let steps = steps.into_iter().filter(|(_, micros)| *micros > 0);
    let steps: Vec<_> =
        steps.map(|(step, micros)| format!("{step} {:.1} ms", micros as f64 / 1e3)).collect();
    steps.join(", ")
}

fn counted(number: u64, noun: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

fn micros(micros: u64) -> String {
    time(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_summed_up_in_a_line() {
        let account = FrozenAccount { stop_us: 60, memory_us: 1290, ..FrozenAccount::default() };
        let dump = DumpSummary {
            frozen_us: 1830,
            account,
            total_us: 11_900,
            processes: 1,
            threads: 2,
            image_bytes: 9 << 20,
            ..DumpSummary::default()
        };
        assert_eq!(
            of_dump(&dump),
            "1 process, 2 threads, 9.00 MiB in 11.9 ms; frozen for 1.8 ms (stop 0.1 ms, memory 1.3 ms)\n"
        );
    }

    #[test]
    fn json_of_a_dump_is_flat() {
        let dumped = Dumped {
            root: Some(7),
            directory: "web".to_owned(),
            job: None,
            summary: Some(DumpSummary::default()),
        };
        let json = serde_json::to_value(&dumped).unwrap();
        assert_eq!((&json["pid"], &json["frozen_us"]), (&7.into(), &0.into()));
        assert!(json.get("job").is_none() && json.get("summary").is_none());
    }
}
