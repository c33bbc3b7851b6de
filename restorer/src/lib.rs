//! Turns images into a running process tree.
//!
//! A restore goes through these stages, each a module:
//!
//! 1. [`load`]: all images are read, each once, and checked ([`images::Checkpoint`]), and taken apart;
//! 2. [`host`]: what this machine and process can give is compared with what they want;
//! 3. [`plan`]: who makes whom, in which order, so that sessions and groups come out right (pure);
//! 4. [`namespaces`]: those that the tasks were in are made;
//! 5. [`files`]: every open file description is opened once, by the coordinator;
//! 6. [`prepare`]: what each process's restorer will be told is laid out (pure);
//! 7. [`task`]: the processes are made; each settles what belongs to it and leaves for the
//!    restorer (`parasite::restorer`), which makes the new address space and the threads;
//! 8. [`finish`]: all threads are parked; they get their registers and are let go.
//!
//! Once the root is made, a process of its own ([`holder`]) traces every task from its birth
//! ([`tracer`]): it sees each failure, and whatever ends it, or the one that was asked to restore,
//! ends what it has built; letting go is one event.

mod aio;
mod capacity;
mod cgroups;
#[cfg(test)]
mod criu_tests;
mod dead;
mod error;
mod explain;
mod failure;
pub mod files;
mod finish;
mod forked;
mod gap;
mod holder;
mod host;
mod huge_pages;
mod inherited_values;
mod ipc_owner;
mod joined;
mod kept_locks;
mod keys;
pub mod layout;
mod levels;
mod load;
mod locks;
mod mapped;
mod mounts;
mod mqueues;
mod namespaces;
mod nested_users;
mod network;
mod next_number;
mod numbers;
mod on_behalf;
mod options;
mod pids;
pub mod places;
mod plan;
mod prepare;
mod proc_values;
mod reads;
mod record;
mod registrars;
mod restore;
mod rights;
mod root;
mod run;
mod semaphore_undo;
mod stand_in;
mod subreaper;
mod sysv;
mod task;
mod together;
mod tracer;
mod turns;
mod users;

pub use error::Error;
pub use files::{Connections, Inherited, Trust, Validation};
pub use holder::Untold;
pub use joined::Joined;
pub use mounts::MountOptions;
pub use namespaces::Given;
pub use network::{Unlocked, unlock};
pub use options::{AfterRestore, Parent, RestoreOptions, RestoreReport};
pub use record::Record;
pub use restore::restore;
