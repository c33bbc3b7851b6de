//! What the metrics tell of the checkpoints under the root.
//!
//! They are looked at every few seconds and not at each scrape: how often that comes is not ours to say, and where the kernel cannot
//! tell of changes all of them are read for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::{CheckpointSummary, Labels};
use nix::sys::statvfs::statvfs;
use prometheus::{IntCounter, IntGauge, IntGaugeVec};
use service::metrics::{Metrics, definitions as are};
use service::{CheckpointRoot, blocking};

use super::index::Index;

/// In between they are not looked at.
const PAUSE: Duration = Duration::from_secs(5);
/// And for at least so many times as long as it took: so little of a processor is taken at most.
const COST: u32 = 20;
/// So many values of a label are told while the service lives; what has others is told together.
const VALUES: usize = 100;
/// The value of those.
const OTHERS: &str = "(others)";

/// Takes a key of a label.
pub(super) fn label_key(key: &str) -> Result<String, String> {
    let labels: Result<Labels, _> = format!("{key}=").parse();
    match labels {
        Ok(labels) if labels.iter().map(|(key, _)| key).eq([key]) => Ok(key.to_owned()),
        _ => Err("a key has 1 to 63 letters, digits, '.', '_', '-' and '/'".to_owned()),
    }
}

/// Checkpoints with something in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Group {
    checkpoints: i64,
    newest_s: i64,
}

impl Group {
    fn add(&mut self, summary: &CheckpointSummary) {
        self.checkpoints += 1;
        self.newest_s = self.newest_s.max(whole(summary.created_ms / 1000));
    }
}

/// A label: its key and its value.
type Label = (String, String);

/// The labels that are told: keys that the operator names, and of each a bounded number of values. Who may label a checkpoint makes as
/// many time series as that and no more, however long it is done; users make none.
#[derive(Debug)]
struct Told {
    values: BTreeMap<String, BTreeSet<String>>,
}

impl Told {
    fn of(keys: &[String]) -> Self {
        Self { values: keys.iter().map(|key| (key.clone(), BTreeSet::new())).collect() }
    }

    /// As which labels a checkpoint is told.
    fn of_checkpoint(&mut self, summary: &CheckpointSummary) -> Vec<Label> {
        if CheckpointRoot::is_of_users(&summary.directory) {
            return Vec::new();
        }
        let mut told = Vec::new();
        for (key, value) in summary.labels.iter() {
            let Some(known) = self.values.get_mut(key) else { continue };
            if known.len() < VALUES {
                known.insert(value.to_owned());
            }
            let value = if known.contains(value) { value } else { OTHERS };
            told.push((key.to_owned(), value.to_owned()));
        }
        told
    }
}

/// The metrics of the checkpoints, and what they are made of.
#[derive(Debug)]
pub(super) struct Store {
    root: CheckpointRoot,
    index: Index,
    told: Told,
    /// The labels that have time series.
    shown: BTreeSet<Label>,
    gauges: Gauges,
}

#[derive(Debug)]
struct Gauges {
    checkpoints: IntGauge,
    bytes: IntGauge,
    free: IntGauge,
    capacity: IntGauge,
    damaged: IntGauge,
    unfinished: IntGauge,
    newest: IntGaugeVec,
    labelled: IntGaugeVec,
    labelled_newest: IntGaugeVec,
    seen: IntGauge,
    events_lost: IntCounter,
}

impl Store {
    /// Registers the metrics; `keys` are those of the labels that are told.
    ///
    /// # Errors
    /// If they are registered already.
    pub(super) fn register(
        root: CheckpointRoot,
        index: Index,
        keys: &[String],
        metrics: &Metrics,
    ) -> Result<Self, prometheus::Error> {
        let gauges = Gauges {
            checkpoints: metrics.gauge(&are::STORE_CHECKPOINTS)?,
            bytes: metrics.gauge(&are::STORE_BYTES)?,
            free: metrics.gauge(&are::STORE_FREE)?,
            capacity: metrics.gauge(&are::STORE_CAPACITY)?,
            damaged: metrics.gauge(&are::STORE_DAMAGED)?,
            unfinished: metrics.gauge(&are::STORE_UNFINISHED)?,
            newest: metrics.gauges(&are::STORE_NEWEST)?,
            labelled: metrics.gauges(&are::STORE_LABELLED)?,
            labelled_newest: metrics.gauges(&are::STORE_LABELLED_NEWEST)?,
            seen: metrics.gauge(&are::STORE_SEEN)?,
            events_lost: metrics.counter(&are::STORE_EVENTS_LOST)?,
        };
        Ok(Self { root, index, told: Told::of(keys), shown: BTreeSet::new(), gauges })
    }

