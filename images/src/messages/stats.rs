//! `stats-dump` and `stats-restore`.

use prost::Message;

/// The only entry of either file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct StatsEntry {
    /// In `stats-dump`.
    #[prost(message, optional, tag = "1")]
    pub dump: Option<DumpStatsEntry>,
    /// In `stats-restore`.
    #[prost(message, optional, tag = "2")]
    pub restore: Option<RestoreStatsEntry>,
}

/// Where the frozen time went. Times are microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FrozenAccountEntry {
    /// Stopping every task.
    #[prost(uint32, required, tag = "1")]
    pub stop: u32,
    /// Reading the inventory again.
    #[prost(uint32, required, tag = "2")]
    pub inventory: u32,
    /// Registers and signal state by ptrace.
    #[prost(uint32, required, tag = "3")]
    pub registers: u32,
    /// What only the tasks know.
    #[prost(uint32, required, tag = "4")]
    pub parasite: u32,
    /// Open files.
    #[prost(uint32, required, tag = "5")]
    pub files: u32,
    /// Removing the parasite.
    #[prost(uint32, required, tag = "6")]
    pub cure: u32,
    /// Memory.
    #[prost(uint32, required, tag = "7")]
    pub memory: u32,
    /// From there until it ran on; 0 when it was ended.
    #[prost(uint32, required, tag = "8")]
    pub release: u32,
    /// Not of the frozen time: for how long one thread of a process stood still before, to hand over
    /// what its memory is tracked by; the longest of them.
    #[prost(uint32, optional, tag = "9")]
    pub handover: Option<u32>,
    /// Waiting for the other trees that were dumped together with it.
    #[prost(uint32, optional, tag = "10")]
    pub others: Option<u32>,
}

/// Times are microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct DumpStatsEntry {
    /// Stopping every task.
    #[prost(uint32, required, tag = "1")]
    pub freezing_time: u32,
    /// From there until they run again or are ended.
    #[prost(uint32, required, tag = "2")]
    pub frozen_time: u32,
    /// Taking memory.
    #[prost(uint32, required, tag = "3")]
    pub memdump_time: u32,
    /// Writing memory.
    #[prost(uint32, required, tag = "4")]
    pub memwrite_time: u32,
    /// Pages looked at.
    #[prost(uint64, required, tag = "5")]
    pub pages_scanned: u64,
    /// Pages left to the parent.
    #[prost(uint64, required, tag = "6")]
    pub pages_skipped_parent: u64,
    /// Pages written.
    #[prost(uint64, required, tag = "7")]
    pub pages_written: u64,
    /// Finding paths of inodes.
    #[prost(uint32, optional, tag = "8")]
    pub irmap_resolve: Option<u32>,
    /// Pages that may be brought in later.
    #[prost(uint64, required, tag = "9")]
    pub pages_lazy: u64,
    /// Pipes used for memory.
    #[prost(uint64, optional, tag = "10")]
    pub page_pipes: Option<u64>,
    /// Buffers used for memory.
    #[prost(uint64, optional, tag = "11")]
    pub page_pipe_bufs: Option<u64>,
    /// Pages of shared memory looked at.
    #[prost(uint64, optional, tag = "12")]
    pub shpages_scanned: Option<u64>,
    /// Pages of shared memory left to the parent.
    #[prost(uint64, optional, tag = "13")]
    pub shpages_skipped_parent: Option<u64>,
    /// Pages of shared memory written.
    #[prost(uint64, optional, tag = "14")]
    pub shpages_written: Option<u64>,
    /// Where the frozen time went. Ours: CRIU has no such field.
    #[prost(message, optional, tag = "1000")]
    pub frozen_account: Option<FrozenAccountEntry>,
}

/// Times are microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct RestoreStatsEntry {
    /// Pages compared with a parent process's.
    #[prost(uint64, required, tag = "1")]
    pub pages_compared: u64,
    /// Of these, the same.
    #[prost(uint64, required, tag = "2")]
    pub pages_skipped_cow: u64,
    /// Creating the processes.
    #[prost(uint32, required, tag = "3")]
    pub forking_time: u32,
    /// The whole restore.
    #[prost(uint32, required, tag = "4")]
    pub restore_time: u32,
    /// Pages filled.
    #[prost(uint64, optional, tag = "5")]
    pub pages_restored: Option<u64>,
}
