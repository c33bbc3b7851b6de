//! What the collector says of the processes of the machine.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use support::Unsupported;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessSummary {
    /// Process id.
    pub pid: i32,
    /// Parent's process id.
    pub ppid: i32,
    /// Name.
    pub comm: String,
    /// Command line, empty for a zombie or a kernel thread.
    pub command: String,
    /// Effective user id.
    #[schema(value_type = u64)]
    pub uid: u32,
    /// Its control group: in the unified hierarchy, or else in systemd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Threads.
    pub threads: u64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Whether nothing known speaks against a dump of this process.
    pub dumpable: bool,
    /// What speaks against it.
    pub refusals: Vec<Unsupported>,
}

impl ProcessSummary {
    /// Whether it is in a control group or below it.
    #[must_use]
    pub fn is_in_cgroup(&self, wanted: &str) -> bool {
        let wanted = wanted.trim_end_matches('/');
        let rest = self.cgroup.as_deref().and_then(|cgroup| cgroup.strip_prefix(wanted));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether it belongs to a systemd unit, which has a control group of its name.
    #[must_use]
    pub fn is_of_unit(&self, unit: &str) -> bool {
        let cgroup = self.cgroup.as_deref().unwrap_or_default();
        !unit.is_empty() && cgroup.split('/').any(|part| part == unit)
    }
}

/// `GET /v1/processes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessList {
    /// The processes by pid.
    pub processes: Vec<ProcessSummary>,
    /// When they were looked at.
    #[serde(default)]
    pub as_of_ms: u64,
    /// Where there are more: the cursor of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The query of `GET /v1/processes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ProcessQuery {
    /// As many are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The process of this number alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Those of this name alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Those alone whose command line has this in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Those in this control group or below it alone: `/system.slice/nginx.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Those of this systemd unit alone: `nginx.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Those with this effective user id alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<u64>, maximum = 4294967295_u32)]
    pub uid: Option<u32>,
    /// Those alone that can be dumped, or that cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dumpable: Option<bool>,
    /// Those that run a program alone: no threads of the kernel's, and no zombies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<bool>,
    /// They are looked at anew if that was longer ago (`0s`: in any case; otherwise a second).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
}
