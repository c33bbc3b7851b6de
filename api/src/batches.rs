//! Several trees that are checkpointed one by one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ErrorDetail, Job};

/// What `POST /v1/batches` has begun: a checkpoint of each of several trees, one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Batch {
    /// The jobs, one a tree.
    pub jobs: Vec<Job>,
    /// The trees for which none was begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedTree>,
}

/// A tree for which no job was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedTree {
    /// Its root.
    pub pid: i32,
    /// Why.
    pub error: ErrorDetail,
}
