//! Several trees that are dumped in one frozen moment.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Directory, DumpRequest, DumpSummary};

/// `POST /v1/dumps/together` of the dumper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TogetherRequest {
    /// The directory of all of them under the dumper's checkpoint root.
    pub directory: Directory,
    /// Each of them: its directory lies in that one.
    pub dumps: Vec<DumpRequest>,
}

impl TogetherRequest {
    /// So many trees are dumped together at most.
    pub const MOST: usize = 64;
}

/// What is told of trees that were dumped together: all checkpoints are there, or none is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TogetherSummary {
    /// What all of the checkpoints are called by, which have the label `stasis.together` with this; empty of a dry run.
    pub id: String,
    /// For how long trees stood still, from the first that was stopped until the last that ran on or was ended.
    pub frozen_us: u64,
    /// Each of them, in the order of the request.
    pub checkpoints: Vec<TogetherCheckpoint>,
}

impl TogetherSummary {
    /// The label that says which checkpoints are of one moment.
    pub const LABEL: &str = "stasis.together";
}

/// One of the trees that were dumped together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TogetherCheckpoint {
    /// Root of the tree.
    pub pid: i32,
    /// Directory of the images under the checkpoint root.
    pub directory: Directory,
    /// What its dump says of itself.
    pub dump: DumpSummary,
}
