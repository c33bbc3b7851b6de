//! The machines whose processes are checkpointed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::HealthState;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// What it is called: its host name.
    pub name: String,
    /// How well its services are.
    pub status: HealthState,
    /// The version of its gateway.
    pub version: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Its processor's architecture, as `uname -m` has it.
    pub arch: String,
    /// How many processors it has.
    pub processors: u64,
    /// How much memory it has.
    pub memory_bytes: u64,
    /// How long ago it was started.
    pub uptime_seconds: u64,
}

/// `GET /v1/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// The machines: this one, for now.
    pub nodes: Vec<Node>,
}
