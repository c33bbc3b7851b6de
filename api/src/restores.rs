//! The restorer's requests and answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{CgroupsMode, Directory, Labels};

/// What becomes of the tree once it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AfterRestore {
    /// It runs.
    #[default]
    Resume,
    /// It stays, stopped as by `SIGSTOP`.
    Stop,
}

/// `POST /v1/restores` of the restorer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// Directory of the images under the restorer's checkpoint root.
    pub directory: Directory,
    /// What becomes of the tree.
    #[serde(default)]
    pub after: AfterRestore,
    /// The root joins the restorer's session instead of one of its own.
    #[serde(default)]
    pub shell_job: bool,
    /// TCP connections come back closed.
    #[serde(default)]
    pub tcp_close: bool,
    /// What becomes of its control groups.
    #[serde(default)]
    pub cgroups: CgroupsMode,
    /// Also if it came as an archive and no trusted key has signed it: who asks may do everything.
    #[serde(default)]
    pub any_origin: bool,
}

/// What a restore says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreSummary {
    /// Pid of the restored root.
    pub pid: i32,
    /// The whole restore.
    pub total_us: u64,
    /// Processes restored, zombies included.
    pub processes: u64,
    /// Threads restored.
    pub threads: u64,
    /// Pages put back.
    pub pages_restored: u64,
}

/// One tree that the restorer restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoredTree {
    /// Directory it was restored from.
    pub directory: Directory,
    /// What the checkpoint was called by then.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Pid of its root.
    pub pid: i32,
    /// Whether the root runs.
    pub running: bool,
    /// The root's exit code, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the root, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// `GET /v1/restores` of the restorer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoredList {
    /// The trees restored since the restorer started, newest first, at most 1,000.
    pub restores: Vec<RestoredTree>,
}
