//! What the collector says of the processes of the machine.

use serde::{Deserialize, Serialize};

use support::Unsupported;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSummary {
    /// Process id.
    pub pid: i32,
    /// Parent's process id.
    pub ppid: i32,
    /// Name.
    pub comm: String,
    /// Command line, empty for a zombie or a kernel thread.
    pub command: String,
    /// Effective user id.
    pub uid: u32,
    /// Threads.
    pub threads: u64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Whether nothing known speaks against a dump of this process.
    pub dumpable: bool,
    /// What speaks against it.
    pub refusals: Vec<Unsupported>,
}

/// `GET /v1/processes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessList {
    /// The processes by pid.
    pub processes: Vec<ProcessSummary>,
}
