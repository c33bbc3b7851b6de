//! Whether the services are well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Well or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// All is well.
    Ok,
    /// It works, but not all of it.
    Degraded,
    /// It does not answer.
    Down,
}

/// `GET /healthz` of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Name of the service.
    pub service: String,
    /// Well or not.
    pub status: HealthState,
    /// Its version.
    pub version: String,
    /// What it would rather say aloud.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What the gateway knows of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceHealth {
    /// Well or not.
    pub status: HealthState,
    /// Its version, when it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What is wrong, or what the service notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `GET /healthz` of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayHealth {
    /// `ok` when every service is.
    pub status: HealthState,
    /// Version of the gateway.
    pub version: String,
    /// The services by name.
    pub services: BTreeMap<String, ServiceHealth>,
}
