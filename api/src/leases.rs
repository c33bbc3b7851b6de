//! The freezer's requests and answers.

use serde::{Deserialize, Serialize};

/// How a tree is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreezeMethod {
    /// By cgroup where the tree owns one, by ptrace otherwise.
    #[default]
    Auto,
    /// `cgroup.freeze` of the unified hierarchy.
    CgroupV2,
    /// `freezer.state` of the v1 freezer.
    CgroupV1,
    /// `PTRACE_SEIZE` and `PTRACE_INTERRUPT` of every thread.
    Ptrace,
}

/// `POST /v1/leases` of the freezer: exactly one of `pid` and `cgroup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Root of the tree to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Cgroup to stop, as `/proc/PID/cgroup` writes it (`/name/of/it`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// How.
    #[serde(default)]
    pub method: FreezeMethod,
    /// How long the lease lasts unless renewed, 1 to 600,000.
    pub ttl_ms: u64,
}

/// `POST /v1/leases/{id}/renew`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// How long the lease lasts from now, 1 to 600,000.
    pub ttl_ms: u64,
}

/// A tree that is stopped for somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Names the lease.
    pub id: String,
    /// How the tree is stopped; never `auto`.
    pub method: FreezeMethod,
    /// Processes that are stopped.
    pub processes: u64,
    /// How long stopping took.
    pub stop_us: u64,
    /// When the tree is thawed unless the lease is renewed.
    pub expires_in_ms: u64,
}

/// `GET /v1/leases`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseList {
    /// The leases held now.
    pub leases: Vec<Lease>,
}
