//! What the collector says of processes that it tracks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/tracks`: exactly one of `pid`, `tree` and `cgroup`. Processes that they make from then
/// on are tracked with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackRequest {
    /// One process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub pid: Option<i32>,
    /// Root of a tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub tree: Option<i32>,
    /// A cgroup with all below it, as `/proc/PID/cgroup` writes it (`/name/of/it`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Count system calls too: what changes open files and credentials. It makes every system call
    /// of the machine a little slower.
    #[serde(default)]
    pub files: bool,
}

/// What was asked to be tracked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrackTarget {
    /// One process.
    Pid(i32),
    /// The tree below a process.
    Tree(i32),
    /// A cgroup.
    Cgroup(String),
}

/// A set of processes whose changes are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Track {
    /// Names the track.
    pub id: u64,
    /// What was asked for.
    pub target: TrackTarget,
    /// Whether system calls are counted.
    pub files: bool,
    /// When it began.
    pub created_ms: u64,
    /// Some processes could not be followed: the track tells nothing for sure any more.
    pub stale: bool,
    /// Processes that there was no room for.
    pub lost: u64,
    /// How often processes came or went.
    pub tree: u64,
    /// The processes by pid.
    pub processes: Vec<TrackedProcess>,
}

/// A tracked process. Its generations only grow; two equal ones mean that nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrackedProcess {
    /// Process id.
    pub pid: i32,
    /// Name.
    pub comm: String,
    /// Threads made and ended, programs executed.
    pub threads: u64,
    /// Calls that may change open files or directories; 0 unless calls are counted.
    pub files: u64,
    /// Programs executed, and calls that are not known. (Changes of mappings the kernel counts itself.)
    pub memory: u64,
    /// Calls that may change credentials, limits, scheduling or signal actions; programs executed.
    pub credentials: u64,
}

/// `GET /v1/tracks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrackList {
    /// The tracks by id.
    pub tracks: Vec<Track>,
}
