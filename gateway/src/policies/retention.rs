//! Which checkpoints of a policy are kept.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use api::{CheckpointSummary, Directory, Keep, Policy};
use service::Problem;

/// What is kept, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    runs: Option<u32>,
    age_ms: Option<u64>,
    bytes: Option<u64>,
}

impl Limits {
    pub(crate) fn of(keep: &Keep) -> Result<Self, Problem> {
        if keep.runs == Some(0) {
            return Err(Problem::field("keep.runs", "the newest is kept in any case")
                .remedy("send at least 1, or pause the policy"));
        }
        let age = keep.age.as_deref().map(humantime::parse_duration).transpose();
        let age = age.map_err(|error| {
            Problem::field("keep.age", format!("age is no time: {error}")).remedy("send 7d or 12h")
        })?;
        let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { runs: keep.runs, age_ms: age.map(ms), bytes: keep.bytes })
    }

    /// Those that are kept no longer, the oldest first. The checkpoints of one run go together; those of the newest run stay, and the
    /// last of each program.
    pub(crate) fn over(self, all: &[CheckpointSummary], now_ms: u64) -> Vec<Directory> {
        let mut runs: BTreeMap<&str, Vec<&CheckpointSummary>> = BTreeMap::new();
        for checkpoint in all {
            let run = checkpoint.labels.iter().find(|(key, _)| *key == Policy::RUN_LABEL);
            if let Some((_, run)) = run {
                runs.entry(run).or_default().push(checkpoint);
            }
        }
        // The clock may have been set back, and names of runs are its times.
        let newest_of = |run: &[&CheckpointSummary]| run.iter().map(|it| it.created_ms).max();
        let mut runs: Vec<Vec<&CheckpointSummary>> = runs.into_values().collect();
        runs.sort_by_key(|run| std::cmp::Reverse(newest_of(run)));
        let (mut count, mut bytes, mut over) = (0, 0_u64, Vec::new());
        let mut programs = HashSet::new();
        for checkpoints in runs {
            count += 1;
            bytes += checkpoints.iter().map(|it| it.image_bytes).sum::<u64>();
            let newest = newest_of(&checkpoints).unwrap_or(0);
            let is_over = self.runs.is_some_and(|most| count > most)
                || self.age_ms.is_some_and(|most| newest.saturating_add(most) < now_ms)
                || self.bytes.is_some_and(|most| bytes > most);
            // In a run some trees may have failed: the last checkpoint of a program stays, too.
            let mut last = |it: &CheckpointSummary| programs.insert(it.comm.clone());
            let others = checkpoints.iter().map(|it| (last(it), it)).collect::<Vec<_>>();
            if is_over && count > 1 {
                let gone = others.into_iter().filter(|(last, _)| !last);
                over.extend(gone.map(|(_, it)| it.directory.clone()));
            }
        }
        over.reverse();
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(name: &str, run: u64, bytes: u64) -> CheckpointSummary {
        serde_json::from_value(serde_json::json!({
            "directory": name, "created_ms": run * 1000, "image_bytes": bytes, "pid": 1, "comm": "x",
            "processes": 1, "threads": 1, "labels": {"stasis.policy": "p", "stasis.run": run.to_string()},
        }))
        .unwrap()
    }

    fn over(keep: &Keep, now_ms: u64) -> Vec<String> {
        let mut pinned = checkpoint("pinned", 1, 100);
        pinned.labels = "stasis.policy=p".parse().unwrap();
        let all = [
            checkpoint("c", 3, 10),
            checkpoint("a", 1, 10),
            checkpoint("b1", 2, 10),
            checkpoint("b2", 2, 20),
            pinned,
        ];
        let over = Limits::of(keep).unwrap().over(&all, now_ms);
        over.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_oldest_go_by_runs_and_the_newest_stays() {
        assert_eq!(over(&Keep::default(), u64::MAX), [] as [&str; 0]);
        let runs = |runs| Keep { runs: Some(runs), ..Keep::default() };
        assert_eq!(over(&runs(3), 0), [] as [&str; 0]);
        assert_eq!(over(&runs(2), 0), ["a"]);
        assert_eq!(over(&runs(1), 0), ["a", "b2", "b1"]);
        let age = Keep { age: Some("1s".to_owned()), ..Keep::default() };
        assert_eq!(over(&age, 2900), ["a"]);
        assert_eq!(over(&age, 1_000_000), ["a", "b2", "b1"], "the newest stays");
        let bytes = |bytes| Keep { bytes: Some(bytes), ..Keep::default() };
        assert_eq!(over(&bytes(40), 0), ["a"]);
        assert_eq!(over(&bytes(0), 0), ["a", "b2", "b1"]);
    }

    #[test]
    fn the_last_checkpoint_of_a_program_stays_and_so_does_a_run_of_a_clock_set_back() {
        let mut other = checkpoint("other", 1, 10);
        other.comm = "y".to_owned();
        let mut back = checkpoint("back", 0, 10);
        back.created_ms = 9000;
        let all = [checkpoint("a", 1, 10), other, checkpoint("b", 2, 10), back];
        let keep = Keep { runs: Some(1), ..Keep::default() };
        let over = Limits::of(&keep).unwrap().over(&all, 0);
        let over: Vec<String> = over.iter().map(ToString::to_string).collect();
        assert_eq!(over, ["a", "b"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Limits::of(&Keep { runs: Some(0), ..Keep::default() }).is_err());
        assert!(Limits::of(&Keep { age: Some("old".to_owned()), ..Keep::default() }).is_err());
    }
}
