//! What the metrics tell of policies.
//!
//! Who may do everything makes them, there are a bounded number, and the time series of one go with it.

use api::{Code, Policy};
use prometheus::{IntCounterVec, IntGaugeVec};
use service::metrics::{Metrics, definitions as are};

/// What runs come to.
const RUNS: [&str; 2] = ["good", "failed"];
/// What the checkpoints of runs come to.
const CHECKPOINTS: [&str; 3] = ["done", "failed", "over_budget"];

/// The metrics of policies. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct PolicyMetrics {
    runs: IntCounterVec,
    checkpoints: IntCounterVec,
    newest: IntGaugeVec,
}

impl PolicyMetrics {
    /// Registers them.
    pub(crate) fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        Ok(Self {
            runs: metrics.counters(&are::POLICY_RUNS)?,
            checkpoints: metrics.counters(&are::POLICY_CHECKPOINTS)?,
            newest: metrics.gauges(&are::POLICY_NEWEST)?,
        })
    }

    /// There is a policy: its first failure is an increase.
    pub(crate) fn know(&self, policy: &Policy) {
        for outcome in RUNS {
            self.runs.with_label_values(&[policy.name.as_str(), outcome]);
        }
        for outcome in CHECKPOINTS {
            self.checkpoints.with_label_values(&[policy.name.as_str(), outcome]);
        }
        if let Some(good_ms) = policy.good_ms {
            self.at(&policy.name, good_ms);
        }
    }

    /// A policy has taken a checkpoint, or has not because of an error with this code.
    pub(crate) fn taken(&self, policy: &str, result: Result<u64, Code>) {
        let outcome = match result {
            Ok(at_ms) => {
                self.at(policy, at_ms);
                "done"
            }
            Err(Code::OverBudget) => "over_budget",
            Err(_) => "failed",
        };
        self.checkpoints.with_label_values(&[policy, outcome]).inc();
    }

    /// A run is over. `good`: it has taken checkpoints of all.
    pub(crate) fn ran(&self, policy: &str, good: bool) {
        let outcome = if good { "good" } else { "failed" };
        self.runs.with_label_values(&[policy, outcome]).inc();
    }

    fn at(&self, policy: &str, ms: u64) {
        let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        self.newest.with_label_values(&[policy]).set(seconds);
    }

    /// There is no such policy any more.
    pub(crate) fn forget(&self, policy: &str) {
        // Those that are not there need not go.
        for outcome in RUNS {
            drop(self.runs.remove_label_values(&[policy, outcome]));
        }
        for outcome in CHECKPOINTS {
            drop(self.checkpoints.remove_label_values(&[policy, outcome]));
        }
        drop(self.newest.remove_label_values(&[policy]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_told_of_while_it_is_there() {
        let metrics = Metrics::new("gateway").unwrap();
        let told = PolicyMetrics::register(&metrics).unwrap();
        let policy: Policy = serde_json::from_value(serde_json::json!({"name": "web",
            "version": 1, "spec": {"select": {"pid": 1}}, "changed_ms": 1, "good_ms": 7000}))
        .unwrap();
        told.know(&policy);
        told.taken("web", Ok(9000));
        told.taken("web", Err(Code::OverBudget));
        told.taken("web", Err(Code::Refused));
        told.ran("web", false);
        let text = metrics.text().unwrap();
        for line in [
            r#"stasis_policy_checkpoints_total{outcome="done",policy="web"} 1"#,
            r#"stasis_policy_checkpoints_total{outcome="failed",policy="web"} 1"#,
            r#"stasis_policy_checkpoints_total{outcome="over_budget",policy="web"} 1"#,
            r#"stasis_policy_newest_checkpoint_timestamp_seconds{policy="web"} 9"#,
            r#"stasis_policy_runs_total{outcome="failed",policy="web"} 1"#,
            r#"stasis_policy_runs_total{outcome="good",policy="web"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        told.forget("web");
        assert!(!metrics.text().unwrap().contains("web"));
    }
}
