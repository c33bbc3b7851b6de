//! What the services and the gateway say to each other, and the gateway to the world: JSON types.
//!
//! Every request type refuses unknown fields, so that a misspelt option is an error and not
//! silence. Times are whole microseconds (`_us`) or milliseconds (`_ms`), moments are
//! milliseconds since 1970 (`_ms` with a past participle: `created_ms`), sizes are bytes.

mod batches;
mod cgroups;
mod comparison;
mod containers;
mod contents;
mod directory;
mod dumps;
mod error;
mod health;
mod jobs;
mod labels;
mod leases;
mod nodes;
mod operations;
mod policies;
mod processes;
mod restores;
mod together;
mod tokens;
mod tracks;
mod users;

/// What the paths begin with by which checkpoints are uploaded: their bodies are as long as they are.
pub const UPLOADS: &str = "/v1/uploads/";

pub use batches::{Batch, RefusedTree};
pub use cgroups::{CgroupRoot, CgroupsMode};
pub use comparison::{
    BeforeAfter, ChangedFile, ChangedTask, ComparedCheckpoint, ComparedFile, ComparedTask,
    Comparison, ComparisonQuery, FileChanges, FileWords, MappingChange, MemoryChanges, PageChanges,
    PageCount, Presence, TaskChanges,
};
pub use containers::{
    ContainerCheckpoint, ContainerDumpRequest, ContainerEngine, ContainerList, ContainerState,
    ContainerSummary, UnknownEngine,
};
pub use contents::{
    CheckpointContents, ContentsFile, ContentsGhost, ContentsImage, ContentsLeftOut,
    ContentsMapping, ContentsMemory, ContentsProcess, ContentsThread, ContentsTimes,
    ProcessLeftOut,
};
pub use directory::{Directory, DirectoryError};
pub use dumps::{
    After, CheckpointList, CheckpointQuery, CheckpointSummary, DamagedFile, DumpRequest,
    DumpSummary, FrozenAccount, UnfinishedCheckpoint, Verification, VerifyRequest,
};
pub use error::{Code, ErrorBody, ErrorDetail, Fault};
pub use health::{GatewayHealth, Health, HealthState, ServiceHealth};
pub use jobs::{
    CheckpointRequest, EventQuery, Job, JobKind, JobList, JobQuery, JobState, Priority,
    RestoreJobRequest,
};
pub use labels::{LabelError, Labels};
pub use leases::{FreezeMethod, Lease, LeaseList, LeaseRequest, RenewRequest};
pub use nodes::{Node, NodeList};
pub use operations::{Operation, OperationState, Progress};
pub use policies::{Keep, Policy, PolicyList, PolicyRun, PolicySpec, Selector};
pub use processes::{ProcessList, ProcessQuery, ProcessSummary};
pub use restores::{AfterRestore, RestoreRequest, RestoreSummary, RestoredList, RestoredTree};
pub use support::{Unsupported, said};
pub use together::{TogetherCheckpoint, TogetherRequest, TogetherSummary};
pub use tokens::{NewToken, Role, Token, TokenList, TokenRequest};
pub use tracks::{Track, TrackList, TrackRequest, TrackTarget, TrackedProcess};
pub use users::{User, UserError};
