//! Stops and resumes process trees.
//!
//! A [`Freeze`] is a guard: while it lives the tree is stopped, and dropping it lets the tree
//! run, on every path. There are three ways to stop one:
//!
//! - **cgroup v2** and **cgroup v1**, where the tree has a cgroup to itself. The kernel remembers
//!   such a freeze, also when we die: so it is written down before it is made, and whatever is started
//!   next undoes it ([`Undo`], [`undo_left`]).
//! - **ptrace**, always possible where we may trace. It belongs to a thread (each freeze has one
//!   of its own) and ends with it: when we die, however we die, the tree runs on.
//!
//! A dump always holds its tree by ptrace; it may have a control group stop it ([`FreezeGroup`]).
//!
//! The freezer's service hands freezes out as leases.

mod connections;
mod error;
mod freeze;
mod frozen;
mod group;
mod held;
mod late;
mod link_remaps;
mod stop;
mod undo;

pub use connections::{LockedNetwork, LockedTree, RepairedSocket};
pub use error::Error;
pub use freeze::{Freeze, Method, Target, freeze};
pub use frozen::{Frozen, FrozenThread, Processes, Release, await_stopped};
pub use group::FreezeGroup;
pub use link_remaps::LinkRemap;
pub use stop::{Error as StopError, stop, stop_process, stop_thread};
pub use undo::{Deed, UNDO, Undo, undo_left};
