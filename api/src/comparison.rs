//! Two checkpoints compared: what has come, gone and changed from one to the other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Directory;

/// The query of `GET /v1/comparisons`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ComparisonQuery {
    /// The directory of the first checkpoint.
    pub before: Directory,
    /// The directory of the second.
    pub after: Directory,
}

/// Two checkpoints compared, by what their images hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// The first of them.
    pub before: ComparedCheckpoint,
    /// The second.
    pub after: ComparedCheckpoint,
    /// Whether nothing of what is compared differs: tasks, memory, files. (Registers, times and sizes of images are not.)
    pub same: bool,
    /// Processes and threads.
    pub tasks: TaskChanges,
    /// Memory.
    pub memory: MemoryChanges,
    /// Descriptors and what they refer to.
    pub files: FileChanges,
}

/// One of two checkpoints that are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComparedCheckpoint {
    /// Its directory.
    pub directory: String,
    /// Processes in it.
    pub processes: u64,
    /// Threads in it.
    pub threads: u64,
    /// Bytes of all its images.
    pub image_bytes: u64,
    /// Bytes of the pages that are in it.
    pub stored_bytes: u64,
    /// Bytes of the pages that it has left to its parents.
    pub parent_bytes: u64,
    /// Bytes waiting in pipes, fifos and sockets.
    pub queued_bytes: u64,
    /// How long the tree was frozen for it, when its `stats-dump` tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_us: Option<u64>,
}

/// What has become of tasks. Of each list at most 1,000 are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskChanges {
    /// Those that are in the second alone.
    pub came: Vec<ComparedTask>,
    /// Those that are in the first alone.
    pub went: Vec<ComparedTask>,
    /// Those that are not what they were.
    pub changed: Vec<ChangedTask>,
    /// More of them, which are not told.
    pub left_out: u64,
}

/// A thread; the first one of a process has the process's number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComparedTask {
    /// Its process.
    pub process: u64,
    /// Its own number.
    pub task: u64,
    /// Its name.
    pub comm: String,
}

/// A task that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedTask {
    /// The task.
    #[serde(flatten)]
    pub of: ComparedTask,
    /// What of it: `name`, `state`, `parent`, `group`, `session`, `program`, `directory`, `user`.
    pub what: String,
    /// As it was.
    pub before: String,
    /// As it is.
    pub after: String,
}

/// What has become of memory. A page is told as changed if both checkpoints hold it and its bytes differ, as added or gone if one
/// holds it alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryChanges {
    /// All of it together.
    pub total: PageChanges,
    /// The mappings in which something differs, and those that came and went; at most 1,000 of them, those with most pages that
    /// differ.
    pub mappings: Vec<MappingChange>,
    /// More of them, which are not told.
    pub left_out: u64,
}

/// How many pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PageCount {
    /// Pages.
    pub pages: u64,
    /// How many bytes they are.
    pub bytes: u64,
}

/// What has become of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PageChanges {
    /// Those whose contents differ.
    pub changed: PageCount,
    /// Those that the second holds alone.
    pub added: PageCount,
    /// Those that the first holds alone.
    pub gone: PageCount,
    /// Those whose contents are the same.
    pub same: PageCount,
    /// Those that nobody can compare: they stayed with a lazy dump.
    pub unknown: PageCount,
}

impl PageChanges {
    /// All kinds, in words, those that are the same last.
    #[must_use]
    pub const fn kinds(&self) -> [(&'static str, PageCount); 5] {
        [
            ("changed", self.changed),
            ("added", self.added),
            ("gone", self.gone),
            ("not known", self.unknown),
            ("the same", self.same),
        ]
    }
}

/// In which of the two something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// In both.
    Both,
    /// In the first alone.
    Before,
    /// In the second alone.
    After,
}

/// What has become of a mapping, or of shared memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MappingChange {
    /// The process that has it; absent of shared memory, which may be several's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<u64>,
    /// Where it is, as `/proc/PID/maps` writes it (`7f0000000000-7f0000021000`; of the second, if it is in both); of shared memory
    /// its number in that checkpoint.
    pub place: String,
    /// What it is: `heap`, `anonymous`, `private file`, …
    pub kind: String,
    /// The file that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// In which of the two it is.
    pub presence: Presence,
    /// How long it was.
    pub before_bytes: u64,
    /// How long it is.
    pub after_bytes: u64,
    /// What has become of its pages.
    #[serde(flatten)]
    pub pages: PageChanges,
}

/// What has become of descriptors. Of each list at most 1,000 are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChanges {
    /// Those that are in the second alone.
    pub opened: Vec<ComparedFile>,
    /// Those that are in the first alone.
    pub closed: Vec<ComparedFile>,
    /// Those that refer to something else, or to the same in another state.
    pub changed: Vec<ChangedFile>,
    /// More of them, which are not told.
    pub left_out: u64,
    /// Open files by kind: `file`, `pipe`, `tcp socket`, `unix socket`, …
    pub kinds: BTreeMap<String, BeforeAfter>,
}

/// A number in each of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BeforeAfter {
    /// In the first.
    pub before: u64,
    /// In the second.
    pub after: u64,
}

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComparedFile {
    /// The process that has it.
    pub process: u64,
    /// Its number.
    pub descriptor: u64,
    /// What it refers to.
    #[serde(flatten)]
    pub file: FileWords,
}

/// A descriptor that refers to something else, or to the same in another state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedFile {
    /// The process that has it.
    pub process: u64,
    /// Its number.
    pub descriptor: u64,
    /// What it referred to.
    pub before: FileWords,
    /// What it refers to.
    pub after: FileWords,
}

/// A file in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileWords {
    /// What it is: `file`, `pipe`, `tcp socket`, …
    pub kind: String,
    /// Its path, address or state.
    pub what: String,
}
