//! What is in a checkpoint: its processes, their memory and files, its images, what it cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::FrozenAccount;

/// What is in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointContents {
    /// Its directory.
    pub directory: String,
    /// Version of the image format.
    pub format: u32,
    /// The processes, parents before children.
    pub processes: Vec<ContentsProcess>,
    /// Threads of all processes.
    pub threads: u64,
    /// Memory of all processes, shared memory counted once.
    pub memory: ContentsMemory,
    /// Open file descriptions by kind.
    pub files: BTreeMap<String, u64>,
    /// Bytes waiting in pipes, fifos and sockets.
    pub queued_bytes: u64,
    /// Files whose names are gone and whose contents are in the images.
    pub ghosts: Vec<ContentsGhost>,
    /// The files of the checkpoint.
    pub images: Vec<ContentsImage>,
    /// How long they are together.
    pub image_bytes: u64,
    /// What the dump cost, if its statistics are in the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<ContentsTimes>,
    /// More of the lists, which is not told.
    #[serde(default)]
    pub left_out: ContentsLeftOut,
}

/// How much more there is than is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsLeftOut {
    /// Processes.
    pub processes: u64,
    /// Files without names.
    pub ghosts: u64,
    /// Files of the checkpoint.
    pub images: u64,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsProcess {
    /// Its number.
    pub pid: u32,
    /// Its parent's; 0 for the root of the tree.
    pub ppid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// Its name.
    pub comm: String,
    /// `running`, `stopped` or `zombie`.
    pub state: String,
    /// How a zombie ended, as a wait status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_status: Option<u32>,
    /// The program it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Its working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Its effective user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its effective group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its threads.
    pub threads: Vec<ContentsThread>,
    /// Its own memory, shared memory not counted as stored.
    pub memory: ContentsMemory,
    /// The process whose memory it has as well, which has all of it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_of: Option<u32>,
    /// Its mappings, by rising address.
    pub map: Vec<ContentsMapping>,
    /// Its descriptors.
    pub files: Vec<ContentsFile>,
    /// More of its lists, which is not told.
    #[serde(default)]
    pub left_out: ProcessLeftOut,
}

/// How much more there is of a process than is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessLeftOut {
    /// Threads.
    pub threads: u64,
    /// Mappings.
    pub map: u64,
    /// Descriptors.
    pub files: u64,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsThread {
    /// Its number.
    pub tid: u32,
    /// Its name.
    pub comm: String,
}

/// Memory, in bytes and pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsMemory {
    /// Mappings.
    pub mappings: u64,
    /// How long they are together.
    pub mapped_bytes: u64,
    /// Pages in this checkpoint.
    pub stored_pages: u64,
    /// How many bytes they are.
    pub stored_bytes: u64,
    /// Pages in the parent checkpoint.
    pub parent_pages: u64,
}

/// A mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsMapping {
    /// Where it is, as `/proc/PID/maps` writes it (`7f0000000000-7f0000021000`).
    pub place: String,
    /// How long it is.
    pub bytes: u64,
    /// What may be done with it, as `/proc/PID/maps` writes it (`r-xp`).
    pub permissions: String,
    /// What it is: `heap`, `anonymous`, `private file`, …
    pub kind: String,
    /// The file that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where in the file it begins.
    pub offset: u64,
    /// Pages of it that are in this checkpoint; of shared memory those that all who have mapped it share.
    pub stored_pages: u64,
    /// Pages of it that are in the parent checkpoint.
    pub parent_pages: u64,
    /// Pages of it that are in neither: zeros, or what its file has.
    pub absent_pages: u64,
}

/// A descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsFile {
    /// Its number.
    pub fd: u32,
    /// Number of the open file description in the checkpoint: equal numbers are the same one.
    pub file: u32,
    /// What it is: `file`, `pipe`, `tcp socket`, …
    pub kind: String,
    /// Its path, address or state.
    pub what: String,
    /// Whether it is closed when another program is executed.
    pub close_on_exec: bool,
}

/// A file without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsGhost {
    /// The name it had.
    pub path: String,
    /// How long it is.
    pub bytes: u64,
}

/// A file of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsImage {
    /// Its name.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
}

/// What a dump cost. Times are microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsTimes {
    /// Stopping every task.
    pub freezing_us: u32,
    /// From the first stopped task to the last resumed one.
    pub frozen_us: u32,
    /// Taking memory.
    pub memory_dump_us: u32,
    /// Writing memory.
    pub memory_write_us: u32,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Where the frozen time went, of checkpoints that stasis made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_account: Option<FrozenAccount>,
}
