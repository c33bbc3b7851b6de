//! What came of what a service was asked to do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorDetail;

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// At work.
    #[default]
    Running,
    /// Finished well.
    Done,
    /// Finished otherwise.
    Failed,
}

/// `GET /v1/operations/NAME` of the dumper and the restorer: what came of the request that was sent with that name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// How far it is.
    pub state: OperationState,
    /// What was, or would have been, the answer to the request, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<serde_json::Value>,
    /// The HTTP status, once it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
    /// How far it is, while it is at work and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// How far something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What is being done.
    pub step: String,
    /// How many bytes this step has moved.
    pub done_bytes: u64,
    /// How many it will have moved, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

impl Operation {
    /// The header in which who asks for something names it: letters, digits and `-`, which nobody else thinks of.
    pub const HEADER: &str = "stasis-operation";
}
