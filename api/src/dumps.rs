//! The dumper's requests and answers.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Directory, Labels};

/// What becomes of the tree when its images are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// It runs on.
    Resume,
    /// It stays, stopped as by `SIGSTOP`.
    Stop,
    /// It is ended.
    Kill,
}

/// `POST /v1/dumps` of the dumper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpRequest {
    /// Process at the root of the tree.
    pub pid: i32,
    /// Which process of that number is meant, by what the gateway knew it by when it was asked; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Directory of the images under the dumper's checkpoint root.
    pub directory: Directory,
    /// What becomes of the tree afterwards.
    pub after: After,
    /// All but the images: the tree stands still for as long as one that runs on afterwards, and does so, whatever `after` says. Nothing is
    /// written, and `directory`, `labels` and the signature play no part.
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
    /// How long the tree may stand still, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_freeze_ms: Option<u64>,
    /// How long the whole dump may take, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What the checkpoint is to be called by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Where the frozen time went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FrozenAccount {
    /// Stopping every task.
    pub stop_us: u64,
    /// Reading the inventory again.
    pub inventory_us: u64,
    /// Registers and signal state by ptrace.
    pub registers_us: u64,
    /// What only the tasks know.
    pub parasite_us: u64,
    /// Contents of files that live in the kernel.
    pub files_us: u64,
    /// Memory.
    pub memory_us: u64,
    /// Removing the parasite and giving the registers back.
    pub cure_us: u64,
    /// From there until it ran on, or was ended: then the writing of its images is part of it.
    #[serde(default)]
    pub release_us: u64,
    /// Not of the frozen time: for how long one thread of a process stood still before, to hand over
    /// what its memory is tracked by; the longest of them.
    #[serde(default)]
    pub handover_us: u64,
    /// Waiting for the other trees that were dumped together with it.
    #[serde(default)]
    pub others_us: u64,
}

/// What a dump says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpSummary {
    /// From the first stopped task to the last resumed one.
    pub frozen_us: u64,
    /// Where that time went.
    pub account: FrozenAccount,
    /// The whole dump.
    pub total_us: u64,
    /// Processes dumped, zombies included.
    pub processes: u64,
    /// Threads dumped.
    pub threads: u64,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Bytes of all images.
    pub image_bytes: u64,
    /// What is not as it was asked for, though the checkpoint is whole.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One checkpoint under the checkpoint root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointSummary {
    /// Directory under the checkpoint root.
    pub directory: Directory,
    /// When its images were finished.
    pub created_ms: u64,
    /// Bytes of all images.
    pub image_bytes: u64,
    /// Pid of the tree's root.
    pub pid: i32,
    /// Name of the root process.
    pub comm: String,
    /// Processes in it.
    pub processes: u64,
    /// Threads in it.
    pub threads: u64,
    /// How long the tree was frozen for it, when its `stats-dump` tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_us: Option<u64>,
    /// The checkpoint that it has left pages to, where that is under the checkpoint root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Directory>,
    /// What it is called by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether it came as an archive: whoever is no admin restores it only if a trusted key has signed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uploaded: bool,
    /// The ids of the keys by which it says to be signed, of which nothing has been checked: SHA-256 of the public key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<String>,
    /// Whether it is encrypted: who is in it (`pid`, `comm`, `processes`, `threads`) is not told then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// Why the images cannot be read; absent when they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// `GET /v1/checkpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointList {
    /// The checkpoints by directory.
    pub checkpoints: Vec<CheckpointSummary>,
    /// What is being written, or was left by a dumper that was killed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<UnfinishedCheckpoint>,
    /// Where there are more: the cursor of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The query of `GET /v1/checkpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct CheckpointQuery {
    /// As many are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Those below this directory alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Directory>,
    /// Those of trees whose root had this pid alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Those of trees whose root had this name alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Those that have all of these labels alone: `KEY=VALUE`, more of them with commas between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}

/// `POST /v1/verifications`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Directory of the images under the checkpoint root.
    pub directory: Directory,
}

/// What was found when all of a checkpoint was read, and of those that it has left pages to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// Whether nothing has changed since it was written.
    pub sound: bool,
    /// The files that were compared, all bytes of them.
    pub files: u64,
    /// How long they are together.
    pub bytes: u64,
    /// The id of the trusted key that has signed it; absent where no keys are trusted: nothing was checked then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// Whether it is encrypted, and there are no keys to read it by: what is stored was compared, and not what is in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// Files of which only the length, or samples, could be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_part: Vec<String>,
    /// Directories whose manifest is missing, as CRIU's are: there is nothing to compare their files with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_manifest: Vec<String>,
    /// What is not as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damages: Vec<DamagedFile>,
}

/// A file that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagedFile {
    /// Its path under the checkpoint root.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

/// A temporary directory under the checkpoint root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfinishedCheckpoint {
    /// Its path under the checkpoint root.
    pub path: String,
    /// How much of the disk it takes.
    pub bytes: u64,
    /// Whether its writer is at work. Otherwise that was killed, and the next start of the dumper
    /// clears it.
    pub being_written: bool,
}
