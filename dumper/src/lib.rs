//! Turns a frozen process tree into images.
//!
//! One pipeline ([`dump`]), whose steps are types, each in a module of its own and each made of the one
//! before: `plan::Planned` (the target runs), `freeze::Frozen`, `capture::Captured` (it stood still
//! and was only read), `write::Written`. Beside them stands one module a resource: [`files`],
//! mappings, memory, registers, timers.

mod aio;
mod capture;
mod cgroup_roots;
mod cgroup_settings;
mod cgroups;
mod claims;
mod clock;
mod core_entry;
mod denied;
mod dump;
mod ending;
mod entered;
mod error;
pub mod files;
mod filters;
mod freeze;
mod infect;
mod inject;
mod interrupted;
mod ipc_desc;
mod ipc_limits;
mod keys;
mod kobj_ids;
mod labels;
mod later;
mod look;
mod mapped_locks;
mod mappings;
mod memory;
mod mounts;
mod mqueues;
mod namespaces;
mod nested_users;
mod network;
mod numbers;
mod options;
mod own_namespaces;
mod plan;
mod pre_dump;
mod processes;
mod programs;
pub mod ps;
mod pulse;
mod rendezvous;
mod rights;
mod rings;
mod room;
mod seccomp;
mod segment;
mod semaphore_undo;
mod served_memory;
mod settle;
mod sharing;
mod sysv;
mod task_state;
mod tasks;
mod threads;
mod timers;
mod together;
mod tracees;
mod tracers;
mod unsupported;
mod userfaults;
mod users;
mod write;

pub use cgroup_settings::CgroupProperties;
pub use dump::dump;
pub use error::Error;
pub use files::{Connections, ExternalUnix};
pub use freezer::StopError as FreezeError;
pub use inject::Error as InjectError;
pub use kernel::netfilter::Method as LockMethod;
pub use memory::{KEEP, keep};
pub use mounts::MountOptions;
pub use options::{AfterDump, DIRTY_LOGS, DumpOptions, DumpReport, FrozenAccount, UNDO_DIR};
pub use pre_dump::{end_dirty_log, pre_dump};
pub use support::Unsupported;
pub use together::{MOST_TOGETHER, Member, Together, dump_together};
