//! The gateway's own requests and answers.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    CgroupsMode, ContainerCheckpoint, ContainerEngine, Directory, DumpSummary, ErrorDetail, Labels,
    Progress, RestoreSummary, Selector, TogetherSummary, Verification,
};

/// `POST /v1/checkpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRequest {
    /// Process at the root of the tree; or `container` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub pid: Option<i32>,
    /// Processes at the roots of several trees, in place of `pid` or beside it; with `together`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub pids: Vec<i32>,
    /// All trees that are named or selected, in one frozen moment: all of them stand still at the same time, so that what they share fits all
    /// of their checkpoints. These come to `directory`, each by the pid of its root, all at once or not at all: if one tree cannot be
    /// checkpointed, none is, and all run on. `max_freeze_ms` and `timeout_ms` count for all of them, and `parent` is the directory of such
    /// checkpoints. At most 64, none a part of another; not of containers.
    #[serde(default)]
    pub together: bool,
    /// The one tree whose root matches all of this, in place of `pid` and `container`; with `together`, all such trees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Selector>,
    /// A container, by its name or id, which its engine checkpoints. Not for a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whose container, where several engines have one of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<ContainerEngine>,
    /// Directory of the images under the checkpoint root; one is made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
    /// Whether the tree runs on afterwards; otherwise it is ended. It has to be said, and is refused
    /// by the gateway when absent: no default ends anybody's program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_running: Option<bool>,
    /// Find out what would be refused, for how long the tree would stand still, and how large the images would be: all is done as for a tree
    /// that runs on, which it does, and nothing is written. So it does stand still for a moment: `max_freeze_ms` says for how long at most.
    /// `leave_running` may be absent then. Of a container's its engine hears nothing. Neither with `parent` nor with `track`.
    #[serde(default)]
    pub dry_run: bool,
    /// The root may belong to a session (and a terminal) outside the tree.
    #[serde(default)]
    pub shell_job: bool,
    /// Every TCP connection is carried, not only those with both ends in the tree.
    #[serde(default)]
    pub tcp_established: bool,
    /// TCP connections are closed in the restored tree.
    #[serde(default)]
    pub tcp_close: bool,
    /// TCP connections that nobody has accepted yet are left out.
    #[serde(default)]
    pub skip_in_flight: bool,
    /// A file that has lost its name, and has others, is given one beside it. Not for a user.
    #[serde(default)]
    pub link_remap: bool,
    /// A checkpoint under the checkpoint root, made with `track`, to which all pages are left that have not changed since. It has to
    /// stay for as long as this one. Where nothing has logged the changes since then, all pages are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Directory>,
    /// What the tree changes in its memory is logged from now on, for a checkpoint that has this one as its parent; until then, or until
    /// `DELETE /v1/dirty-logs/{pid}`, each first write to a page takes some microseconds more.
    #[serde(default)]
    pub track: bool,
    /// How long the tree may stand still, milliseconds; when that is over it runs on and the job
    /// has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_freeze_ms: Option<u64>,
    /// How long the whole dump may take, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What the checkpoint is to be called by. Of a container's, only where its images are under the checkpoint root.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
}

/// `POST /v1/restores`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreJobRequest {
    /// Directory of the images under the checkpoint root.
    pub directory: Directory,
    /// The root joins the restorer's session instead of one of its own.
    #[serde(default)]
    pub shell_job: bool,
    /// TCP connections come back closed.
    #[serde(default)]
    pub tcp_close: bool,
    /// What becomes of its control groups.
    #[serde(default)]
    pub cgroups: CgroupsMode,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Takes a checkpoint.
    Checkpoint,
    /// Finds out what one would cost, and what would be refused.
    DryRun,
    /// Restores one.
    Restore,
    /// Reads all of one, and compares it with what was written.
    Verify,
}

impl JobKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Checkpoint, Self::DryRun, Self::Restore, Self::Verify];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::DryRun => "dry_run",
            Self::Restore => "restore",
            Self::Verify => "verify",
        }
    }
}

/// How urgent a job is: where there are more than may be at work at a time, the more urgent begin first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After the others: what policies do.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// At work.
    Running,
    /// Finished well.
    Done,
    /// Finished otherwise: see `error`.
    Failed,
    /// It was cancelled: a tree that was to be checkpointed runs on, of one that was to be restored nothing is there.
    Cancelled,
}

impl JobState {
    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// One checkpoint or restore that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Names the job.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// Who asked for it.
    pub asked_by: String,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// How far it is, while it is at work and its service says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Who has asked for it to be cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    /// Root of the tree: of a restore, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Roots of the trees that are checkpointed together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<i32>,
    /// The container, by the name that it was asked for by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Directory of the images under the checkpoint root, or of the checkpoints of several trees; of a dry run, where they would be.
    pub directory: Directory,
    /// Of a checkpoint: whether the tree was to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_running: Option<bool>,
    /// Of a checkpoint: what it was to be called by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<u64>,
    /// The gateway ended while it was at work, and the next one has found out what became of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub found_again: bool,
    /// What the dump says of itself, when it is done; absent if the dumper ended before it could say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpSummary>,
    /// What the dumps of several trees say of themselves, when they are done; absent if the dumper ended before it could say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<TogetherSummary>,
    /// What the engine did, when a container's checkpoint is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpointed: Option<ContainerCheckpoint>,
    /// What the restore says of itself, when it is done; absent if the restorer ended before it could say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreSummary>,
    /// What was found, when all was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verification>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}

/// The query of `GET /v1/jobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct JobQuery {
    /// As many are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Those in this state alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Those of this kind alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<JobKind>,
    /// Those on this directory alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
}

/// `GET /v1/jobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The jobs, newest first.
    pub jobs: Vec<Job>,
    /// Where there are more: the cursor of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The query of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// What becomes of this job alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// Whether a switch is off: then nothing is said of it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(switch: &bool) -> bool {
    !*switch
}
