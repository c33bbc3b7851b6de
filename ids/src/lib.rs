//! Numbers of processes and threads are types, by who gives them.
//!
//! | type | what it says | who wants it |
//! |---|---|---|
//! | [`HostPid`] | a task as this process sees it | ptrace, /proc, pidfds, signals, `waitpid`, eBPF records |
//! | [`ImagePid`] | a task as the images see it: in the pid namespace of the tree's root | pstree.img, the names of images, owners of files, `set_tid` of clone3 |
//! | [`ImagePids`] | the same task in each pid namespace from there down | `set_tid` for a task in nested pid namespaces |
//! | [`PidMap`] | which is which | the plan of a restore, which makes it once |
//!
//! A process has the number of the thread that leads it; groups and sessions have the number of the
//! process that founded them. So all four are of the same types, and a *tid* is a name for
//! the number of a thread, not a type of its own.
//!
//! Zero is no task. The kernel says it for "nobody" and for "outside of your pid namespace",
//! which is `None` here.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod map;
mod number;

pub use map::{Clash, PidMap};
pub use number::{HostPid, ImagePid, ImagePids, NoPid};