    /// Looks at them again and again.
    pub(super) async fn keep_looking(mut self) {
        loop {
            let start = Instant::now();
            self = blocking(move || {
                if let Err(error) = self.look() {
                    tracing::warn!("look at the checkpoints for the metrics: {error}");
                }
                self
            })
            .await;
            tokio::time::sleep(PAUSE.max(start.elapsed() * COST)).await;
        }
    }

    fn look(&mut self) -> io::Result<()> {
        let (mut all, mut bytes, mut damaged) = (Group::default(), 0u64, 0);
        let mut by_label: BTreeMap<Label, Group> = BTreeMap::new();
        let told = &mut self.told;
        let lost = self.index.show_all(&mut |summary| {
            all.add(summary);
            bytes = bytes.saturating_add(summary.image_bytes);
            damaged += i64::from(summary.damage.is_some());
            for label in told.of_checkpoint(summary) {
                by_label.entry(label).or_default().add(summary);
            }
        })?;
        let unfinished = self.index.unfinished("")?.len();
        let space = statvfs(self.root.as_path())?;
        let of_blocks = |blocks: u64| whole(blocks.saturating_mul(space.fragment_size()));

        let gauges = &self.gauges;
        gauges.checkpoints.set(all.checkpoints);
        gauges.bytes.set(whole(bytes));
        gauges.damaged.set(damaged);
        gauges.unfinished.set(i64::try_from(unfinished).unwrap_or(i64::MAX));
        gauges.free.set(of_blocks(space.blocks_available()));
        gauges.capacity.set(of_blocks(space.blocks()));
        match all.checkpoints {
            0 => gauges.newest.reset(),
            _ => gauges.newest.with_label_values::<&str>(&[]).set(all.newest_s),
        }
        gauges.events_lost.inc_by(lost.saturating_sub(gauges.events_lost.get()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauges.seen.set(whole(now.as_secs()));
        self.show(&by_label);
        Ok(())
    }

    fn show(&mut self, by_label: &BTreeMap<Label, Group>) {
        let Gauges { labelled, labelled_newest, .. } = &self.gauges;
        for ((key, value), group) in by_label {
            labelled.with_label_values(&[key, value]).set(group.checkpoints);
            labelled_newest.with_label_values(&[key, value]).set(group.newest_s);
        }
        self.shown.retain(|label| {
            let there = by_label.contains_key(label);
            if !there {
                let (key, value) = label;
                // It has been set, so it can be removed.
                drop(labelled.remove_label_values(&[key, value]));
                drop(labelled_newest.remove_label_values(&[key, value]));
            }
            there
        });
        self.shown.extend(by_label.keys().cloned());
    }
}

/// As gauges have it.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(directory: &str, label: &str) -> CheckpointSummary {
        let json = format!(
            r#"{{"directory": "{directory}", "created_ms": 1, "image_bytes": 5, "pid": 7, "comm": "x", "processes": 1, "threads": 1}}"#
        );
        let mut summary: CheckpointSummary = serde_json::from_str(&json).unwrap();
        summary.labels = label.parse().unwrap();
        summary
    }

    fn value(told: &mut Told, summary: &CheckpointSummary) -> Option<String> {
        told.of_checkpoint(summary).pop().map(|(_, value)| value)
    }

    #[test]
    fn labels_make_a_bounded_number_of_time_series() {
        let mut told = Told::of(&["job".to_owned()]);
        assert_eq!(value(&mut told, &labelled("a", "other=x")), None, "it is not told");
        assert_eq!(value(&mut told, &labelled("users/7/a", "job=x")), None, "users make none");
        let values: BTreeSet<_> = (0..1000)
            .filter_map(|number| value(&mut told, &labelled("a", &format!("job={number}"))))
            .collect();
        assert_eq!(values.len(), VALUES + 1);
        assert!(values.contains(OTHERS));
        assert_eq!(value(&mut told, &labelled("a", "job=5")).as_deref(), Some("5"));
        assert_eq!(value(&mut told, &labelled("a", "job=500")).as_deref(), Some(OTHERS));
    }

    #[test]
    fn keys_are_those_of_labels() {
        assert_eq!(label_key("app.kubernetes.io/name").as_deref(), Ok("app.kubernetes.io/name"));
        for wrong in ["", "a=b", "a,b", "a b", "a=,b"] {
            assert!(label_key(wrong).is_err(), "{wrong}");
        }
    }
}
