//! Policies: what is checkpointed again and again, and for how long that is kept.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ErrorDetail, Labels};

/// Whose checkpoints are taken: of all trees whose root matches all that is given. At least one thing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// The process of this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub pid: Option<i32>,
    /// Processes of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Processes whose command line has this in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Processes in this control group or below it: `/system.slice/nginx.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Processes of this systemd unit: `nginx.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Processes with this effective user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 4294967295_u32)]
    pub uid: Option<u32>,
    /// A container, by its name or id, which its engine checkpoints; nothing else is given then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What is kept of the checkpoints of a policy. The newest is kept in any case; without any limit, all are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Those of so many runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub runs: Option<u32>,
    /// Those that are no older (`7d`, `12h`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<String>,
    /// The newest that take so many bytes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What a policy does. The trees run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// Whose checkpoints are taken.
    pub select: Selector,
    /// How often: `10m`, `1h`. Either this or `cron`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// When, as cron writes it, in UTC: `0 3 * * *` is at three each night.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// What is kept.
    #[serde(default)]
    pub keep: Keep,
    /// What its checkpoints are called by, beside `stasis.policy` and `stasis.run`.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// As of a checkpoint that is asked for.
    #[serde(default)]
    pub shell_job: bool,
    /// As of a checkpoint that is asked for.
    #[serde(default)]
    pub tcp_established: bool,
    /// As of a checkpoint that is asked for.
    #[serde(default)]
    pub tcp_close: bool,
    /// As of a checkpoint that is asked for.
    #[serde(default)]
    pub skip_in_flight: bool,
    /// All trees in one frozen moment, all of their checkpoints or none: as of a checkpoint that is asked for. Otherwise one after the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub together: bool,
    /// How long each tree may stand still, milliseconds; or all of them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_freeze_ms: Option<u64>,
    /// How long each dump may take, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// It does nothing until this is taken back.
    #[serde(default)]
    pub paused: bool,
}

/// One time that a policy was at work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyRun {
    /// When it began.
    pub started_ms: u64,
    /// When it ended; absent while it is at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<u64>,
    /// Its jobs, at most 100 of them.
    pub jobs: Vec<String>,
    /// How many checkpoints were taken.
    pub done: u32,
    /// How many were not.
    pub failed: u32,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ErrorDetail>,
}

/// A policy, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// What it is called.
    pub name: String,
    /// Grows with each change of what it does.
    pub version: u64,
    /// Which of those it is that have had the name: one that is made anew has another.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub generation: String,
    /// What it does.
    pub spec: PolicySpec,
    /// Which process its `pid` means: that of this number when it was made or changed last. Numbers are given anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// When it was made, or changed last.
    pub changed_ms: u64,
    /// When it is at work next; absent while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// When it has taken checkpoints of all that it selects last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_ms: Option<u64>,
    /// How it fared last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<PolicyRun>,
}

impl Policy {
    /// The label that says which policy a checkpoint is of.
    pub const LABEL: &str = "stasis.policy";
    /// The label that says which of its runs.
    pub const RUN_LABEL: &str = "stasis.run";
    /// What the labels begin with that nobody else may give.
    pub const RESERVED: &str = "stasis.";

    /// What no other version of this policy, and of none that has had its name, is called: the `ETag`, which `If-Match` compares.
    #[must_use]
    pub fn tag(&self) -> String {
        match self.generation.as_str() {
            // Of a gateway that gave none.
            "" => self.version.to_string(),
            generation => format!("{generation}-{}", self.version),
        }
    }
}

/// `GET /v1/policies`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyList {
    /// The policies, by name.
    pub policies: Vec<Policy>,
}
